"""The marks of all streams: how far each has come, when it was last heard of, and which rejects it may not know of.

No clock: a stream was last heard of when the segment that it is in was begun, so an archive gives the same marks again.
What counts against a silent stream is time in which the sink was in use: a gap of more than a day counts as a day, and
a clock that is set, however far, expires nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from logbale.messages import RejectedBatch
from logbale.sinks import Item, Mark, ReceivedBatch, RejectedSequence

DAY = 86_400
MAX_REJECTS = 128
"""A stream's rejects that a mark repeats, the newest: with REASON_BYTES each they fit one welcome (64 KiB)."""
REASON_BYTES = 200
"""Bytes of a reason that are kept."""

_UNKNOWN = Mark()


def short_reason(reason: str) -> str:
    """The reason in at most REASON_BYTES of UTF-8, all of it printable."""
    kept = reason.encode(errors="replace")[:REASON_BYTES].decode(errors="ignore")
    return "".join(letter if letter.isprintable() else "?" for letter in kept)


class Marks:
    """The mark of each stream that is known, `max_streams` and those that are in a session already.

    It belongs to whoever commits. From another thread, get(), has_room_for() and forget_rejects() of a stream of which
    nothing is on its way are safe: each reads or replaces one value whole.
    """

    def __init__(self, known: Mapping[str, Mark] | None = None) -> None:
        self.known = dict(known or {})
        """The marks as a footer has them."""
        self._seen = max((mark.seen for mark in self.known.values()), default=0)

    def get(self, stream: str) -> Mark:
        """The stream's mark; its sequence is 0 where the stream is unknown."""
        return self.known.get(stream, _UNKNOWN)

    def has_room_for(self, stream: str, max_streams: int) -> bool:
        """Whether the stream is known or may become so."""
        return stream in self.known or len(self.known) < max_streams

    def begin(self, now: float) -> None:
        """What comes from now on is seen at `now` (Unix seconds)."""
        step = int(now) - self._seen
        not_silence = step - min(max(step, 0), DAY)
        if not_silence:
            for stream, mark in self.known.items():
                self.known[stream] = msgspec.structs.replace(mark, seen=mark.seen + not_silence)
        self._seen = int(now)

    def add(self, item: Item) -> None:
        """Moves the item's stream on over it."""
        if isinstance(item, ReceivedBatch):
            self.stored(item.stream, item.sequence, item.crc)
        elif isinstance(item, RejectedSequence):
            self.rejected(item.stream, item.sequence, item.crc, item.reason)
        else:
            self.stored(item.stream, item.last, 0)

    def stored(self, stream: str, sequence: int, crc: int) -> None:
        """All up to `sequence` is durable. Batches of no stream, and what is no news, change nothing."""
        mark = self.known.get(stream, _UNKNOWN)
        if stream and sequence > mark.sequence:
            self.known[stream] = Mark(sequence, crc, self._seen, mark.rejects)

    def rejected(self, stream: str, sequence: int, crc: int, reason: str) -> None:
        """That `sequence` can never be stored is durable."""
        mark = self.known.get(stream, _UNKNOWN)
        reject = RejectedBatch(sequence, short_reason(reason))
        rejects = [*mark.rejects, reject][-MAX_REJECTS:]
        # Of a block of several items the last may be known already when the reject among them comes.
        if sequence < mark.sequence:
            sequence, crc = mark.sequence, mark.crc
        self.known[stream] = Mark(sequence, crc, self._seen, rejects)

    def forget_rejects(self, stream: str, before: int) -> None:
        """The shipper knows of those below `before`."""
        mark = self.known.get(stream)
        if mark is not None and mark.rejects:
            rejects = [reject for reject in mark.rejects if reject.sequence >= before]
            self.known[stream] = msgspec.structs.replace(mark, rejects=rejects)

    def expire(self, days: float) -> int:
        """Forgets the streams that were silent for longer; how many."""
        limit = self._seen - days * DAY
        silent = [stream for stream, mark in list(self.known.items()) if mark.seen < limit]
        for stream in silent:
            self.known.pop(stream, None)
        return len(silent)


class MarkedSink:
    """What the sinks have in common whose marks are in memory: the part of a Sink that asks for them."""

    def __init__(self, max_streams: int) -> None:
        self._marks = Marks()
        self._max_streams = max_streams

    def mark(self, stream: str) -> Mark | None:
        """How far the stream is durable here."""
        return self._marks.get(stream)

    def can_admit(self, stream: str) -> bool:
        """Whether the stream is known here, or there is room for it among MAX_STREAMS."""
        return self._marks.has_room_for(stream, self._max_streams)

    def forget_rejects(self, stream: str, *, before: int) -> None:
        """The shipper knows of those below `before`."""
        self._marks.forget_rejects(stream, before)
