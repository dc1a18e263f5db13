"""NullSink: keeps nothing and says it did. For benchmarks, and where the views are all that is wanted."""

from __future__ import annotations

from logbale.sinks import Outcome, ReceivedBatch, Stored


class NullSink:
    """Counts what it is given."""

    def __init__(self) -> None:
        self.batches = 0
        self.entries = 0
        self.raw_bytes = 0

    async def commit(self, batches: list[ReceivedBatch]) -> list[Outcome]:
        """Stored, each."""
        self.batches += len(batches)
        for batch in batches:
            self.entries += batch.count
            self.raw_bytes += len(batch.ndjson)
        return [Stored()] * len(batches)

    async def close(self) -> None:
        """Nothing is open."""
