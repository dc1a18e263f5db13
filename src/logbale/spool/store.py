"""What a queue asks of the place where its batches wait; DiskSpool and MemoryStore are such places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from logbale.sent_to import Noted
from logbale.spool.batches import Record
from logbale.spool.format import Skip

NewBatch = tuple[bytes, int, Mapping[str, Any]]
"""A raw batch, its entries, and how far the sources are read after it."""


class Store(Protocol):
    """Where batches wait. Synchronous, used from one thread; what it holds survives what its kind survives."""

    @property
    def stream(self) -> str:
        """The identity of its sequences."""
        ...

    @property
    def owner(self) -> str:
        """Whose name new streams get; "" is this host's."""
        ...

    @property
    def first(self) -> int:
        """The lowest sequence that is not consumed."""
        ...

    @property
    def next_sequence(self) -> int:
        """What the next batch gets."""
        ...

    @property
    def skipped(self) -> int:
        """Of the sequences that are not consumed, those that will never come."""
        ...

    @property
    def has_cursors(self) -> bool:
        """Whether the next process finds any."""
        ...

    @property
    def counts(self) -> dict[str, int]:
        """Entries: read = acknowledged + rejected + spooled + every dropped_*."""
        ...

    @property
    def max_bytes(self) -> int:
        """What it may take."""
        ...

    @property
    def free_bytes(self) -> int:
        """What may still be appended, in bytes as they are stored: hardly ever more than raw."""
        ...

    @property
    def disk_bytes(self) -> int:
        """What the store takes, with what is consumed and not deleted yet."""
        ...

    @property
    def sent_up_to(self) -> int:
        """The highest sequence that may have been sent, also by the process before this one."""
        ...

    @property
    def sent_to(self) -> Noted | None:
        """To whom, as far as that is known."""
        ...

    def note_receiver(self, noted: Noted) -> None:
        """What is sent from now on goes to it. Raises StorageError: then, after a crash, it is not known to whom."""
        ...

    def known_crcs(self) -> Mapping[int, int]:
        """The CRCs of the batches that are not consumed, and of the last one that was."""
        ...

    def limit(self, max_bytes: int) -> None:
        """Another bound from now on; unlike the others from any thread."""
        ...

    def append(self, batches: Sequence[NewBatch], bodies: Sequence[bytes | None] = ()) -> Sequence[Record]:
        """Numbers and keeps them; durable on return. Raises StorageError: then none is kept.

        `bodies` are zstd frames of the batches, None or nothing where there is none yet.
        """
        ...

    def item(self, sequence: int) -> Record | Skip:
        """What there is of a sequence that is not consumed: a batch, or the reason why it will never come."""
        ...

    def read(self, sequence: int) -> bytes:
        """The raw batch. Raises DamagedError, and then item() is a Skip."""
        ...

    def acknowledge(self, last: int) -> None:
        """Every batch up to and including `last` is consumed."""
        ...

    def reject(self, sequence: int, reason: str) -> None:
        """Keeps the batch as a dead letter, durably, before it counts as consumed."""
        ...

    def begin_sending(self) -> None:
        """All there is, and what is appended from now on, may have been sent should this process end now."""
        ...

    def end_sending(self) -> None:
        """Not what is appended from now on."""
        ...

    def drop_oldest(self, bytes_needed: int, sent_up_to: int) -> Skip | None:
        """Drops the oldest that were not sent; None where there is nothing to drop."""
        ...

    def note_dropped(self, count: int, reason: str, cursors: Mapping[str, Any]) -> None:
        """Entries were dropped before they were numbered."""
        ...

    def note_cursors(self, cursors: Mapping[str, Any]) -> None:
        """The sources are read so far, without a batch. Raises StorageError: then the next write tells it."""
        ...

    def settle(self) -> None:
        """What was acknowledged is as durable as the batches are. Raises StorageError: then the next write tells it."""
        ...

    def new_stream(self) -> None:
        """Takes a new stream id and numbers what is not consumed from 1."""
        ...

    def close(self) -> None:
        """Frees what is open."""
        ...
