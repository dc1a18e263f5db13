"""The archive as a sink: the one that decides the acknowledgement.

Every call into the writer runs on one thread of its own, so the event loop never waits for a disk. Collecting what
waits into one commit is the caller's part.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from logbale.archive.writer import ArchiveWriter
from logbale.sinks import Item, Mark, Outcome


class ArchiveSink:
    """Stores batches in an archive whose writer is open; it owns the writer from then on."""

    def __init__(self, writer: ArchiveWriter) -> None:
        self.writer = writer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="logbale-archive")

    async def commit(self, items: list[Item]) -> list[Outcome]:
        """Stores all of them, durably on return. Raises StorageError: then none is stored; it may be tried again."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.writer.commit, items)

    def mark(self, stream: str) -> Mark:
        """How far the stream is durable, as the archive itself tells."""
        return self.writer.marks.get(stream)

    def can_admit(self, stream: str) -> bool:
        """Whether the stream is known here, or there is room for it among MAX_STREAMS."""
        return self.writer.can_admit(stream)

    def forget_rejects(self, stream: str, *, before: int) -> None:
        """Those below `before` are known to the shipper. Only while nothing of the stream is on its way to the disk."""
        self.writer.marks.forget_rejects(stream, before)

    def limit(self, **limits: Any) -> None:
        """Other limits for the writer, after the commits before it; they are its limit()'s."""
        with suppress(RuntimeError):  # closed: there is nothing to limit any more
            self._thread.submit(self.writer.limit, **limits)

    async def tick(self) -> None:
        """Seals by age and goes on with what failed before. Call it every second or so."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.writer.tick)

    async def close(self) -> None:
        """Waits for the commits before it, seals what is open and gives the directory up. No commit follows."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.writer.close)
        self._thread.shutdown(wait=False)
