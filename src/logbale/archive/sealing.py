"""Seals a segment: small neighbouring blocks become one, a footer ends it, and it gets its final name.

The sealed file is written anew beside the open one, and every block's CRC is checked on the way: a sealed segment has
been read back once. At every moment either the open file or the sealed one is whole and durable; where a crash leaves
both, the sealed one counts.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from logbale.archive import format
from logbale.archive.format import Block, BlockEncoder, Footer, KiB, MiB, NotAFrame
from logbale.archive.layout import SEALING, SegmentPath
from logbale.archive.walk import Damage, SegmentReader
from logbale.durable import sync_directory, write_whole
from logbale.sinks import Mark

SMALL_BLOCK = 256 * KiB
"""Raw bytes below which a block is merged with its neighbours. A block of one line is larger than that line raw."""
MERGED_BLOCK = 1 * MiB
"""Raw bytes that a merged block has at most."""
SYNC_EVERY = 8 * MiB
"""Bytes after which the new file is synced: less to wait for when a commit syncs at the same time."""


class Sealed(msgspec.Struct, frozen=True):
    """What sealing made."""

    size: int
    """Bytes of the sealed file."""
    blocks: int
    merged: int
    """Blocks fewer than before."""
    damaged: int
    """Places that hold no sound block; their bytes were kept."""


def seal(segment: SegmentPath, *, marks: dict[str, Mark], level: int) -> Sealed:
    """Puts the sealed segment in the place of the open one, durably. `marks` are those at its end.

    Raises OSError or StorageError; then the open file is as it was, and sealing can be tried again.
    """
    temporary = segment.sealed_path.with_name(segment.sealed_path.name + SEALING)
    try:
        with SegmentReader(segment.path) as reader:
            sealed = _write(reader, temporary, segment.serial, marks, level)
        os.rename(temporary, segment.sealed_path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    # Only now may the open file go: were the new name lost in a power cut, it would be the only copy.
    sync_directory(segment.path.parent)
    os.unlink(segment.path)
    return sealed


def _write(reader: SegmentReader, path: Path, serial: int, marks: dict[str, Mark], level: int) -> Sealed:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        output = _SealedFile(fd, BlockEncoder(level))
        while (frame := reader.read()) is not None:
            if isinstance(frame, Block):
                output.add(frame)
            elif isinstance(frame, Damage):
                output.set_aside(reader, frame.offset, frame.size)
        if tail := reader.size - reader.offset:
            output.set_aside(reader, reader.offset, tail)
        return output.finish(serial, marks)
    finally:
        os.close(fd)


class _SealedFile:
    """The new file while it is written."""

    def __init__(self, fd: int, encoder: BlockEncoder) -> None:
        self._fd = fd
        self._encoder = encoder
        self._run: list[Block] = []
        """Small neighbours that wait to become one block."""
        self._run_raw = 0
        self._run_overhead = 0
        self._size = 0
        self._synced = 0
        self._offsets: list[int] = []
        self._times: list[tuple[str, str]] = []
        self._count = 0
        self._raw = 0
        self._before = 0
        self._damaged = 0

    def add(self, block: Block) -> None:
        """The next block."""
        self._before += 1
        self._count += block.header.count
        self._raw += block.header.raw
        if block.header.count:
            self._times.append((block.header.first, block.header.last))
        # What other receivers have is told by block: what they may not have must not be mixed with it.
        if block.header.raw >= SMALL_BLOCK or block.header.elsewhere:
            self._end_run()
            self._write_block(block.data)
            return
        if block.header.arrivals:
            self._end_run()
        # The streams and lists in the headers add up too, and one header holds at most MAX_HEADER.
        too_large = self._run_raw + block.header.raw > MERGED_BLOCK
        if too_large or self._run_overhead + block.overhead > format.MAX_HEADER:
            self._end_run()
        self._run.append(block)
        self._run_raw += block.header.raw
        self._run_overhead += block.overhead

    def set_aside(self, reader: SegmentReader, offset: int, size: int) -> None:
        """Damaged bytes, as they are, in frames that zstd passes over: so plain tools read on behind them."""
        self._end_run()
        self._damaged += 1
        for piece in reader.copy(offset, size):
            self._write(format.encode_quarantine(piece))

    def finish(self, serial: int, marks: dict[str, Mark]) -> Sealed:
        """Ends the file and makes its bytes durable."""
        self._end_run()
        first, last = format.span(self._times)
        footer = Footer(
            serial=serial,
            blocks=self._offsets,
            count=self._count,
            raw=self._raw,
            first=first,
            last=last,
            marks=marks,
        )
        self._write(format.encode_footer(footer))
        os.fdatasync(self._fd)
        blocks = len(self._offsets)
        return Sealed(self._size, blocks, self._before - blocks, self._damaged)

    def _end_run(self) -> None:
        run, self._run = self._run, []
        self._run_raw = self._run_overhead = 0
        if len(run) > 1:
            with suppress(NotAFrame):  # a block that its writer spoilt stays as it is
                self._write_block(self._encoder.merge(run))
                return
        for block in run:
            self._write_block(block.data)

    def _write_block(self, data: bytes) -> None:
        self._offsets.append(self._size)
        self._write(data)

    def _write(self, data: bytes) -> None:
        write_whole(self._fd, data, self._size)
        self._size += len(data)
        if self._size - self._synced >= SYNC_EVERY:
            os.fdatasync(self._fd)
            self._synced = self._size
