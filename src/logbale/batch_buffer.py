"""Presses entries into batches: by count, by bytes or by the age of the first, whichever comes first; no clock."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from logbale.models import Batch, Chunk, joined, sizes_of

GROWN_ENTRIES = 10_000
"""Most entries that a batch grows to: a tenth of what receivers take by default (MAX_BATCH_ENTRIES)."""


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
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._count = 0
        # Only of what moved since the last batch: one of a thousand files costs one cursor, not a thousand.
        self._cursors: dict[str, int | None] = {}
        self._sources: dict[str, int] = {}
        self._since: float | None = None
        self._moved_since: float | None = None

    def __len__(self) -> int:
        """Entries held."""
        return self._count

    @property
    def deadline(self) -> float | None:
        """When the batch that is held must leave; None while there is none."""
        return None if self._since is None else self._since + self.interval

    def note_due(self, after: float) -> float | None:
        """When cursors that moved without an entry are `after` seconds old; None where a batch will take them, or none.

        A source that is busy never gets there: its cursors go with its entries.
        """
        return None if self._count or self._moved_since is None else self._moved_since + after

    def add(self, chunk: Chunk, now: float, *, grown_bytes: int = 0) -> list[Batch]:
        """Takes a chunk; returns the batches that it filled, in order. A chunk without entries only moves cursors.

        With `grown_bytes` the count gives way, up to GROWN_ENTRIES: a batch leaves with half so many raw bytes and
        takes up to all of them. Many small batches in a row cost more, on the wire and in time, than a large one.
        """
        self._cursors |= dict.fromkeys(chunk.forgotten)
        self._cursors |= chunk.begun
        if chunk.source:
            # At once, not with the first entry: a full batch may leave before it, and would only say what is forgotten.
            self._cursors[chunk.source] = chunk.start
        full = self._add_entries(chunk, now, min(grown_bytes, self.max_bytes)) if chunk.entries else []
        if self._cursors and self._moved_since is None:
            self._moved_since = now
        return full

    def _add_entries(self, chunk: Chunk, now: float, limit: int) -> list[Batch]:
        count = self._count + len(chunk.entries)
        may_fit = count <= self.size
        whole = joined(chunk.entries) if may_fit or (limit and count <= GROWN_ENTRIES) else b""
        if self._bytes + len(whole) > (self.max_bytes if may_fit else limit) or not whole:
            return self._add_in_parts(chunk, now, limit)
        self._take_up(whole, len(chunk.entries), chunk, chunk.end, now)
        return [self._take()] if self._is_full(limit) else []

    def _add_in_parts(self, chunk: Chunk, now: float, limit: int) -> list[Batch]:
        full: list[Batch] = []
        entries = chunk.entries
        whole = joined(entries)
        ends = list(accumulate(sizes_of(entries), initial=0))
        cursors = list(accumulate(chunk.measure(), initial=chunk.start)) if chunk.measure is not None else None
        position = 0
        while position < len(entries):
            within = position + self.size - self._count
            grown = bisect_right(ends, ends[position] + limit - self._bytes) - 1
            grown = min(grown, position + GROWN_ENTRIES - self._count)
            allowed = bisect_right(ends, ends[position] + self.max_bytes - self._bytes) - 1
            end = min(max(within, grown), allowed, len(entries))
            if end <= position:
                if self._count:
                    full.append(self._take())
                    continue
                end = position + 1
            piece = whole[ends[position] : ends[end]]
            self._take_up(piece, end - position, chunk, cursors[end] if cursors is not None else 0, now)
            position = end
            if self._is_full(limit) or position < len(entries):
                full.append(self._take())
        return full

    def _take_up(self, piece: bytes, count: int, chunk: Chunk, cursor: int, now: float) -> None:
        self._pieces.append(piece)
        self._bytes += len(piece)
        self._count += count
        self._since = now if self._since is None else self._since
        if chunk.source:
            self._cursors[chunk.source] = cursor
            self._sources[chunk.source] = self._sources.get(chunk.source, 0) + count

    def _is_full(self, limit: int) -> bool:
        if self._bytes >= self.max_bytes:
            return True
        return self._count >= self.size and (2 * self._bytes >= limit or 2 * self._count >= GROWN_ENTRIES)

    def take_due(self, now: float) -> Batch | None:
        """The batch whose deadline has come, if there is one."""
        return self._take() if self.deadline is not None and self.deadline <= now else None

    def flush(self) -> Batch | None:
        """What is held, however little."""
        return self._take() if self._count else None

    def look(self) -> Batch:
        """What is held, without its lines; it stays."""
        return Batch(b"", self._count, self._cursors, self._since, self._sources)

    def take_cursors(self) -> dict[str, int | None]:
        """Cursors that moved without an entry; none where a batch will take them."""
        if self._count:
            return {}
        cursors = self._cursors
        self._start_batch()
        return cursors

    def _take(self) -> Batch:
        batch = Batch(b"".join(self._pieces), self._count, self._cursors, self._since, self._sources)
        self._start_batch()
        return batch
