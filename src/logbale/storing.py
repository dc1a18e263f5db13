"""Storing: batches on their way into the store, in groups; and what becomes of them where it has no room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Literal

from logbale.compressing import Pressed, Pressing
from logbale.errors import StorageError
from logbale.fullness import Fullness
from logbale.known_store import KnownStore
from logbale.models import Batch
from logbale.spool import MemoryStore, Record
from logbale.spool.store import NewBatch

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


class Storing:
    """Takes batches at any time, and stores them while run() runs."""

    def __init__(
        self, stored: KnownStore, *, max_memory: int, policy: Policy, press: Callable[[bytes], Pressing] | None
    ) -> None:
        """`max_memory` bounds the bytes that wait here, for who waits for room. `press` is as SpoolQueue has it."""
        self.waiting_bytes = 0
        self.waiting_batches = self.waiting_entries = 0
        """Those that are being stored included."""
        self._stored = stored
        self._store = stored.store
        self._press = press if not isinstance(self._store, MemoryStore) else None
        self._incoming: list[tuple[NewBatch, Pressing | None]] = []
        """With a large one's compressing, which has begun."""
        self._unstored: deque[Batch] = deque()
        """All that wait, as they came."""
        self._settled_batches = 0
        """The first of them are stored or dropped by the store's thread, which the loop does not know yet."""
        self._error: str | None = None
        """Why nothing can be stored now; None while it can."""
        self._is_held_up = False
        """Nothing can be stored now: the store has no room, or fails."""
        self._fullness = Fullness()
        self._moved: dict[str, Any] = {}
        """Cursors that moved without an entry, after all that is incoming."""
        self._is_note_late = False
        self._settling: asyncio.TimerHandle | None = None
        """Runs from an acknowledgement on, until what was acknowledged is due on disk."""
        self._is_settle_due = False
        self._is_ended = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._limit(max_memory, policy)

    def limit(self, max_memory: int, policy: Policy) -> None:
        """Other limits from now on; the store has its own already."""
        self._limit(max_memory, policy)
        self.step()

    def _limit(self, max_memory: int, policy: Policy) -> None:
        self._policy = policy
        self._max_waiting = max_memory if isinstance(self._store, MemoryStore) else min(max_memory, MAX_INCOMING)

    # what comes

    def append(self, batch: Batch) -> None:
        """Takes a batch, whether there is room or not."""
        cursors, self._moved = self._moved | batch.cursors, {}
        self._incoming.append(((batch.raw, batch.count, cursors), self._begin_to_press(batch.raw)))
        self._unstored.append(batch)
        self.waiting_bytes += len(batch.raw)
        self.waiting_batches += 1
        self.waiting_entries += batch.count
        self._arrived.set()
        self._look_for_room()

    def _begin_to_press(self, raw: bytes) -> Pressing | None:
        if self._press is None or len(raw) < LARGE_BYTES:
            return None
        # What will be dropped holds up no reading; were it pressed, ever more of it would wait for that in memory.
        if self._policy == "drop_newest" and self.waiting_bytes + len(raw) > self._store.free_bytes:
            return None
        return self._press(raw)

    def move_cursors(self, cursors: Mapping[str, Any]) -> None:
        """The sources are read so far, though no entry came of it: noted behind the batches that wait."""
        self._moved |= cursors
        self._arrived.set()

    def settle_later(self) -> None:
        """Something was acknowledged. Where nothing more comes, the disk would say for days that it waits."""
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(SETTLE_AFTER, self._make_settle_due)

    def _make_settle_due(self) -> None:
        self._settling, self._is_settle_due = None, True
        self._arrived.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._is_ended = True
        self._arrived.set()
        self.step()

    # where there is room

    async def wait_for_room(self) -> None:
        """Returns once less than the bound waits in memory."""
        await self._room.wait()

    def step(self) -> None:
        """To be called at each step forward: something became durable or was consumed, or the input was closed."""
        self._look_for_room()
        self._stored.changed.set()

    def _look_for_room(self) -> None:
        if self._has_room():
            self._room.set()
        else:
            self._room.clear()

    def _has_room(self) -> bool:
        if isinstance(self._store, MemoryStore):
            return self.waiting_bytes + self._store.raw_bytes < self._max_waiting
        if not self.waiting_bytes:  # or a store without a byte that is free, in which nothing waits, would get none
            return True
        if self._is_held_up or self.waiting_bytes >= self._max_waiting:
            return False
        # Not further ahead than what the store would take, where it then waits.
        return self._policy != "block" or self.waiting_bytes < self._store.free_bytes

    def _hold_up(self) -> None:
        """Reading stops at once: what is in a pipe is not lost with this process, what was read from it would be."""
        self._is_held_up = True
        self._look_for_room()

    # what is written

    async def run(self) -> None:
        """Stores what comes until end() was called and all of it is stored."""
        while self._incoming or self._moved or not self._is_ended:
            await self._arrived.wait()
            self._arrived.clear()
            while self._incoming:
                batches, pressing = self._take_group()
                await self._store_group(batches, pressing)
                self.step()
            await self.note()
            await self._settle()
        self.step()

    async def note(self) -> None:
        """Makes the cursors durable that no batch took. Only when nothing waits: they are behind all of it."""
        if not self._moved or self.waiting_entries:
            return
        moved = dict(self._moved)
        try:
            await self._stored.call(self._store.note_cursors, moved)
        except StorageError as error:
            if not self._is_note_late:
                log.warning("how far the files are read is not on disk yet: %s", error)
            self._is_note_late = True
            asyncio.get_running_loop().call_later(STORAGE_RETRY, self._arrived.set)
        else:
            self._is_note_late = False
            self._moved = {name: at for name, at in self._moved.items() if name not in moved or moved[name] != at}

    async def _settle(self) -> None:
        if self._is_settle_due:
            self._is_settle_due = False
            with contextlib.suppress(StorageError):  # nothing is lost by it, and the next write tells it
                await self._stored.call(self._store.settle)

    def _take_group(self) -> tuple[list[NewBatch], list[Pressing | None]]:
        """The oldest that came: as many as one write should take and the store has room for, but at least one."""
        limit, size, count = min(GROUP_BYTES, self._store.free_bytes), 0, 0
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
        return self._stored.is_empty or sum(len(raw) for raw, _, _ in batches) <= self._store.free_bytes

    async def _store_group(self, batches: list[NewBatch], pressing: list[Pressing | None]) -> None:
        while True:
            try:
                if self._fits(batches) or await self._make_room(batches):
                    records, pressed = await self._stored.call(self._write, batches, pressing)
                    break
                if self._policy == "drop_newest":
                    await self._drop(batches)
                    self.take_settled()
                    self._is_held_up = False
                    return
                if not self._fits(batches):  # still: an ack may have come while room was looked for
                    self._hold_up()
                    self._fullness.waits(self._policy, self._store.max_bytes, monotonic())
                    await self._stored.wait_for_change()
            except StorageError as error:
                if self._error is None:
                    log.error("cannot spool now, reading pauses: %s", error)
                self._error = str(error)
                self._hold_up()
                await asyncio.sleep(STORAGE_RETRY)
        self._is_held_up = False
        if self._error is not None:
            log.warning("spooling again")
            self._error = None
        self._fullness.has_ended()
        settled = self.take_settled()
        for record, batch, one in zip(records, settled, pressed, strict=True):
            if batch.since is not None:
                self._stored.times.add(record.sequence, batch.since)
            self._stored.fresh.keep(record, batch.raw, one)

    def _write(
        self, batches: list[NewBatch], pressing: list[Pressing | None]
    ) -> tuple[Sequence[Record], list[Pressed | None]]:
        """On the store's thread, where waiting for what is being compressed holds up nobody."""
        pressed = [None if one is None else one() for one in pressing]
        records = self._store.append(batches, [None if one is None else one.payload for one in pressed])
        self._settled_batches = len(batches)
        return records, pressed

    def take_settled(self) -> list[Batch]:
        """They do not wait to be stored any more; once the loop knows the counts that have them."""
        settled = [self._unstored.popleft() for _ in range(self._settled_batches)]
        self._settled_batches = 0
        self.waiting_bytes -= sum(len(batch.raw) for batch in settled)
        self.waiting_batches -= len(settled)
        self.waiting_entries -= sum(batch.count for batch in settled)
        return settled

    # where it is full

    async def _make_room(self, batches: list[NewBatch]) -> bool:
        if self._policy != "drop_oldest":
            return False
        # Before the store drops any of them: next_item() must not give out from memory what is just being dropped.
        spared = max(self._stored.sent_up_to, self._stored.elsewhere)
        self._stored.fresh.forget_above(spared)
        needed = sum(len(raw) for raw, _, _ in batches)
        return await self._stored.call(self._store.drop_oldest, needed, spared) is not None

    async def _drop(self, batches: list[NewBatch]) -> None:
        cursors: dict[str, Any] = {}
        for _, _, after in batches:
            cursors |= after
        count = sum(count for _, count, _ in batches)
        self._fullness.drops(count, self._store.max_bytes, monotonic())

        def note() -> StorageError | None:
            self._settled_batches = len(batches)
            try:
                self._store.note_dropped(count, "drop_newest", cursors)
            except StorageError as error:  # counted all the same; the next write makes it durable
                return error
            return None

        if (error := await self._stored.call(note)) is not None:
            log.warning("the drop is not on disk yet: %s", error)

    # what is known of it

    @property
    def unstored(self) -> list[Batch]:
        """What came and is in no store that outlives this process, nor counted as dropped."""
        return list(self._unstored)[self._settled_batches :]

    @property
    def why_unstored(self) -> str:
        """Why nothing can be stored now; empty where it can."""
        if self._error is not None:
            return self._error
        return f"the spool is full (SPOOL_MAX_BYTES is {self._store.max_bytes:,})" if self._is_held_up else ""

    @property
    def oldest_since(self) -> float | None:
        """When the first of those that wait was read, as far as that is known."""
        return next((one.since for one in self._unstored if one.since is not None), None)
