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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

from logbale.archive.statistics import Statistics
from logbale.config import Settings
from logbale.descriptors import RELAY_SPOOLS
from logbale.durable import DirectoryLock, make_directory, storage_error
from logbale.errors import StorageError
from logbale.metrics import RelaySnapshot
from logbale.relay.forwarding import Forwarding
from logbale.relay.origin import SETTING, Origin, Shared, read_origin
from logbale.relay.reserve import Reserve
from logbale.relay.spool import Kept, OriginSpool, directory_name, has_stream, is_out_of_bounds, stream_name
from logbale.relay.totals import snapshot_of
from logbale.sinks import Item, Mark, NotNow, Outcome, ReceivedBatch, Rejected, SkippedRange, Stored
from logbale.sinks.marks import MarkedSink, Marks
from logbale.terminal import count
from logbale.tls.material import ShipperTLS

log = logging.getLogger("logbale.relay")

THREADS = 16
"""Spools that are written at the same time: the file system joins their syncs."""

PARK_AFTER = 30.0
"""Seconds that a spool stays open without anybody using it."""

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
        self.directory = directory
        self.statistics = Statistics()
        """For who watches a sink's disk: of it, what is damaged."""
        self.forwarding = Forwarding(upstream, connections=connections, tls=tls)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="logbale-relay")
        self._shared = Shared(self._pool, max_bytes, max_memory)
        self._marks_days = marks_days
        self._now = now
        self._origins: dict[str, Origin] = {}
        self._unread: set[str] = set()
        """Streams whose spool could not be opened yet: their marks are unknown."""
        self._turns = asyncio.Semaphore(2 * THREADS)
        self._lock: DirectoryLock | None = None
        self._reserve = Reserve(directory)
        self._expired = self._settled = monotonic()

    def limit(self, *, max_bytes: int, max_memory: int, max_streams: int, marks_days: float) -> None:
        """Other limits from now on."""
        self._shared.max_bytes, self._shared.room.max_bytes = max_bytes, max_memory
        self._max_streams, self._marks_days = max_streams, marks_days
        for queue in self._shared.queues:
            queue.store.limit(max_bytes)

    async def open(self) -> None:
        """Takes the directory, making it where it is missing, and recovers what a crash left of each spool.

        Raises LockedError where another process has it, and StorageError. A spool that fails while others do not is its
        stream's trouble alone.
        """
        try:
            await asyncio.to_thread(self._take_directory)
            streams = [stream_name(path.name) for path in await asyncio.to_thread(self._directories)]
            loop = asyncio.get_running_loop()
            found = await asyncio.gather(
                *(
                    loop.run_in_executor(self._pool, read_origin, stream, self._place(stream), self._shared)
                    for stream in streams
                ),
                return_exceptions=True,
            )
            failures = [one for one in found if isinstance(one, BaseException)]
            for failure in failures:
                if not isinstance(failure, StorageError) or len(failures) == len(found):
                    raise failure
        except OSError as error:
            raise storage_error(self.directory, "open the relay's directory", error, setting=SETTING) from error
        known = {}
        for stream, one in zip(streams, found, strict=True):
            if isinstance(one, BaseException):
                log.error("stream %s waits: its spool cannot be opened: %s", stream or "(base clients)", one)
                self._unread.add(stream)
                continue
            if one is None:
                continue
            origin, mark = one
            self._origins[stream] = origin
            origin.parked()
            self._shared.taken_entries += origin.waiting_entries
            if stream:
                known[stream] = mark
        self._marks = Marks(known)
        self._marks.begin(self._now())
        waiting = self._shared.waiting_origins
        log.info("forwarding to %s, through %s", self.forwarding.address, self.directory)
        if waiting:
            log.info("%s", self._left(waiting))
        for origin in waiting:
            self.forwarding.notice(origin)

    def _take_directory(self) -> None:
        make_directory(self.directory)
        self._lock = DirectoryLock(self.directory, setting=SETTING)
        self._reserve.take()

    def _directories(self) -> list[Path]:
        return sorted(path for path in self.directory.iterdir() if has_stream(path.name) and path.is_dir())

    def _place(self, stream: str) -> Path:
        return self.directory / directory_name(stream)

    # the Sink

    async def commit(self, items: list[Item]) -> list[Outcome | NotNow]:
        """Stores each in its stream's spool, durably on return. Raises StorageError where the disk is full.

        Where one spool fails its items are NotNow, though some may be stored: these are passed over the next time.
        """
        await self._make_room(sum(_size(item) for item in items))
        groups: dict[str, list[Item]] = {}
        for item in items:
            if not is_out_of_bounds(item):
                groups.setdefault(item.stream, []).append(item)
        # All of them to their ends, whatever fails: what is on its way to a disk must not be when it is tried again.
        ends = await asyncio.gather(
            *(self._keep(stream, group) for stream, group in groups.items()), return_exceptions=True
        )
        failed = {stream: end for stream, end in zip(groups, ends, strict=True) if end is not None}
        if failed:
            await self._compact()  # it may be the disk that is full
        for error in failed.values():
            if not isinstance(error, StorageError) or (len(failed) == len(groups) and _is_everybodys(error)):
                raise error

        def outcome(item: Item) -> Outcome | NotNow:
            if is_out_of_bounds(item):
                return Rejected("a sequence beyond 2^62")
            error = failed.get(item.stream)
            return Stored() if error is None else NotNow(str(error))

        return [outcome(item) for item in items]

    async def _keep(self, stream: str, items: list[Item]) -> None:
        if stream in self._unread:
            await self._read_again(stream)
        origin = self._origin(stream)
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
        await self._close_one_too_many()

    def _origin(self, stream: str) -> Origin:
        if (origin := self._origins.get(stream)) is None:
            origin = self._origins[stream] = Origin(stream, self._place(stream), self._shared)
        return origin

    async def _read_again(self, stream: str) -> None:
        """What open() could not do. Raises StorageError."""
        origin = self._origin(stream)
        async with origin.used() as queue:
            if stream not in self._unread:  # done meanwhile
                return
            self._unread.discard(stream)
            self._shared.taken_entries += queue.counts["spooled"]
            if stream:
                self._marks.known[stream] = queue.spool.mark
            log.warning("stream %s goes on: its spool is open", stream or "(base clients)")
            if queue.has_waiting:
                self.forwarding.notice(origin)

    async def _close_one_too_many(self) -> None:
        """Now, and not once all of a commit are open: there may be more of them than descriptors."""
        if len(self._shared.open) > RELAY_SPOOLS:
            unused = next((one for one in self._shared.open.values() if one.is_unused), None)
            if unused is not None:
                await unused.park()

    async def _make_room(self, size: int) -> None:
        """Raises StorageError where there is none: the clients wait then, and are told to."""
        if self._has_room(size):
            return
        await self._compact()
        waiting = self._shared.waiting_origins
        if waiting and not self._has_room(size):
            raise StorageError(
                f"{self.directory}: full, {self._shared.disk_bytes:,} bytes wait for {self.forwarding.address} and "
                f"SPOOL_MAX_BYTES is {self._shared.max_bytes}; it goes on by itself when upstream takes them"
            )

    async def _compact(self) -> None:
        """Gives back what is consumed and still takes room."""
        for origin in list(self._shared.open.values()):
            if not origin.has_waiting:
                async with origin.used() as queue:
                    await queue.call(self._compact_in_any_case, queue.spool)

    def _compact_in_any_case(self, spool: OriginSpool) -> None:
        try:
            spool.compact()
        except StorageError:
            self._reserve.give()
            with contextlib.suppress(StorageError):
                spool.compact()
            self._reserve.take()

    def _has_room(self, size: int) -> bool:
        return self._shared.disk_bytes + size <= self._shared.max_bytes

    def mark(self, stream: str) -> Mark | None:
        """How far the stream is durable here, whatever of it is forwarded; None while its spool cannot be opened."""
        return None if stream in self._unread else super().mark(stream)

    def can_admit(self, stream: str) -> bool:
        """As others, but a stream whose spool cannot be opened is no new one."""
        return stream in self._unread or super().can_admit(stream)

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
        self.statistics.damaged_blocks = self._shared.damaged
        for origin in [one for one in self._shared.open.values() if one.is_unused]:
            if now - origin.last_used > PARK_AFTER:
                await origin.park()
        if now - self._settled >= SETTLE_INTERVAL:
            self._settled = now
            for stream in list(self._unread):
                with contextlib.suppress(StorageError):  # it was said
                    await self._read_again(stream)
            for queue in self._shared.queues:
                await queue.settle_quietly()
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
            origin = self._origins.get(stream)
            if origin is not None and not await origin.delete():
                self._marks.known.setdefault(stream, before[stream])
            else:
                gone += 1
                if origin is not None and not origin.users:  # else it has come back meanwhile
                    del self._origins[stream]
        if gone:
            log.info("%d streams are forgotten: silent for %g days (MARKS_DAYS)", gone, self._marks_days)

    async def drain(self) -> None:
        """Returns when nothing waits any more, or upstream is away."""
        while self._shared.waiting_origins and not self.forwarding.is_unreachable:
            self.forwarding.looked.clear()
            await self.forwarding.looked.wait()

    async def close(self) -> None:
        """Ends the sessions, says what is left, closes all spools and gives the directory up. No commit follows."""
        await self.forwarding.end()
        if waiting := self._shared.waiting_origins:
            log.warning("%s; the next start forwards them", self._left(waiting))
        await asyncio.gather(*(origin.park() for origin in list(self._shared.open.values())))
        self._pool.shutdown(wait=False)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # what is known

    def _left(self, waiting: list[Origin]) -> str:
        entries = count(sum(origin.entries_to_go for origin in waiting), "entry", "entries")
        streams = count(len(waiting), "stream", "streams")
        return f"{entries} of {streams} wait in {self.directory} for {self.forwarding.address}"

    def snapshot(self) -> RelaySnapshot:
        """Everything counted, at this moment."""
        return snapshot_of(self._shared, self.forwarding, streams=len(self._marks.known), now=monotonic())


def _is_everybodys(error: StorageError) -> bool:
    """Whether it is the file system that is full or read-only, which has more than this spool."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _size(item: Item) -> int:
    """Bytes that it takes at most, as hardly any batch grows when it is compressed."""
    return len(item.frame) or len(item.ndjson) if isinstance(item, ReceivedBatch) else 0
