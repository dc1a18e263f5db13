"""What a receiver did lately: 15 minutes by the second, 24 hours by the minute, column by column; no I/O, no clock.

It is in memory and ends with the process. A column's unknown value is NaN, which JSON shows as null.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from math import isnan, nan

import msgspec

from logbale.clients import Load
from logbale.durations import Distribution
from logbale.metrics import Totals

RATIOS = ("gzip", "zlib", "zstd")
"""The algorithms whose ratio is kept."""

PER_MINUTE = 60
MAX_LEVEL_CHANGES = 1000


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The receiver at one moment; what is counted only grows."""

    time: float
    """Unix seconds."""
    now: float
    """Seconds of a clock that never goes back."""
    received: Totals
    by_algorithm: Mapping[str, Totals]
    durations: Distribution
    errors: int
    """Entries of these levels."""
    warnings: int
    clients: int
    load: Load = Load()


class LevelChange(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """A shipper chose another compression level."""

    time: float
    """Unix seconds, by the shipper's clock, but not later than the receiver heard of it."""
    stream: str
    host: str
    before: int
    after: int
    reason: str


COLUMNS = (
    *("time", "entries", "raw_bytes", "wire_bytes"),
    *(f"ratio_{name}" for name in RATIOS),
    *("p50", "p99", "level", "cpu_percent", "backlog_bytes", "errors", "warnings", "clients"),
)


class Series:
    """One resolution: `length` rows of COLUMNS, `step` seconds apart."""

    def __init__(self, step: int, length: int) -> None:
        self.step = step
        self._length = length
        self._columns = {name: array("d") for name in COLUMNS}

    def add(self, row: Mapping[str, float]) -> None:
        """The next row. Where the clock was set back, what lies in its future now is forgotten."""
        times = self._columns["time"]
        keep = bisect_right(times, row["time"] - self.step / 2)
        first = len(times) - self._length if len(times) >= 2 * self._length else 0
        for name, column in self._columns.items():
            del column[keep:]
            column.append(row[name])
            del column[:first]  # seldom, and many at once: to move all of them for each row would cost more

    @property
    def seconds(self) -> int:
        """How far it goes back."""
        return self.step * self._length

    def since(self, time: float) -> dict[str, list[float]]:
        """The rows that are later."""
        times = self._columns["time"]
        first = max(bisect_right(times, time), len(times) - self._length)
        return {name: column[first:].tolist() for name, column in self._columns.items()}


class History:
    """Two series and the changes of level. add() about once a second."""

    def __init__(self) -> None:
        self.ranges = {"15m": Series(1, 15 * 60), "24h": Series(60, 24 * 60)}
        self._last: Sample | None = None
        self._minute: Sample | None = None
        """Where the minute began that is not over."""
        self._loads: list[Load] = []
        self._levels: deque[tuple[int, int]] = deque(maxlen=PER_MINUTE + 1)
        """Errors and warnings of the last samples."""
        self._changes: deque[LevelChange] = deque(maxlen=MAX_LEVEL_CHANGES)

    def add(self, sample: Sample) -> None:
        """Takes the receiver as it is now."""
        self._levels.append((sample.errors, sample.warnings))
        self._loads.append(sample.load)
        last, self._last = self._last, sample
        if last is None or self._minute is None:
            self._minute = sample
            return
        if sample.now > last.now:
            self.ranges["15m"].add(_row(last, sample, [sample.load], *self._levels[0]))
        if sample.now - self._minute.now >= PER_MINUTE:
            minute = self._minute
            self.ranges["24h"].add(_row(minute, sample, self._loads, minute.errors, minute.warnings))
            self._minute, self._loads = sample, []

    def level_changed(self, change: LevelChange) -> None:
        """A shipper reported it."""
        self._changes.append(change)

    def level_changes(self, since: float) -> list[LevelChange]:
        """Those that are later, in the order in which they became known."""
        return [change for change in self._changes if change.time > since]


def _row(before: Sample, after: Sample, loads: list[Load], errors: int, warnings: int) -> dict[str, float]:
    """What happened between two samples. `errors` and `warnings` are as they were a minute before the second one."""
    seconds = after.now - before.now
    latency = after.durations.since(before.durations)
    row = {
        "time": round(after.time, 3),
        "entries": round((after.received.entries - before.received.entries) / seconds, 1),
        "raw_bytes": round((after.received.raw_bytes - before.received.raw_bytes) / seconds),
        "wire_bytes": round((after.received.wire_bytes - before.received.wire_bytes) / seconds),
        "p50": _known(latency.quantile(0.5), 6),
        "p99": _known(latency.quantile(0.99), 6),
        "level": _mean([load.level for load in loads], 2),
        "cpu_percent": _mean([load.cpu_percent for load in loads], 1),
        "backlog_bytes": _mean([load.backlog_bytes for load in loads], 0),
        "errors": after.errors - errors,
        "warnings": after.warnings - warnings,
        "clients": after.clients,
    }
    for name in RATIOS:
        now, then = after.by_algorithm.get(name, Totals()), before.by_algorithm.get(name, Totals())
        wire_bytes = now.wire_bytes - then.wire_bytes
        row[f"ratio_{name}"] = round((now.raw_bytes - then.raw_bytes) / wire_bytes, 3) if wire_bytes else nan
    return row


def _known(value: float | None, digits: int) -> float:
    return nan if value is None else round(value, digits)


def _mean(values: list[float | None], digits: int) -> float:
    known = [value for value in values if value is not None and not isnan(value)]
    return round(sum(known) / len(known), digits) if known else nan
