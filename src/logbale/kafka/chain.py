"""Which messages of a partition its archive takes: no I/O, no clock.

A chain is the archive of one partition: what its last segment says, and then message by message. Of each stream only
the next sequence is taken, which is one over the mark, or the message's base where that is higher. A lower one is a
duplicate. A higher one is a gap: no acknowledgement can have covered it without the one before it, which does not stand
earlier in the log, so its shipper sends both again. What is below a message's base was delivered before that message
was produced; where it is not in the chain either, the log has lost it, and that is noted in the archive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from logbale.errors import DecompressionError, MessageError
from logbale.kafka.assembly import Assembler
from logbale.kafka.message import Headers, Part, decode
from logbale.sinks import Item, Mark, ReceivedBatch, RejectedSequence, SkippedRange
from logbale.sinks.marks import Marks

NOT_IN_LOG = "acknowledged, and not in the topic when it was archived"
"""The reason that the archive has for sequences that the log has lost."""
DAMAGED = "its message in the topic cannot be read"
"""The reason that the archive has for a batch whose message is damaged; its place in the stream is taken by that."""
LARGE_FRAME = 256 * 1024
"""Raw bytes from which a batch's own frame becomes a block; smaller ones are compressed together."""
PART_PATIENCE = 3600
"""Seconds of reading after which parts of a batch whose rest never came are given up. A sink gives up in minutes."""
LONGEST_STEP = 10.0
"""Seconds that count as read between two signs of it: over a store's outage, a sleep or a set clock nothing is read."""

_NEXT_VERSION = "newer"


class Place(msgspec.Struct, frozen=True):
    """How far a chain has come, as its last segment says."""

    next: int = 0
    """The offset to read on from."""
    taken: int = 0
    """Below it, messages of base clients are archived."""
    marks: dict[str, Mark] = {}


class ChainState:
    """One partition's archive, ahead of its last segment by the messages that were added since."""

    def __init__(self, place: Place, counts: Counter[str]) -> None:
        """`counts` gets how many messages came to what: the keys of COUNTED."""
        self.counts = counts
        self.position = place.next
        """The offset that is to be added next; higher ones may be where the log has none in between."""
        self.marks = Marks(place.marks)
        self._taken = place.taken
        self._parts = Assembler()
        self._orphaned = 0
        self._read_seconds = 0.0
        self._read_at: float | None = None

    @property
    def place(self) -> Place:
        """What a segment that ends here says."""
        lowest_open = self._parts.lowest_open
        next_offset = self.position if lowest_open is None else min(lowest_open, self.position)
        return Place(next_offset, max(self._taken, self.position), dict(self.marks.known))

    @property
    def bytes_held(self) -> int:
        """What parts of batches take that are not complete."""
        return self._parts.bytes_held

    def add(self, offset: int, headers: Headers | None, value: bytes | None, *, now: float) -> Sequence[Item]:
        """The next message, `now` in Unix seconds: the items to archive, in order; mostly one or none.

        Raises MessageError only where a newer version wrote it: then it is not passed over, and nothing has changed.
        """
        self.keep_reading(now)
        try:
            part = decode(headers, value)
        except MessageError as error:
            if error.reason == _NEXT_VERSION:
                raise
            return self._pass(offset, error.reason)
        return self._add(offset, part)

    def keep_reading(self, now: float) -> None:
        """The log is being read: there was a message, or is none behind the last. Of that is what parts wait for."""
        if self._read_at is not None:
            self._read_seconds += min(max(now - self._read_at, 0.0), LONGEST_STEP)
        self._read_at = now

    def expire_parts(self) -> None:
        """Gives up what has waited for parts through long reading.

        By the clock alone the rest may be in the log, unread: acknowledged, and lost with what is given up here.
        """
        self._parts.expire(before=int((self._read_seconds - PART_PATIENCE) * 1000))
        self._count_orphans()

    def _add(self, offset: int, part: Part) -> Sequence[Item]:
        try:
            whole = self._parts.add(part, offset=offset, at=int(self._read_seconds * 1000))
        except MessageError:
            return self._take(offset, _damaged(part.item))
        self._count_orphans()
        if whole is None:
            return self._pass(offset, "part")
        return self._take(offset, whole.item)

    def _take(self, offset: int, item: Item) -> Sequence[Item]:
        if not item.stream:
            return self._take_base(offset, item)
        mark = self.marks.get(item.stream)
        expected = max(mark.sequence + 1, item.base)
        if item.last_sequence < expected:
            if self._is_another(item, mark):
                self.counts["other_history"] += 1
            return self._pass(offset, "duplicate")
        if isinstance(item, SkippedRange):
            if item.first > expected:
                return self._pass(offset, "gap")
            item = msgspec.structs.replace(item, first=max(item.first, mark.sequence + 1))
            first = item.first
        else:
            first = item.sequence
            if first > expected:
                return self._pass(offset, "gap")
        item = _readable(item)
        taken = [item]
        # Where a stream begins here, what was before it may never have been in this topic.
        if mark.sequence and first > mark.sequence + 1:
            self.counts["missing_sequences"] += first - mark.sequence - 1
            taken = [SkippedRange(item.stream, mark.sequence + 1, first - 1, 0, NOT_IN_LOG), item]
        crc = 0 if isinstance(item, SkippedRange) else item.crc
        self.marks.stored(item.stream, item.last_sequence, crc)
        self._parts.settle(item.stream, item.last_sequence)
        self._count_orphans()
        self._pass(offset, _kind(item))
        return taken

    def _take_base(self, offset: int, item: Item) -> Sequence[Item]:
        """A base client's batch has its message's offset for a number."""
        if offset < self._taken:
            return self._pass(offset, "duplicate")
        item = _readable(item)
        if isinstance(item, RejectedSequence):
            return self._pass(offset, "damaged")
        self._pass(offset, _kind(item))
        return [item]

    def _pass(self, offset: int, reason: str) -> Sequence[Item]:
        self.counts[reason] += 1
        self.position = offset + 1
        return ()

    def _count_orphans(self) -> None:
        self.counts["orphaned"] += self._parts.orphaned - self._orphaned
        self._orphaned = self._parts.orphaned

    @staticmethod
    def _is_another(item: Item, mark: Mark) -> bool:
        """Whether it has the mark's number and other bytes: a shipper that counts anew under an old name."""
        if isinstance(item, SkippedRange) or item.sequence != mark.sequence:
            return False
        return bool(item.crc and mark.crc) and item.crc != mark.crc


def _kind(item: Item) -> str:
    if isinstance(item, ReceivedBatch):
        return "batch"
    if isinstance(item, SkippedRange):
        return "skip"
    return "damaged" if item.reason == DAMAGED else "reject"


def _damaged(item: Item) -> RejectedSequence:
    assert isinstance(item, ReceivedBatch), "only a batch has a value that can be damaged"
    return RejectedSequence(item.stream, item.sequence, DAMAGED, item.crc, item.base)


def _readable(item: Item) -> Item:
    """A batch as the archive takes it: its lines, or its frame where that is large; both were looked at."""
    if not isinstance(item, ReceivedBatch):
        return item
    try:
        lines = item.lines()
    except DecompressionError:
        return _damaged(item)
    if len(lines) != item.frame_raw_bytes or lines.count(b"\n") != item.count or not lines.endswith(b"\n"):
        return _damaged(item)
    if item.frame_raw_bytes >= LARGE_FRAME:
        return item
    return msgspec.structs.replace(item, ndjson=lines, frame=b"", frame_raw_bytes=0)
