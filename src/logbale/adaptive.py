"""The compression level from the CPU load: readings in, decisions with their reason out; no clock, no measuring.

A busy CPU lowers the level, an idle one raises it, and between IDLE and BUSY it stays (docs/decisions/0003). Every
ADAPTIVE_CHECK_INTERVAL the owner observes a reading, asks for a decision and gives the level to its CompressionHandler.
adaptive_balanced.py has the same shape and sees more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from logbale.level_table import Work

BUSY = 80.0
"""Smoothed percent above which the level falls."""

IDLE = 50.0
"""Smoothed percent below which it may rise. The 30 points between the two are the hysteresis."""

SATURATED = 95.0
"""Smoothed percent above which it falls by two: nothing is left for whoever else lives on this machine."""

SMOOTHING = 0.4
"""Weight of the newest reading. It takes four readings of 100 % in a row to pass BUSY from rest, two from between."""

PATIENCE = 2
"""Idle readings in a row that a rise takes. A fall waits for nothing: it protects the neighbours."""

MAX_PATIENCE = 32
"""The most that it takes where rises were regretted again and again."""

CAUSES = (
    *("fixed", "idle", "too_early"),  # no policy has decided, it saw no work, or not enough of it
    *("link", "ends", "keep_up", "cheapest"),  # of the balanced policy
    *("cpu_busy", "cpu_idle", "cpu_between"),  # of the one that looks at the CPU load alone
)
"""Every kind of reason for a level."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What the shipper saw of its machine and of itself since the sample before."""

    cpu_percent: float
    """How busy the CPU is that this process may use, 0 to 100; what lies outside is taken as the nearer end."""
    seconds: float = 0.0
    """How long that was. This and what follows only the balanced policy looks at."""
    read_bytes: float = 0.0
    """Raw bytes that came from the source."""
    backlog_bytes: float = 0.0
    """Raw bytes that wait to be sent, now."""
    wire_bytes: float = 0.0
    """Bytes that have arrived, as far as the protocol can tell."""
    stalled: float = 0.0
    """Seconds in which sends waited and the network was why, as far as the system can tell."""
    blocked: float = 0.0
    """The same where the receiver was why; 0 where the system does not tell the two apart."""
    work: Mapping[int, Work] = {}
    """What compressing took, by level."""


class Decision(msgspec.Struct, frozen=True):
    """The level from now on."""

    level: int
    reason: str
    """Why, with the figures, to follow `level:` in a log line."""
    changed: bool
    cause: str
    """The kind of reason, one of CAUSES; a change's is none of fixed, idle, too_early and cpu_between."""


class Policy(Protocol):
    """What chooses levels."""

    level: int

    def observe(self, sample: Sample) -> None:
        """Takes the next sample."""
        ...

    def decide(self) -> Decision:
        """The level from now on."""
        ...


class AdaptiveCompression:
    """Moves the level between two bounds, one up or at most two down for each reading.

    The level itself moves the CPU: one level may look idle and the next one busy. So a fall that undoes a rise
    doubles the idle readings that the next rise takes, up to MAX_PATIENCE; a rise that holds halves them again.
    """

    def __init__(self, min_level: int, max_level: int, *, level: int) -> None:
        """`level` is where to start; outside the bounds, the nearer one."""
        if min_level > max_level:
            raise ValueError(f"min_level={min_level}: expected at most max_level={max_level}")
        self.min_level = min_level
        self.max_level = max_level
        self.level = min(max_level, max(min_level, level))
        self.smoothed = (IDLE + BUSY) / 2
        """Percent. Before the first reading neither idle nor busy, so that the first alone moves nothing."""
        self._fresh = False
        self._idle_readings = 0
        self._patience = PATIENCE
        self._rose_last = False

    def observe(self, sample: Sample) -> None:
        """Takes the next reading."""
        reading = min(100.0, max(0.0, sample.cpu_percent))
        self.smoothed += SMOOTHING * (reading - self.smoothed)
        self._idle_readings = self._idle_readings + 1 if self.smoothed < IDLE else 0
        self._fresh = True

    def decide(self) -> Decision:
        """The level that the readings so far ask for. Without a new one since the last decision, it stays."""
        if not self._fresh:
            return self._stay("no new CPU reading", "idle")
        self._fresh = False
        cpu = f"CPU {self.smoothed:.1f} % (smoothed)"
        if self.smoothed > SATURATED:
            return self._fall(2, f"{cpu}, above {SATURATED:.0f} %")
        if self.smoothed > BUSY:
            return self._fall(1, f"{cpu}, above {BUSY:.0f} %")
        if self.smoothed < IDLE:
            return self._rise(f"{cpu}, below {IDLE:.0f} %")
        return self._stay(f"{cpu}, between {IDLE:.0f} % and {BUSY:.0f} %", "cpu_between")

    def _fall(self, steps: int, why: str) -> Decision:
        if self.level == self.min_level:
            return self._stay(f"{why}, at its lowest", "cpu_busy")
        if self._rose_last:
            self._patience = min(MAX_PATIENCE, 2 * self._patience)
        return self._move(max(self.min_level, self.level - steps), why)

    def _rise(self, why: str) -> Decision:
        if self._idle_readings >= self._patience:
            self._idle_readings = 0
            if self._rose_last:
                self._patience = max(PATIENCE, self._patience // 2)
            if self.level < self.max_level:
                return self._move(self.level + 1, why)
        if self.level == self.max_level:
            return self._stay(f"{why}, at its highest", "cpu_idle")
        return self._stay(f"{why} for {self._idle_readings} of {self._patience} readings", "cpu_idle")

    def _move(self, level: int, why: str) -> Decision:
        before, self.level = self.level, level
        self._rose_last = level > before
        cause = "cpu_idle" if self._rose_last else "cpu_busy"
        return Decision(level, f"{why}: {before} → {level}", changed=True, cause=cause)

    def _stay(self, why: str, cause: str) -> Decision:
        return Decision(self.level, f"{why}: stays at {self.level}", changed=False, cause=cause)
