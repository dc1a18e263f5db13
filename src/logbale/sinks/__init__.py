"""Where batches go on the receiver: one file a sink.

Exactly one durable sink decides the acknowledgement. The others are views: best effort, what they skip is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from logbale.compression import LARGEST_WINDOW, decompress
from logbale.messages import RejectedBatch
from logbale.protocol import Algorithm


class ReceivedBatch(msgspec.Struct, frozen=True):
    """One batch, decoded and checked: every line of `ndjson` is one JSON object."""

    ndjson: bytes
    """One entry a line, each line ended by a newline, valid UTF-8; nothing where `frame` has the lines."""
    count: int
    """Entries, at least 1."""
    first: str
    """The lowest timestamp of the entries as `models.rfc3339` writes it; empty where none could be read."""
    last: str
    """The highest one."""
    peer: str = ""
    """Host and port it came from."""
    stream: str = ""
    """The session's stream; empty for a base client."""
    sequence: int = 0
    """Its place in the stream; 0 for a base client."""
    crc: int = 0
    """CRC-32 as the session's prefix has it; 0 for a base client."""

    frame: bytes = b""
    """The lines as one zstd frame with size and checksum, where they came so: large ones, fit to be kept as it is."""
    frame_raw_bytes: int = 0
    """Bytes of its lines."""
    base: int = 0
    """What its stream has below this was settled before this batch was taken; 0 for a base client.

    `next` of the hello at first; then it moves with what the sink has stored.
    """
    elsewhere: bool = False
    """Another receiver may have stored it too (`sent` of the hello)."""

    @property
    def raw_bytes(self) -> int:
        """Bytes of the lines."""
        return self.frame_raw_bytes or len(self.ndjson)

    def lines(self) -> bytes:
        """The lines, wherever they are."""
        if not self.frame:
            return self.ndjson
        return decompress(
            Algorithm.ZSTD, self.frame, max_raw=self.frame_raw_bytes, max_ratio=None, max_window=LARGEST_WINDOW
        )

    @property
    def last_sequence(self) -> int:
        """Where the stream's mark stands once this is durable."""
        return self.sequence


class RejectedSequence(msgspec.Struct, frozen=True):
    """A batch of a session that can never be stored; that it was refused is stored in its place."""

    stream: str
    sequence: int
    reason: str
    crc: int = 0
    """CRC-32 as the session's prefix has it: the mark needs it, to tell one history from another."""
    base: int = 0
    """As ReceivedBatch has it."""

    @property
    def last_sequence(self) -> int:
        """Where the stream's mark stands once this is durable."""
        return self.sequence


class SkippedRange(msgspec.Struct, frozen=True):
    """Sequences of a session that will never come, as their shipper says; that is stored in their place."""

    stream: str
    first: int
    last: int
    entries: int
    reason: str
    base: int = 0
    """As ReceivedBatch has it."""

    @property
    def last_sequence(self) -> int:
        """Where the stream's mark stands once this is durable."""
        return self.last


Item = ReceivedBatch | RejectedSequence | SkippedRange
"""What a sink takes; each has its place in the order of its stream."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """How far a stream is durable."""

    sequence: int = 0
    """The highest that is stored, rejected or skipped; 0 where the stream is unknown."""
    crc: int = 0
    """Of the batch with that sequence; 0 where it was skipped."""
    seen: int = 0
    """When it was last heard of, in Unix seconds; in an archive, when that segment was begun."""
    rejects: list[RejectedBatch] = []
    """Those that the shipper may not have heard of yet, the newest."""


class Stored(msgspec.Struct, frozen=True, tag=True):
    """The batch, or the note of a reject or a skip, is durable in the sink."""


class Rejected(msgspec.Struct, frozen=True, tag=True):
    """The batch can never be stored."""

    reason: str


Outcome = Stored | Rejected
"""What settles an item."""


class NotNow(msgspec.Struct, frozen=True):
    """This stream cannot be stored now, while others can: nothing is settled, and its items are to be given again."""

    reason: str


class Sink(Protocol):
    """Takes batches for good, and knows how far each stream has come."""

    async def commit(self, items: list[Item]) -> Sequence[Outcome | NotNow]:
        """Stores or rejects each, in order, durably on return. Raises StorageError where it can do neither now.

        NotNow for one item of a stream is NotNow for all of the stream's that come after it. With fewer outcomes than
        items, but one at least, the last ones are untouched, and are to be given again.
        """
        ...

    def mark(self, stream: str) -> Mark | None:
        """How far the stream is durable here; sequence 0 where it is unknown, None where this sink cannot know."""
        ...

    def can_admit(self, stream: str) -> bool:
        """Whether a session may open: the stream is known, or there is room for a new one."""
        ...

    def forget_rejects(self, stream: str, *, before: int) -> None:
        """The shipper has consumed the rejects below `before`. Only while nothing of the stream is on its way here."""
        ...

    async def close(self) -> None:
        """Finishes what is open and frees it. No commit follows."""
        ...
