"""NullSink: keeps nothing and says it did. For benchmarks, and where the views are all that is wanted."""

from __future__ import annotations

from logbale.sinks import Item, Mark, Outcome, ReceivedBatch, Stored


class NullSink:
    """Counts what it is given."""

    def __init__(self) -> None:
        self.batches = 0
        self.entries = 0
        self.raw_bytes = 0
        self._marks: dict[str, Mark] = {}

    async def commit(self, items: list[Item]) -> list[Outcome]:
        """Stored, each; for a session its marks are kept as long as the process lives."""
        for item in items:
            if isinstance(item, ReceivedBatch):
                self.batches += 1
                self.entries += item.count
                self.raw_bytes += len(item.ndjson)
            if item.stream:
                crc = item.crc if isinstance(item, ReceivedBatch) else 0
                self._marks[item.stream] = Mark(item.last_sequence, crc)
        return [Stored()] * len(items)

    def mark(self, stream: str) -> Mark:
        """How far this process has counted the stream."""
        return self._marks.get(stream, Mark())

    def can_admit(self, stream: str) -> bool:
        """Always: nothing is kept on disk."""
        return True

    def forget_rejects(self, stream: str, *, before: int) -> None:
        """None are kept."""

    async def close(self) -> None:
        """Nothing is open."""
