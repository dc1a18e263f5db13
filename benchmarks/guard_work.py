"""What guard.py counts: the hot path's functions on lines of its own, and the fixed work that they are compared with.

Each is made for a number of entries and run once. The lines' times and ids go on, so what is remembered of a line is of
no use for the next one but where real logs would let it be.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache

import msgspec

from logbale.batch_buffer import BatchBuffer
from logbale.compression import CompressionHandler, zstd
from logbale.config import Settings
from logbale.context import ContextCompressor, ContextDecompressor
from logbale.decoding import decode_base, decode_sequenced
from logbale.lines import LineParser
from logbale.models import Chunk, json_array
from logbale.protocol import Algorithm, Frame, base_flags
from logbale.session import SequencedBatch, batch_crc

BATCH = 50
KNOWN_LINES = 2000
"""Read before those that are counted."""
NOW = 1_795_678_080.0

SHAPES = (
    "2026-11-26 07:{:02}:{:02},{:03} INFO  [worker-{}] shop.orders.OrderService: order {} placed in {} ms",
    "Nov 26 07:{:02}:{:02} gate sshd[{:03}]: Failed password for invalid user u{} from 10.251.{}.{} port 39214 ssh2",
    "[Thu Nov 26 07:{:02}:{:02} 2026] [error] mod_jk child {} in error state {}, request {} gave up after {} tries",
    "261126 07{:02}{:02} {} WARN store.Replicas$Sender: block blk_-{} of stream {} is late, {} bytes waiting",
    '26/Nov/2026:07:{:02}:{:02}.{:03} 10.0.0.{} "GET /cart/{} HTTP/1.1" 200 {} - -',
)
"""Five systems' ways to write a line, one level each at another place or none."""

Run = Callable[[], object]
Maker = Callable[[int], Run]


@cache
def log(count: int) -> bytes:
    """So many lines, forty a second; ids look like chance and are none."""
    return b"".join(
        SHAPES[number % len(SHAPES)]
        .format(
            number // 2400 % 60,
            number // 40 % 60,
            number * 25 % 1000,
            number * 7919 % 64,
            number * 104_729 % 99_991,
            number * 31 % 250,
        )
        .encode()
        + b"\n"
        for number in range(count)
    )


@cache
def unlike(count: int) -> bytes:
    """So many lines that name no level, have a tab, and begin like no other: nothing can be known of them before."""
    letters = bytes.maketrans(b"0123456789", b"abcdefghij")
    return b"".join(
        b"install\tlib%b of %b and %b as well\n" % tuple(b"%06d" % (number * step % 999_983) for step in (7919, 31, 1))
        for number in range(count)
    ).translate(letters)


def parser() -> LineParser:
    """Of one file."""
    return LineParser("guard", {"file": "/var/log/guard.log", "host": "guard"})


def chunk(lines: bytes, parser: LineParser) -> Chunk:
    """Lines as a source gives them out."""
    return parser.parse(lines, now=NOW, start=0, source="guard.log")


@cache
def raw(count: int) -> bytes:
    """They as one raw batch."""
    return b"".join(chunk(log(count), parser()).entries)


@cache
def small(count: int) -> list[bytes]:
    """They as raw batches of BATCH."""
    entries = chunk(log(count), parser()).entries
    return [b"".join(entries[start : start + BATCH]) for start in range(0, count, BATCH)]


# The hot path


def parse(count: int) -> Run:
    lines, known = log(count), parser()
    chunk(log(KNOWN_LINES), known)
    return lambda: chunk(lines, known)


def parse_unlike(count: int) -> Run:
    lines, unknown = unlike(count), parser()
    chunk(unlike(KNOWN_LINES), unknown)
    return lambda: chunk(lines, unknown)


def batch(count: int) -> Run:
    made = chunk(log(count), parser())
    buffer = BatchBuffer(size=BATCH, interval=1.0, max_bytes=1 << 20)
    return lambda: buffer.add(made, NOW)


def batch_grown(count: int) -> Run:
    made = chunk(log(count), parser())
    buffer = BatchBuffer(size=BATCH, interval=1.0, max_bytes=1 << 20)
    return lambda: [buffer.add(made, NOW, grown_bytes=1 << 19), buffer.flush()]


def compress(count: int) -> Run:
    handler, large = CompressionHandler(Algorithm.ZSTD, 2), raw(count)
    handler.compress_always(raw(BATCH))
    return lambda: handler.compress_always(large)


def compress_in_context(count: int) -> Run:
    context, batches = ContextCompressor(Algorithm.ZSTD, 6, window_log=17), small(count)
    context.compress(raw(BATCH))
    return lambda: [context.compress(one) for one in batches]


def compress_base(count: int) -> Run:
    handler, batches = CompressionHandler(Algorithm.GZIP, 6), small(count)
    return lambda: [handler.compress(json_array(one)) for one in batches]


def sequenced(body: bytes, lines: bytes, *, continued: bool) -> SequencedBatch:
    crc = batch_crc(1, lines)
    return SequencedBatch(1, len(lines), crc, Algorithm.ZSTD, continued, False, body, False, len(body))


def decode(count: int) -> Run:
    body = CompressionHandler(Algorithm.ZSTD, 2).compress_always(raw(count))
    one, settings = sequenced(body, raw(count), continued=False), Settings()
    return lambda: decode_sequenced(one, None, settings)


def decode_in_context(count: int) -> Run:
    compressor = ContextCompressor(Algorithm.ZSTD, 6, window_log=17)
    batches = [sequenced(compressor.compress(one), one, continued=True) for one in small(count)]
    context, settings = ContextDecompressor(Algorithm.ZSTD, window_log=17), Settings()
    return lambda: [decode_sequenced(one, context, settings) for one in batches]


def decode_frames(count: int) -> Run:
    handler = CompressionHandler(Algorithm.GZIP, 6)
    payloads = [handler.compress(json_array(one)).payload for one in small(count)]
    frames, settings = [Frame(base_flags(Algorithm.GZIP), one) for one in payloads], Settings()
    return lambda: [decode_base(one, settings) for one in frames]


# What it is compared with


def python_loop(count: int) -> Run:
    """A loop over lines in Python, as the hot path has none."""
    lines, known = log(count).splitlines(), {b"INFO": 1, b"WARN": 2, b"[error]": 3}

    def run() -> list[bytes]:
        found = []
        for line in lines:
            for word in line.split(None, 6):
                if word in known:
                    break
            found.append(b"".join((word, line)))
        return found

    return run


def check_lines(count: int) -> Run:
    """msgspec's decoder on entries, and two passes over their bytes."""
    decoder, lines = msgspec.json.Decoder(_Timed), raw(count)
    return lambda: [decoder.decode_lines(lines), lines.split(b"\n"), lines.translate(None, b"{[\n")]


class _Timed(msgspec.Struct, gc=False):
    timestamp: str = ""


def zstd_3(count: int) -> Run:
    """zstd's own level 3."""
    compressor, large = zstd.ZstdCompressor(level=3), raw(count)
    compressor.compress(raw(BATCH), zstd.ZstdCompressor.FLUSH_FRAME)
    return lambda: compressor.compress(large, zstd.ZstdCompressor.FLUSH_FRAME)


def zlib_6(count: int) -> Run:
    """The standard library's zlib."""
    batches = small(count)
    return lambda: [zlib.compress(one, 6) for one in batches]


WORK: dict[str, tuple[Maker, Maker]] = {
    "parse": (parse, python_loop),
    "parse, lines unlike": (parse_unlike, python_loop),
    "batch of 50": (batch, python_loop),
    "batch, grown": (batch_grown, python_loop),
    "compress, zstd 2": (compress, zstd_3),
    "compress in context, zstd 6": (compress_in_context, zstd_3),
    "compress base frames, gzip 6": (compress_base, zlib_6),
    "decode": (decode, check_lines),
    "decode in context": (decode_in_context, check_lines),
    "decode base frames": (decode_frames, check_lines),
}
"""What is guarded, and what its unit is."""
