"""Verifies an archive from its files alone: what can be checked of a segment is, and nothing is ever written.

It may run beside a writer: the torn end of an open segment is a write that has not ended, no damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from logbale.archive import format, layout, reader
from logbale.archive.format import Block, BlockHeader, Footer, NotAFrame
from logbale.archive.layout import SegmentPath
from logbale.archive.walk import Damage, SegmentReader
from logbale.errors import StorageError
from logbale.sinks import Mark


class Verified(msgspec.Struct, kw_only=True):
    """What a segment holds, and what is wrong with it."""

    path: Path
    serial: int
    """0 for a file whose name is not a segment's."""
    sealed: bool
    size: int = 0
    blocks: int = 0
    """Sound ones."""
    entries: int = 0
    """In sound blocks."""
    raw: int = 0
    """Bytes of these entries as NDJSON."""
    first: str = ""
    """The lowest timestamp in sound blocks; empty where that is not known."""
    last: str = ""
    unfinished: int = 0
    """Bytes at the end of an open segment that are no whole block (yet)."""
    damage: list[Damage] = []
    """In the order of the file."""
    absent: list[str] = []
    """Batches between those that are here which are in another archive, as their shippers said: no damage."""
    unreadable: str = ""
    """Why the system, or a newer format, kept it from being read to its end."""


def verify(path: Path) -> Iterator[Verified]:
    """Each segment of an archive, or the one in a file, in serial order. Raises StorageError where there is none."""
    streams = Streams()
    before: SegmentPath | None = None
    for segment in reader.segments(path):
        if before is not None and before.chain != segment.chain:
            streams, before = Streams(), None
        opened = _open(segment)
        if opened is None:
            continue  # deleted since it was listed
        if isinstance(opened, Verified):
            yield opened
            streams = Streams()  # what it held is not known, so what follows cannot be compared with it
        else:
            with opened:
                yield _Check(opened, segment, streams).run(before)
        before = segment


def _open(segment: SegmentPath) -> SegmentReader | Verified | None:
    try:
        return reader.open_segment(segment)
    except StorageError as error:
        return Verified(
            path=segment.path, serial=segment.serial, sealed=not segment.is_open, unreadable=str(error), damage=[]
        )


class Streams:
    """How far each stream has come, by the blocks; what does not follow on that is reported."""

    def __init__(self) -> None:
        self._reached: dict[str, int] = {}
        self._begun: set[str] = set()
        self.chain_end: int | None = None
        """Where the segment before says that the next one of its chain starts; None where it says nothing."""
        self.absent: list[str] = []
        """What is durable at another receiver, as the shippers said that came from there."""

    def add(self, header: BlockHeader, report: Callable[[str], None]) -> None:
        """The next block."""
        arrivals = header.arrivals or {}
        for stream, parts in header.parts().items():
            lowest, reached = parts[0][0], self._reached.get(stream)
            first = min(arrivals.get(stream, 0), lowest)
            if reached is not None and first > reached + 1:
                self.absent.append(f"stream {stream}: {_numbers(reached + 1, first - 1)}")
                self._reached[stream] = first - 1
            self._add(stream, parts, report)

    def _add(self, stream: str, parts: list[tuple[int, int]], report: Callable[[str], None]) -> None:
        reached = self._reached.get(stream)
        lowest = parts[0][0]
        if reached is not None and lowest <= reached:
            report(f"stream {stream}: {_numbers(lowest, min(reached, parts[-1][1]))} again, after {reached}")
        # Where a stream begins here, it may begin anywhere: what was before may be deleted, or at another receiver.
        end = lowest - 1 if reached is None else reached
        for first, last in parts:
            if first > end + 1:
                report(f"stream {stream}: {_numbers(end + 1, first - 1)} missing, neither rejected nor skipped")
            end = max(end, last)
        self._reached[stream] = end
        self._begun.add(stream)

    def settle(self, marks: dict[str, Mark], report: Callable[[str], None]) -> None:
        """A segment's footer: its marks are compared with the blocks, and count for what follows."""
        for stream, reached in self._reached.items():
            mark = marks.get(stream)
            if mark is not None and mark.sequence != reached:
                report(f"stream {stream}: the footer's mark is {mark.sequence}, the blocks end with {reached}")
            elif mark is None and stream in self._begun:
                report(f"stream {stream}: the footer has no mark of it, the blocks end with {reached}")
        self.take(marks)

    def take(self, marks: dict[str, Mark]) -> None:
        """Goes on from a footer's marks. A stream that it does not name is forgotten, and may begin again."""
        self._reached = {stream: mark.sequence for stream, mark in marks.items()}
        self._begun = set()


def _numbers(first: int, last: int) -> str:
    return f"sequence {first}" if first == last else f"sequences {first} to {last}"


class _Check:
    """One segment."""

    def __init__(self, opened: SegmentReader, segment: SegmentPath, streams: Streams) -> None:
        self._reader = opened
        self._segment = segment
        self._streams = streams
        self._offsets: list[int] = []
        self._times: list[tuple[str, str]] = []
        sealed = not layout.segment_at(opened.path).is_open
        self._result = Verified(path=opened.path, serial=segment.serial, sealed=sealed, damage=[], absent=[])

    def run(self, before: SegmentPath | None) -> Verified:
        """All of it; `before` is the segment before it in the archive."""
        result = self._result
        if before is not None:
            self._compare(before)
        try:
            self._walk()
        except StorageError as error:
            result.unreadable = str(error)
        result.size = self._reader.size
        result.first, result.last = format.span(self._times)
        return result

    def _compare(self, before: SegmentPath) -> None:
        if self._segment.chain:
            end = self._streams.chain_end
            if end is not None and end != self._segment.serial:
                reason = f"the segment before it ends at offset {end}: what is between is missing, deleted or lost"
                self._report(0, 0, reason)
                self._streams.take({})
            return
        missing = range(before.serial + 1, self._segment.serial)
        if len(missing) == 1:
            self._report(0, 0, f"the segment before it is missing: {missing[0]}, deleted or lost")
        elif missing:
            self._report(0, 0, f"the segments before it are missing: {missing[0]} to {missing[-1]}, deleted or lost")
        if missing:
            self._streams.take({})
        elif self._segment.serial == before.serial:
            self._report(0, 0, f"the serial of {before.path.name} again")

    def _walk(self) -> None:
        footer: Footer | None = None
        start = footer_at = self._reader.offset
        while (frame := self._reader.read()) is not None:
            if footer is not None:
                self._report(footer_at, start - footer_at, "a footer before the end of the segment")
                footer = None
            if isinstance(frame, Damage):
                self._report(frame.offset, frame.size, frame.reason)
            elif isinstance(frame, Block):
                self._block(frame)
            else:
                footer, footer_at = frame, start
            start = self._reader.offset
        tail = self._reader.size - self._reader.offset
        if not self._result.sealed:
            self._result.unfinished = tail
        elif footer is None or tail:
            self._report(self._reader.offset, tail, "it does not end with the footer of a sealed segment")
        self._streams.chain_end = None
        if footer is not None:
            self._footer(footer, footer_at)

    def _block(self, block: Block) -> None:
        header, result = block.header, self._result
        self._offsets.append(block.offset)
        try:
            block.ndjson()
        except NotAFrame as error:
            self._report(block.offset, len(block.data), str(error))
        else:
            result.blocks += 1
            result.entries += header.count
            result.raw += header.raw
            if header.count:
                self._times.append((header.first, header.last))
        self._streams.absent = result.absent
        self._streams.add(header, lambda reason: self._report(block.offset, len(block.data), reason))

    def _footer(self, footer: Footer, offset: int) -> None:
        """What it says must be what is there; where blocks are damaged, it tells more than they do."""
        result = self._result
        size = self._reader.offset - offset

        def report(reason: str) -> None:
            self._report(offset, size, reason)

        if footer.chain:
            self._streams.chain_end = footer.chain.next
        if result.serial and footer.serial != result.serial:
            report(f"the footer's serial is {footer.serial}, the name's {result.serial}")
        if result.damage:
            self._streams.take(footer.marks)
            return
        found = (self._offsets, result.entries, result.raw, *format.span(self._times))
        if (footer.blocks, footer.count, footer.raw, footer.first, footer.last) != found:
            report("the footer describes other blocks than there are")
        self._streams.settle(footer.marks, report)

    def _report(self, offset: int, size: int, reason: str) -> None:
        self._result.damage.append(Damage(self._reader.path, offset, size, reason))
