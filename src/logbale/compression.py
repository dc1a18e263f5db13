"""Compressing batches, and decompressing what strangers claim are batches, within limits; bytes to bytes, no clock.

A small batch, and one that compression would make larger, is passed through raw: the frame's flags say what it is. A
payload that decompresses beyond a limit is refused at that limit; memory beyond it is never taken.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable

import msgspec

from logbale.errors import DecompressionError
from logbale.protocol import Algorithm

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

MAX_MEMBERS = 16
"""Streams in one payload: honest ones have one, and empty ones cost time that no limit on the output would see."""

MAX_RATIO = 256
"""Largest ratio of a payload that decompresses to more than RATIO_FREE_BYTES; zlib could reach 1,028, zstd 31,670."""

RATIO_FREE_BYTES = 4 * 1024 * 1024

ZSTD_LEVELS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, 8: 8, 9: 9}
"""The settings' levels 1-9 for zstd. Its faster ones (below 1) send half as much again for a fifth less CPU, and those
above 9 take ten times the CPU for a few percent: batches of 50 entries, `logbale bench`."""

ZSTD_MAX_WINDOW_LOG = 23
"""A zstd window is 8 MiB at most, at both ends."""

PIECE_BYTES = 4 * 1024 * 1024
"""How much zlib decompresses at a time."""

GZIP_WBITS = 31
ZLIB_WBITS = 15


class Compressed(msgspec.Struct, frozen=True):
    """A payload and how it was made."""

    payload: bytes
    algorithm: Algorithm
    """NONE where the batch stayed raw."""
    raw_bytes: int
    bypassed: bool
    """It stayed raw because it was small or would have grown, not because compression is off."""


class CompressionStats(msgspec.Struct):
    """What a handler's batches came to."""

    batches: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    """Payloads as sent, headers not counted."""
    bypassed: int = 0
    seconds: float = 0.0
    """As the shell measured it: wall-clock time inside compress()."""

    @property
    def ratio(self) -> float:
        """Raw bytes for each wire byte; 0 before there are any."""
        return self.raw_bytes / self.wire_bytes if self.wire_bytes else 0.0


class CompressionHandler:
    """Compresses batches one at a time with one algorithm, at a level that may change between two of them.

    compress() may run in a thread of a pool; record() and the level belong to the owner's thread.
    """

    def __init__(self, algorithm: Algorithm, level: int, *, enabled: bool = True, bypass_threshold: int = 256) -> None:
        self.algorithm = algorithm if enabled else Algorithm.NONE
        self.level = level
        self.stats = CompressionStats()
        self._bypass_threshold = bypass_threshold
        self._zstd: tuple[int, zstd.ZstdCompressor] | None = None

    def compress(self, raw: bytes) -> Compressed:
        """The smaller of `raw` and its compressed form."""
        if self.algorithm is Algorithm.NONE:
            return Compressed(raw, Algorithm.NONE, len(raw), bypassed=False)
        if len(raw) >= self._bypass_threshold:
            payload = self._compress(raw, self.level)
            if len(payload) < len(raw):
                return Compressed(payload, self.algorithm, len(raw), bypassed=False)
        return Compressed(raw, Algorithm.NONE, len(raw), bypassed=True)

    def record(self, compressed: Compressed, seconds: float) -> None:
        """Counts one batch that took so long to compress."""
        self.stats.batches += 1
        self.stats.raw_bytes += compressed.raw_bytes
        self.stats.wire_bytes += len(compressed.payload)
        self.stats.bypassed += compressed.bypassed
        self.stats.seconds += seconds

    def _compress(self, raw: bytes, level: int) -> bytes:
        if self.algorithm is Algorithm.GZIP:
            return zlib.compress(raw, level, GZIP_WBITS)
        if self.algorithm is Algorithm.ZLIB:
            return zlib.compress(raw, level, ZLIB_WBITS)
        if self._zstd is None or self._zstd[0] != level:
            # Kept from batch to batch: making a compressor for each 12 kB batch halves the speed.
            options: dict[int, int] = {
                zstd.CompressionParameter.compression_level: ZSTD_LEVELS[level],
                zstd.CompressionParameter.checksum_flag: 1,
            }
            self._zstd = level, zstd.ZstdCompressor(options=options)
        return self._zstd[1].compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)


def decompress(algorithm: Algorithm, payload: bytes, *, max_raw: int, max_ratio: int | None = MAX_RATIO) -> bytes:
    """The raw bytes of a stand-alone payload.

    Raises DecompressionError: `corrupt` where it is not one to MAX_MEMBERS whole streams of that algorithm and nothing
    else; `limit` where it has more, or gives more than max_raw bytes, or more than max_ratio times its own size once
    past RATIO_FREE_BYTES.
    """
    limit = max_raw if max_ratio is None else min(max_raw, max(RATIO_FREE_BYTES, max_ratio * len(payload)))
    if algorithm is Algorithm.NONE:
        if len(payload) > limit:
            raise _over(limit)
        return payload
    decode = _DECODERS[algorithm]
    members: list[bytes] = []
    total = 0
    while True:
        piece, payload = decode(payload, limit - total)
        total += len(piece)
        members.append(piece)
        if not payload:
            return members[0] if len(members) == 1 else b"".join(members)
        if len(members) == MAX_MEMBERS:
            raise DecompressionError("limit", f"more than {MAX_MEMBERS} compressed streams in one payload")


def _over(limit: int) -> DecompressionError:
    return DecompressionError("limit", f"the batch is over its limit of {limit} bytes after decompression")


def _inflater(wbits: int) -> Callable[[bytes, int], tuple[bytes, bytes]]:
    """How one stream of gzip or zlib is taken off the front of a payload: its bytes, at most `room`, and the rest."""

    def inflate(payload: bytes, room: int) -> tuple[bytes, bytes]:
        decoder = zlib.decompressobj(wbits)
        pieces, size = [], 0
        try:
            while not decoder.eof:
                # One byte more than there is room for tells a full batch from an overlong one; 0 would mean no limit.
                # In pieces, because a single large one takes twice its size while it grows.
                piece = decoder.decompress(payload, min(room + 1 - size, PIECE_BYTES))
                payload = decoder.unconsumed_tail
                size += len(piece)
                if size > room:
                    raise _over(room)
                if not piece and not payload and not decoder.eof:
                    raise DecompressionError("corrupt", "the compressed stream has no end")
                pieces.append(piece)
        except zlib.error as error:
            raise DecompressionError("corrupt", str(error)) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), decoder.unused_data

    return inflate


def _unzstd(payload: bytes, room: int) -> tuple[bytes, bytes]:
    """The same for zstd."""
    try:
        declared = zstd.get_frame_info(payload).decompressed_size
        if declared is not None and declared > room:
            raise _over(room)
        decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_MAX_WINDOW_LOG})
        piece = decoder.decompress(payload, room + 1)
    except zstd.ZstdError as error:
        raise DecompressionError("corrupt", str(error)) from None
    if len(piece) > room:
        raise _over(room)
    if not decoder.eof:
        raise DecompressionError("corrupt", "the compressed stream has no end")
    return piece, decoder.unused_data


_DECODERS = {
    Algorithm.GZIP: _inflater(GZIP_WBITS),
    Algorithm.ZLIB: _inflater(ZLIB_WBITS),
    Algorithm.ZSTD: _unzstd,
}
