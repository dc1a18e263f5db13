"""Reading: what a source gives, as batches for the queue: how far they grow, and when one that is not full leaves."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic

from logbale.batch_buffer import BatchBuffer
from logbale.carried import Carried
from logbale.compression import CompressionHandler
from logbale.config import Settings
from logbale.level_choice import RELOAD_INTERVAL
from logbale.link import Link
from logbale.metrics import ShipperMetrics
from logbale.models import Chunk
from logbale.sources import ResumableSource, Source
from logbale.spool_queue import SpoolQueue

NOTE_INTERVAL = 1.0
"""Seconds after which cursors that moved without an entry are noted; a batch takes them along before."""

BACKLOG_BATCHES = 4
"""Batches that are not acknowledged from which on the next ones grow. Fewer are always on their way."""

GROWN_BYTES = 16 * 1024
"""Wire bytes that a batch grows to under backlog before it is known what the link carries: 2 s at 64 kbit/s."""

USUAL_RATIO = 8.0
"""Of log entries, until it is known: it is more with most logs."""

FIRST_TRY = 1.0
"""Seconds that reading waits for the first word of the receiver, which says how far batches may grow."""

LOOK_INTERVAL = 0.005
"""Seconds at least between looks at whether the ack has come that lets a partial batch leave."""


class Reading:
    """The way from the source into the queue: run() and pass_on() beside each other, then end()."""

    def __init__(
        self,
        settings: Settings,
        source: Source,
        queue: SpoolQueue,
        link: Link,
        handler: CompressionHandler,
        metrics: ShipperMetrics,
    ) -> None:
        self.buffer = BatchBuffer(
            size=settings.batch_size, interval=settings.batch_interval, max_bytes=settings.batch_max_bytes
        )
        self._settings = settings
        self._source = source
        self._queue = queue
        self._link = link
        self._handler = handler
        self._metrics = metrics
        self._carried = Carried()
        self._buffered = asyncio.Event()
        if isinstance(source, ResumableSource):
            # A stop may come before the first chunk: where followed files begin is noted all the same, or the next run
            # would begin at their ends again, and what came in between would be nobody's.
            self.buffer.add(Chunk([], begun=source.begun), monotonic())

    def follow(self, settings: Settings) -> None:
        """Other settings from now on."""
        self._settings = settings
        self.buffer.size = settings.batch_size
        self.buffer.interval = settings.batch_interval
        self.buffer.max_bytes = settings.batch_max_bytes

    async def run(self) -> None:
        """Reads the source to its end. Raises what it raises."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TRY):
                await self._link.tried.wait()
        async with contextlib.aclosing(self._source.chunks()) as chunks:
            async for chunk in chunks:
                for batch in self.buffer.add(chunk, monotonic(), grown_bytes=self._grown_bytes()):
                    self._queue.append(batch)
                self._buffered.set()
                await self._queue.wait_for_room()
                # A source that never has to wait would otherwise keep the loop to itself.
                await asyncio.sleep(0)

    def _grown_bytes(self) -> int:
        """Raw bytes that a batch may have beyond BATCH_SIZE: in a session, while batches wait, what passes in seconds.

        A slow link must not be busy with one batch for so long that its silence looks like its end, and what the
        receiver would refuse as too large must not become so here.
        """
        if self._queue.waiting_batches < BACKLOG_BATCHES:
            return 0
        carried = max(GROWN_BYTES, self._carried.lately(self._metrics.arrived_bytes, monotonic()))
        carried_raw = int(carried * (self._handler.stats.ratio or USUAL_RATIO))
        return min(carried_raw, self._settings.buffer_max_bytes // 8, self._link.growth_limit)

    async def pass_on(self) -> None:
        """A partial batch leaves after BATCH_INTERVAL; in a session that has nothing else to do, after BATCH_LINGER."""
        while True:
            settings = self._settings
            linger = settings.batch_linger if settings.session_mode == "on" else settings.batch_interval
            if self.buffer.deadline is None:
                await self._pass_on_cursors()
                continue
            is_idle = self._queue.is_drained and self._metrics.connected
            self.buffer.interval = min(linger, settings.batch_interval) if is_idle else settings.batch_interval
            wait = self.buffer.deadline - monotonic()
            if wait > 0:
                # While something is unacknowledged, its ack may shorten the wait, and a reload may at any time.
                await asyncio.sleep(min(wait, RELOAD_INTERVAL if is_idle else max(linger, LOOK_INTERVAL)))
            elif (batch := self.buffer.take_due(monotonic())) is not None:
                self._queue.append(batch)

    async def _pass_on_cursors(self) -> None:
        """Waits for the first entry; where only cursors have moved, they are noted after NOTE_INTERVAL."""
        self._buffered.clear()
        due = self.buffer.note_due(NOTE_INTERVAL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0.0, due - monotonic())):
                await self._buffered.wait()
        if (due := self.buffer.note_due(NOTE_INTERVAL)) is not None and due <= monotonic():
            self._queue.move_cursors(self.buffer.take_cursors())

    def end(self) -> None:
        """Gives the queue what is left here: nothing more comes."""
        if (batch := self.buffer.flush()) is not None:
            self._queue.append(batch)
        self._queue.move_cursors(self.buffer.take_cursors())
        self._queue.close_input()
