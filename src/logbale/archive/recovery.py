"""Makes an archive whole again before anything is added to it: what a crash left is settled, and then durable.

Of an open segment only the bytes after its last whole block go: of a write that a crash ended, nobody was told that it
is stored. Damage before that stays, counted; of the last block it looks the same, which is said. What kill -9 left in
the page cache counts as stored only after it is synced here.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from logbale.archive import layout
from logbale.archive.format import BlockHeader
from logbale.archive.layout import SegmentPath
from logbale.archive.walk import CUT_SHORT, Damage, SegmentReader
from logbale.durable import sync_directory
from logbale.sinks import Mark
from logbale.sinks.marks import Marks

logger = logging.getLogger(__name__)


class OpenPart(msgspec.Struct, frozen=True):
    """An open segment as recovery leaves it: `size` bytes, whole and durable."""

    place: SegmentPath
    size: int
    damaged: int
    marks: dict[str, Mark]
    """Every stream's mark at its end."""


class Recovered(msgspec.Struct, frozen=True):
    """What recovery found."""

    parts: list[OpenPart]
    """In serial order."""
    marks: Marks
    next_serial: int
    segments: int
    """Sealed ones and parts."""
    disk_bytes: int
    torn_bytes: int
    """Cut off."""
    damaged: int
    """Places that stay damaged, where recovery had to look."""


def advance(marks: Marks, header: BlockHeader) -> None:
    """Moves the marks on over what a durable block holds."""
    for stream, part in header.streams.items():
        marks.stored(stream, part.last, part.crc)
    for reject in header.rejects:
        marks.rejected(reject.stream, reject.sequence, reject.crc, reject.reason)
    for skip in header.skips:
        marks.stored(skip.stream, skip.last, 0)


def recover(directory: Path) -> Recovered:
    """Settles the archive and reads its marks, from the newest footer and what is open: the time does not grow with it.

    Raises StorageError or OSError where that cannot be done; it can be tried again, also after a crash in the middle.
    """
    for leftover in layout.leftovers(directory):
        leftover.unlink()
    _remove_sealed_parts(directory)
    found = layout.segments(directory)
    sealed = [segment for segment in found if not segment.is_open]
    marks, damaged = _sealed_marks(sealed)
    parts: list[OpenPart] = []
    torn_bytes = 0
    for segment in (segment for segment in found if segment.is_open):
        part, torn = _settle(segment, marks)
        torn_bytes += torn
        damaged += part.damaged
        if part.size:
            parts.append(part)
        else:
            segment.path.unlink()
    # A crash may have come between a rename or a creation and the sync of its directory.
    for day in {segment.path.parent for segment in found if segment.is_open or segment is sealed[-1]}:
        sync_directory(day)
    sync_directory(directory)
    kept = layout.segments(directory)
    return Recovered(
        parts=parts,
        marks=marks,
        next_serial=max((segment.serial for segment in kept), default=0) + 1,
        segments=len(kept),
        disk_bytes=sum(segment.path.stat().st_size for segment in kept),
        torn_bytes=torn_bytes,
        damaged=damaged,
    )


def _remove_sealed_parts(directory: Path) -> None:
    """Of a segment that is both open and sealed, as a crash in its sealing leaves it, removes what is not needed."""
    every = layout.all_segments(directory)
    sealed = {segment.path for segment in every if not segment.is_open}
    for segment in every:
        if not segment.is_open or segment.sealed_path not in sealed:
            continue
        with SegmentReader(segment.sealed_path) as reader:
            is_whole = reader.footer() is not None
        # The directory first: the sealed name must not be lost after the open one is.
        sync_directory(segment.path.parent)
        (segment.path if is_whole else segment.sealed_path).unlink()


def _sealed_marks(sealed: list[SegmentPath]) -> tuple[Marks, int]:
    """The marks in the newest footer; where that is bad, its segment's blocks are read, and the footer before it."""
    unread: list[SegmentPath] = []
    marks = Marks()
    damaged = 0
    for segment in reversed(sealed):
        with SegmentReader(segment.path) as reader:
            footer = reader.footer()
        if footer is not None:
            marks = Marks(footer.marks)
            break
        unread.append(segment)
    for segment in reversed(unread):
        logger.error("%s: its footer is damaged; its blocks are read for the marks instead", segment.path)
        marks.begin(segment.created)
        with SegmentReader(segment.path) as reader:
            damaged += _walk(reader, marks)
    return marks, damaged


def _walk(reader: SegmentReader, marks: Marks) -> int:
    """Moves the marks on over a segment's blocks; the number of damaged places, each said."""
    damaged = 0
    for frame in reader.headers():
        if isinstance(frame, BlockHeader):
            advance(marks, frame)
        elif isinstance(frame, Damage):
            damaged += 1
            logger.error("%s; it stays as it is", frame)
    return damaged


def _settle(segment: SegmentPath, marks: Marks) -> tuple[OpenPart, int]:
    """Cuts the torn tail, makes the rest durable and moves the marks on; the part, and the bytes that went."""
    marks.begin(segment.created)
    with SegmentReader(segment.path) as reader:
        damaged = _walk(reader, marks)
        end, torn = reader.offset, reader.size - reader.offset
        why = reader.why_not() if torn else ""
    fd = os.open(segment.path, os.O_RDWR)
    try:
        if torn:
            os.ftruncate(fd, end)
            _say_cut(segment.path, torn, why)
        os.fsync(fd)
    finally:
        os.close(fd)
    return OpenPart(place=segment, size=end, damaged=damaged, marks=dict(marks.known)), torn


def _say_cut(path: Path, torn: int, why: str) -> None:
    if why == CUT_SHORT:
        logger.warning(
            "%s: cut %d bytes of a block without its end: a write that a crash ended, of which nothing was "
            "acknowledged; or the file was made shorter, and that was",
            path,
            torn,
        )
    else:
        logger.error(
            "%s: cut %d bytes that are no sound block (%s): a disk that damages, and then acknowledged entries are "
            "lost, or a write that a power cut ended, of which nothing was acknowledged",
            path,
            torn,
            why,
        )
