"""Which items make a block together, and the block that they make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from logbale.archive import format
from logbale.archive.format import BlockEncoder, MiB, Range, Reject, Skip
from logbale.sinks import Item, ReceivedBatch, RejectedSequence, SkippedRange
from logbale.sinks.marks import short_reason

BLOCK_BYTES = 4 * MiB
"""Raw bytes a block; only a single larger batch makes a larger one."""
BLOCK_BATCHES = 4096
"""Batches a block: so many streams of 128 characters fit its header's limit."""
NOTE_WEIGHT = 3
"""Batches that a reject or a skip counts as, for its reason."""


class Group:
    """The items of a block, while they come."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._raw = 0
        self._weight = 0

    def has_room_for(self, item: Item) -> bool:
        """Whether it belongs into the same block, which an empty one always says."""
        if not self.items:
            return True
        # What came as a frame is a block as it is: nothing is gained by compressing it anew, and much time lost.
        if _has_frame(item) or _has_frame(self.items[0]):
            return False
        raw, weight = _weigh(item)
        return self._raw + raw <= BLOCK_BYTES and self._weight + weight <= BLOCK_BATCHES

    def add(self, item: Item) -> None:
        """The next one."""
        raw, weight = _weigh(item)
        self.items.append(item)
        self._raw += raw
        self._weight += weight


def _has_frame(item: Item) -> bool:
    return isinstance(item, ReceivedBatch) and bool(item.frame)


def _weigh(item: Item) -> tuple[int, int]:
    return (item.raw_bytes, 1) if isinstance(item, ReceivedBatch) else (0, NOTE_WEIGHT)


def group(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items of each block, in order."""
    present = Group()
    for item in items:
        if not present.has_room_for(item):
            yield present.items
            present = Group()
        present.add(item)
    if present.items:
        yield present.items


def encode(encoder: BlockEncoder, items: Sequence[Item]) -> bytes:
    """The block of a group."""
    batches = [item for item in items if isinstance(item, ReceivedBatch)]
    first, last = format.span((batch.first, batch.last) for batch in batches)
    if len(batches) == 1 and batches[0].frame:
        frame, raw = batches[0].frame, batches[0].raw_bytes
    else:
        ndjson = b"".join([batch.lines() for batch in batches])
        frame, raw = encoder.compress(ndjson), len(ndjson)
    return encoder.block(
        frame,
        raw=raw,
        count=sum(batch.count for batch in batches),
        first=first,
        last=last,
        streams=format.join_ranges(
            (batch.stream, Range(batch.sequence, batch.sequence, batch.crc)) for batch in batches if batch.stream
        ),
        rejects=[
            Reject(item.stream, item.sequence, short_reason(item.reason), item.crc)
            for item in items
            if isinstance(item, RejectedSequence)
        ],
        skips=[
            Skip(item.stream, item.first, item.last, item.entries, short_reason(item.reason))
            for item in items
            if isinstance(item, SkippedRange)
        ],
    )
