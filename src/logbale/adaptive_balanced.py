"""The compression level from what it costs: time while something waits, bytes of wire, CPU; samples in, decisions out.

No clock, no measuring, no chance. A slow link raises the level, for then time is bytes; a starved CPU lowers it, for
then time is CPU; where nothing waits, the level is the one whose bytes and CPU are cheapest together
(docs/decisions/0007). adaptive.py decides by the CPU load alone.
"""

from __future__ import annotations

from math import exp, inf, isfinite

from logbale.adaptive import BUSY, SMOOTHING, Decision, Sample
from logbale.level_table import LevelTable

MB = 1e6

SECOND_WORTH = 10 * MB
"""Wire bytes that a second is worth, of CPU or of waiting: cost = seconds behind + wire / this + CPU seconds.

At cloud prices a second of a core costs as much as 0.1 to 0.6 MB of traffic, on a gigabit LAN it moves 125 MB; this is
between. `logbale bench` says 2 MB, because it knows no link and lets bytes stand for the time that they take: here that
time is observed, and counted where something waits for it.
"""

BEHIND_BYTES = 512 * 1024
"""Raw bytes waiting above which the shipper is behind; below an eighth of it, it has caught up."""

MARGIN = 0.03
"""Part of the modelled cost that a change must save: the figures are no more exact than that."""

RESTART_BYTES = 12_000
"""Wire bytes that a new context takes more than one that goes on; a change must save those first."""

AHEAD = 600.0
"""Seconds, beyond what waits, for which things are taken to go on as they are."""

HEADROOM = 0.93
"""Part of its capacity that a level may need for what arrives, or it is not one that keeps up. The level in use may
need STAYING more, or noise would move it to and fro."""

STAYING = 0.04

MAX_CHANGES = 6.0
SECONDS_PER_CHANGE = 10.0
SAMPLES_PER_CHANGE = 8.0
"""So many changes at once, and one more every so many seconds and so many samples: whatever is observed, the level
cannot swing faster."""

STALLED = 0.1
"""Part of the time that sends must have stalled for the link to have been full: what left then is its bandwidth."""

BLOCKED = 0.5
"""Part of the time above which sends wait for the receiver to read: it sets the pace then, at any level."""

UNLIMITED = 1e10
"""Bytes a second from which on a bandwidth is none that anything waits for."""

FIRST_LOOK = 1.0
"""Seconds that the first sight of a link's limit takes. A session begins with small batches, whose acknowledgements TCP
itself may hold back for 40 ms each: for a moment any link looks full."""

SHORTEST = 0.001
"""Seconds below which a sample is ignored: rates over no time are no rates."""

OUTAGE = 10.0
"""Seconds without a byte that has left, after which the time says nothing about the bandwidth."""

FORGET_FIRST = 120.0
FORGET_LONGEST = 7200.0
FORGET_BEHIND = 60.0
"""A bandwidth that nothing confirms doubles in seconds: a link that has become faster shows itself only when more is
sent. Each time the old limit is met again it takes twice as long, from the first to the longest. Behind, where sends do
not stall, it takes a sixtieth: something waits, and not for the link."""


class BalancedCompression:
    """Moves the level between two bounds to where the modelled cost is least, at most once in SAMPLES_PER_CHANGE."""

    def __init__(
        self,
        min_level: int,
        max_level: int,
        *,
        prior: list[tuple[float, float]],
        level: int | None = None,
        second_worth: float = SECOND_WORTH,
    ) -> None:
        """`prior`: a row of level_table.PRIORS. `level` is where to start, the nearer bound where it is outside;
        by default the one that is cheapest by the prior while nothing waits."""
        if min_level > max_level:
            raise ValueError(f"min_level={min_level}: expected at most max_level={max_level}")
        self.min_level = min_level
        self.max_level = max_level
        self.table = LevelTable(prior)
        self.is_behind = False
        self.is_blocked = False
        """The receiver, which no level makes faster, is what everything waits for."""
        self.share = 1.0
        """The part of a core that compressing gets while it wants one."""
        self.bandwidth = inf
        """Wire bytes a second that the link takes; infinite while it has never been the limit."""
        self._second_worth = second_worth
        self.arrivals = 0.0
        """Raw bytes a second, smoothed."""
        self._busy = BUSY / 2
        self._rest = 0.0
        """Seconds for each raw byte that sending takes beside compression and stalls."""
        self._backlog = 0.0
        self._forget = FORGET_FIRST
        self._limit_met = False
        self._left = _Left()
        self._changes = MAX_CHANGES
        self._fresh = False
        self._idle = True
        if level is None:
            level = min(range(min_level, max_level + 1), key=lambda level: self._cost(level, waits=False))
        self.level = min(max_level, max(min_level, level))

    def observe(self, sample: Sample) -> None:
        """Takes what was seen since the last sample; figures that cannot be true are bent to what can."""
        seconds = _sane(sample.seconds, 3600.0)
        if seconds < SHORTEST:
            return
        self._fresh = True
        self._changes = min(MAX_CHANGES, self._changes + min(seconds / SECONDS_PER_CHANGE, 1 / SAMPLES_PER_CHANGE))
        self._busy += SMOOTHING * (_sane(sample.cpu_percent, 100.0) - self._busy)
        self._backlog = _sane(sample.backlog_bytes, 1e15)
        self.is_behind = self._backlog >= (BEHIND_BYTES / 8 if self.is_behind else BEHIND_BYTES)
        stalled = _sane(sample.stalled, seconds)
        blocked = _sane(sample.blocked, seconds - stalled)
        self.is_blocked = blocked > BLOCKED * seconds
        self.table.age(seconds)
        raw = cpu = wall = 0.0
        for level, work in sample.work.items():
            self.table.learn(level, work)
            raw += max(0, work.raw_bytes)
            cpu += _sane(work.cpu_seconds, seconds)
            wall += _sane(work.wall_seconds, seconds)
        self._idle = not raw
        arrived = _sane(sample.read_bytes, 1e15) / seconds
        self.arrivals += (1 - exp(-seconds / 10.0)) * (arrived - self.arrivals)
        if wall >= 0.001:
            self.share += 0.3 * (min(1.0, max(0.02, cpu / wall)) - self.share)
        if raw and self.is_behind:
            rest = max(0.0, seconds - wall - stalled - blocked) / raw
            self._rest += 0.3 * (rest - self._rest)
        # A window that opens a little at a time lets the network be the reason too, now and then: it is not the limit.
        self._see_link(_sane(sample.wire_bytes, 1e15), seconds, 0.0 if self.is_blocked else stalled)

    def _see_link(self, wire_bytes: float, seconds: float, stalled: float) -> None:
        left = self._left.add(wire_bytes, seconds, stalled, 0.0 if self.bandwidth < UNLIMITED else FIRST_LOOK)
        if left is None:
            return
        rate, stalled_part, seconds = left
        if stalled_part >= STALLED:
            if not self._limit_met:
                self._forget = FORGET_FIRST if rate > 1.5 * self.bandwidth else min(FORGET_LONGEST, 2 * self._forget)
            self._limit_met = True
            known = self.bandwidth < 3 * rate  # otherwise it is another link now, and an average would mean nothing
            bandwidth = self.bandwidth + (1 - exp(-seconds / 2.0)) * (rate - self.bandwidth) if known else rate
            self.bandwidth = max(1.0, bandwidth)  # a byte a second is no link, and 0 is no divisor
            return
        # Whoever waits though the link takes everything does not wait for the link.
        doubling = self._forget / FORGET_BEHIND if self.is_behind else self._forget
        self._limit_met = False
        self.bandwidth = min(1e12, max(rate, self.bandwidth * 2 ** min(10.0, seconds / doubling)))

    def decide(self) -> Decision:
        """The level that the samples so far ask for. Without a new one since the last decision, it stays."""
        if not self._fresh:
            return self._stay("nothing new was seen", "idle")
        self._fresh = False
        if self._idle:
            return self._stay("nothing was compressed", "idle")
        if self.bandwidth >= UNLIMITED and self._left.is_stalled:
            return self._stay("sends stall, and it is too early to say that the link is why", "too_early")
        levels = range(self.min_level, self.max_level + 1)
        keep_up = [
            level
            for level in levels
            if self.arrivals * self._time(level) <= HEADROOM + (STAYING if level == self.level else 0.0)
        ]
        waits = (self.is_behind or not keep_up) and not self.is_blocked
        costs = {level: self._cost(level, waits=waits) for level in (levels if waits or self.is_blocked else keep_up)}
        best = min(costs, key=lambda level: (costs[level], abs(level - self.level)))
        cause, why = self._why(waits)
        if best == self.level:
            return self._stay(why, cause)
        if self.level in costs:
            gain = costs[self.level] - costs[best]
            restart = RESTART_BYTES * (1 / self._second_worth + (1 / self.bandwidth if waits else 0.0))
            ahead = self.arrivals * AHEAD + (self._backlog if waits else 0.0)
            if gain < MARGIN * costs[self.level] or gain * ahead < restart:
                return self._stay(f"{why}, and {best} would save too little", cause)
        else:
            cause, why = "keep_up", f"{why}, of which level {self.level} cannot keep up with what arrives"
        if self._changes < 1:
            return self._stay(f"{why}, and too many changes lately for {best}", cause)
        self._changes -= 1
        before, self.level = self.level, best
        return Decision(best, f"{why}: {before} → {best}", changed=True, cause=cause)

    def _time(self, level: int) -> float:
        """Seconds for each raw byte, from the queue into the network."""
        return max(self.table.cpu(level) / self.share + self._rest, self.table.size(level) / self.bandwidth)

    def _cost(self, level: int, *, waits: bool) -> float:
        """Seconds for each raw byte: of CPU, and of wire, and of waiting where something waits."""
        cpu, wire = self.table.cpu(level), self.table.size(level) / self._second_worth
        if waits:
            return self._time(level) + wire + cpu
        # Where nothing waits but the CPU is busy, somebody else waits for it.
        return wire + cpu * (1 + min(1.0, max(0.0, (self._busy - BUSY) / (100.0 - BUSY))))

    def _why(self, waits: bool) -> tuple[str, str]:
        """The kind of reason, and the figures."""
        figures = (
            f"{self.arrivals / MB:.2f} MB/s arrive, {self._backlog / MB:.1f} MB wait, CPU {self._busy:.0f} %, "
            f"{self.share:.0%} of a core".replace("%", " %").replace("  %", " %")
        )
        if self.bandwidth < UNLIMITED:
            figures += f", link {self.bandwidth / MB:.3g} MB/s"
        if not waits:
            who = "the receiver is what everything waits for" if self.is_blocked else "nothing waits"
            return "cheapest", f"{who}, bytes and CPU are cheapest together ({figures})"
        if self.table.size(self.level) / self.bandwidth >= self.table.cpu(self.level) / self.share + self._rest:
            return "link", f"the link is what everything waits for ({figures})"
        return "ends", f"the two ends, not the link, are what everything waits for ({figures})"

    def _stay(self, why: str, cause: str) -> Decision:
        return Decision(self.level, f"{why}: stays at {self.level}", changed=False, cause=cause)


class _Left:
    """What left, until it is enough for a rate: large batches leave in lumps, with samples without any between."""

    def __init__(self) -> None:
        self._begin()

    @property
    def is_stalled(self) -> bool:
        """Whether what is not enough yet looks like a link that is full."""
        return self._stalled > 0 and self._stalled >= STALLED * self._seconds

    def _begin(self) -> None:
        self._wire_bytes = self._seconds = self._stalled = 0.0

    def add(self, wire_bytes: float, seconds: float, stalled: float, least: float) -> tuple[float, float, float] | None:
        """Bytes a second, the part of the time in which sends stalled, and the time, of `least` seconds or more; None
        while it is too early."""
        self._wire_bytes += wire_bytes
        self._seconds += seconds
        self._stalled += stalled
        left = None
        if is_enough := wire_bytes and self._seconds >= least:
            left = self._wire_bytes / self._seconds, self._stalled / self._seconds, self._seconds
        if is_enough or self._seconds > OUTAGE:
            self._begin()
        return left


def _sane(value: float, most: float) -> float:
    return min(most, max(0.0, value)) if isfinite(value) else 0.0
