"""gzip and zlib through the fastest library that is installed: which one compresses at which level, which decompresses.

What comes out is one stream of the standard format, which every other implementation reads. No other module names isal
or zlib-ng; where they are missing the standard library does the same work, slower.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import msgspec

# Each is missing where it has no wheel (isal knows x86-64 and 64-bit ARM only), and nothing but speed depends on them.
isal_zlib: ModuleType | None
zlib_ng: ModuleType | None
try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None
try:
    from zlib_ng import zlib_ng
except ImportError:
    zlib_ng = None

GZIP_WBITS = 31
ZLIB_WBITS = 15


class Compressor(Protocol):
    """A stream that is being written."""

    def compress(self, data: bytes, /) -> bytes:
        """What of the stream is ready."""

    def flush(self, mode: int = zlib.Z_FINISH, /) -> bytes:
        """The rest of it; with Z_SYNC_FLUSH the stream can go on."""


class Decompressor(Protocol):
    """A stream that is being read, as zlib.decompressobj has it."""

    eof: bool
    unconsumed_tail: bytes
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """At most `max_length` bytes of it."""


class Row(msgspec.Struct, frozen=True):
    """Who does the work of one of the settings' levels."""

    library: Any
    """A module that is called as zlib is."""
    name: str
    level: int
    """The library's own."""


def rows(isal: ModuleType | None, ng: ModuleType | None) -> dict[int, Row]:
    """The settings' levels 1-9 with these libraries; None for one that is missing.

    Without isal the standard library takes its levels, which are no smaller than zlib-ng's above them. isal alone is
    not used: its best is smaller than the standard library's next level.
    """
    if ng is None:
        return {level: Row(zlib, "zlib", level) for level in range(1, 10)}
    fast = {1: Row(isal, "isal", 1), 2: Row(isal, "isal", 3)} if isal else {n: Row(zlib, "zlib", n) for n in (1, 2)}
    return fast | {level: Row(ng, "zlib-ng", own) for level, own in _ZLIB_NG.items()}


_ZLIB_NG = {3: 3, 4: 4, 5: 5, 6: 6, 7: 8, 8: 8, 9: 8}
"""zlib-ng's 7 and 9 are larger than its 5 and 8, and slower: never. Its 8 is smaller than the standard library's 9, at
half to two thirds of the CPU. The table that this rests on is in docs/decisions/0006-fast-deflate.md."""

LEVELS = rows(isal_zlib, zlib_ng)

# zlib-ng decodes at 1.7 times the standard library's speed, in less memory, and agrees with it on every input tried.
# isal is faster still, and looser: it passes flipped bits in a gzip header, and keeps input that unconsumed_tail should
# name, so a body with more in it than it claims could not be told from a sound one.
_DECODER: Any = zlib_ng or zlib

ERRORS: tuple[type[Exception], ...] = (zlib.error, _DECODER.error)
"""What a decompressor raises for what is no stream: zlib-ng's error is not a subclass of zlib's."""


crc32: Callable[[bytes, int], int] = isal_zlib.crc32 if isal_zlib is not None else zlib.crc32
"""zlib's CRC-32, at five times its speed where isal is installed."""


def compress(raw: bytes, level: int, wbits: int) -> bytes:
    """One whole stream."""
    row = LEVELS[level]
    return bytes(row.library.compress(raw, row.level, wbits))


def compressor(level: int, wbits: int) -> Compressor:
    """For a stream that goes on."""
    row = LEVELS[level]
    made: Compressor = row.library.compressobj(row.level, row.library.DEFLATED, wbits)
    return made


def decompressor(wbits: int) -> Decompressor:
    """For one stream: what follows it is its unused_data."""
    made: Decompressor = _DECODER.decompressobj(wbits)
    return made
