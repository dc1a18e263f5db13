"""Which items make a block together, and the block that they make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from logbale.archive import format
from logbale.archive.format import BlockEncoder, MiB, Range, Reject, Skip
from logbale.sinks import Item, ReceivedBatch, RejectedSequence, SkippedRange
from logbale.sinks.marks import Marks, short_reason

BLOCK_BYTES = 4 * MiB
"""Raw bytes a block; only a single larger batch makes a larger one."""
BLOCK_BATCHES = 4096
"""Batches a block: so many streams of 128 characters fit its header's limit."""
NOTE_WEIGHT = 3
"""Batches that a reject or a skip counts as, for its reason."""


class Group:
    """The items of a block, while they come."""

    def __init__(self, arrivals: dict[str, int] | None = None) -> None:
        self.items: list[Item] = []
        self.arrivals = arrivals or {}
        """The stream that goes on behind a gap with the first item, and below what of the gap others have."""
        self._raw = 0
        self._weight = 0

    def has_room_for(self, item: Item) -> bool:
        """Whether it belongs into the same block, which an empty one always says."""
        if not self.items:
            return True
        if _is_alone(item) or _is_alone(self.items[0]):
            return False
        raw, weight = _weigh(item)
        return self._raw + raw <= BLOCK_BYTES and self._weight + weight <= BLOCK_BATCHES

    def add(self, item: Item) -> None:
        """The next one."""
        raw, weight = _weigh(item)
        self.items.append(item)
        self._raw += raw
        self._weight += weight


def _is_alone(item: Item) -> bool:
    # What came as a frame is a block as it is: nothing is gained by compressing it anew, and much time lost. And what
    # another receiver may have too is not mixed with what it has not.
    return isinstance(item, ReceivedBatch) and bool(item.frame or item.elsewhere)


def _weigh(item: Item) -> tuple[int, int]:
    return (item.raw_bytes, 1) if isinstance(item, ReceivedBatch) else (0, NOTE_WEIGHT)


def group(items: Iterable[Item], marks: Marks) -> Iterator[Group]:
    """The items of each block, in order; `marks` are those before all of them.

    A stream that goes on behind a gap, as it does that comes from another receiver (decision 0015), begins a block.
    """
    present = Group()
    reached: dict[str, int] = {}
    for item in items:
        arrivals = _arrivals(item, reached, marks)
        if item.stream:
            reached[item.stream] = item.last_sequence
        if arrivals or not present.has_room_for(item):
            if present.items:
                yield present
            present = Group(arrivals)
        present.add(item)
    if present.items:
        yield present


def _arrivals(item: Item, reached: dict[str, int], marks: Marks) -> dict[str, int]:
    """The item's stream, where a gap is before it: durable elsewhere below its base, or lost. Nearly always none is."""
    first = item.first if isinstance(item, SkippedRange) else item.last_sequence
    if not item.stream or first == 1:
        return {}
    known = reached.get(item.stream)
    follows = 1 + (marks.get(item.stream).sequence if known is None else known)
    if first <= follows or not item.base:
        return {}
    return {item.stream: max(follows, min(first, item.base))}


def encode(encoder: BlockEncoder, group: Group) -> bytes:
    """The block of a group."""
    items = group.items
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
        elsewhere=any(batch.elsewhere for batch in batches),
        arrivals=group.arrivals,
    )
