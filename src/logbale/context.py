"""Compression that goes on from batch to batch of one connection: a 50-entry batch gets the ratio of a megabyte.

zlib and gzip by a sync flush, zstd by a flushed block, so that each body decodes when it is there, but only in order.
What was compressed in a context must be sent so, or the two ends differ. Bytes to bytes, no clock.
"""

from __future__ import annotations

import zlib

from logbale.compression import GZIP_WBITS, ZLIB_WBITS, ZSTD_LEVELS, zstd
from logbale.errors import DecompressionError
from logbale.protocol import Algorithm


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
                options={
                    int(zstd.CompressionParameter.compression_level): ZSTD_LEVELS[level],
                    int(zstd.CompressionParameter.window_log): window_log,
                }
            )
        else:
            wbits = GZIP_WBITS if algorithm is Algorithm.GZIP else ZLIB_WBITS
            self._zlib = zlib.compressobj(level, zlib.DEFLATED, wbits)

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
            self._zlib = zlib.decompressobj(GZIP_WBITS if algorithm is Algorithm.GZIP else ZLIB_WBITS)

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
        except (zlib.error, zstd.ZstdError, EOFError) as error:
            raise DecompressionError("corrupt", str(error)) from None
        if ended:
            raise DecompressionError("corrupt", "the compressed stream ends inside a context")
        if len(raw) != raw_bytes or not used_up:
            raise DecompressionError("corrupt", f"the body has not the {raw_bytes} raw bytes that its prefix claims")
        return raw
