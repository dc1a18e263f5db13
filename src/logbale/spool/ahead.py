"""What is sent next, read back together: a call waits for the write that the store's thread is in, and with two calls a
batch a backlog would shrink by one batch in two writes.
"""

from __future__ import annotations

from logbale.errors import StorageError
from logbale.spool.batches import Record
from logbale.spool.format import Skip
from logbale.spool.store import Store

AHEAD_BYTES = 1024 * 1024
AHEAD_BATCHES = 100
"""So much is read at a time, and one batch more: some milliseconds, in which the thread writes nothing."""


def read_ahead(store: Store, sequence: int, max_bytes: int) -> tuple[Record | Skip, list[tuple[Record, bytes]]]:
    """What there is of a sequence, and the raw batches from it on: `max_bytes` of them at most.

    On the store's thread. Raises StorageError.
    """
    asked = item = store.item(sequence)
    batches: list[tuple[Record, bytes]] = []
    taken = 0
    while isinstance(item, Record) and taken + item.raw_bytes <= max_bytes:
        try:
            batches.append((item, store.read(item.sequence)))
        except StorageError:  # whoever asks for that one hears of it
            break
        taken += item.raw_bytes
        if taken >= AHEAD_BYTES or len(batches) == AHEAD_BATCHES or item.sequence + 1 == store.next_sequence:
            break
        item = store.item(item.sequence + 1)
    return asked, batches
