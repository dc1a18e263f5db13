"""The relay as a sink: what it stores waits in a spool for each stream until the receiver upstream has stored it.

The acknowledgement is due when a batch is durable here. All spools of a commit are written at the same time, each on a
thread; none of them holds another's stream up for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from logbale.archive.statistics import Statistics
from logbale.config import Settings
from logbale.errors import StorageError
from logbale.metrics import RelaySnapshot
from logbale.relay.forwarding import Forwarding
from logbale.relay.origin import Origin
from logbale.relay.spool import Kept, is_out_of_bounds
from logbale.relay.spools import THREADS, Spools
from logbale.relay.totals import snapshot_of
from logbale.sinks import Item, Mark, NotNow, Outcome, ReceivedBatch, Rejected, SkippedRange, Stored
from logbale.sinks.marks import MarkedSink, Marks
from logbale.terminal import count
from logbale.tls.material import ShipperTLS

log = logging.getLogger("logbale.relay")

SETTLE_INTERVAL = 5.0
EXPIRY_INTERVAL = 3600.0
"""Seconds between looks for what is settled and not on disk as such, and for streams that are silent for MARKS_DAYS."""


class RelaySink(MarkedSink):
    """Owns a directory of spools and the sessions upstream. open() first; run() beside it, then drain() and close()."""

    def __init__(
        self,
        directory: Path,
        upstream: Settings,
        *,
        max_bytes: int,
        max_memory: int,
        max_streams: int,
        marks_days: float,
        connections: int,
        tls: Callable[[], ShipperTLS | None] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`upstream` are a shipper's settings, whose receiver is where it goes. `max_bytes` bounds all spools together,
        `max_memory` what of them is also in memory, `connections` the sessions upstream at a time.
        """
        super().__init__(max_streams)
        self.statistics = Statistics()
        """For who watches a sink's disk: of it, what is damaged."""
        self.forwarding = Forwarding(upstream, connections=connections, tls=tls)
        self.spools = Spools(directory, max_bytes=max_bytes, max_memory=max_memory)
        self._marks_days = marks_days
        self._now = now
        self._turns = asyncio.Semaphore(2 * THREADS)
        self._expired = self._settled = monotonic()

    def limit(self, *, max_bytes: int, max_memory: int, max_streams: int, marks_days: float) -> None:
        """Other limits from now on."""
        self.spools.limit(max_bytes=max_bytes, max_memory=max_memory)
        self._max_streams, self._marks_days = max_streams, marks_days

    @property
    def directory(self) -> Path:
        """Where the spools are."""
        return self.spools.directory

    async def open(self) -> None:
        """Recovers what a crash left of each spool, and begins to forward. Raises LockedError and StorageError."""
        self._marks = Marks(await self.spools.open())
        self._marks.begin(self._now())
        waiting = self.spools.shared.waiting_origins
        log.info("forwarding to %s, through %s", self.forwarding.address, self.directory)
        if waiting:
            log.info("%s", self._left(waiting))
        for origin in waiting:
            self.forwarding.notice(origin)

    # the Sink

    async def commit(self, items: list[Item]) -> list[Outcome | NotNow]:
        """Stores each in its stream's spool, durably on return. Raises StorageError where the disk is full.

        Of more than there may be room for, the first: how well they compress is known when they are stored.
        Where one spool fails its items are NotNow, though some may be stored: these are passed over the next time.
        """
        sizes = list(map(_size, items))
        items = items[: await self.spools.fitting(sizes)]
        if sizes and not items:
            shared = self.spools.shared
            raise StorageError(
                f"{self.directory}: full, {shared.disk_bytes:,} bytes wait for {self.forwarding.address}, the next "
                f"batch may take up to {sizes[0]:,} and SPOOL_MAX_BYTES is {shared.max_bytes}; it goes on by itself "
                "when upstream takes them"
            )
        groups: dict[str, list[Item]] = {}
        for item in items:
            if not is_out_of_bounds(item):
                groups.setdefault(item.stream, []).append(item)
        # All of them to their ends, whatever fails: what is on its way to a disk must not be when it is tried again.
        ends = await asyncio.gather(
            *(self._keep(stream, group) for stream, group in groups.items()), return_exceptions=True
        )
        failed = {stream: end for stream, end in zip(groups, ends, strict=True) if end is not None}
        if any(map(_is_everybodys, failed.values())):
            await self.spools.compact()
        for error in failed.values():
            if not isinstance(error, StorageError) or (len(failed) == len(groups) and _is_everybodys(error)):
                raise error

        def outcome(item: Item) -> Outcome | NotNow:
            # First: what is rejected behind a batch that waits would have that acknowledged, too.
            if (error := failed.get(item.stream)) is not None:
                return NotNow(str(error))
            return Rejected("a sequence beyond 2^62") if is_out_of_bounds(item) else Stored()

        return [outcome(item) for item in items]

    async def _keep(self, stream: str, items: list[Item]) -> None:
        if stream in self.spools.unread:
            await self._read(stream)
        origin = self.spools.origin(stream)
        mark = self._marks.get(stream)
        if stream:
            items = [item for item in items if item.last_sequence > mark.sequence]  # it is tried again
            if not items:
                return
        first = items[0].first if isinstance(items[0], SkippedRange) else items[0].sequence
        kept: list[Kept] = []
        async with self._turns, origin.used(first) as queue:
            try:
                if stream:
                    kept, mark = await queue.call(queue.spool.keep, items, mark, int(self._now()))
                    self._marks.known[stream] = mark
                else:
                    kept = await queue.call(queue.spool.keep_base, items)
            finally:  # where it failed half-way, what was kept goes on, and makes room for the rest
                queue.kept(kept, monotonic())
                if queue.has_waiting:
                    self.forwarding.notice(origin)
        await self.spools.close_one_too_many()

    async def _read(self, stream: str) -> None:
        """Of a spool that could not be opened before. Raises StorageError."""
        mark = await self.spools.read(stream)
        if mark is not None and stream:
            self._marks.known[stream] = mark
        origin = self.spools.origin(stream)
        if origin.has_waiting:
            self.forwarding.notice(origin)

    def mark(self, stream: str) -> Mark | None:
        """How far the stream is durable here, whatever of it is forwarded; None while its spool cannot be opened."""
        return None if stream in self.spools.unread else super().mark(stream)

    def can_admit(self, stream: str) -> bool:
        """As others, but a stream whose spool cannot be opened is no new one."""
        return stream in self.spools.unread or super().can_admit(stream)

    # beside it

    async def run(self) -> None:
        """Forwards, for ever."""
        forwarding = asyncio.create_task(self.forwarding.run())
        try:
            while True:
                await asyncio.wait({forwarding}, timeout=1.0)
                if forwarding.done():
                    forwarding.result()
                await self.tick()
        finally:
            forwarding.cancel()
            await asyncio.wait({forwarding})

    async def tick(self) -> None:
        """Closes spools that nobody uses, notes what is settled, and forgets silent streams. Every second or so."""
        now = monotonic()
        self.statistics.damaged_blocks = self.spools.shared.damaged
        await self.spools.park_unused(now)
        if now - self._settled >= SETTLE_INTERVAL:
            self._settled = now
            for stream in list(self.spools.unread):
                with contextlib.suppress(StorageError):  # it was said
                    await self._read(stream)
            await self.spools.settle()
        if now - self._expired >= EXPIRY_INTERVAL:
            self._expired = now
            await self.expire()

    async def expire(self) -> None:
        """Forgets the streams of which nothing waits and that were silent for MARKS_DAYS."""
        before = dict(self._marks.known)
        self._marks.begin(self._now())
        self._marks.expire(self._marks_days)
        gone = 0
        for stream in before.keys() - self._marks.known.keys():
            if await self.spools.delete(stream):
                gone += 1
            else:
                self._marks.known.setdefault(stream, before[stream])
        if gone:
            log.info("%d streams are forgotten: silent for %g days (MARKS_DAYS)", gone, self._marks_days)

    async def drain(self) -> None:
        """Returns when nothing waits any more, or upstream is away."""
        while self.spools.shared.waiting_origins and not self.forwarding.is_unreachable:
            self.forwarding.looked.clear()
            await self.forwarding.looked.wait()

    async def close(self) -> None:
        """Ends the sessions, says what is left, closes all spools and gives the directory up. No commit follows."""
        await self.forwarding.end()
        if waiting := self.spools.shared.waiting_origins:
            log.warning("%s; the next start forwards them", self._left(waiting))
        await self.spools.close()

    # what is known

    def _left(self, waiting: list[Origin]) -> str:
        entries = count(sum(origin.entries_to_go for origin in waiting), "entry", "entries")
        streams = count(len(waiting), "stream", "streams")
        return f"{entries} of {streams} wait in {self.directory} for {self.forwarding.address}"

    def snapshot(self) -> RelaySnapshot:
        """Everything counted, at this moment."""
        return snapshot_of(self.spools.shared, self.forwarding, streams=len(self._marks.known), now=monotonic())


def _is_everybodys(error: BaseException) -> bool:
    """Whether it is the file system that is full or read-only, which has more than this spool."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _size(item: Item) -> int:
    """Bytes that it takes at most, as hardly any batch grows when it is compressed."""
    return len(item.frame) or len(item.ndjson) if isinstance(item, ReceivedBatch) else 0
