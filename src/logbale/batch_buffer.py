"""Presses entries into batches: by count, by bytes or by the age of the first, whichever comes first; no clock."""

from __future__ import annotations

from itertools import accumulate, takewhile
from typing import Any

from logbale.models import Batch, Chunk


class BatchBuffer:
    """Holds the batch that is not full yet.

    A batch leaves with `size` entries, or when the next entry would take it over `max_bytes` raw bytes (a single larger
    entry is a batch of its own), or `interval` seconds after its first entry came. The caller passes `now` in seconds
    of a clock that never goes back.
    """

    def __init__(self, *, size: int, interval: float, max_bytes: int) -> None:
        self.size = size
        self.interval = interval
        self.max_bytes = max_bytes
        self._start_batch()

    def _start_batch(self) -> None:
        self._entries: list[Any] = []
        self._bytes = 0
        # Only of what moved since the last batch: one of a thousand files costs one cursor, not a thousand.
        self._cursors: dict[str, int | None] = {}
        self._since: float | None = None
        self._moved_since: float | None = None

    def __len__(self) -> int:
        """Entries held."""
        return len(self._entries)

    @property
    def deadline(self) -> float | None:
        """When the batch that is held must leave; None while there is none."""
        return None if self._since is None else self._since + self.interval

    def note_due(self, after: float) -> float | None:
        """When cursors that moved without an entry are `after` seconds old; None where a batch will take them, or none.

        A source that is busy never gets there: its cursors go with its entries.
        """
        return None if self._entries or self._moved_since is None else self._moved_since + after

    def add(self, chunk: Chunk, now: float) -> list[Batch]:
        """Takes a chunk; returns the batches that it filled, in order. A chunk without entries only moves cursors."""
        full = []
        position, offset = 0, chunk.start
        self._cursors |= dict.fromkeys(chunk.forgotten)
        self._cursors |= chunk.begun
        if chunk.source:
            # At once, not with the first entry: a full batch may leave before it, and would only say what is forgotten.
            self._cursors[chunk.source] = offset
        while position < len(chunk.entries):
            sizes = self._fitting(chunk, position)
            if not sizes:
                full.append(self._take())
                continue
            end = position + len(sizes)
            self._entries += chunk.entries[position:end]
            self._bytes += sum(sizes) + chunk.overhead * len(sizes)
            self._since = now if self._since is None else self._since
            position, offset = end, offset + sum(sizes)
            if chunk.source:
                self._cursors[chunk.source] = offset
            if len(self._entries) >= self.size or self._bytes >= self.max_bytes:
                full.append(self._take())
        if self._cursors and self._moved_since is None:
            self._moved_since = now
        return full

    def _fitting(self, chunk: Chunk, position: int) -> list[int]:
        """The sizes of the entries from `position` on that still go into the batch; at least one if it is empty."""
        sizes = chunk.sizes[position : position + self.size - len(self._entries)]
        room = self.max_bytes - self._bytes
        if sum(sizes) + chunk.overhead * len(sizes) <= room:
            return sizes
        weights = accumulate(size + chunk.overhead for size in sizes)
        count = sum(1 for _ in takewhile(lambda weight: weight <= room, weights))
        return sizes[: count or (0 if self._entries else 1)]

    def take_due(self, now: float) -> Batch | None:
        """The batch whose deadline has come, if there is one."""
        return self._take() if self.deadline is not None and self.deadline <= now else None

    def flush(self) -> Batch | None:
        """What is held, however little."""
        return self._take() if self._entries else None

    def take_cursors(self) -> dict[str, int | None]:
        """Cursors that moved without an entry; none where a batch will take them."""
        if self._entries:
            return {}
        cursors = self._cursors
        self._start_batch()
        return cursors

    def _take(self) -> Batch:
        batch = Batch(self._entries, self._bytes, self._cursors)
        self._start_batch()
        return batch
