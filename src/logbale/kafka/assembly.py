"""Puts the parts of batches together as they come out of one partition of a topic; no I/O, no clock.

Parts of one batch are neighbours among the messages of the sink that produced them, whatever other sinks produce
between them. A sink that ends amid a batch leaves parts that nothing completes: whoever took that batch from another
sink meanwhile says so with settle().
"""

from __future__ import annotations

import msgspec

from logbale.errors import MessageError
from logbale.kafka.message import Part, is_whole, longest_frame
from logbale.sinks import Item, ReceivedBatch

MAX_HELD_BYTES = 512 * 1024 * 1024
"""Of open batches in one partition. Eight of the largest: beyond that whoever produces them is no sink of ours."""
MAX_OPEN = 1000
"""Open batches in one partition: each is a sink's that is amid one, or has died amid one within the hour."""
PIECE_BYTES = 64
"""What a part takes beside its bytes, about."""


class Whole(msgspec.Struct, frozen=True):
    """An item with all of its parts."""

    item: Item
    offset: int
    """Of its first part."""


class _Open(msgspec.Struct):
    """A batch that lacks its last parts."""

    batch: ReceivedBatch
    """As its first part has it."""
    count: int
    offset: int
    began: int
    pieces: list[bytes]
    size: int


class Assembler:
    """The open batches of one partition, at most one a session (a sink's)."""

    def __init__(self) -> None:
        self.orphaned = 0
        """Parts that were discarded because others of their batch never came, or came after it was settled."""
        self.bytes_held = 0
        """What the open batches take."""
        self._open: dict[str, _Open] = {}
        """The one that began first is the first."""

    @property
    def lowest_open(self) -> int | None:
        """The offset of the earliest part that is held: to go on from here again, read from there. None: no part is."""
        return next((batch.offset for batch in self._open.values()), None)

    def add(self, part: Part, *, offset: int, at: int = 0) -> Whole | None:
        """Takes the partition's next message, read at `at` of any clock; gives its item once that has all its parts.

        Raises MessageError where the parts are whole and are not one sound frame.
        """
        item = part.item
        open_batch = self._open.get(part.session) if part.session else None
        if open_batch is not None and not _continues(open_batch, part):
            self._discard(part.session)
            open_batch = None
        if part.count == 1:
            return Whole(item, offset)
        assert isinstance(item, ReceivedBatch), "only batches go in parts"
        if open_batch is None:
            if part.index != 1:
                self.orphaned += 1
                return None
            open_batch = self._open[part.session] = _Open(item, part.count, offset, at, [], 0)
        open_batch.pieces.append(item.frame)
        open_batch.size += len(item.frame)
        self.bytes_held += len(item.frame) + PIECE_BYTES
        if len(open_batch.pieces) < part.count:
            self._make_room()
            return None
        self._close(part.session)
        batch = msgspec.structs.replace(open_batch.batch, frame=b"".join(open_batch.pieces))
        if not is_whole(batch):
            raise MessageError("malformed", f"{part.count} parts that are no zstd frame of {batch.raw_bytes} bytes")
        return Whole(batch, open_batch.offset)

    def settle(self, stream: str, sequence: int) -> None:
        """The stream has come to `sequence`: what is held of it up to there is not needed any more."""
        for session, held in list(self._open.items()):
            if held.batch.stream == stream and held.batch.sequence <= sequence:
                self._discard(session)

    def expire(self, *, before: int) -> None:
        """What was begun before this, by add()'s clock, will not be completed any more."""
        for session, held in list(self._open.items()):
            if held.began < before:
                self._discard(session)

    def _make_room(self) -> None:
        """Whoever may write to the topic may begin batches without end: memory has one, and the oldest are given up."""
        while self._open and (len(self._open) > MAX_OPEN or self.bytes_held > MAX_HELD_BYTES):
            self._discard(next(iter(self._open)))

    def _discard(self, session: str) -> None:
        self.orphaned += len(self._close(session).pieces)

    def _close(self, session: str) -> _Open:
        closed = self._open.pop(session)
        self.bytes_held -= closed.size + PIECE_BYTES * len(closed.pieces)
        return closed


def _continues(held: _Open, part: Part) -> bool:
    """Whether this is the part of that batch that comes next."""
    item = part.item
    return (
        isinstance(item, ReceivedBatch)
        and part.count == held.count
        and part.index == len(held.pieces) + 1
        and msgspec.structs.replace(item, frame=b"") == msgspec.structs.replace(held.batch, frame=b"")
        and held.size + len(item.frame) <= longest_frame(item.frame_raw_bytes)
    )
