"""Compressing batches, and decompressing what strangers claim are batches, within limits; bytes to bytes, no clock.

A small batch, and one that compression would make larger, is passed through raw: the frame's flags say what it is. A
payload that decompresses beyond a limit is refused at that limit; memory beyond it is never taken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import msgspec

from logbale import deflate
from logbale.deflate import GZIP_WBITS, ZLIB_WBITS
from logbale.durations import Durations
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

MAX_WINDOW = 8 * 1024 * 1024
"""Bytes of the window of a zstd frame, where nothing else is said (MAX_WINDOW_BYTES): what the format's own text (RFC
8878, 3.1.1.1.2) asks every decoder to support."""
LARGEST_WINDOW = 128 * 1024 * 1024
"""The most that a receiver may be told to take (MAX_WINDOW_BYTES): what reads a kept frame takes that, as zstd does."""

RATIO_FREE_BYTES = 4 * 1024 * 1024

_P = zstd.CompressionParameter


class ZstdLevel(msgspec.Struct, frozen=True):
    """How zstd does the work of one of the settings' levels."""

    name: str
    """zstd's own level, or one of its strategies, the search depth and chain_log."""
    options: dict[int, int]


_USE_ROWS = 1011
"""ZSTD_c_useRowMatchFinder of zstd.h since 1.5.0, one of its parameters without a promise, so without a name here."""
_NO_ROWS = 2
"""ZSTD_ps_disable."""


def chains_alone() -> dict[int, int]:
    """The option that finds matches by chains; none where this zstd does not know it."""
    option = {_USE_ROWS: _NO_ROWS}
    try:
        zstd.ZstdCompressor(options=option)
    except (ValueError, zstd.ZstdError):
        return {}
    return option


_CHAINS = chains_alone()


def _lazy(depth: int, chain_log: int, *, rows: bool = False) -> ZstdLevel:
    """The lazy2 parser, which looks at 2**depth candidates.

    In logs a match of less than six bytes costs more than its literals do. It finds candidates by chains, or by rows,
    which zstd takes by itself: up to a depth of 4 chains take a fifth less CPU for as many bytes, for in logs most of
    the time goes into noting what long matches cover. Tables smaller than zstd's own, of 2**16 and 2**chain_log
    entries, are faster and hardly larger: they stay in the nearer caches, and lines repeat soon.
    """
    options = {
        _P.compression_level: 8,
        _P.strategy: zstd.Strategy.lazy2,
        _P.search_log: depth,
        _P.min_match: 6,
        _P.target_length: 16,
        _P.hash_log: 16,
        _P.chain_log: chain_log,
    }
    known = {int(name): int(value) for name, value in options.items()}
    return ZstdLevel(f"lazy2 {depth}/{chain_log}", known if rows else known | _CHAINS)


ZSTD_LEVELS = {
    1: ZstdLevel("zstd -5", {int(_P.compression_level): -5}),
    2: ZstdLevel("zstd 1", {int(_P.compression_level): 1}),
    3: _lazy(1, 14),
    4: _lazy(2, 14),
    5: _lazy(2, 16),
    6: _lazy(3, 14),
    7: _lazy(5, 16, rows=True),
    8: _lazy(6, 16, rows=True),
    9: ZstdLevel(
        "btopt 3",
        {
            int(_P.compression_level): 8,
            int(_P.strategy): int(zstd.Strategy.btopt),
            int(_P.search_log): 3,
            int(_P.min_match): 4,
            # zstd's level 16 has 32, stops at short matches, and ends up larger than lazy2.
            int(_P.target_length): 256,
        },
    ),
}
"""The settings' levels 1-9 for zstd: each smaller than the one before, in a context and alone, and slower. zstd's own
do not rise so: 2 to 4 are larger than 1 in a context, 11 to 13 larger than 6 alone, and 9 to 15 save 0.5 % of 8 in a
context, at up to eight times its CPU. Nothing lies between 2 and 3: greedy and dfast cost almost what lazy2 does, and
save next to nothing. The measurements: docs/decisions/0006-fast-deflate.md, benchmarks/levels.py."""

PIECE_BYTES = 4 * 1024 * 1024
"""How much zlib decompresses at a time."""


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
    durations: Durations = msgspec.field(default_factory=Durations)
    """The same, batch by batch."""

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
        self.bypass_threshold = bypass_threshold
        self._zstd: tuple[int, zstd.ZstdCompressor] | None = None

    def compress(self, raw: bytes) -> Compressed:
        """The smaller of `raw` and its compressed form."""
        if self.algorithm is Algorithm.NONE:
            return Compressed(raw, Algorithm.NONE, len(raw), bypassed=False)
        if len(raw) >= self.bypass_threshold:
            payload = self._compress(raw, self.level)
            if len(payload) < len(raw):
                return Compressed(payload, self.algorithm, len(raw), bypassed=False)
        return Compressed(raw, Algorithm.NONE, len(raw), bypassed=True)

    def compress_always(self, raw: bytes) -> bytes:
        """The compressed form, though it may be larger."""
        return self._compress(raw, self.level)

    def record(self, compressed: Compressed, seconds: float) -> None:
        """Counts one batch that took so long to compress."""
        self.stats.batches += 1
        self.stats.raw_bytes += compressed.raw_bytes
        self.stats.wire_bytes += len(compressed.payload)
        self.stats.bypassed += compressed.bypassed
        self.stats.seconds += seconds
        self.stats.durations.add(seconds)

    def _compress(self, raw: bytes, level: int) -> bytes:
        if self.algorithm is Algorithm.GZIP:
            return deflate.compress(raw, level, GZIP_WBITS)
        if self.algorithm is Algorithm.ZLIB:
            return deflate.compress(raw, level, ZLIB_WBITS)
        if self._zstd is None or self._zstd[0] != level:
            # Kept from batch to batch: making a compressor for each 12 kB batch halves the speed.
            options = ZSTD_LEVELS[level].options | {int(_P.checksum_flag): 1}
            self._zstd = level, zstd.ZstdCompressor(options=options)
        return self._zstd[1].compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)


def frame_of_size(payload: bytes, raw_bytes: int) -> bool:
    """Whether a zstd payload that was decoded is one frame that states its size and has a checksum: fit to be kept."""
    if len(payload) < 6 or not payload[4] & _CHECKSUM_BIT:
        return False
    try:
        return zstd.get_frame_info(payload).decompressed_size == raw_bytes and zstd.get_frame_size(payload) == len(
            payload
        )
    except zstd.ZstdError:
        return False


_CHECKSUM_BIT = 0b100
"""Of the descriptor, the byte after a frame's magic number (RFC 8878, 3.1.1.1.1)."""


def library(algorithm: Algorithm, level: int) -> str:
    """Which library does the work of a level, and what it calls it: `zlib-ng 5`, `lazy2 3/14`; "" for none."""
    if algorithm is Algorithm.NONE:
        return ""
    if algorithm is Algorithm.ZSTD:
        return ZSTD_LEVELS[level].name
    row = deflate.LEVELS[level]
    return f"{row.name} {row.level}"


def decompress(
    algorithm: Algorithm,
    payload: bytes,
    *,
    max_raw: int,
    max_ratio: int | None = MAX_RATIO,
    max_members: int = MAX_MEMBERS,
    max_window: int = MAX_WINDOW,
) -> bytes:
    """The raw bytes of a stand-alone payload.

    Raises DecompressionError: `corrupt` where it is not one to max_members whole streams of that algorithm and nothing
    else; `limit` where it has more, or gives more than max_raw bytes, or more than max_ratio times its own size once
    past RATIO_FREE_BYTES, or where a zstd frame wants a larger window than max_window.
    """
    limit = max_raw if max_ratio is None else min(max_raw, max(RATIO_FREE_BYTES, max_ratio * len(payload)))
    if algorithm is Algorithm.NONE:
        if len(payload) > limit:
            raise _over(limit)
        return payload
    decode = _DECODERS[algorithm] if algorithm is not Algorithm.ZSTD else partial(_unzstd, max_window=max_window)
    members: list[bytes] = []
    total = 0
    while True:
        piece, payload = decode(payload, limit - total)
        total += len(piece)
        members.append(piece)
        if not payload:
            return members[0] if len(members) == 1 else b"".join(members)
        if len(members) >= max_members:
            raise DecompressionError(
                "limit", f"more than {max_members} compressed streams in one payload (MAX_MEMBERS)"
            )


def _over(limit: int) -> DecompressionError:
    return DecompressionError("limit", f"the batch is over its limit of {limit} bytes after decompression")


def _inflater(wbits: int) -> Callable[[bytes, int], tuple[bytes, bytes]]:
    """How one stream of gzip or zlib is taken off the front of a payload: its bytes, at most `room`, and the rest."""

    def inflate(payload: bytes, room: int) -> tuple[bytes, bytes]:
        decoder = deflate.decompressor(wbits)
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
        except deflate.ERRORS as error:
            raise DecompressionError("corrupt", str(error)) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), decoder.unused_data

    return inflate


def _unzstd(payload: bytes, room: int, *, max_window: int) -> tuple[bytes, bytes]:
    """The same for zstd."""
    try:
        window = _window(payload)
        declared = zstd.get_frame_info(payload).decompressed_size if window is None or window <= max_window else None
        if declared is not None and declared > room:
            raise _over(room)
        if (needed := (declared or 0) if window is None else window) > max_window:
            raise DecompressionError(
                "limit", f"a zstd window of {needed} bytes: the limit is {max_window} (MAX_WINDOW_BYTES)"
            )
        largest = {int(zstd.DecompressionParameter.window_log_max): (max_window - 1).bit_length()}
        decoder = zstd.ZstdDecompressor(options=largest)
        piece = decoder.decompress(payload, room + 1)
    except zstd.ZstdError as error:
        raise DecompressionError("corrupt", str(error)) from None
    if len(piece) > room:
        raise _over(room)
    if not decoder.eof:
        raise DecompressionError("corrupt", "the compressed stream has no end")
    return piece, decoder.unused_data


def _window(payload: bytes) -> int | None:
    """The window that a zstd frame asks for, in bytes; None where that is the size that it declares; 0 of no frame.

    By RFC 8878, 3.1.1.1: the library has no function for it, and its own refusal is told from damage by words alone.
    """
    if len(payload) < 6 or payload[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    if payload[4] & _SINGLE_SEGMENT_BIT:
        return None
    base = 1 << (10 + (payload[5] >> 3))
    return base + base // 8 * (payload[5] & 0b111)


_SINGLE_SEGMENT_BIT = 0b100000

_DECODERS = {
    Algorithm.GZIP: _inflater(GZIP_WBITS),
    Algorithm.ZLIB: _inflater(ZLIB_WBITS),
}
