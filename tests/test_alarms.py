"""What alarms promise: one for each thing that is wrong, at its limit and not before, with what to do about it."""

import pytest

from logbale.alarms import ALARMS, DAY, Alarm, Board, Disk, Facts, Upstream, alarms

GB = 10**9


def disk(percent):
    return Disk("/srv", int(percent * GB), 100 * GB)


@pytest.mark.parametrize(
    ("facts", "id", "severity", "words"),
    [
        (Facts(storage_error="/srv: cannot write: full; free some space"), "storage", "critical", "cannot write: full"),
        (Facts(disk=disk(9.9)), "disk", "warning", "9.9 % of the archive's disk is free, 9.9 GB"),
        (Facts(disk=disk(1.9)), "disk", "critical", "1.9 %"),
        (Facts(disk=Disk("/srv", 127_000, GB)), "disk", "critical", "0.0 % of the archive's disk is free, 127.0 kB"),
        (Facts(unaccounted_entries=5), "sum", "critical", "differ by 5"),
        (Facts(unaccounted_entries=-5), "sum", "critical", "differ by -5"),
        (Facts(unbalanced=["web-1"]), "sum", "critical", "differ at web-1"),
        (Facts(lost_batches=20, lost_streams=["web:1"]), "loss", "critical", "20 acknowledged batches of web:1 are"),
        (Facts(damaged_blocks=1), "damage", "warning", "1 block of the archive"),
        (Facts(rejects=2, rejected_ago=120.0), "rejects", "warning", "2 batches refused so far, the last one 2 min"),
        (Facts(missed=["a", "b", "c", "d", "e"]), "silent", "warning", "of a, b, c, 2 more"),
        (Facts(upstream=Upstream("far:5000", "Connection refused", 1200, 180.0)), "upstream", "warning",
         "nothing is forwarded to far:5000: Connection refused; 1,200 entries wait, the oldest for 3 min"),
        (Facts(p99=1.5, latency_target=0.25), "latency", "warning", "over 1.5 s until they were durable, the target"),
        (Facts(certificate_left=13 * DAY), "certificate", "warning", "ends in 13.0 days"),
        (Facts(certificate_left=0.5 * DAY), "certificate", "critical", "ends in 0.5 days"),
        (Facts(certificate_left=-3600.0), "certificate", "critical", "ended 60 min ago"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_to_do(facts, id, severity, words):
    """One alarm each, on one line."""
    (alarm,) = alarms(facts)
    assert (alarm.id, alarm.severity) == (id, severity)
    assert words in alarm.text
    assert alarm.todo
    assert "\n" not in alarm.text + alarm.todo
    assert alarm.id in ALARMS


@pytest.mark.parametrize(
    "facts",
    [
        Facts(),
        Facts(disk=disk(10)),
        Facts(disk=Disk("/srv", 0, 0)),
        Facts(rejects=2, rejected_ago=3601.0),
        Facts(upstream=Upstream("far:5000", "Connection refused", 1200, 59.0)),
        Facts(p99=0.25, latency_target=0.25),
        Facts(p99=100.0, latency_target=0.0),
        Facts(p99=None, latency_target=1.0),
        Facts(certificate_left=14 * DAY),
    ],
)
def test_what_is_right_raises_none(facts):
    """Nothing known, exactly at the limit, or no target."""
    assert alarms(facts) == []


def test_the_worst_comes_first():
    """Critical ones before warnings, each kind in the order of ALARMS."""
    found = alarms(Facts(storage_error="full", disk=disk(5), missed=["a"], unaccounted_entries=1, certificate_left=0.0))
    assert [alarm.id for alarm in found] == ["storage", "sum", "certificate", "disk", "silent"]


def test_an_alarm_keeps_its_time_while_it_is_on():
    """`since` is when it began; off and on again is another time."""
    board, full = Board(), Alarm("disk", "critical", "full", "free some")
    board.update([full], 10.0)
    board.update([full], 20.0)
    assert (board.alarms[0].since, board.critical.id) == (10.0, "disk")
    board.update([], 30.0)
    assert (board.alarms, board.critical) == ([], None)
    board.update([full], 40.0)
    assert board.alarms[0].since == 40.0
