"""ShipReport: how a shipper's run ended, and what becomes of what it could not deliver."""

from __future__ import annotations

import msgspec

from logbale.leftovers import reread_and_lost
from logbale.metrics import ShipperSnapshot
from logbale.models import Batch
from logbale.sources import ResumableSource, Source
from logbale.spool import MemoryStore
from logbale.spool_queue import SpoolQueue


class ShipReport(msgspec.Struct, frozen=True):
    """How a run ended."""

    delivered: bool
    """Everything that was read is with the receiver, as far as the protocol can tell."""
    source_ended: bool
    """The source came to its own end: it was neither stopped before nor failed."""
    left_batches: int
    left_entries: int
    """Entries that were read and are not delivered: they wait in a spool on disk, will be read again, or are lost."""
    why: str
    """The last that is known of why not everything is delivered; empty where it is."""
    snapshot: ShipperSnapshot
    """Of the end: what is lost does not wait any more, but is dropped as `lost`."""
    reread_entries: int = 0
    """Those of left_entries that are in no spool, and that the next run finds where this one did."""
    lost_entries: int = 0
    """Those of left_entries that are in no spool, and that nobody gives again."""
    why_unstored: str = ""
    """Why the spool could not take them, where it is that."""
    why_rejected: str = ""
    """Why the receiver would not have a batch, the last one of those; the snapshot's `dropped` has how many entries."""


def report_of_run(
    source: Source,
    queue: SpoolQueue,
    held: Batch,
    snapshot: ShipperSnapshot,
    *,
    delivered: bool,
    source_ended: bool,
    why: str,
) -> ShipReport:
    """By what the snapshot says that waits, `held` included: a batch that is not in the queue yet."""
    left, batches = snapshot.waiting_entries, snapshot.waiting_batches
    reread, lost = _homeless(source, queue, held, left)
    if reread or lost:
        snapshot = msgspec.structs.replace(
            snapshot,
            waiting_batches=queue.spooled_batches,
            waiting_entries=left - lost,
            dropped=snapshot.dropped | ({"lost": lost} if lost else {}),
        )
    return ShipReport(
        delivered,
        source_ended,
        batches,
        left,
        "" if delivered else why,
        snapshot,
        reread,
        lost,
        queue.why_unstored,
        queue.why_rejected,
    )


def _homeless(source: Source, queue: SpoolQueue, held: Batch, left: int) -> tuple[int, int]:
    """Of so many entries that are not delivered, those in no spool on disk: that come again, and that are lost."""
    again = source if isinstance(source, ResumableSource) else None
    if isinstance(queue.store, MemoryStore):
        return (left, 0) if again is not None and again.begins_anew else (0, left)
    homeless = [*queue.unstored, held]
    if again is None or (again.needs_cursors and not queue.store.has_cursors):
        return 0, sum(batch.count for batch in homeless)
    return reread_and_lost(homeless, again.comes_again)
