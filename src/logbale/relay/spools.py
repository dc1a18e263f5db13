"""Spools: a relay's directory, with a spool for each origin's stream, of which those that are in use are open.

A spool that cannot be opened is its own stream's trouble: the others are had without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

from logbale.descriptors import RELAY_SPOOLS
from logbale.durable import DirectoryLock, make_directory, storage_error
from logbale.errors import StorageError
from logbale.relay.origin import SETTING, Origin, Shared, read_origin
from logbale.relay.reserve import Reserve
from logbale.relay.spool import OriginSpool, directory_name, has_stream, stream_name
from logbale.sinks import Mark

log = logging.getLogger("logbale.relay")

THREADS = 16
"""Spools that are written at the same time: the file system joins their syncs."""

PARK_AFTER = 30.0
"""Seconds that a spool stays open without anybody using it."""


class Spools:
    """Owns the directory. open() first, close() at the end."""

    def __init__(self, directory: Path, *, max_bytes: int, max_memory: int) -> None:
        """`max_bytes` bounds all spools together, `max_memory` what of them is also in memory."""
        self.directory = directory
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="logbale-relay")
        self.shared = Shared(self._pool, max_bytes, max_memory)
        self.origins: dict[str, Origin] = {}
        self.unread: set[str] = set()
        """Streams whose spool could not be opened yet: how far they are is unknown."""
        self._lock: DirectoryLock | None = None
        self._reserve = Reserve(directory)

    def limit(self, *, max_bytes: int, max_memory: int) -> None:
        """Other limits from now on."""
        self.shared.max_bytes, self.shared.room.max_bytes = max_bytes, max_memory
        for queue in self.shared.queues:
            queue.store.limit(max_bytes)

    async def open(self) -> dict[str, Mark]:
        """Takes the directory, making it where it is missing, and recovers what a crash left of each spool.

        How far the streams are. Raises LockedError where another process has it, and StorageError where all fail.
        """
        try:
            await asyncio.to_thread(self._take_directory)
            streams = [stream_name(path.name) for path in await asyncio.to_thread(self._directories)]
            loop = asyncio.get_running_loop()
            found = await asyncio.gather(
                *(
                    loop.run_in_executor(self._pool, read_origin, stream, self._place(stream), self.shared)
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
                self.unread.add(stream)
            elif one is not None:
                origin, mark = one
                self.origins[stream] = origin
                origin.parked()
                self.shared.taken_entries += origin.waiting_entries
                if stream:
                    known[stream] = mark
        return known

    def _take_directory(self) -> None:
        make_directory(self.directory)
        self._lock = DirectoryLock(self.directory, setting=SETTING)
        self._reserve.take()

    def _directories(self) -> list[Path]:
        return sorted(path for path in self.directory.iterdir() if has_stream(path.name) and path.is_dir())

    def _place(self, stream: str) -> Path:
        return self.directory / directory_name(stream)

    def origin(self, stream: str) -> Origin:
        """The stream's, new where there is none."""
        if (origin := self.origins.get(stream)) is None:
            origin = self.origins[stream] = Origin(stream, self._place(stream), self.shared)
        return origin

    async def read(self, stream: str) -> Mark | None:
        """What open() could not do: how far the stream is, None where that is known by now. Raises StorageError."""
        async with self.origin(stream).used() as queue:
            if stream not in self.unread:
                return None
            self.unread.discard(stream)
            self.shared.taken_entries += queue.counts["spooled"]
            log.warning("stream %s goes on: its spool is open", stream or "(base clients)")
            return queue.spool.mark

    async def fitting(self, sizes: Sequence[int]) -> int:
        """How many, from the first on, of what takes so much may be stored, once what is consumed is given back.

        Empty they take one of any size.
        """
        shared = self.shared
        if shared.disk_bytes + sum(sizes) <= shared.max_bytes:
            return len(sizes)
        await self.compact()
        reached = accumulate(sizes, initial=shared.disk_bytes)
        found = sum(size <= shared.max_bytes for size in reached) - 1
        return max(found, 0 if shared.waiting_origins else 1)

    async def compact(self) -> None:
        """Gives back what is consumed and still takes room."""
        for origin in list(self.shared.open.values()):
            if not origin.has_waiting:
                with contextlib.suppress(StorageError):  # it was closed meanwhile, and does not open
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

    async def close_one_too_many(self) -> None:
        """Now, and not once all of a commit are open: there may be more of them than descriptors."""
        if len(self.shared.open) > RELAY_SPOOLS:
            unused = next((one for one in self.shared.open.values() if one.is_unused), None)
            if unused is not None:
                await unused.park()

    async def park_unused(self, now: float) -> None:
        """Closes those that nobody uses; `now` is by time.monotonic."""
        for origin in [one for one in self.shared.open.values() if one.is_unused]:
            if now - origin.last_used > PARK_AFTER:
                await origin.park()

    async def settle(self) -> None:
        """Notes on disk what is settled, where nothing else would for long."""
        for queue in self.shared.queues:
            await queue.settle_quietly()

    async def delete(self, stream: str) -> bool:
        """Deletes what is left of a stream; False where it waits, or is in use."""
        if (origin := self.origins.get(stream)) is None:
            return True
        if not await origin.delete():
            return False
        if not origin.users:  # else it has come back meanwhile
            del self.origins[stream]
        return True

    async def close(self) -> None:
        """Closes all, and gives the directory up."""
        await asyncio.gather(*(origin.park() for origin in list(self.shared.open.values())))
        self._pool.shutdown(wait=False)
        if self._lock is not None:
            self._lock.release()
            self._lock = None
