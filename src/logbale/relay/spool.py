"""OriginSpool: the batches of one origin's stream at a relay, under the origin's own sequences.

It is a DiskSpool whose positions are the origin's sequences and whose cursor is the mark: what the origin is told of
its stream is durable in the same write as the batch, and stays when everything is forwarded and deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from logbale.errors import StorageError
from logbale.messages import RejectedBatch
from logbale.sinks import Item, Mark, ReceivedBatch, RejectedSequence, SkippedRange
from logbale.sinks.marks import Marks, short_reason
from logbale.spool.batches import Record
from logbale.spool.disk import DiskSpool
from logbale.spool.format import MAX_NUMBER, MiB
from logbale.spool.identity import is_stream
from logbale.spool.store import NewBatch

log = logging.getLogger("logbale.relay")

SEGMENT_BYTES = 4 * MiB
"""A stream's file: what a start reads of each that waits."""

NEVER_CAME = "never came to the relay"
"""The reason upstream for sequences that the origin passed over: other hands had them, or this spool lost them."""

REJECTED_HERE = "rejected at the relay"

NO_CRC = -1

BASE = "+base"
"""The directory of what came without a stream. No stream's directory is called so."""

_ESCAPE = "%"


def directory_name(stream: str) -> str:
    """Where a stream lies: its own name, as long as that can be one; "" is what came without a stream."""
    if not stream:
        return BASE
    return f"{_ESCAPE}{stream}" if stream[0] in ".-" or stream == "lock" else stream


def stream_name(directory: str) -> str:
    """The stream that lies there."""
    return "" if directory == BASE else directory.removeprefix(_ESCAPE)


def has_stream(directory: str) -> bool:
    """Whether a stream may lie there. A file system has directories of its own, `lost+found` at its top for one."""
    stream = stream_name(directory)
    return directory_name(stream) == directory and (not stream or is_stream(stream))


class Kept(NamedTuple):
    """A batch that is durable now, as the origin sent it."""

    record: Record
    item: ReceivedBatch


class OriginSpool(DiskSpool):
    """Everything of one origin that is not settled upstream, and how far the origin is durable here."""

    def __init__(self, directory: Path, *, stream: str, first: int, max_bytes: int) -> None:
        """`first` is the origin's first sequence here, where the spool does not know the stream yet."""
        super().__init__(
            directory,
            max_bytes=max_bytes,
            segment_bytes=SEGMENT_BYTES,
            owner=stream.partition(":")[0],
            begin=(stream, first) if stream else None,
        )
        self.origin = stream

    @property
    def mark(self) -> Mark:
        """How far the origin is durable here."""
        sequence, crc, seen = self._state.cursors.get("mark", (0, 0, 0))
        rejects = [RejectedBatch(*one) for one in self._state.cursors.get("rejects", ())]
        # What a bad disk took from the end took the mark with it; whatever has a number was told of.
        if sequence < self._state.next - 1:
            return Mark(self._state.next - 1, 0, seen, rejects)
        return Mark(sequence, crc, seen, rejects)

    @property
    def waiting_bytes(self) -> int:
        """What is on disk where anything waits."""
        return self.disk_bytes if self.first < self.next_sequence else 0

    def known_crcs(self) -> Mapping[int, int]:
        """As DiskSpool, but for where upstream cannot have stored what waits here below the last that it knows."""
        return _Crcs(super().known_crcs(), self._could_be_lost)

    def _could_be_lost(self, last: int) -> bool:
        """Whether batches up to `last` wait that upstream would take for duplicates though it does not have them.

        A shipper that changed over to another way told it, by that, that the earlier ones are done. So it is where some
        were certainly never sent from here, and where some wait below a gap in which the others went that way.
        """
        gaps = [skip.first for skip in self.skips if skip.reason == NEVER_CAME and skip.first <= last]
        return self._any_waits(self.sent_up_to + 1, last) or bool(gaps and self._any_waits(self.first, gaps[-1] - 1))

    def _any_waits(self, first: int, last: int) -> bool:
        """Whether there is a batch among these sequences."""
        position, base = max(first, self.first) + self._state.base, self._state.base
        while position <= min(last, self.next_sequence - 1) + base:
            skip = self._state.skip_at(position)
            if skip is None and position not in self._state.rejects:
                return True
            position = skip.last + 1 if skip is not None else position + 1
        return False

    def keep(self, items: Sequence[Item], mark: Mark, seen: int) -> tuple[list[Kept], Mark]:
        """Makes items durable, in order, each at its own sequence; what is here already is passed over.

        `mark` is how far the origin is, `seen` (Unix seconds) when this came. The batches among the items, and the mark
        after them. Raises StorageError: then the first of them may be kept, and a later call goes on behind those.
        """
        # Ahead of it, where a part was kept before the rest failed.
        marks = Marks({self.origin: max(mark, self.mark, key=lambda one: one.sequence)})
        marks.begin(seen)
        kept: list[Kept] = []
        group: list[tuple[ReceivedBatch, dict[str, Any]]] = []
        expected = self._state.next
        for item in items:
            first = item.first if isinstance(item, SkippedRange) else item.sequence
            if item.last_sequence < expected:
                continue
            if first > expected:
                kept += self._append(group)
                log.error("stream %s goes on at %d: %d to %d never came here", self.origin, first, expected, first - 1)
                self.skip(first - 1, 0, NEVER_CAME, {})
            marks.add(item)
            cursors = _cursors(marks.get(self.origin))
            if isinstance(item, ReceivedBatch):
                group.append((item, cursors))
            else:
                kept += self._append(group)
                self._skip(item, cursors)
            expected = item.last_sequence + 1
        kept += self._append(group)
        return kept, marks.get(self.origin)

    def _append(self, group: list[tuple[ReceivedBatch, dict[str, Any]]]) -> list[Kept]:
        """All of the group, which is empty then."""
        batches = [(item.lines(), item.count, cursors) for item, cursors in group]
        records = self._append_what_fits(batches, [item.frame or None for item, _ in group])
        kept = [Kept(record, item) for record, (item, _) in zip(records, group, strict=True)]
        group.clear()
        return kept

    def _append_what_fits(self, batches: Sequence[NewBatch], bodies: Sequence[bytes | None]) -> list[Record]:
        """In one write; where that cannot be, in smaller ones: on a disk with little room the first get a place."""
        try:
            return self.append(batches, bodies)
        except StorageError:
            if (half := len(batches) // 2) == 0:
                raise
        records = self._append_what_fits(batches[:half], bodies[:half])
        return records + self._append_what_fits(batches[half:], bodies[half:])

    def _skip(self, item: RejectedSequence | SkippedRange, cursors: dict[str, Any]) -> None:
        """Upstream both are sequences that will never come: only a receiver can reject."""
        if isinstance(item, SkippedRange):
            self.skip(item.last, item.entries, short_reason(item.reason), cursors)
        else:
            self.skip(item.sequence, 0, REJECTED_HERE, cursors)

    def keep_base(self, items: Sequence[ReceivedBatch]) -> list[Kept]:
        """The same for batches that came without a stream, and are numbered here: all or none, in one write.

        Of a part, nobody could tell that it is here already when all come again.
        """
        records = self.append(
            [(item.lines(), item.count, {}) for item in items], [item.frame or None for item in items]
        )
        return list(map(Kept, records, items))

    def skip(self, last: int, entries: int, reason: str, cursors: Any) -> None:
        """As DiskSpool, but by the origin's sequences, which are positions."""
        super().skip(last - self._state.base, entries, reason, cursors)


class _Crcs(Mapping[int, int]):
    """The CRCs that a spool knows, with one that no batch has where upstream's word on the last one is not to be taken:
    its history is another than ours.
    """

    def __init__(self, known: Mapping[int, int], is_doubtful: Callable[[int], bool]) -> None:
        self._known = known
        self._is_doubtful = is_doubtful

    def __getitem__(self, sequence: int) -> int:
        return NO_CRC if self._is_doubtful(sequence) else self._known[sequence]

    def __iter__(self) -> Iterator[int]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def is_out_of_bounds(item: Item) -> bool:
    """Whether no spool can number it: no shipper of ours comes so far."""
    return item.last_sequence >= MAX_NUMBER


def _cursors(mark: Mark) -> dict[str, Any]:
    """New values: what a record's cursors hold is kept as it is. Without rejects there is no cursor of theirs."""
    rejects = [msgspec.structs.astuple(one) for one in mark.rejects]
    return {"mark": [mark.sequence, mark.crc, mark.seen], "rejects": [list(one) for one in rejects] or None}
