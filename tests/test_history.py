"""What the history promises: rates of each step, 15 minutes and 24 hours of them, in bounded memory and in order."""

from math import isnan

import msgspec
import pytest

from logbale.clients import Load
from logbale.durations import Distribution, Durations
from logbale.history import COLUMNS, MAX_LEVEL_CHANGES, History, LevelChange, Sample, Series
from logbale.metrics import Totals

START = 1_764_144_000.0


class Receiver:
    """A made-up one, sampled each second."""

    def __init__(self):
        self.history = History()
        self.now = 0.0
        self.unix = START
        self.totals = Totals()
        self.durations = Durations()
        self.errors = 0
        self.load = Load()

    def second(self, entries=0, *, errors=0, wait=0.0, seconds=1.0, day=None):
        self.now += seconds
        self.unix += seconds if day is None else day
        if entries:
            self.totals.add(entries, 100 * entries, 10 * entries)
            self.durations.add(wait)
        self.errors += errors
        self.history.add(
            Sample(
                time=self.unix,
                now=self.now,
                received=msgspec.structs.replace(self.totals),
                by_algorithm={"zstd": msgspec.structs.replace(self.totals)},
                durations=self.durations.distribution(),
                errors=self.errors,
                warnings=0,
                clients=1,
                load=self.load,
            )
        )

    def columns(self, name="15m", since=0.0):
        return self.history.ranges[name].since(since)


def test_each_second_has_what_happened_in_it():
    """Rates, ratio and percentiles are the second's own; what did not happen is unknown, not 0."""
    receiver = Receiver()
    receiver.second()
    receiver.second(1000, wait=0.01)
    receiver.second()
    receiver.second(500, wait=0.1, seconds=2.0)
    columns = receiver.columns()
    assert columns["time"] == [START + 2, START + 3, START + 5]
    assert columns["entries"] == [1000, 0, 250]
    assert columns["raw_bytes"] == [100_000, 0, 25_000]
    assert columns["wire_bytes"] == [10_000, 0, 2_500]
    assert columns["ratio_zstd"][0] == columns["ratio_zstd"][2] == 10.0
    assert columns["p50"][0] == pytest.approx(0.01, rel=0.3)
    assert columns["p99"][2] == pytest.approx(0.1, rel=0.3)
    assert all(isnan(columns[name][1]) for name in ("ratio_zstd", "p50", "p99", "level"))
    assert all(isnan(value) for value in columns["ratio_gzip"])
    assert msgspec.json.encode(columns["ratio_gzip"]) == b"[null,null,null]"


def test_a_minute_is_its_seconds_together():
    """Mean rates, the percentiles of all its batches, the mean level; errors are those of the minute at either step."""
    receiver = Receiver()
    receiver.second()
    for second in range(120):
        receiver.load = Load(level=4.0 if second % 2 else 6.0, cpu_percent=50.0)
        receiver.second(100, errors=1, wait=0.001 if second % 60 else 1.0)
    minutes = receiver.columns("24h")
    assert minutes["time"] == [START + 61, START + 121]
    assert minutes["entries"] == [100, 100]
    assert minutes["level"] == [5.0, 5.0]
    assert minutes["errors"] == [60, 60]
    assert minutes["p50"][0] == pytest.approx(0.001, rel=0.3)
    assert receiver.columns()["errors"][-1] == 60
    assert receiver.columns()["errors"][29] == 30


def test_it_is_bounded_and_only_what_is_asked_for_is_told():
    """The last 15 minutes, and of them what is later than `since`."""
    receiver = Receiver()
    for _ in range(2000):
        receiver.second(1)
    columns = receiver.columns()
    assert {name: len(column) for name, column in columns.items()} == dict.fromkeys(COLUMNS, 900)
    assert columns["time"][-1] == START + 2000
    assert receiver.columns(since=START + 1995)["time"] == [START + n for n in (1996, 1997, 1998, 1999, 2000)]
    assert receiver.columns(since=START + 2000)["time"] == []
    assert len(receiver.columns("24h")["time"]) == 33


def test_the_memory_of_a_series_is_bounded():
    """However long it runs: twice its length, column by column."""
    series = Series(1, 10)
    for second in range(1000):
        series.add(dict.fromkeys(COLUMNS, float(second)))
        assert all(len(column) <= 20 for column in series._columns.values())
    assert series.since(0.0)["time"] == [float(n) for n in range(990, 1000)]


def test_a_clock_that_is_set_back_leaves_no_time_twice():
    """Times only rise: what lies in the new future is forgotten. Rates go by the clock that is never set."""
    receiver = Receiver()
    for _ in range(100):
        receiver.second(10)
    receiver.second(10, day=-50.0)
    receiver.second(10)
    columns = receiver.columns()
    assert columns["time"] == sorted(set(columns["time"]))
    assert columns["time"][-2:] == [START + 50, START + 51]
    assert set(columns["entries"]) == {10}


def test_changes_of_level_are_kept_in_order_and_bounded():
    """The last MAX_LEVEL_CHANGES, and of them those that are later than asked for."""
    history = History()
    for n in range(MAX_LEVEL_CHANGES + 5):
        history.level_changed(LevelChange(float(n), "web-1", "a", 6, 5, "busy"))
    assert len(history.level_changes(-1.0)) == MAX_LEVEL_CHANGES
    assert [change.time for change in history.level_changes(MAX_LEVEL_CHANGES + 2.0)] == [1003.0, 1004.0]
    assert msgspec.to_builtins(history.level_changes(1003.0)[0]) == {
        "time": 1004.0,
        "stream": "web-1",
        "host": "a",
        "from": 6,
        "to": 5,
        "reason": "busy",
    }


def test_an_empty_history_has_its_columns():
    """A page that asks at once can draw axes."""
    assert History().ranges["15m"].since(0.0) == {name: [] for name in COLUMNS}
    assert Distribution().count == 0
