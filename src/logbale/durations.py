"""Durations counted into fixed buckets: a histogram for Prometheus, percentiles of any stretch of time; no clock."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import accumulate
from operator import sub

import msgspec

WINDOW = 60.0
"""Seconds over which the current percentiles are taken."""

_FIRST, _LAST = -4, 1
_STEPS = ("1", "1.25", "1.5", "2", "2.5", "3", "4", "5", "6", "8")
BOUNDS = (*(float(f"{step}e{power}") for power in range(_FIRST, _LAST + 1) for step in _STEPS), 100.0)
"""Upper bounds of the buckets in seconds, 0.1 ms to 100 s, each at most a third above the one before; a last bucket has
what is longer. So a percentile is at most a third off, and a tenth as a rule."""

HISTOGRAM_BOUNDS = (
    *(float(f"{step}e{power}") for power in range(_FIRST, _LAST + 1) for step in ("1", "2.5", "5")),
    100.0,
)
"""Those of them that Prometheus gets."""


class Distribution(msgspec.Struct, frozen=True):
    """How many durations were how long."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """By bucket."""
    seconds: float = 0.0
    """Their sum."""

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.counts)

    def since(self, before: Distribution) -> Distribution:
        """What was added after `before`, an earlier state of the same."""
        return Distribution(tuple(map(sub, self.counts, before.counts)), self.seconds - before.seconds)

    def quantile(self, part: float) -> float | None:
        """The duration that so great a part (0 to 1) of them does not exceed, by interpolation; None without any."""
        up_to = list(accumulate(self.counts))
        if not up_to[-1]:
            return None
        rank = part * up_to[-1]
        bucket = bisect_left(up_to, max(rank, 1e-9))
        if bucket == len(BOUNDS):
            return BOUNDS[-1]
        low, high = BOUNDS[bucket - 1] if bucket else 0.0, BOUNDS[bucket]
        within = self.counts[bucket]
        return low + (high - low) * (rank - (up_to[bucket] - within)) / within

    def buckets(self) -> list[tuple[float, int]]:
        """For each of HISTOGRAM_BOUNDS, how many were at most so long."""
        up_to = list(accumulate(self.counts))
        return [(bound, up_to[BOUNDS.index(bound)]) for bound in HISTOGRAM_BOUNDS]


class Durations:
    """Counts durations as they come. About 0.3 µs each: for batches, not for entries."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds

    def distribution(self) -> Distribution:
        """All so far."""
        return Distribution(tuple(self._counts), self._seconds)


class Latency(msgspec.Struct, frozen=True):
    """Percentiles in seconds of what came in the last WINDOW; None where nothing did."""

    p50: float | None = None
    p99: float | None = None
    count: int = 0

    @classmethod
    def of(cls, distribution: Distribution) -> Latency:
        """Those of a distribution."""
        p50, p99 = (None if (one := distribution.quantile(part)) is None else round(one, 6) for part in (0.5, 0.99))
        return cls(p50, p99, distribution.count)


class LatencyWindow:
    """The latency of the last WINDOW, from states that only grow: one a second is kept."""

    def __init__(self, now: float) -> None:
        self._states = deque([(now, Distribution())])

    def sample(self, state: Distribution, now: float) -> Latency:
        """What came since WINDOW ago. To be called about every second, whether or not anybody looks."""
        while len(self._states) > 1 and self._states[1][0] <= now - WINDOW:
            self._states.popleft()
        if now - self._states[-1][0] >= 1.0:
            self._states.append((now, state))
        return Latency.of(state.since(self._states[0][1]))
