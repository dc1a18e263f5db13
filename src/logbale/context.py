"""Compression that goes on from batch to batch of one connection: a 50-entry batch gets the ratio of a megabyte.

zlib and gzip by a sync flush, zstd by a flushed block, so that each body decodes when it is there, but only in order.
What was compressed in a context must be sent so, or the two ends differ. Bytes to bytes, no clock.
"""

from __future__ import annotations

import zlib

import msgspec

from logbale import deflate
from logbale.compression import ZSTD_LEVELS, zstd
from logbale.deflate import GZIP_WBITS, ZLIB_WBITS
from logbale.errors import DecompressionError
from logbale.protocol import Algorithm


class ContextBytes(msgspec.Struct, frozen=True):
    """Memory that one decompression context keeps for as long as it lives."""

    usual: int
    """With batches of log entries."""
    most: int
    """With bodies made to fill its buffers."""


_KiB = 1024
DEFLATE_CONTEXT_BYTES = ContextBytes(usual=42 * _KiB, most=42 * _KiB)
"""gzip and zlib, whose window is 32 KiB, through zlib-ng; 41 KiB through the standard library."""

ZSTD_CONTEXT_BYTES = {
    10: ContextBytes(usual=30 * _KiB, most=97 * _KiB),
    11: ContextBytes(usual=33 * _KiB, most=101 * _KiB),
    12: ContextBytes(usual=43 * _KiB, most=109 * _KiB),
    13: ContextBytes(usual=55 * _KiB, most=125 * _KiB),
    14: ContextBytes(usual=70 * _KiB, most=159 * _KiB),
    15: ContextBytes(usual=105 * _KiB, most=221 * _KiB),
    16: ContextBytes(usual=167 * _KiB, most=324 * _KiB),
    17: ContextBytes(usual=292 * _KiB, most=487 * _KiB),
    18: ContextBytes(usual=423 * _KiB, most=613 * _KiB),
    19: ContextBytes(usual=675 * _KiB, most=869 * _KiB),
    20: ContextBytes(usual=1191 * _KiB, most=1381 * _KiB),
    21: ContextBytes(usual=2215 * _KiB, most=2405 * _KiB),
    22: ContextBytes(usual=4265 * _KiB, most=4453 * _KiB),
    23: ContextBytes(usual=8356 * _KiB, most=8549 * _KiB),
}
"""zstd, by window_log: the growth of a real process's resident size for each context, rounded up to KiB; 14 and 17 with
10,000 contexts, the others with 200 or more.

    .venv/bin/python benchmarks/context_memory.py --window-logs 14 17            (usual)
    .venv/bin/python benchmarks/context_memory.py --window-logs 14 17 --noise    (most)
"""

_ERRORS: tuple[type[Exception], ...] = (zstd.ZstdError, EOFError, *deflate.ERRORS)


def context_bytes(algorithm: Algorithm, window_log: int) -> ContextBytes:
    """What a context that decodes this algorithm with such a window costs the receiver. Raises ValueError for a zstd
    window that no context has.
    """
    if algorithm is Algorithm.NONE:
        return ContextBytes(usual=0, most=0)
    if algorithm is not Algorithm.ZSTD:
        return DEFLATE_CONTEXT_BYTES
    if window_log not in ZSTD_CONTEXT_BYTES:
        raise ValueError(f"window_log={window_log}: expected {min(ZSTD_CONTEXT_BYTES)} to {max(ZSTD_CONTEXT_BYTES)}")
    return ZSTD_CONTEXT_BYTES[window_log]


class ContextCompressor:
    """The sending end of one context. A change of level, window or algorithm is a new one."""

    def __init__(self, algorithm: Algorithm, level: int, *, window_log: int) -> None:
        """`window_log` caps the window of zstd, 2**window_log bytes; `level` is the settings' 1-9."""
        self.algorithm = algorithm
        self.level = level
        self.window_log = window_log
        self.is_new = True
        """No body has been made yet: the first one goes with the flag for a new context."""
        if algorithm is Algorithm.ZSTD:
            self._zstd = zstd.ZstdCompressor(
                options=ZSTD_LEVELS[level].options | {int(zstd.CompressionParameter.window_log): window_log}
            )
        else:
            wbits = GZIP_WBITS if algorithm is Algorithm.GZIP else ZLIB_WBITS
            self._zlib = deflate.compressor(level, wbits)

    def compress(self, raw: bytes) -> bytes:
        """The next body."""
        self.is_new = False
        if self.algorithm is Algorithm.ZSTD:
            return self._zstd.compress(raw, zstd.ZstdCompressor.FLUSH_BLOCK)
        return self._zlib.compress(raw) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


class ContextDecompressor:
    """The receiving end. After an error it is of no use any more."""

    def __init__(self, algorithm: Algorithm, *, window_log: int) -> None:
        """`window_log` is the largest zstd window accepted."""
        self.algorithm = algorithm
        if algorithm is Algorithm.ZSTD:
            self._zstd = zstd.ZstdDecompressor(options={int(zstd.DecompressionParameter.window_log_max): window_log})
        else:
            self._zlib = deflate.decompressor(GZIP_WBITS if algorithm is Algorithm.GZIP else ZLIB_WBITS)

    def decompress(self, body: bytes, raw_bytes: int) -> bytes:
        """Exactly `raw_bytes` bytes, using up the whole body. Raises DecompressionError (`corrupt`) otherwise."""
        try:
            # One byte more than is due, so that a body that holds more is told from one that fits.
            if self.algorithm is Algorithm.ZSTD:
                raw = self._zstd.decompress(body, raw_bytes + 1)
                ended, used_up = self._zstd.eof, self._zstd.needs_input
            else:
                raw = self._zlib.decompress(body, raw_bytes + 1)
                ended, used_up = self._zlib.eof, not self._zlib.unconsumed_tail
        except _ERRORS as error:
            raise DecompressionError("corrupt", str(error)) from None
        if ended:
            raise DecompressionError("corrupt", "the compressed stream ends inside a context")
        if len(raw) != raw_bytes or not used_up:
            raise DecompressionError("corrupt", f"the body has not the {raw_bytes} raw bytes that its prefix claims")
        return raw
