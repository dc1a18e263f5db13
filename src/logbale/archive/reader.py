"""Reads an archive, from its files alone: beside a running writer, after a crash, or a single file copied elsewhere.

It never writes. A block is delivered only after its CRC was right; what is damaged is passed over and reported. The
torn end of an open segment is simply not there yet. Memory is bounded by the largest block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from logbale.archive import layout
from logbale.archive.format import Block, BlockHeader, Footer, NotAFrame
from logbale.archive.layout import SegmentPath
from logbale.archive.walk import Damage, SegmentReader
from logbale.durable import LOCK_NAME, storage_error
from logbale.entry_fields import time_in, time_of
from logbale.errors import StorageError

logger = logging.getLogger(__name__)

OnDamage = Callable[[Damage], object]


def log_damage(damage: Damage) -> None:
    """Says it at ERROR."""
    logger.error("%s; what these bytes held cannot be read, the rest can", damage)


def segments(path: Path) -> list[SegmentPath]:
    """The segments of an archive in order, of one of its days, or the one in a file. Raises StorageError.

    A directory that a receiver writes has no chains of archivers.
    """
    if path.is_file():
        return [layout.segment_at(path)]
    return layout.segments(path) or layout.chains(path) or layout.segments_of_day(path)


def blocks(
    path: Path, *, since: str | None = None, until: str | None = None, on_damage: OnDamage = log_damage
) -> Iterator[Block]:
    """Every sound block up to the present end, not decompressed, without those that lie wholly outside the times.

    `path` is an archive's directory or one segment; `since` (inclusive) and `until` (exclusive) are times in the form
    of models.rfc3339. Raises StorageError.
    """
    wanted = Span(since, until)
    for reader in _readers(path):
        with reader:
            yield from _blocks_of(reader, wanted, on_damage)


def lines(
    path: Path,
    *,
    since: str | None = None,
    until: str | None = None,
    time_field: str | None = None,
    on_damage: OnDamage = log_damage,
    on_untimed: Callable[[str], object] = lambda time: None,
) -> Iterator[bytes]:
    """Every entry up to the present end, one JSON object each, without the newline; arguments as for blocks().

    `time_field` is what the times go by in place of `timestamp`; no block can be passed over then. An entry that has no
    time there goes by its `timestamp`, and one whose time cannot be read is never left out; where times are asked for,
    `on_untimed` gets both, and the time that it went by, if any.
    """
    wanted = Span(since, until, time_field, on_untimed)
    for reader in _readers(path):
        with reader:
            for block in _blocks_of(reader, wanted, on_damage):
                yield from lines_of(block, reader.path, wanted, on_damage)


class ArchiveFollower:
    """The entries of an archive (or of one segment) as they come, for a caller that asks now and then.

    It goes on across sealing and new segments. What it shows of an open segment may be a moment from being durable.
    """

    def __init__(
        self,
        path: Path,
        *,
        since: str | None = None,
        until: str | None = None,
        time_field: str | None = None,
        from_end: bool = False,
        on_damage: OnDamage = log_damage,
    ) -> None:
        """Starts at the first segment, or with `from_end` after what is there now. The rest is as for lines()."""
        self._path = path
        self._wanted = Span(since, until, time_field)
        self._on_damage = on_damage
        self._reader: SegmentReader | None = None
        self._shown: dict[str, int] = {}
        """The serial that each chain has come to."""
        if from_end and (present := segments(path)):
            self._shown = {segment.chain: segment.serial for segment in present}
            self._reader = open_segment(present[-1])
            while self._reader is not None and self._reader.read() is not None:
                pass

    def __enter__(self) -> ArchiveFollower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def poll(self) -> list[bytes]:
        """The lines of the next block, or [] where there is none yet: ask again later. Raises StorageError."""
        while (block := self._next_block()) and (reader := self._reader):
            found = list(lines_of(block, reader.path, self._wanted, self._on_damage))
            if found:
                return found
        return []

    def _next_block(self) -> Block | None:
        while True:
            if block := self._read():
                return block
            later = [segment for segment in segments(self._path) if segment.serial > self._shown.get(segment.chain, -1)]
            if not later:
                return None
            # With a later segment there, nothing more is appended to this one; just before it, something may have been.
            if block := self._read():
                return block
            if self._reader is not None:
                report_end(self._reader, self._on_damage)
                self.close()
            self._shown[later[0].chain], self._reader = later[0].serial, open_segment(later[0])

    def _read(self) -> Block | None:
        return next(sound_blocks(self._reader, self._on_damage), None) if self._reader is not None else None


class Span:
    """The times that are asked for. A time that is unknown (empty) is neither outside nor inside."""

    def __init__(
        self,
        since: str | None,
        until: str | None,
        field: str | None = None,
        on_untimed: Callable[[str], object] = lambda time: None,
    ) -> None:
        self.since = since
        self.until = until
        self._time_of = time_of if field is None else time_in(field)
        self.on_untimed = on_untimed
        self._knows_blocks = field is None
        """Whether the times of blocks and segments, which are those of `timestamp`, say anything."""

    @property
    def is_all(self) -> bool:
        return self.since is None and self.until is None

    def has_none(self, of: BlockHeader | Footer) -> bool:
        """Whether nothing in it is wanted. Only a time that a CRC vouches for is a reason to pass it over."""
        return self._knows_blocks and self.is_without(of.first, of.last)

    def has_all(self, of: BlockHeader) -> bool:
        """Whether everything in it is wanted."""
        if not (self._knows_blocks and of.first and of.last):
            return self.is_all
        return (self.since is None or of.first >= self.since) and (self.until is None or of.last < self.until)

    def has(self, line: bytes) -> bool:
        """Whether an entry is wanted."""
        if not (time := self._time_of(line)):
            time = "" if self._knows_blocks else time_of(line)
            self.on_untimed(time)
        return not self.is_without(time, time)

    def is_without(self, first: str, last: str) -> bool:
        """Whether nothing from first to last is wanted."""
        if not first or not last:
            return False
        return (self.since is not None and last < self.since) or (self.until is not None and first >= self.until)


def open_segment(segment: SegmentPath) -> SegmentReader | None:
    """A reader of it, also where it has been sealed since it was listed; None where it is gone. Raises StorageError."""
    for path in (segment.path, segment.sealed_path):
        try:
            return SegmentReader(path)
        except FileNotFoundError:
            continue
    return None


def _readers(path: Path) -> Iterator[SegmentReader]:
    for segment in segments(path):
        reader = open_segment(segment)
        if reader is not None:
            yield reader


def _blocks_of(reader: SegmentReader, wanted: Span, on_damage: OnDamage) -> Iterator[Block]:
    """The wanted blocks of a whole segment."""
    if not wanted.is_all and (footer := reader.footer()) and wanted.has_none(footer):
        return
    for block in sound_blocks(reader, on_damage):
        if not wanted.has_none(block.header):
            yield block
    report_end(reader, on_damage)


def sound_blocks(reader: SegmentReader, on_damage: OnDamage) -> Iterator[Block]:
    """The blocks from where the reader stands to the present end."""
    while (frame := reader.read()) is not None:
        if isinstance(frame, Damage):
            on_damage(frame)
        elif isinstance(frame, Block):
            yield frame


def report_end(reader: SegmentReader, on_damage: OnDamage) -> None:
    """Reports a sealed segment that does not end with its footer: something is missing there."""
    tail = reader.size - reader.offset
    if not layout.segment_at(reader.path).is_open and (tail or not reader.after_footer):
        on_damage(Damage(reader.path, reader.offset, tail, "it does not end with the footer of a sealed segment"))


def lines_of(block: Block, path: Path, wanted: Span, on_damage: OnDamage) -> Iterator[bytes]:
    """The wanted lines of a block; of all but those at the edges of the span, each is."""
    if wanted.has_none(block.header):
        return
    try:
        found = block.ndjson().split(b"\n")[:-1]
    except NotAFrame as error:
        on_damage(Damage(path, block.offset, len(block.data), str(error)))
        return
    if wanted.has_all(block.header):
        yield from found
        return
    yield from filter(wanted.has, found)


def each_once(paths: Iterable[Path]) -> list[Path]:
    """The paths without those that lead to what an earlier one leads to, be it by a link or another spelling."""
    found: dict[Path, Path] = {}
    for path in paths:
        found.setdefault(path.resolve(), path)
    return list(found.values())


def check_archive(path: Path) -> None:
    """Raises StorageError for what no receiver ever wrote: a mistyped path must look neither sound nor damaged."""
    try:
        is_new = path.is_dir() and not (path / LOCK_NAME).exists()
        is_strange = path.is_file() and not layout.has_segment_name(path)
    except OSError as error:
        raise storage_error(path, "look for an archive", error, to_read=True) from error
    if is_new and not segments(path):
        raise StorageError(f"{path}: there is no archive here, no segment and no lock; {layout.CHECK_PATH}")
    if is_strange:
        with SegmentReader(path) as reader:
            if reader.read() is None:
                raise StorageError(f"{path}: nothing in this file was written by a receiver; {layout.CHECK_PATH}")
