"""Which batches share a block: those of a commit in order, but for what another receiver may have, or comes from one.

A stream may move between receivers with an archive each (decision 0015). Then each archive has a part of it, and the
block headers tell which, so that a reader of several archives can put them together.
"""

from __future__ import annotations

from collections.abc import Iterator

from logbale.archive.format import MiB
from logbale.sinks import Item, ReceivedBatch, SkippedRange
from logbale.sinks.marks import Marks

BLOCK_BYTES = 4 * MiB
"""Raw bytes a block; only a single larger batch makes a larger one."""
BLOCK_BATCHES = 4096
"""Batches a block: so many streams of 128 characters fit its header's limit."""
NOTE_WEIGHT = 3
"""Batches that a reject or a skip counts as, for its reason."""


def blocks_of(items: list[Item], marks: Marks) -> Iterator[tuple[list[Item], dict[str, int]]]:
    """The items of each block, in order, and the streams that arrive with them; `marks` are those before all of it."""
    group: list[Item] = []
    arrivals: dict[str, int] = {}
    raw = weight = 0
    reached: dict[str, int] = {}
    for item in items:
        item_raw, item_weight = (item.raw_bytes, 1) if isinstance(item, ReceivedBatch) else (0, NOTE_WEIGHT)
        first = item.first if isinstance(item, SkippedRange) else item.last_sequence
        stream = item.stream
        # Nearly always a stream goes on where it was.
        arrives = bool(stream) and first > 1 and first == item.base
        if arrives:
            known = reached.get(stream)
            arrives = first > 1 + (marks.get(stream).sequence if known is None else known)
        if stream:
            reached[stream] = item.last_sequence
        # What came as a frame is a block as it is: nothing is gained by compressing it anew, and much time lost.
        is_alone = isinstance(item, ReceivedBatch) and bool(item.frame or item.elsewhere)
        is_full = raw + item_raw > BLOCK_BYTES or weight + item_weight > BLOCK_BATCHES
        if group and (is_full or is_alone or arrives):
            yield group, arrivals
            group, arrivals, raw, weight = [], {}, 0, 0
        if arrives:
            arrivals = {stream: first}
        if is_alone:
            yield [item], arrivals
            arrivals = {}
            continue
        group.append(item)
        raw += item_raw
        weight += item_weight
    if group:
        yield group, arrivals
