"""The shipper's queue between reading and sending: bounded in bytes, in memory.

What waits here is lost with the process; docs/operating.md says what that means. A batch stays until it has left.
"""

from __future__ import annotations

import asyncio
from collections import deque

from logbale.models import Batch


class MemorySpool:
    """Batches in order. The reader asks for room before it reads on, so the bound is passed by one chunk at most."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._closed = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        """Batches that wait."""
        return len(self._batches)

    def append(self, batch: Batch) -> None:
        """Takes a batch, whether there is room or not."""
        self._batches.append(batch)
        self._bytes += batch.size
        self._filled.set()
        if self._bytes >= self._max_bytes:
            self._room.clear()

    async def wait_for_room(self) -> None:
        """Returns once less than `max_bytes` wait."""
        await self._room.wait()

    async def first(self) -> Batch | None:
        """The oldest batch, which stays; None once the spool is closed and empty."""
        await self._filled.wait()
        return self._batches[0] if self._batches else None

    def remove_first(self) -> None:
        """The oldest batch has left."""
        self._bytes -= self._batches.popleft().size
        if self._bytes < self._max_bytes:
            self._room.set()
        if not self._batches and not self._closed:
            self._filled.clear()

    def close(self) -> None:
        """No batch will be appended any more."""
        self._closed = True
        self._filled.set()
