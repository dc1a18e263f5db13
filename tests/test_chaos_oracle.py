"""The oracle of the fault suite can fail: whatever happened to a line, it says so, and nothing else."""

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import oracle
from chaos.report import as_json, summary, table
from chaos.suite import FAULTS, Failed, Fault, Result, Skipped, fault, perform
from chaos.sums import imbalance
from chaos.yardstick import Yardstick


def entry(number, stream="web"):
    return json.dumps({"message": oracle.line(stream, number, "padding"), "service": "web"}).encode()


def judged(*entries, **expected):
    verdict = oracle.judge(entries, expected or {"web": 5})
    return verdict.lost, verdict.duplicated, verdict.out_of_order, verdict.damaged


def test_everything_once_and_in_order_is_clean():
    """Streams may interleave; only the order within each counts."""
    entries = [entry(0), entry(0, "db"), entry(1, "db"), entry(1), entry(2)]
    assert oracle.judge(entries, {"web": 3, "db": 2}).clean


@pytest.mark.parametrize("missing", [0, 2, 4])
def test_a_lost_line_is_seen_at_either_end_and_in_the_middle(missing):
    """A tail that never came is lost too: the number written is known."""
    assert judged(*(entry(n) for n in range(5) if n != missing)) == (1, 0, 0, 0)


@pytest.mark.parametrize("again_at", [1, 3, 5])
def test_a_doubled_line_is_seen_next_to_itself_and_far_away(again_at):
    """And is no line out of order beside."""
    entries = [entry(n) for n in range(5)]
    entries.insert(again_at, entry(0))
    assert judged(*entries) == (0, 1, 0, 0)


def test_two_swapped_lines_are_one_out_of_order():
    """Neither lost nor doubled."""
    assert judged(entry(0), entry(2), entry(1), entry(3), entry(4)) == (0, 0, 1, 0)


@pytest.mark.parametrize(
    "harm",
    [
        lambda raw: raw.replace(b"padding", b"paddinG"),
        lambda raw: raw.replace(b"web 3", b"web 4"),
        lambda raw: raw[:-5],
        lambda raw: b"not json",
        lambda raw: b"[1]",
        lambda raw: entry(7),
        lambda raw: entry(3, "unknown"),
    ],
)
def test_a_line_that_nobody_wrote_is_damage_and_what_it_was_is_lost(harm):
    """A flipped letter, another number, a cut, something else altogether, a number or a stream that never was."""
    entries = [entry(n) for n in range(5)]
    entries[3] = harm(entries[3])
    assert judged(*entries) == (1, 0, 0, 1)


def write_segment(archive, serial, data, suffix=""):
    path = archive / "2026-11-23" / f"{serial:08d}-20261123T195600Z.ndjson.zst{suffix}"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(data)


def compressed(*entries):
    return subprocess.run(
        ["zstd", "-qc"], input=b"".join(raw + b"\n" for raw in entries), capture_output=True, check=True
    ).stdout


needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd: apt-get install zstd")


@needs_zstd
def test_segments_are_read_in_the_order_of_their_serials_whatever_their_dates(tmp_path):
    """The open one too; files of other names are none."""
    write_segment(tmp_path, 9, compressed(entry(0), entry(1)))
    write_segment(tmp_path, 10, compressed(entry(2)))
    write_segment(tmp_path, 100, compressed(entry(3), entry(4)), ".part")
    write_segment(tmp_path, 11, compressed(entry(0)), ".suspect")
    assert oracle.verdict(tmp_path, {"web": 5}).clean
    assert oracle.count(tmp_path) == 5


@needs_zstd
@pytest.mark.parametrize(
    "harm", [lambda data: data[:-3], lambda data: data + b"torn", lambda data: gzip.compress(b"x")]
)
def test_a_segment_that_zstd_refuses_is_damage(tmp_path, harm):
    """Torn, with something behind it, or no zstd at all."""
    write_segment(tmp_path, 1, harm(compressed(entry(0))))
    assert oracle.verdict(tmp_path, {"web": 1}).damaged == 1


def unlisted(action, **options):
    fault("F0", "a test's", full=1, smoke=1, **options)(action)
    return FAULTS.pop()


@needs_zstd
def test_a_run_in_which_nothing_bit_fails():
    """A fault that did not happen shows nothing."""
    result = perform(unlisted(lambda run: None), 1, seed=7)
    assert not result.passed
    assert "did not bite" in result.failures[0]


@needs_zstd
@pytest.mark.parametrize("trouble", [Failed("the ack came late"), ValueError("a bug in the suite")])
def test_whatever_goes_wrong_in_a_fault_is_its_failure_and_shown_with_the_seed(trouble):
    """Never a pass, never the end of the other faults."""

    def action(run):
        run.bite()
        raise trouble

    result = perform(unlisted(action), 1, seed=4711)
    assert str(trouble) in result.failures[0]
    assert "F0 FAILED (seed 4711)" in table([result])


@needs_zstd
def test_a_missing_tool_is_a_skip_with_the_way_to_get_it_and_no_pass():
    """An open point, shown as one."""
    result = perform(unlisted(lambda run: run.bite(), tools=("no-such-tool",)), 1, seed=7)
    assert result.skipped
    assert not result.passed
    assert "open point: no no-such-tool: install it" in table([result])


@pytest.mark.parametrize(("length", "times"), [("full", 100), ("tenth", 10), ("smoke", 3)])
def test_how_often_a_fault_bites_follows_the_length_of_the_run(length, times):
    """A tenth of the counts, but never fewer than in a smoke run."""
    assert Fault("F0", "", 100, 3, print).times(length) == times
    assert Fault("F0", "", 10, 4, print).times("tenth") == 4


def test_the_last_line_counts_what_passed_failed_and_was_skipped():
    """A runner's words; a skip is no failure, and a failure while cleaning up after one is."""
    results = [
        Result("F1", "", 1, times=2, stored=10),
        Result("F2", "", 1, failures=["no"], lost=3),
        Result("F3", "", 1, skipped="no strace"),
        Result("F4", "", 1, skipped="no strace", failures=["cleaning up"]),
        Result("F5-control", "", 1, lost=1000),
    ]
    assert summary(results) == "2 passed, 2 failed, 1 skipped"
    assert json.loads(as_json(results, "smoke", 7))["seed"] == 7
    [total] = [line for line in table(results).splitlines() if line.startswith("total")]
    assert total.split()[5:9] == ["2", "10", "3", "0"]  # the control's losses are meant to be


def test_a_fault_that_fails_while_it_cleans_up_fails_alone():
    """Whatever it raises; the others go on."""

    def action(run):
        run.finally_do(lambda: 1 / 0)
        run.bite()
        raise Skipped("no disk")

    result = perform(Fault("F0", "", 1, 1, action), 1, 1)
    assert "ZeroDivisionError" in result.failures[0]
    assert not result.passed


def test_a_limit_is_stretched_by_how_slow_the_machine_is_and_by_no_more():
    """By the time that a process took to start meanwhile beside its best, and by one bare sync."""
    now, process, sync = 0.0, 0.02, 0.001
    yardstick = Yardstick(process=lambda: process, sync=lambda: sync, now=lambda: now)
    assert yardstick.allowed(2.0, 1.0) == 2.0  # nothing known, nothing granted
    yardstick.sample()
    assert yardstick.allowed(2.0, 1.0) == pytest.approx(2.001)
    now, process, sync = 10.0, 0.06, 0.5
    yardstick.sample()
    assert yardstick.allowed(2.0, 1.0) == pytest.approx(6.5)
    assert yardstick.allowed(2.0, 20.0) == pytest.approx(4.5)
    now = 20.0
    assert yardstick.allowed(2.0, 1.0) == 2.0
    assert "python -c pass 20.0 ms at best" in str(yardstick)


def test_a_sum_that_does_not_add_up_is_seen():
    """At either end, dropped entries by whatever reason included; without metrics there is nothing to say."""
    shipper = """
logbale_shipper_read_entries_total 10.0
logbale_shipper_delivered_entries_total 4.0
logbale_shipper_dropped_entries_total{reason="drop_oldest"} 2.0
logbale_shipper_dropped_entries_total{reason="rejected"} 1.0
logbale_shipper_waiting_entries 3.0
"""
    receiver = """
logbale_receiver_received_entries_total{algorithm="zstd"} 5.0
logbale_receiver_received_entries_total{algorithm="gzip"} 2.0
logbale_receiver_stored_entries_total 8.0
logbale_receiver_waiting_entries -1.0
"""
    assert imbalance("") is None
    assert imbalance(shipper) is None
    assert "read_entries 10" in imbalance(shipper.replace("waiting_entries 3.0", "waiting_entries 2.0"))
    assert "waiting_entries -1" in imbalance(receiver)
    assert imbalance(receiver.replace("8.0", "7.0").replace("-1.0", "0.0")) is None


def test_every_fault_is_in_the_table_of_its_document():
    """And nothing else is: a row that nobody can make would be a promise that nobody keeps."""
    root = Path(__file__).parent.parent
    listed = subprocess.run(
        [sys.executable, "-m", "chaos", "none"], cwd=root, capture_output=True, text=True, timeout=120
    )
    numbers = set(re.findall(r"[FK]\d[\w-]*", listed.stdout.partition("there are")[2]))
    rows = re.findall(r"^\| ([FK]\d[^|]*) \|", (root / "docs/chaos.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in row.split(", ")}
    assert "F32-…" in named
    assert {name for name in numbers if not name.startswith("F32-")} == named - {"F32-…"}
