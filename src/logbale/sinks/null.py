"""NullSink: keeps nothing but the marks and says it did. For benchmarks, and where the views are all that is wanted."""

from __future__ import annotations

from logbale.sinks import Item, Mark, Outcome, ReceivedBatch, Stored
from logbale.sinks.marks import Marks


class NullSink:
    """Counts what it is given. Its marks are in memory: after a restart every stream is unknown."""

    def __init__(self, *, max_streams: int = 100_000) -> None:
        self.batches = 0
        self.entries = 0
        self.raw_bytes = 0
        self._marks = Marks()
        self._max_streams = max_streams

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

    def mark(self, stream: str) -> Mark:
        """How far the stream has come since the start."""
        return self._marks.get(stream)

    def can_admit(self, stream: str) -> bool:
        """Whether there is room for it among `max_streams`."""
        return self._marks.has_room_for(stream, self._max_streams)

    def forget_rejects(self, stream: str, *, before: int) -> None:
        """The shipper has consumed those below `before`."""
        self._marks.forget_rejects(stream, before)

    async def close(self) -> None:
        """Nothing is open."""
