"""What an archiver counts, and one consistent snapshot of it; no clock."""

from __future__ import annotations

from collections import Counter

import msgspec

from logbale.metrics import Rates, RateWindow, Snapshot, Totals, mean

OUTCOMES = (
    "batch",
    "reject",
    "skip",
    "part",
    "duplicate",
    "gap",
    "damaged",
    "malformed",
    "foreign",
)
"""What can become of a message: each is counted under one of these."""

NOTICED = ("orphaned", "other_history", "missing_sequences")
"""What is counted beside that: parts without their rest, numbers that come again with other bytes, lost numbers."""


class ArchiverSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The archiver at one moment."""

    uptime: float
    partitions: int
    """That are ours."""
    messages: dict[str, int]
    """Read, by OUTCOMES."""
    noticed: dict[str, int]
    """By NOTICED."""
    stored: Totals
    """In segments that this archiver put; wire_bytes are those of the segments."""
    segments: int
    races_lost: int
    """Segments that were discarded, because another owner of the partition had put one in their place."""
    lost_offsets: int
    """That Kafka deleted before they were archived."""
    waiting_entries: int
    """Read, and in no segment of the store yet: Kafka holds them."""
    lag: dict[int, int]
    """Messages that the topic has and the store has not, by partition, of those that are ours."""
    errors: dict[str, int]
    """By reason: store, temporary_file, kafka, unreadable, refused, stray."""
    problem: str
    """Why nothing can be archived now; empty where it can."""
    rates: Rates
    mean_rates: Rates

    @property
    def unusual(self) -> dict[str, int]:
        """What should not be, by name."""
        names = ("gap", "damaged", "malformed", "foreign")
        found = {name: self.messages.get(name, 0) for name in names}
        return found | self.noticed | {"races lost": self.races_lost, "lost offsets": self.lost_offsets}


AnySnapshot = Snapshot | ArchiverSnapshot
"""Of whichever end."""


class ArchiverMetrics:
    """Counts at the archiver. Written by its thread; a reader may see a step half done, never a wrong total."""

    def __init__(self, *, now: float) -> None:
        self.counts: Counter[str] = Counter()
        """By OUTCOMES and NOTICED."""
        self.stored = Totals()
        self.segments = 0
        self.races_lost = 0
        self.lost_offsets = 0
        self.partitions = 0
        self.waiting_entries = 0
        self.lag: dict[int, int] = {}
        self.errors: Counter[str] = Counter()
        self.problem = ""
        self._started = now
        self._window = RateWindow(now)

    def put(self, *, batches: int, entries: int, raw_bytes: int, size: int) -> None:
        """A segment is in the store."""
        self.segments += 1
        self.stored.batches += batches
        self.stored.entries += entries
        self.stored.raw_bytes += raw_bytes
        self.stored.wire_bytes += size

    def snapshot(self, now: float) -> ArchiverSnapshot:
        """Everything at once."""
        uptime = now - self._started
        stored = msgspec.structs.replace(self.stored)
        return ArchiverSnapshot(
            uptime=uptime,
            partitions=self.partitions,
            messages={name: self.counts[name] for name in OUTCOMES},
            noticed={name: self.counts[name] for name in NOTICED},
            stored=stored,
            segments=self.segments,
            races_lost=self.races_lost,
            lost_offsets=self.lost_offsets,
            waiting_entries=self.waiting_entries,
            lag=dict(self.lag),
            errors=dict(self.errors),
            problem=self.problem,
            rates=self._window.sample(stored, now),
            mean_rates=mean(stored, uptime),
        )
