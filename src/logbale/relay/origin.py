"""Origin: one stream at a relay. Its spool is open while somebody uses it; parked, some numbers are left of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from pathlib import Path
from time import monotonic

from logbale.durable import DirectoryLock, delete_locked, storage_error
from logbale.durations import Durations
from logbale.errors import StorageError
from logbale.relay.queue import RelayQueue
from logbale.relay.spool import OriginSpool
from logbale.sinks import Mark
from logbale.spool.dead_letters import letter_paths
from logbale.spool.fresh import FreshRoom

log = logging.getLogger("logbale.relay")

SETTING = "--relay-dir (RELAY_DIR)"


class Shared:
    """What the origins of a relay have in common."""

    def __init__(self, pool: Executor, max_bytes: int, max_memory: int) -> None:
        self.pool = pool
        self.max_bytes = max_bytes
        """Of all of them; each one's segments are sized by it."""
        self.room = FreshRoom(max_memory)
        """For what of them is also in memory."""
        self.durations = Durations()
        self.settled: Counter[str] = Counter()
        """Entries that are done with, by what became of them, at the origins that are parked."""
        self.taken_entries = 0
        """What waited at the start, and what came to those that are parked."""
        self.damaged = 0
        """Places on disk that were not what they should be."""
        self.open: dict[str, Origin] = {}
        """Those with an open spool, the one used last at the end."""
        self.waiting: dict[str, Origin] = {}
        """Those without, of which something waits."""
        self.parked_bytes = 0
        """On disk, of all without."""

    @property
    def queues(self) -> list[RelayQueue]:
        """Of those with an open spool."""
        return [origin.queue for origin in self.open.values() if origin.queue is not None]

    @property
    def waiting_origins(self) -> list[Origin]:
        """Those of which something waits."""
        return [*(origin for origin in self.open.values() if origin.has_waiting), *self.waiting.values()]

    @property
    def disk_bytes(self) -> int:
        """What all spools take, consumed or not."""
        return self.parked_bytes + sum(queue.disk_bytes for queue in self.queues)


class Origin:
    """One stream; "" is what came without one."""

    def __init__(self, stream: str, directory: Path, shared: Shared) -> None:
        self.stream = stream
        self.directory = directory
        self.queue: RelayQueue | None = None
        """While its spool is open."""
        self.users = 0
        """Who needs the spool open."""
        self.waiting_entries = 0
        self.waiting_batches = 0
        self.disk_bytes = 0
        self.oldest: float | None = None
        """By time.monotonic: when the oldest that waits came, as far as that is known. These four are for while it is
        parked."""
        self.last_used = monotonic()
        self.is_parking = False
        self._shared = shared
        self._lock = asyncio.Lock()

    def note(self, spool: OriginSpool) -> None:
        """Takes its numbers from a spool that is about to be parked. On any thread."""
        self.waiting_entries = spool.counts["spooled"]
        self.waiting_batches = spool.next_sequence - spool.first
        self.disk_bytes = spool.disk_bytes

    def parked(self) -> None:
        """It is, and counts so."""
        self.queue = None
        self._shared.open.pop(self.stream, None)
        self._shared.parked_bytes += self.disk_bytes
        if self.has_waiting:
            self._shared.waiting[self.stream] = self

    @contextlib.asynccontextmanager
    async def used(self, first: int = 1) -> AsyncIterator[RelayQueue]:
        """The queue, open while the body runs; `first` begins a stream that is new here. Raises StorageError."""
        self.users += 1
        try:
            # Who is cancelled meanwhile leaves it open, not half open: a thread cannot be stopped.
            yield await asyncio.shield(self._opened(first))
        finally:
            self.users -= 1
            self.last_used = monotonic()

    async def _opened(self, first: int) -> RelayQueue:
        async with self._lock:
            shared = self._shared
            if self.queue is None:
                spool = OriginSpool(self.directory, stream=self.stream, first=first, max_bytes=shared.max_bytes)
                await asyncio.get_running_loop().run_in_executor(shared.pool, spool.open)
                shared.damaged += spool.damaged
                since = self.oldest if self.oldest is not None else monotonic()
                self.queue = RelayQueue(spool, shared.pool, room=shared.room, durations=shared.durations, now=since)
                shared.parked_bytes -= self.disk_bytes
                shared.waiting.pop(self.stream, None)
            shared.open.pop(self.stream, None)
            shared.open[self.stream] = self
            return self.queue

    async def park(self) -> None:
        """Closes the spool, unless somebody uses it; what is consumed is given back where nothing waits."""
        self.is_parking = True
        try:
            await asyncio.shield(self._park())
        finally:
            self.is_parking = False

    @property
    def is_unused(self) -> bool:
        """The spool is open, for nobody, and not about to be closed."""
        return self.queue is not None and not self.users and not self.is_parking

    async def _park(self) -> None:
        async with self._lock:
            if (queue := self.queue) is None or self.users:
                return
            spool = queue.spool
            with contextlib.suppress(StorageError):  # it can be done the next time
                await queue.call(spool.compact)
            await queue.close()
            for name, number in queue.counts.items():
                if name not in ("read", "spooled"):
                    self._shared.settled[name] += number
            self._shared.taken_entries += queue.taken_entries
            now = monotonic()
            self.oldest = now - queue.oldest_waiting(now) if queue.has_waiting else None
            self.note(spool)
            self.parked()

    @property
    def has_waiting(self) -> bool:
        """Whether anything is not settled upstream."""
        return self.queue.has_waiting if self.queue is not None else self.waiting_batches > 0

    @property
    def entries_to_go(self) -> int:
        """That are not settled upstream."""
        return self.queue.counts["spooled"] if self.queue is not None else self.waiting_entries

    @property
    def batches_to_go(self) -> int:
        """Likewise."""
        return self.queue.waiting_batches if self.queue is not None else self.waiting_batches

    def oldest_waiting(self, now: float) -> float:
        """Seconds that the oldest of them waits, as far as that is known."""
        if self.queue is not None:
            return self.queue.oldest_waiting(now)
        return now - self.oldest if self.oldest is not None else 0.0

    async def delete(self) -> bool:
        """Deletes what is left of a stream of which nothing waits and that nobody uses; whether it could be."""
        async with self._lock:
            if self.queue is not None or self.users or self.has_waiting:
                return False
            is_gone = await asyncio.get_running_loop().run_in_executor(self._shared.pool, _delete, self.directory)
            if is_gone:
                self._shared.parked_bytes -= self.disk_bytes
                self.disk_bytes = 0
            return is_gone


def _delete(directory: Path) -> bool:
    try:
        if letter_paths(directory):
            return False
        lock = DirectoryLock(directory, setting=SETTING)
    except FileNotFoundError:
        return True
    except (OSError, StorageError):
        return False
    try:
        delete_locked(directory)
    except OSError as error:
        log.warning("%s", storage_error(directory, "delete what is left of a silent stream", error, setting=SETTING))
        return False
    finally:
        lock.release()
    return True


def read_origin(stream: str, directory: Path, shared: Shared) -> tuple[Origin, Mark] | None:
    """What a directory holds, after recovery; None where nothing was ever stored there. Raises StorageError.

    On a thread, and the spool is closed again: parked() is left to do.
    """
    spool = OriginSpool(directory, stream=stream, first=1, max_bytes=shared.max_bytes)
    spool.open()
    try:
        origin = Origin(stream, directory, shared)
        with contextlib.suppress(StorageError):
            spool.compact()
        origin.note(spool)
        shared.damaged += spool.damaged
        return (origin, spool.mark) if spool.next_sequence > 1 or spool.disk_bytes else None
    finally:
        spool.close()
