"""Several archives read as one, where streams moved from one receiver to another (decision 0015).

A batch that two of them have is shown once, and each stream in its order; otherwise blocks come by their first time.
The headers of all are read first: memory is bounded by the ranges of batches, not by the entries.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from logbale.archive import layout, reader
from logbale.archive.format import Block, BlockHeader
from logbale.archive.layout import SegmentPath
from logbale.archive.reader import OnDamage, Span, log_damage
from logbale.archive.walk import SegmentReader


def lines(
    paths: Sequence[Path],
    *,
    since: str | None = None,
    until: str | None = None,
    time_field: str | None = None,
    on_damage: OnDamage = log_damage,
    on_untimed: Callable[[str], object] = lambda time: None,
) -> Iterator[bytes]:
    """Every entry that they hold now, each batch once; the arguments are those of reader.lines(). Raises StorageError.

    Of the copies of a batch the one that no other receiver was told of counts, else the first in the order of `paths`.
    """
    wanted = Span(since, until, time_field, on_untimed)
    known: set[tuple[Path, str]] = set()
    archives = [_Archive(path, known) for path in paths]
    try:
        for block, path in _in_order(archives, on_damage):
            yield from reader.lines_of(block, path, wanted, on_damage)
    finally:
        for archive in archives:
            archive.close()


class _Ranges:
    """Ranges of one stream, rising, neighbours joined."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, first: int, last: int) -> None:
        if self._lasts and first == self._lasts[-1] + 1:
            self._lasts[-1] = last
        else:
            self._firsts.append(first)
            self._lasts.append(last)

    def __contains__(self, sequence: int) -> bool:
        at = bisect_right(self._firsts, sequence) - 1
        return at >= 0 and sequence <= self._lasts[at]

    def lowest_after(self, sequence: int) -> int | None:
        """The lowest above `sequence`, if there is one."""
        at = bisect_right(self._firsts, sequence)
        if at and self._lasts[at - 1] > sequence:
            return sequence + 1
        return self._firsts[at] if at < len(self._firsts) else None


class _Archive:
    """One of them: what its headers say, and then its blocks."""

    def __init__(self, path: Path, known: set[tuple[Path, str]]) -> None:
        """Reads the headers, without those of segments that are `known`, to which it adds its own. Raises StorageError.

        A segment is in two of them where one is named twice, or holds the other.
        """
        self.stored: dict[str, _Ranges] = {}
        """Batches that only this archive is known to have."""
        self.shared: set[tuple[str, int]] = set()
        """Batches, by stream and sequence, that another one may have too."""
        self._all: dict[str, _Ranges] = {}
        """What its blocks account for, of either kind."""
        self._passed: dict[str, int] = {}
        """How far each stream has been read by blocks()."""
        self._segments: list[tuple[SegmentPath, SegmentReader | None, int]] = []
        for segment in reader.segments(path):
            place = segment.path.parent.resolve(), segment.sealed_path.name
            if place in known:
                continue
            known.add(place)
            if (opened := reader.open_segment(segment)) is None:
                continue
            for header in opened.headers():
                if isinstance(header, BlockHeader):
                    self._learn(header)
            # An open one is kept: once it is sealed, its blocks are others. What is added after this is not shown.
            is_open = layout.segment_at(opened.path).is_open
            self._segments.append((segment, opened if is_open else None, opened.offset))
            if not is_open:
                opened.close()

    def close(self) -> None:
        """Frees the files."""
        for _, opened, _ in self._segments:
            if opened is not None:
                opened.close()

    def _learn(self, header: BlockHeader) -> None:
        for stream, parts in header.parts().items():
            self._all.setdefault(stream, _Ranges()).add(parts[0][0], max(last for _, last in parts))
        for stream, part in header.streams.items():
            if header.elsewhere:
                self.shared.add((stream, part.first))
                continue
            kept, first = self.stored.setdefault(stream, _Ranges()), part.first
            for start, end in _notes(header, stream):
                if first < start <= part.last:
                    kept.add(first, start - 1)
                first = max(first, end + 1)
            if first <= part.last:
                kept.add(first, part.last)

    def blocks(self, on_damage: OnDamage) -> Iterator[tuple[Block, Path]]:
        """Its blocks in order, with where they are."""
        for segment, held, end in self._segments:
            if (opened := held or reader.open_segment(segment)) is None:
                continue
            try:
                opened.offset = 0
                for block in reader.sound_blocks(opened, on_damage):
                    if block.offset >= end:
                        break
                    yield block, opened.path
                    self._pass(block.header)
                else:
                    reader.report_end(opened, on_damage)
            finally:
                if held is None:
                    opened.close()

    def _pass(self, header: BlockHeader) -> None:
        for stream, parts in header.parts().items():
            self._passed[stream] = max(self._passed.get(stream, 0), *(last for _, last in parts))

    def still_has(self, stream: str, below: int) -> bool:
        """Whether a lower sequence of the stream is still to come here."""
        known = self._all.get(stream)
        lowest = known.lowest_after(self._passed.get(stream, 0)) if known is not None else None
        return lowest is not None and lowest < below


def _notes(header: BlockHeader, stream: str) -> list[tuple[int, int]]:
    """What of the stream's range was never stored: rejected or skipped."""
    rejects = [(reject.sequence, reject.sequence) for reject in header.rejects if reject.stream == stream]
    return sorted(rejects + [(skip.first, skip.last) for skip in header.skips if skip.stream == stream])


def _in_order(archives: list[_Archive], on_damage: OnDamage) -> Iterator[tuple[Block, Path]]:
    """The blocks that are shown. A block waits for what other archives have of its streams from before it."""
    sources = [_shown(archives, number, on_damage) for number in range(len(archives))]
    heads = {number: head for number, source in enumerate(sources) if (head := next(source, None)) is not None}
    while heads:
        ready = [number for number, head in heads.items() if _is_ready(archives, number, head[0].header)]
        # Where each waits for another, as damage can have it, the times decide alone.
        chosen = min(ready or heads, key=lambda number: (heads[number][0].header.first, number))
        yield heads[chosen]
        if (following := next(sources[chosen], None)) is None:
            del heads[chosen]
        else:
            heads[chosen] = following


def _is_ready(archives: list[_Archive], number: int, header: BlockHeader) -> bool:
    others = [archive for other, archive in enumerate(archives) if other != number]
    return not any(
        archive.still_has(stream, part.first) for stream, part in header.streams.items() for archive in others
    )


def _shown(archives: list[_Archive], number: int, on_damage: OnDamage) -> Iterator[tuple[Block, Path]]:
    """An archive's blocks without those of batches that are shown from another one."""
    for block, path in archives[number].blocks(on_damage):
        if not block.header.elsewhere or _is_first(archives, number, block.header):
            yield block, path


def _is_first(archives: list[_Archive], number: int, header: BlockHeader) -> bool:
    for stream, part in header.streams.items():
        batch = stream, part.first
        if any(part.first in archive.stored.get(stream, ()) for archive in archives):
            return False
        if any(batch in archive.shared for archive in archives[:number]):
            return False
    return True
