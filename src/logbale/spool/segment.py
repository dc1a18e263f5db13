"""One segment's file: what is in it, where, and how records get there durably.

Reading never changes a file. Writing keeps apart what is written and what is durable; after a write or a sync that
failed the file is cut back, and whether it may be used again is the answer.
"""

from __future__ import annotations

import os
import re
import zlib
from bisect import bisect_left
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from logbale.durable import sync_directory, write_whole
from logbale.spool import format
from logbale.spool.format import BATCH, SNAPSHOT, Damage, Found, Header, NotARecord, Snapshot

SUFFIX = ".spool"
UNFINISHED = ".new"
"""Added to a segment's name until its snapshot is durable. Worth nothing after a crash."""

_NAME = re.compile(r"(\d{8,})\.spool")
_SNAPSHOT_GUESS = 64 * format.KiB


def segment_path(directory: Path, serial: int) -> Path:
    """The file of the segment with this serial."""
    return directory / f"{serial:08}{SUFFIX}"


def segment_files(directory: Path) -> list[tuple[int, Path]]:
    """The segments in a directory with the serials in their names, in that order. Raises OSError."""
    with os.scandir(directory) as entries:
        found = [(match, entry.path) for entry in entries if (match := _NAME.fullmatch(entry.name))]
    return sorted((int(match[1]), Path(path)) for match, path in found)


def unfinished_files(directory: Path) -> list[Path]:
    """What a crash left of segments that were never used. Raises OSError."""
    return sorted(directory.glob(f"*{SUFFIX}{UNFINISHED}"))


def read_snapshot(path: Path) -> tuple[Header, Snapshot]:
    """The snapshot that a segment starts with. Raises NotARecord, StorageError (a later version), and OSError."""
    with open(path, "rb", buffering=0) as file:
        data = file.read(_SNAPSHOT_GUESS)
        # What a damaged header claims is not asked for: the read would make room for it first.
        need = min(format.HEADER_BYTES + format.parse_header(data).meta_bytes, os.fstat(file.fileno()).st_size)
        if need > len(data):
            data += os.pread(file.fileno(), need - len(data), len(data))
    header, meta = format.check_header(data)
    if header.kind != SNAPSHOT:
        raise NotARecord("the segment does not start with a snapshot")
    return header, format.decode_snapshot(meta)


class Index:
    """Where the batches of one segment are."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[int, Header]] = {}
        self._positions: list[int] = []

    @classmethod
    def of(cls, records: Iterable[Found | Damage], start: int, end: int) -> Index:
        """The sound batches from position `start` up to and without `end`, the first where one is there twice."""
        index = cls()
        for record in records:
            if isinstance(record, Found) and record.is_sound and record.header.kind == BATCH:
                position = record.header.position
                if start <= position < end and (not index._positions or position > index._positions[-1]):
                    index.add(record.offset, record.header)
        return index

    def add(self, offset: int, header: Header) -> None:
        """The next batch."""
        self._found[header.position] = offset, header
        self._positions.append(header.position)

    def get(self, position: int) -> tuple[int, Header] | None:
        """Where the batch starts, and its header; None where it is not there."""
        return self._found.get(position)

    def damaged(self, position: int) -> None:
        """This batch turned out not to be sound."""
        if self._found.pop(position, None) is not None:
            self._positions.remove(position)

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The missing positions from `start` up to and without `end`, as ranges of first and last."""
        gaps = []
        expected = start
        for position in self._positions[bisect_left(self._positions, start) :]:
            if position > expected:
                gaps.append((expected, position - 1))
            expected = position + 1
        return [*gaps, (expected, end - 1)] if expected < end else gaps

    def neighbours(self, position: int) -> tuple[tuple[int, Header] | None, tuple[int, Header] | None]:
        """The batches next before, and at or next after, a position."""
        at = bisect_left(self._positions, position)
        before = self._found[self._positions[at - 1]] if at else None
        after = self._found[self._positions[at]] if at < len(self._positions) else None
        return before, after


class Segment:
    """A segment and what part of the spool's positions is in it."""

    def __init__(self, path: Path, serial: int, size: int, *, start: int, before: int) -> None:
        """It begins with position `start`, before which the spool took `before` entries."""
        self.path = path
        self.serial = serial
        self.size = size
        self.start = start
        self.before = before
        self.end = start
        """The position after its last one."""
        self.end_before = before
        """Entries that the spool took before `end`."""
        self.index: Index | None = None

    def load(self) -> Index:
        """The index, from the file where it is not in memory. A file that is gone or unreadable has nothing in it."""
        if self.index is None:
            data = b""
            with suppress(OSError):
                data = self.path.read_bytes()
            self.index = Index.of(format.walk(data, bodies=False), self.start, self.end)
        return self.index

    def read(self, offset: int, header: Header) -> bytes:
        """A raw batch, checked. Raises NotARecord where it is damaged, and OSError."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            data = os.pread(fd, header.size, offset)
        finally:
            os.close(fd)
        found, _ = format.check_header(data)
        if found != header:
            raise NotARecord("another record stands in its place")
        body = data[header.size - header.body_bytes :]
        if len(body) != header.body_bytes or zlib.crc32(body) != header.body_crc:
            raise NotARecord("the batch's CRC differs")
        return format.decompress(body, header.raw_bytes)


class SegmentWriter:
    """The newest segment, open for appending. Every method raises OSError as the system does."""

    def __init__(self, segment: Segment, fd: int) -> None:
        """For create()."""
        self.segment = segment
        self.synced = segment.size
        """Bytes durable: whole records."""
        self.is_usable = True
        """Whether more may follow. Where not, the next segment's snapshot overrules what stands behind `synced`."""
        self._fd = fd

    @classmethod
    def create(cls, directory: Path, header: Header, record: bytes, serial: int) -> SegmentWriter:
        """A segment whose snapshot, and whose name, are durable."""
        path = segment_path(directory, serial)
        unfinished = path.with_name(path.name + UNFINISHED)
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_whole(fd, record, 0)
            os.fdatasync(fd)
            os.rename(unfinished, path)
            sync_directory(directory)
        except BaseException:
            os.close(fd)
            for leftover in (unfinished, path):
                with suppress(OSError):
                    os.unlink(leftover)
            raise
        segment = Segment(path, serial, len(record), start=header.position, before=header.before)
        segment.index = Index()
        return cls(segment, fd)

    @property
    def is_lost(self) -> bool:
        """Whether somebody deleted the file."""
        return os.fstat(self._fd).st_nlink == 0

    def append(self, records: bytes) -> None:
        """Writes the records behind the others and makes them durable; where it fails, takes back what is written."""
        self.is_usable = False
        try:
            write_whole(self._fd, records, self.synced)
        except OSError:
            with suppress(OSError):
                self._cut()
                self.is_usable = True
            raise
        try:
            os.fdatasync(self._fd)
        except OSError:
            # The system may have dropped the pages and call the next sync a success: this file is done with.
            with suppress(OSError):
                self._cut()
            raise
        self.synced += len(records)
        self.segment.size = self.synced
        self.is_usable = True

    def _cut(self) -> None:
        os.ftruncate(self._fd, self.synced)
        os.fsync(self._fd)

    def close(self) -> None:
        """Frees the file as it is."""
        with suppress(OSError):
            os.close(self._fd)
