"""Walks one segment, frame by frame; each is verified before it is handed out, and damage is passed over, by name.

Nothing is decompressed here. Memory is bounded by the largest block.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from logbale.archive import format
from logbale.archive.format import Block, BlockHeader, Footer, NotAFrame, Quarantine
from logbale.errors import StorageError

WINDOW_BYTES = 256 * format.KiB
"""Read at a time: a trickle's blocks are a few hundred bytes each."""
HEADERS_WINDOW_BYTES = 4 * format.MiB
"""Read at a time where only headers are wanted."""
_MAGIC = re.compile(format.MAGIC_PATTERN, re.DOTALL)
_MAGIC_BYTES = 4
CUT_SHORT = "cut short"
"""Why a frame is none whose end the file does not reach."""


class Damage(msgspec.Struct, frozen=True):
    """Bytes of a segment that are no sound block: whatever entries they held are not delivered."""

    path: Path
    offset: int
    size: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: damaged at byte {self.offset} ({self.size} bytes): {self.reason}"


class SegmentReader:
    """One segment, frame by frame, from an offset on.

    It reads the file that it opened, also after that was renamed or removed: so an open segment can be read to its end
    while it is being sealed. Raises StorageError where the system cannot read, or a newer version wrote.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        """Opens the file. Raises FileNotFoundError, and StorageError for any other reason."""
        self.path = path
        self.offset = offset
        """Where the next frame starts."""
        self.after_footer = False
        """Whether the frame before it was the footer."""
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"{path}: cannot open: {error.strerror}; check who may read it") from error
        self._window = memoryview(b"")
        self._window_at = 0

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the file."""
        os.close(self._fd)

    @property
    def size(self) -> int:
        """Bytes of the file, now."""
        return os.fstat(self._fd).st_size

    def read(self) -> Block | Footer | Damage | None:
        """The next block, the footer, or what is damaged before a whole frame; None where none follows (yet).

        After None, the bytes from `offset` to `size` are a torn tail or a block that is being written.
        """
        start = self.offset
        try:
            frame = self._read(self.size)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot read at byte {start}: {error.strerror}; check the disk") from error
        except StorageError as error:
            raise StorageError(f"{self.path}, byte {start}: {error}") from error
        if frame is None:
            # Next time it may differ from what the window holds of a tail that was just being written.
            self._window = memoryview(b"")
        else:
            self.after_footer = isinstance(frame, Footer)
        return frame

    def why_not(self) -> str:
        """After None from read() with bytes left: why they are no frame; CUT_SHORT where all that is there may be."""
        try:
            self._frame_at(self.offset, self.size)
        except NotAFrame as error:
            return str(error)
        return ""

    def headers(self) -> Iterator[BlockHeader | Footer | Damage]:
        """What read() would give up to the present end, of the blocks only the headers: several times as fast."""
        while True:
            yield from self._sound_headers()
            frame = self.read()
            if frame is None:
                return
            yield frame.header if isinstance(frame, Block) else frame

    def _sound_headers(self) -> Iterator[BlockHeader]:
        """The headers of whole, sound blocks from here to the first frame that is anything else: read() judges that."""
        while True:
            try:
                window = memoryview(os.pread(self._fd, HEADERS_WINDOW_BYTES, self.offset))
            except OSError:
                return
            passed = 0
            while (found := format.next_header(window, passed)) is not None:
                header, length = found
                passed += length
                self.offset += length
                self.after_footer = False
                yield header
            if not passed:
                return

    def _read(self, size: int) -> Block | Footer | Damage | None:
        start = self.offset = min(self.offset, size)  # a failed write may have been cut off since
        if start == size:
            return None
        try:
            frame, self.offset = self._frame_at(start, size)
        except NotAFrame as error:
            found = self._search(start + 1, size)
            if found is None:
                return None
            self.offset = found
            return Damage(self.path, start, found - start, str(error))
        if isinstance(frame, Quarantine):
            return Damage(self.path, start, self.offset - start, "damaged before the segment was sealed")
        return frame

    def footer(self) -> Footer | None:
        """The footer at the end of the file, or None where it has no sound one. `offset` stays."""
        try:
            size = self.size
            length = format.footer_length(os.pread(self._fd, 4, max(0, size - 4)))
            frame, end = self._frame_at(max(0, size - length), size)
        except NotAFrame:
            return None
        except OSError as error:
            raise StorageError(f"{self.path}: cannot read the footer: {error.strerror}") from error
        except StorageError as error:
            raise StorageError(f"{self.path}: {error}") from error
        return frame if isinstance(frame, Footer) and end == size else None

    def copy(self, offset: int, size: int) -> Iterator[bytes]:
        """These bytes as they stand, in pieces of at most MAX_QUARANTINE."""
        end = offset + size
        while offset < end and (piece := os.pread(self._fd, min(end - offset, format.MAX_QUARANTINE), offset)):
            yield piece
            offset += len(piece)

    def _frame_at(self, offset: int, size: int) -> tuple[format.Frame, int]:
        """The frame there and where it ends. Raises NotAFrame."""
        data = self._bytes(offset, format.PREFIX_BYTES)
        while (need := format.measure(data)) > len(data):
            if offset + need > size:
                raise NotAFrame(CUT_SHORT)
            data = self._bytes(offset, need)
        return format.parse(bytes(data[:need]), offset), offset + need

    def _bytes(self, offset: int, count: int) -> memoryview:
        """At least these bytes, and what the window has behind them. Raises NotAFrame where the file ends before."""
        at = offset - self._window_at
        if at < 0 or at + count > len(self._window):
            self._window = memoryview(os.pread(self._fd, max(count, WINDOW_BYTES), offset))
            self._window_at, at = offset, 0
        if at + count > len(self._window):
            raise NotAFrame(CUT_SHORT)
        return self._window[at:]

    def _search(self, start: int, size: int) -> int | None:
        """Where the next whole frame starts, or None."""
        while start < size:
            piece = os.pread(self._fd, WINDOW_BYTES, start)
            for match in _MAGIC.finditer(piece):
                try:
                    self._frame_at(start + match.start(), size)
                except NotAFrame:
                    continue
                return start + match.start()
            start += max(1, len(piece) - _MAGIC_BYTES + 1)
        return None
