"""SpoolQueue: what lies between reading and sending.

Batches go in, are numbered and made durable in groups, and stay until they are consumed: acknowledged or rejected by
the receiver, or dropped by the policy. The store behind it is a DiskSpool or, without a directory, a MemoryStore. Its
way in is Storing; here is what the sender takes and what becomes of it, and the numbers of both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from time import monotonic
from typing import Any, TypeVar

from logbale.compressing import Pressed, Pressing
from logbale.durations import Durations
from logbale.errors import StorageError
from logbale.known_store import KnownStore
from logbale.models import Batch
from logbale.spool import DamagedError, MemoryStore, Record, Skip
from logbale.spool.ahead import read_ahead
from logbale.spool.fresh import FreshBatches, FreshRoom
from logbale.spool.store import Store
from logbale.storing import Policy, Storing

log = logging.getLogger("logbale.spool")

_T = TypeVar("_T")


class SpoolQueue:
    """The queue that one loop owns. run() beside the reader and the sender."""

    def __init__(
        self,
        store: Store,
        *,
        max_memory: int,
        policy: Policy = "block",
        press: Callable[[bytes], Pressing] | None = None,
        durations: Durations | None = None,
        fresh: FreshBatches | None = None,
        thread: Executor | None = None,
    ) -> None:
        """`max_memory` bounds the bytes that wait for the store, or are kept so as not to read them back.

        `press` begins to compress a large batch as it will be sent, unless the level is raised meanwhile: so nearly
        each is compressed once, and stored and sent as it is.
        `durations` gets how long each batch took from the reading of its first entry to its acknowledgement. `fresh`
        has its own bound. `thread` runs one job at a time, in order: by default a thread of its own.
        """
        self.store = store
        self.is_closed = False
        """Nothing will be appended any more."""
        self.why_rejected = ""
        """Of the last batch that was."""
        self._durations = durations or Durations()
        self._stored = KnownStore(store, FreshBatches(FreshRoom(max_memory)) if fresh is None else fresh, thread)
        self._storing = Storing(self._stored, max_memory=max_memory, policy=policy, press=press)

    def limit(self, *, max_memory: int, max_stored: int, policy: Policy) -> None:
        """Other limits from now on: what is over them stays, and nothing is added until it is under them."""
        self.store.limit(max_stored)
        self._stored.fresh.room.max_bytes = max_memory
        self._storing.limit(max_memory, policy)

    # the reader's side

    def append(self, batch: Batch) -> None:
        """Takes a batch, whether there is room or not."""
        self._storing.append(batch)

    def move_cursors(self, cursors: Mapping[str, Any]) -> None:
        """The sources are read so far, though no entry came of it: noted behind the batches that wait to be stored."""
        self._storing.move_cursors(cursors)

    async def wait_for_room(self) -> None:
        """Returns once less than the bound waits in memory."""
        await self._storing.wait_for_room()

    def close_input(self) -> None:
        """No batch will be appended any more."""
        self.is_closed = True
        self._storing.end()

    async def run(self) -> None:
        """Stores what arrives, in groups, until the input is closed and all of it is stored."""
        await self._storing.run()

    # the sender's side

    async def begin_sending(self, resume_at: int, elsewhere: int = 0) -> None:
        """The receiver has everything before `resume_at`, and of the rest nothing is on its way to it.

        Other receivers may have what is up to `elsewhere`.
        """
        try:
            await self._stored.call(self.store.begin_sending)
        except StorageError as error:
            # On a full disk it is acknowledgements that make room, so it is sent all the same.
            log.warning("what is sent now cannot be noted; after a crash now it may be dropped as unsent: %s", error)
        self._stored.sent_up_to, self._stored.elsewhere = resume_at - 1, elsewhere

    async def end_sending(self) -> None:
        """The connection has ended. What was sent may still arrive."""
        await self._stored.call(self.store.end_sending)

    async def next_item(self, sequence: int) -> Record | Skip | None:
        """What there is of a sequence, once there is, to be sent; None where there never will be."""
        while sequence >= self.store.next_sequence:
            if self.is_closed and not self._storing.waiting_entries:
                return None
            await self._stored.wait_for_change()
        # Now, not when it leaves: it may wait for the compression or the window, and must not be dropped meanwhile.
        self._stored.sent_up_to = max(self._stored.sent_up_to, sequence)
        if sequence < self.store.first:  # rejected here, and the receiver never heard of it
            return Skip(sequence, self.store.first - 1, 0, "rejected")
        fresh = self._stored.fresh
        if (kept := fresh.get(sequence)) is not None:
            return kept.record
        forgotten, room = fresh.forgotten, fresh.room_for_next
        item, ahead = await self._stored.call(read_ahead, self.store, sequence, room)
        fresh.keep_next(ahead, forgotten)
        return item

    async def read(self, record: Record) -> bytes:
        """The raw batch, from memory or back from the store. Raises DamagedError."""
        if (fresh := self._stored.fresh.get(record.sequence)) is not None and fresh.pressed is None:
            return fresh.raw
        return await self._stored.call(self.store.read, record.sequence)

    def pressed(self, record: Record) -> Pressed | None:
        """The batch as it is stored, where it is compressed already: what leaves for it, Compressing.payload() has."""
        fresh = self._stored.fresh.get(record.sequence)
        return fresh.pressed if fresh is not None else None

    async def settle(self) -> None:
        """Returns once the counts tell of all that was asked of the store."""
        await self._stored.call(lambda: None)

    async def acknowledge(self, last: int) -> None:
        """Every batch up to and including `last` is durable at the receiver."""
        now = monotonic()
        for since in self._stored.times.take(self.store.first, last):
            self._durations.add(max(0.0, now - since))
        for sequence in range(self.store.first, last + 1) if len(self._stored.fresh) else ():
            self._stored.fresh.forget(sequence)
        await self._stored.call(self.store.acknowledge, last)
        self._storing.step()
        self._settle_later()

    def _settle_later(self) -> None:
        """The store has to know what was acknowledged soon, but not now."""
        self._storing.settle_later()

    async def reject(self, sequence: int, reason: str) -> None:
        """The receiver can never store this batch: it is kept as a dead letter."""
        log.error("batch %d is rejected and becomes a dead letter: %s", sequence, reason)
        self.why_rejected = reason
        self._stored.fresh.forget(sequence)
        try:
            await self._stored.call(self.store.reject, sequence, reason)
        except DamagedError as error:  # it was sent, then dropped after a restart, or spoilt: counted so, and consumed
            log.error("batch %d is rejected, and no dead letter can be made: %s", sequence, error)
        self._storing.step()

    async def new_stream(self) -> None:
        """For a spool whose history is not the receiver's: a new name, and what waits is numbered from 1."""
        await self._stored.call(self.store.new_stream)
        self._stored.fresh.forget_above(0)
        self._stored.times.clear()
        self._stored.sent_up_to = self._stored.elsewhere = 0
        self._storing.step()

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Runs one of the store's functions on its thread, after those before it."""
        return await self._stored.call(function, *arguments)

    # both

    async def wait_for_change(self) -> None:
        """Returns at the next step forward: something became durable or was consumed, or the input was closed."""
        await self._stored.wait_for_change()

    @property
    def counts(self) -> dict[str, int]:
        """Entries since this start and what was left then: read = acknowledged + rejected + dropped_* + spooled."""
        counts = self._stored.counts
        counts["read"] += self._storing.waiting_entries
        counts["spooled"] += self._storing.waiting_entries
        return counts

    @property
    def spool_bytes(self) -> int:
        """What the store takes, and raw what is on its way there; 0 where nothing waits, though a file may be left."""
        return 0 if self.is_drained else self._stored.disk_bytes + self._storing.waiting_bytes

    def oldest_waiting(self, now: float) -> float:
        """Seconds since the reading of the oldest batch that waits and was read here; 0 where there is none."""
        if (since := self._stored.times.oldest(self.store.first)) is None:
            since = self._storing.oldest_since
        return max(0.0, now - since) if since is not None else 0.0

    @property
    def waiting_batches(self) -> int:
        """Batches read and not consumed; not those that were dropped, of which the receiver has not heard yet."""
        return self._stored.waiting_batches + self._storing.waiting_batches

    @property
    def spooled_batches(self) -> int:
        """Of which, those that the next process finds."""
        if isinstance(self.store, MemoryStore):
            return 0
        return self.waiting_batches - len(self.unstored)

    @property
    def unsent_batches(self) -> int:
        """Of which, those that were never given to a connection."""
        return self._stored.unsent_batches + self._storing.waiting_batches

    @property
    def unstored(self) -> list[Batch]:
        """What was appended and is in no store that outlives this process, nor counted as dropped."""
        return self._storing.unstored

    @property
    def why_unstored(self) -> str:
        """Why nothing can be stored now; empty where it can."""
        return self._storing.why_unstored

    @property
    def first(self) -> int:
        """The lowest sequence that is not consumed."""
        return self._stored.span[0]

    @property
    def is_drained(self) -> bool:
        """Nothing waits: all that was appended is consumed."""
        return not self._storing.waiting_entries and self._stored.is_empty

    async def close(self) -> None:
        """Frees the store, with the last cursors in it."""
        await self._storing.note()
        await self._stored.close()
        self._storing.take_settled()  # of what was under way when run() was cancelled
