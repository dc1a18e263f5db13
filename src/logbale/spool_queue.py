"""SpoolQueue: what lies between reading and sending.

Batches go in, are numbered and made durable in groups, and stay until they are consumed: acknowledged or rejected by
the receiver, or dropped by the policy. The store behind it is a DiskSpool or, without a directory, a MemoryStore; every
call that touches a disk runs on one thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from time import monotonic
from typing import Any, Literal, TypeVar

from logbale import terminal
from logbale.compressing import Pressed, Pressing
from logbale.durations import Durations
from logbale.errors import StorageError
from logbale.floods import Silence
from logbale.models import Batch
from logbale.spool import DamagedError, MemoryStore, Record, Skip
from logbale.spool.ahead import read_ahead
from logbale.spool.fresh import FreshBatches, FreshRoom
from logbale.spool.store import NewBatch, Store
from logbale.waiting_times import WaitingTimes

log = logging.getLogger("logbale.spool")

STORAGE_RETRY = 1.0
"""Seconds between attempts while the store cannot take a batch."""

SETTLE_AFTER = 1.0
"""Seconds after which an acknowledgement is on disk, if no batch took it there before."""

GROUP_BYTES = 4 * 1024 * 1024
"""Raw bytes that one write to the store takes at most."""

MAX_INCOMING = 8 * 1024 * 1024
"""Raw bytes that wait for a store on disk: enough to keep it busy. What a longer wait would take is on its disk."""

LARGE_BYTES = 128 * 1024
"""Raw bytes from which on a batch gains nothing from the context of those before it, so that one compression can serve
the store and the wire (decision 0008)."""

Policy = Literal["block", "drop_oldest", "drop_newest"]
"""What happens when the store is full: reading waits, or entries are dropped and counted."""

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
        thread: Executor | None = None,
    ) -> None:
        """`max_memory` bounds the bytes that wait for the store, or are kept so as not to read them back.

        `press` begins to compress a large batch as it will be sent: so each is compressed once, and stored and sent as
        it is.
        `durations` gets how long each batch took from the reading of its first entry to its acknowledgement. `thread`
        runs one job at a time, in order: by default a thread of its own.
        """
        self.store = store
        self.storage_error: str | None = None
        """Why nothing can be stored now; None while it can."""
        self.why_rejected = ""
        """Of the last batch that was."""
        self.sent_up_to = store.sent_up_to
        """The highest sequence that the receiver may have or get: such a batch is never dropped to make room."""
        self._elsewhere = 0
        """The highest that other receivers may have: neither is that one."""
        self._opening = self._counts = dict(store.counts)
        self._span = store.first, store.next_sequence
        self._bytes = store.disk_bytes
        self._incoming: list[tuple[NewBatch, Pressing | None]] = []
        """With a large one's compressing, which has begun."""
        self._incoming_bytes = 0
        self._incoming_batches = self._incoming_entries = 0
        """Those that are being stored included."""
        self._unstored: deque[Batch] = deque()
        """The same, as they came."""
        self._settled_batches = 0
        """The first of them are stored or dropped by the store's thread, which the loop does not know yet."""
        self._is_held_up = False
        """Nothing can be stored now: the store has no room, or fails."""
        self._full, self._is_full_said = Silence(), False
        self._dropping, self._dropped_unsaid = Silence(), 0
        self._durations = durations or Durations()
        self._times = WaitingTimes()
        self._moved: dict[str, Any] = {}
        """Cursors that moved without an entry, after all that is incoming."""
        self._is_note_late = False
        self._settling: asyncio.TimerHandle | None = None
        """Runs from an acknowledgement on, until what was acknowledged is due on disk."""
        self._is_settle_due = False
        self._press = press if not isinstance(store, MemoryStore) else None
        self._fresh = FreshBatches(FreshRoom(max_memory))
        self._closed = False
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._limit(max_memory, policy)
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix="logbale-spool")

    def limit(self, *, max_memory: int, max_stored: int, policy: Policy) -> None:
        """Other limits from now on: what is over them stays, and nothing is added until it is under them."""
        self._limit(max_memory, policy)
        self.store.limit(max_stored)
        self._step()

    def _limit(self, max_memory: int, policy: Policy) -> None:
        self._policy = policy
        self._max_incoming = max_memory if isinstance(self.store, MemoryStore) else min(max_memory, MAX_INCOMING)
        self._fresh.room.max_bytes = max_memory

    # the reader's side

    def append(self, batch: Batch) -> None:
        """Takes a batch, whether there is room or not."""
        cursors, self._moved = self._moved | batch.cursors, {}
        self._incoming.append(((batch.raw, batch.count, cursors), self._begin_to_press(batch.raw)))
        self._unstored.append(batch)
        self._incoming_bytes += len(batch.raw)
        self._incoming_batches += 1
        self._incoming_entries += batch.count
        self._arrived.set()
        self._look_for_room()

    def _begin_to_press(self, raw: bytes) -> Pressing | None:
        if self._press is None or len(raw) < LARGE_BYTES:
            return None
        # What will be dropped holds up no reading; were it pressed, ever more of it would wait for that in memory.
        if self._policy == "drop_newest" and self._incoming_bytes + len(raw) > self.store.free_bytes:
            return None
        return self._press(raw)

    def move_cursors(self, cursors: Mapping[str, Any]) -> None:
        """The sources are read so far, though no entry came of it: noted behind the batches that wait to be stored."""
        self._moved |= cursors
        self._arrived.set()

    async def wait_for_room(self) -> None:
        """Returns once less than the bound waits in memory."""
        await self._room.wait()

    def close_input(self) -> None:
        """No batch will be appended any more."""
        self._closed = True
        self._arrived.set()
        self._step()

    async def run(self) -> None:
        """Stores what arrives, in groups, until the input is closed and all of it is stored."""
        while self._incoming or self._moved or not self._closed:
            await self._arrived.wait()
            self._arrived.clear()
            while self._incoming:
                batches, pressing = self._take_group()
                await self._store(batches, pressing)
                self._step()
            await self._note()
            await self._settle()
        self._step()

    async def _note(self) -> None:
        """Makes the cursors durable that no batch took. Only when nothing waits: they are behind all of it."""
        if not self._moved or self._incoming_entries:
            return
        moved = dict(self._moved)
        try:
            await self.call(self.store.note_cursors, moved)
        except StorageError as error:
            if not self._is_note_late:
                log.warning("how far the files are read is not on disk yet: %s", error)
            self._is_note_late = True
            asyncio.get_running_loop().call_later(STORAGE_RETRY, self._arrived.set)
        else:
            self._is_note_late = False
            self._moved = {name: at for name, at in self._moved.items() if name not in moved or moved[name] != at}

    def _settle_later(self) -> None:
        """Where nothing more comes, the disk would say for days that what is acknowledged waits."""
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(SETTLE_AFTER, self._make_settle_due)

    def _make_settle_due(self) -> None:
        self._settling, self._is_settle_due = None, True
        self._arrived.set()

    async def _settle(self) -> None:
        if self._is_settle_due:
            self._is_settle_due = False
            with contextlib.suppress(StorageError):  # nothing is lost by it, and the next write tells it
                await self.call(self.store.settle)

    def _take_group(self) -> tuple[list[NewBatch], list[Pressing | None]]:
        """The oldest that arrived: as many as one write should take and the store has room for, but at least one."""
        limit, size, count = min(GROUP_BYTES, self.store.free_bytes), 0, 0
        for (raw, _, _), _ in self._incoming:
            size += len(raw)
            if count and size > limit:
                break
            count += 1
        group = self._incoming[:count]
        del self._incoming[:count]
        return [batch for batch, _ in group], [pressing for _, pressing in group]

    def _fits(self, batches: list[NewBatch]) -> bool:
        """Whether the store takes them; an empty one takes a batch of any size, or it would never leave."""
        is_empty = self.store.first == self.store.next_sequence
        return is_empty or sum(len(raw) for raw, _, _ in batches) <= self.store.free_bytes

    async def _store(self, batches: list[NewBatch], pressing: list[Pressing | None]) -> None:
        while True:
            try:
                if self._fits(batches) or await self._make_room(batches):
                    records, pressed = await self.call(self._append, batches, pressing)
                    break
                if self._policy == "drop_newest":
                    await self._drop(batches)
                    self._take_settled()
                    self._is_held_up = False
                    return
                if not self._fits(batches):  # still: an ack may have come while room was looked for
                    self._hold_up()
                    self._say_full()
                    await self.wait_for_change()
            except StorageError as error:
                if self.storage_error is None:
                    log.error("cannot spool now, reading pauses: %s", error)
                self.storage_error = str(error)
                self._hold_up()
                await asyncio.sleep(STORAGE_RETRY)
        self._is_held_up = False
        if self.storage_error is not None:
            log.warning("spooling again")
            self.storage_error = None
        if self._is_full_said:
            log.info("the spool has room again: reading goes on")
            self._is_full_said = False
        settled = self._take_settled()
        for record, batch, one in zip(records, settled, pressed, strict=True):
            if batch.since is not None:
                self._times.add(record.sequence, batch.since)
            self._fresh.keep(record, batch.raw, one)

    def _take_settled(self) -> list[Batch]:
        """They do not wait to be stored any more; once the loop knows the counts that have them."""
        settled = [self._unstored.popleft() for _ in range(self._settled_batches)]
        self._settled_batches = 0
        self._incoming_bytes -= sum(len(batch.raw) for batch in settled)
        self._incoming_batches -= len(settled)
        self._incoming_entries -= sum(batch.count for batch in settled)
        return settled

    def _say_full(self) -> None:
        if not self._is_full_said and self._full.is_over(monotonic()):
            self._is_full_said = True
            log.warning(
                "the spool is full (SPOOL_MAX_BYTES is %s), and SPOOL_POLICY=%s: reading waits until the receiver has "
                "taken some of it. More room is --spool-max-bytes; other policies drop entries instead",
                f"{self.store.max_bytes:,}",
                self._policy,
            )

    def _hold_up(self) -> None:
        """Reading stops at once: what is in a pipe is not lost with this process, what was read from it would be."""
        self._is_held_up = True
        self._look_for_room()

    def _append(
        self, batches: list[NewBatch], pressing: list[Pressing | None]
    ) -> tuple[Sequence[Record], list[Pressed | None]]:
        """On the store's thread, where waiting for what is being compressed holds up nobody."""
        pressed = [None if one is None else one() for one in pressing]
        records = self.store.append(batches, [None if one is None else one.payload for one in pressed])
        self._settled_batches = len(batches)
        return records, pressed

    async def _make_room(self, batches: list[NewBatch]) -> bool:
        if self._policy != "drop_oldest":
            return False
        # Before the store drops any of them: next_item() must not give out from memory what is just being dropped.
        spared = max(self.sent_up_to, self._elsewhere)
        self._fresh.forget_above(spared)
        needed = sum(len(raw) for raw, _, _ in batches)
        return await self.call(self.store.drop_oldest, needed, spared) is not None

    async def _drop(self, batches: list[NewBatch]) -> None:
        cursors: dict[str, Any] = {}
        for _, _, after in batches:
            cursors |= after
        count = sum(count for _, count, _ in batches)
        self._dropped_unsaid += count
        if self._dropping.is_over(monotonic()):
            log.error(
                "the spool is full (SPOOL_MAX_BYTES is %s): %s dropped, and so is what comes until the receiver has "
                "taken some of it (SPOOL_POLICY=drop_newest)",
                f"{self.store.max_bytes:,}",
                terminal.count(self._dropped_unsaid, "entry is", "entries are"),
            )
            self._dropped_unsaid = 0

        def note() -> StorageError | None:
            self._settled_batches = len(batches)
            try:
                self.store.note_dropped(count, "drop_newest", cursors)
            except StorageError as error:  # counted all the same; the next write makes it durable
                return error
            return None

        if (error := await self.call(note)) is not None:
            log.warning("the drop is not on disk yet: %s", error)

    def _look_for_room(self) -> None:
        if self._has_room():
            self._room.set()
        else:
            self._room.clear()

    def _has_room(self) -> bool:
        if isinstance(self.store, MemoryStore):
            return self._incoming_bytes + self.store.raw_bytes < self._max_incoming
        if not self._incoming_bytes:  # or a store without a byte that is free, in which nothing waits, would get none
            return True
        if self._is_held_up or self._incoming_bytes >= self._max_incoming:
            return False
        # Not further ahead than what the store would take, where it then waits.
        return self._policy != "block" or self._incoming_bytes < self.store.free_bytes

    # the sender's side

    async def begin_sending(self, resume_at: int, elsewhere: int = 0) -> None:
        """The receiver has everything before `resume_at`, and of the rest nothing is on its way to it.

        Other receivers may have what is up to `elsewhere`.
        """
        try:
            await self.call(self.store.begin_sending)
        except (
            StorageError
        ) as error:  # on a full disk it is acknowledgements that make room, so it is sent all the same
            log.warning("what is sent now cannot be noted; after a crash now it may be dropped as unsent: %s", error)
        self.sent_up_to, self._elsewhere = resume_at - 1, elsewhere

    async def end_sending(self) -> None:
        """The connection has ended. What was sent may still arrive."""
        await self.call(self.store.end_sending)

    async def next_item(self, sequence: int) -> Record | Skip | None:
        """What there is of a sequence, once there is, to be sent; None where there never will be."""
        while sequence >= self.store.next_sequence:
            if self._closed and not self._incoming_entries:
                return None
            await self.wait_for_change()
        # Now, not when it leaves: it may wait for the compression or the window, and must not be dropped meanwhile.
        self.sent_up_to = max(self.sent_up_to, sequence)
        if sequence < self.store.first:  # rejected here, and the receiver never heard of it
            return Skip(sequence, self.store.first - 1, 0, "rejected")
        if (fresh := self._fresh.get(sequence)) is not None:
            return fresh.record
        forgotten, room = self._fresh.forgotten, self._fresh.room_for_next
        item, ahead = await self.call(read_ahead, self.store, sequence, room)
        self._fresh.keep_next(ahead, forgotten)
        return item

    async def wait_for_change(self) -> None:
        """Returns at the next step forward: something became durable or was consumed, or the input was closed."""
        self._changed.clear()
        await self._changed.wait()

    async def read(self, record: Record) -> bytes:
        """The raw batch, from memory or back from the store. Raises DamagedError."""
        if (fresh := self._fresh.get(record.sequence)) is not None and fresh.pressed is None:
            return fresh.raw
        return await self.call(self.store.read, record.sequence)

    def pressed(self, record: Record) -> Pressed | None:
        """The batch as it shall be sent, where it is compressed already."""
        fresh = self._fresh.get(record.sequence)
        return fresh.pressed if fresh is not None else None

    async def settle(self) -> None:
        """Returns once the counts tell of all that was asked of the store."""
        await self.call(lambda: None)

    async def acknowledge(self, last: int) -> None:
        """Every batch up to and including `last` is durable at the receiver."""
        now = monotonic()
        for since in self._times.take(self.store.first, last):
            self._durations.add(max(0.0, now - since))
        for sequence in range(self.store.first, last + 1) if len(self._fresh) else ():
            self._fresh.forget(sequence)
        await self.call(self.store.acknowledge, last)
        self._step()
        self._settle_later()

    async def reject(self, sequence: int, reason: str) -> None:
        """The receiver can never store this batch: it is kept as a dead letter."""
        log.error("batch %d is rejected and becomes a dead letter: %s", sequence, reason)
        self.why_rejected = reason
        self._fresh.forget(sequence)
        try:
            await self.call(self.store.reject, sequence, reason)
        except DamagedError as error:  # it was sent, then dropped after a restart, or spoilt: counted so, and consumed
            log.error("batch %d is rejected, and no dead letter can be made: %s", sequence, error)
        self._step()

    async def new_stream(self) -> None:
        """For a spool whose history is not the receiver's: a new name, and what waits is numbered from 1."""
        await self.call(self.store.new_stream)
        self._fresh.forget_above(0)
        self._times.clear()
        self.sent_up_to = self._elsewhere = 0
        self._step()

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Runs one of the store's functions on its thread, after those before it."""
        if isinstance(self.store, MemoryStore):
            result = function(*arguments)
            self._counts, self._span, self._bytes = self._counted()
            return result

        def counted() -> tuple[_T, tuple[dict[str, int], tuple[int, int], int]]:
            return function(*arguments), self._counted()

        # The counts come back with the result, so that what they say and what still waits here always add up.
        result, told = await asyncio.get_running_loop().run_in_executor(self._thread, counted)
        self._counts, self._span, self._bytes = told
        return result

    def _counted(self) -> tuple[dict[str, int], tuple[int, int], int]:
        return dict(self.store.counts), (self.store.first, self.store.next_sequence), self.store.disk_bytes

    # both

    @property
    def counts(self) -> dict[str, int]:
        """Entries since this start and what was left then: read = acknowledged + rejected + dropped_* + spooled."""
        now, then = self._counts, self._opening
        counts = {name: count - then.get(name, 0) for name, count in now.items()}
        counts["read"] += then["spooled"] + self._incoming_entries
        counts["spooled"] = now["spooled"] + self._incoming_entries
        return counts

    @property
    def spool_bytes(self) -> int:
        """What the store takes, and raw what is on its way there; 0 where nothing waits, though a file may be left."""
        return 0 if self.is_drained else self._bytes + self._incoming_bytes

    def oldest_waiting(self, now: float) -> float:
        """Seconds since the reading of the oldest batch that waits and was read here; 0 where there is none."""
        if (since := self._times.oldest(self.store.first)) is None:
            since = next((one.since for one in self._unstored if one.since is not None), None)
        return max(0.0, now - since) if since is not None else 0.0

    @property
    def waiting_batches(self) -> int:
        """Batches read and not consumed; not those that were dropped, of which the receiver has not heard yet."""
        first, following = self._span
        return max(0, following - first - self.store.skipped) + self._incoming_batches

    @property
    def spooled_batches(self) -> int:
        """Of which, those that the next process finds."""
        if isinstance(self.store, MemoryStore):
            return 0
        return self.waiting_batches - len(self.unstored)

    @property
    def unstored(self) -> list[Batch]:
        """What was appended and is in no store that outlives this process, nor counted as dropped."""
        return list(self._unstored)[self._settled_batches :]

    @property
    def why_unstored(self) -> str:
        """Why nothing can be stored now; empty where it can."""
        if self.storage_error is not None:
            return self.storage_error
        return f"the spool is full (SPOOL_MAX_BYTES is {self.store.max_bytes:,})" if self._is_held_up else ""

    @property
    def unsent_batches(self) -> int:
        """Of which, those that were never given to a connection."""
        first, following = self._span
        return following - max(first, self.sent_up_to + 1) + self._incoming_batches

    @property
    def first(self) -> int:
        """The lowest sequence that is not consumed."""
        return self._span[0]

    @property
    def is_drained(self) -> bool:
        """Nothing waits: all that was appended is consumed."""
        return not self._incoming_entries and self.store.first == self.store.next_sequence

    @property
    def is_closed(self) -> bool:
        """Nothing will be appended any more."""
        return self._closed

    async def close(self) -> None:
        """Frees the store, with the last cursors in it."""
        await self._note()
        await self.call(self.store.close)
        self._take_settled()  # of what was under way when run() was cancelled
        self._fresh.forget_above(0)
        self._thread.shutdown(wait=False)

    def _step(self) -> None:
        self._look_for_room()
        self._changed.set()
