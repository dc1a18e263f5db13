"""SpoolQueue: what lies between reading and sending.

Batches go in, are numbered and made durable in groups, and stay until they are consumed: acknowledged or rejected by
the receiver, or dropped by the policy. The store behind it is a DiskSpool or, without a directory, a MemoryStore; every
call that touches a disk runs on one thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from logbale.errors import StorageError
from logbale.models import Batch
from logbale.session import batch_crc

log = logging.getLogger("logbale.spool")

STORAGE_RETRY = 1.0
"""Seconds between attempts while the store cannot take a batch."""

_T = TypeVar("_T")

NewBatch = tuple[bytes, int, Mapping[str, Any]]
"""A raw batch, its entries, and how far the sources are read after it."""


class Record(msgspec.Struct, frozen=True):
    """A numbered batch that the store holds."""

    sequence: int
    count: int
    raw_bytes: int
    crc: int
    """session.batch_crc of it."""


class Store(Protocol):
    """Where batches wait. Synchronous, used from one thread; all of it survives what its kind survives."""

    stream: str
    first: int
    """The lowest sequence that is not consumed."""
    next_sequence: int

    def append(self, batches: Sequence[NewBatch]) -> Sequence[Record]:
        """Numbers and keeps them; durable on return. Raises StorageError: then none is kept."""
        ...

    def records(self) -> list[Record]:
        """What is not consumed, in order."""
        ...

    def read(self, sequence: int) -> bytes:
        """The raw batch. Raises StorageError where it is damaged."""
        ...

    def acknowledge(self, last: int) -> None:
        """Every batch up to and including `last` is consumed."""
        ...

    def reject(self, sequence: int, reason: str) -> None:
        """Keeps the batch as a dead letter, durably, before it counts as consumed."""
        ...

    def known_crcs(self) -> dict[int, int]:
        """The CRCs of the batches that are not consumed, and of the last one that was."""
        ...

    def new_stream(self) -> None:
        """Takes a new stream id and numbers what is not consumed from 1."""
        ...

    def close(self) -> None:
        """Frees what is open."""
        ...


class MemoryStore:
    """A store that lasts as long as the process."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.first = 1
        self.next_sequence = 1
        self._batches: OrderedDict[int, tuple[Record, bytes]] = OrderedDict()
        self._last_crc: dict[int, int] = {}

    def append(self, batches: Sequence[NewBatch]) -> list[Record]:
        records = []
        for raw, count, _ in batches:
            record = Record(self.next_sequence, count, len(raw), batch_crc(self.next_sequence, raw))
            self._batches[record.sequence] = record, raw
            records.append(record)
            self.next_sequence += 1
        return records

    def records(self) -> list[Record]:
        return [record for record, _ in self._batches.values()]

    def read(self, sequence: int) -> bytes:
        return self._batches[sequence][1]

    def acknowledge(self, last: int) -> None:
        while self.first <= last:
            record, _ = self._batches.pop(self.first)
            self._last_crc = {record.sequence: record.crc}
            self.first += 1

    def reject(self, sequence: int, reason: str) -> None:
        log.error("batch %d is lost: the receiver rejects it (%s), and there is no spool to keep it", sequence, reason)

    def known_crcs(self) -> dict[int, int]:
        return self._last_crc | {record.sequence: record.crc for record in self.records()}

    def new_stream(self) -> None:
        waiting: list[NewBatch] = [(raw, record.count, {}) for record, raw in self._batches.values()]
        self._batches.clear()
        self._last_crc = {}
        # Nothing outlives the process, so no copy of this store can meet the name again: a suffix is enough.
        self.stream, self.first, self.next_sequence = f"{self.stream[:120]}.new", 1, 1
        self.append(waiting)

    def close(self) -> None:
        self._batches.clear()


class SpoolQueue:
    """The queue that one loop owns. run() beside the reader and the sender."""

    def __init__(self, store: Store, *, max_memory: int) -> None:
        """`max_memory` bounds the raw bytes that wait for the store, or are kept so as not to read them back."""
        self.store = store
        self.dropped_entries = 0
        """Rejected, or damaged in the store."""
        self.acknowledged_entries = 0
        self.storage_error: str | None = None
        self.changed = asyncio.Event()
        """Set at every step forward: something became durable, was consumed, or the queue was closed."""
        self._max_memory = max_memory
        self._incoming: list[tuple[NewBatch, int]] = []
        self._incoming_bytes = 0
        self._records: OrderedDict[int, Record] = OrderedDict((record.sequence, record) for record in store.records())
        self._cached: OrderedDict[int, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._closed = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="logbale-spool")

    # the reader's side

    def append(self, batch: Batch) -> None:
        """Takes a batch, whether there is room or not."""
        self._incoming.append(((batch.encode(), len(batch.entries), batch.cursors), batch.size))
        self._incoming_bytes += batch.size
        self._arrived.set()
        self._look_for_room()

    async def wait_for_room(self) -> None:
        """Returns once the memory that waits for the store, or has nowhere else to be, is below its bound."""
        await self._room.wait()

    def close_input(self) -> None:
        """No batch will be appended any more."""
        self._closed = True
        self._arrived.set()
        self._step()

    async def run(self) -> None:
        """Stores what arrives, in groups, until the input is closed and all of it is stored."""
        while self._incoming or not self._closed:
            await self._arrived.wait()
            self._arrived.clear()
            if self._incoming:
                group, self._incoming = self._incoming, []
                await self._store([batch for batch, _ in group])
                self._incoming_bytes -= sum(size for _, size in group)
                self._look_for_room()
        self._step()

    async def _store(self, batches: list[NewBatch]) -> None:
        while True:
            try:
                records = await self.call(self.store.append, batches)
                break
            except StorageError as error:
                if self.storage_error is None:
                    log.error("cannot spool now, reading pauses: %s", error)
                self.storage_error = str(error)
                await asyncio.sleep(STORAGE_RETRY)
        if self.storage_error is not None:
            log.warning("spooling again")
            self.storage_error = None
        for record, (raw, _, _) in zip(records, batches, strict=True):
            self._records[record.sequence] = record
            self._cached[record.sequence] = raw
            self._cached_bytes += len(raw)
        self._trim_cache()
        self._step()

    def _trim_cache(self) -> None:
        """Gives up the newest: the oldest are sent next. A MemoryStore keeps the same bytes anyway."""
        while self._cached_bytes > self._max_memory and not isinstance(self.store, MemoryStore):
            self._cached_bytes -= len(self._cached.popitem()[1])

    def _look_for_room(self) -> None:
        held = self._cached_bytes if isinstance(self.store, MemoryStore) else 0
        if self._incoming_bytes + held < self._max_memory:
            self._room.set()
        else:
            self._room.clear()

    # the sender's side

    async def next_record(self, sequence: int) -> Record | None:
        """The lowest record from `sequence` on, once there is one; None where there never will be."""
        while True:
            if (record := self._records.get(sequence)) is not None:
                return record
            if self._records and (later := next((r for n, r in self._records.items() if n > sequence), None)):
                return later
            if self._closed and not self._incoming and sequence >= self.store.next_sequence:
                return None
            await self.wait_for_change()

    async def wait_for_change(self) -> None:
        """Returns at the next step forward."""
        self.changed.clear()
        await self.changed.wait()

    async def read(self, record: Record) -> bytes:
        """The raw batch, from memory or back from the store."""
        raw = self._cached.get(record.sequence)
        return raw if raw is not None else await self.call(self.store.read, record.sequence)

    async def acknowledge(self, last: int) -> None:
        """Every batch up to and including `last` is durable at the receiver."""
        for record in self._consumed(last):
            self.acknowledged_entries += record.count
        await self.call(self.store.acknowledge, last)
        self._look_for_room()
        self._step()

    async def reject(self, sequence: int, reason: str) -> None:
        """The receiver can never store this batch: it is kept as a dead letter."""
        record = self._records.pop(sequence, None)
        if record is None:
            return
        log.error("batch %d with %d entries is rejected: %s", sequence, record.count, reason)
        await self.call(self.store.reject, sequence, reason)
        self.dropped_entries += record.count
        self._forget(sequence)
        self._step()

    def _consumed(self, last: int) -> list[Record]:
        gone = []
        while self._records and (sequence := next(iter(self._records))) <= last:
            gone.append(self._records.pop(sequence))
            self._forget(sequence)
        return gone

    def _forget(self, sequence: int) -> None:
        if (raw := self._cached.pop(sequence, None)) is not None:
            self._cached_bytes -= len(raw)

    def count_as_dropped(self, record: Record, reason: str) -> None:
        """The batch cannot be had any more; its place in the order is all that is left of it."""
        log.error("%d entries of batch %d are lost: %s", record.count, record.sequence, reason)
        self.dropped_entries += record.count
        self._records[record.sequence] = msgspec.structs.replace(record, count=0)

    async def new_stream(self) -> None:
        """For a spool whose history is not the receiver's: a new name, and what waits is numbered from 1."""
        await self.call(self.store.new_stream)
        self._cached.clear()
        self._cached_bytes = 0
        self._records = OrderedDict((record.sequence, record) for record in self.store.records())
        self._step()

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Runs one of the store's functions on its thread, after those before it."""
        if isinstance(self.store, MemoryStore):
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *arguments))

    # both

    @property
    def waiting_batches(self) -> int:
        """Batches read and not consumed."""
        return len(self._records) + len(self._incoming)

    @property
    def waiting_entries(self) -> int:
        """Entries in them."""
        return sum(record.count for record in self._records.values()) + sum(batch[1] for batch, _ in self._incoming)

    @property
    def is_drained(self) -> bool:
        """Nothing waits: all that was appended is consumed."""
        return not self._records and not self._incoming

    @property
    def is_closed(self) -> bool:
        """Nothing will be appended any more."""
        return self._closed

    async def close(self) -> None:
        """Frees the store."""
        await self.call(self.store.close)
        self._thread.shutdown(wait=False)

    def _step(self) -> None:
        self.changed.set()
