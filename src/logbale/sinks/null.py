"""NullSink: keeps nothing but the marks and says it did. For benchmarks, and where the views are all that is wanted."""

from __future__ import annotations

from logbale.sinks import Item, Outcome, ReceivedBatch, Stored
from logbale.sinks.marks import MarkedSink


class NullSink(MarkedSink):
    """Counts what it is given. Its marks are in memory: after a restart every stream is unknown."""

    def __init__(self, *, max_streams: int = 100_000) -> None:
        super().__init__(max_streams)
        self.batches = 0
        self.entries = 0
        self.raw_bytes = 0

    def limit(self, *, max_streams: int) -> None:
        """Another limit from now on."""
        self._max_streams = max_streams

    async def commit(self, items: list[Item]) -> list[Outcome]:
        """Stored, each."""
        for item in items:
            self._marks.add(item)
            if isinstance(item, ReceivedBatch):
                self.batches += 1
                self.entries += item.count
                self.raw_bytes += item.raw_bytes
        return [Stored()] * len(items)

    async def close(self) -> None:
        """Nothing is open."""
