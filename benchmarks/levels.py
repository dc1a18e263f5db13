"""What each algorithm makes of log files at each level: alone and in a context, in batches of 50 and of 500.

    .venv/bin/python benchmarks/levels.py [--rounds 3] [--window-log 17] [--once] [--native] FILE...

The files' lines become entries as `logbale ship` makes them when it follows the files, each with a time of its own
(`--once`: as it ships them with --once, where lines that are read together have one time). Each file is a stream of its
own, and where there are several, one more holds all of them, which take turns.

First table: the ratio, as the geometric mean over the streams, of raw bytes to whole frames (header, the session's
prefix, body), and raw MB a CPU second of one core; medians of the rounds, in which all take turns. A level must not be
larger than the one below it. Second table, per stream: how many times smaller than the standard library's gzip 6, each
batch on its own, the levels of zstd and gzip are in a context; batches of 50. The last column is the
same for the stream's second half, without the context's start. `--native` adds zstd's own levels to both, and the
standard library's to the first.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, median
from time import thread_time, time

import msgspec

from logbale import deflate
from logbale.bench_corpus import from_files, press
from logbale.compression import CompressionHandler, library, zstd
from logbale.config import Settings
from logbale.context import ContextCompressor
from logbale.lines import LineParser
from logbale.models import Chunk
from logbale.protocol import HEADER_BYTES, Algorithm
from logbale.sources.tail.file import READ_BYTES

PREFIX_BYTES = 16
"""Of a session's batch: sequence, raw length, CRC-32."""
OVERHEAD = HEADER_BYTES + PREFIX_BYTES
NATIVE = (-5, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 19)

Encoder = Callable[[bytes], bytes]
"""One batch to its body."""
Maker = Callable[[], Encoder]
"""Makes an encoder for one stream."""


def streams(paths: list[Path], size: int, *, once: bool) -> dict[str, list[bytes]]:
    """Raw batches by the stream's name."""
    settings = msgspec.structs.replace(Settings(), batch_size=size)
    if once:
        return {path.stem: press(path.stem, _read_at_once(path), settings).batches for path in paths}
    made = {path.stem: from_files([path], settings).batches for path in paths}
    if len(paths) > 1:
        made["all of them"] = from_files(paths, settings).batches
    return made


def _read_at_once(path: Path) -> Iterator[Chunk]:
    parser = LineParser(path.stem, {"file": str(path), "host": "host-1"})
    data, start = path.read_bytes(), 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + READ_BYTES) + 1 or len(data)
        yield parser.parse(data[start:end], now=time(), start=start, source="")
        start = end


def alone(algorithm: Algorithm, level: int) -> Maker:
    """As the handler does it."""
    handler = CompressionHandler(algorithm, level)
    return lambda: lambda raw: handler.compress(raw).payload


def in_context(algorithm: Algorithm, level: int, window_log: int) -> Maker:
    """As a session does it."""
    return lambda: ContextCompressor(algorithm, level, window_log=window_log).compress


def zstd_alone(level: int) -> Maker:
    """zstd's own level."""
    options = {zstd.CompressionParameter.compression_level: level, zstd.CompressionParameter.checksum_flag: 1}
    one = zstd.ZstdCompressor(options=options)
    return lambda: lambda raw: one.compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)


def zstd_in_context(level: int, window_log: int) -> Maker:
    """zstd's own level."""
    options = {zstd.CompressionParameter.compression_level: level, zstd.CompressionParameter.window_log: window_log}

    def make() -> Encoder:
        one = zstd.ZstdCompressor(options=options)
        return lambda raw: one.compress(raw, zstd.ZstdCompressor.FLUSH_BLOCK)

    return make


def wire(maker: Maker, batches: list[bytes]) -> int:
    """Bytes of all frames of a stream."""
    encode = maker()
    return sum(OVERHEAD + len(encode(raw)) for raw in batches)


def standard(level: int) -> Maker:
    """What everything is compared with: the standard library's gzip."""
    return lambda: lambda raw: zlib.compress(raw, level, deflate.GZIP_WBITS)


def standard_in_context(level: int) -> Maker:
    """The same, going on from batch to batch."""

    def make() -> Encoder:
        one = zlib.compressobj(level, zlib.DEFLATED, deflate.GZIP_WBITS)
        return lambda raw: one.compress(raw) + one.flush(zlib.Z_SYNC_FLUSH)

    return make


def print_levels(by_size: dict[int, dict[str, list[bytes]]], rounds: int, window_log: int, native: bool) -> None:
    """The first table."""
    rows: dict[str, tuple[Maker, Maker]] = {}
    for algorithm in (Algorithm.GZIP, Algorithm.ZSTD):
        for level in range(1, 10):
            name = f"{algorithm.label} {level} ({library(algorithm, level)})"
            rows[name] = alone(algorithm, level), in_context(algorithm, level, window_log)
    if native:
        rows |= {f"standard gzip {level}": (standard(level), standard_in_context(level)) for level in range(1, 10)}
        rows |= {f"zstd's own {level}": (zstd_alone(level), zstd_in_context(level, window_log)) for level in NATIVE}
    columns = [(size, place) for size in by_size for place in (0, 1)]
    sizes: dict[tuple[str, int, int], list[int]] = {}
    times: dict[tuple[str, int, int], list[float]] = {}
    for _ in range(rounds):
        for name, makers in rows.items():
            for size, place in columns:
                start = thread_time()
                sizes[name, size, place] = [wire(makers[place], batches) for batches in by_size[size].values()]
                times.setdefault((name, size, place), []).append(thread_time() - start)
    print("| level | " + " | ".join(f"{('alone', 'in context')[place]}, {size}" for size, place in columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for name in rows:
        cells = []
        for size, place in columns:
            raw = [sum(map(len, batches)) for batches in by_size[size].values()]
            ratio = math.exp(fmean(math.log(a / b) for a, b in zip(raw, sizes[name, size, place], strict=True)))
            cells.append(f"{ratio:.2f} @ {sum(raw) / 1e6 / median(times[name, size, place]):,.0f}")
        print(f"| {name} | {' | '.join(cells)} |")


def print_halves(batches_of: dict[str, list[bytes]], window_log: int, native: bool) -> None:
    """The second table."""
    makers = {f"zstd {level}": in_context(Algorithm.ZSTD, level, window_log) for level in (1, 2, 3, 6, 8, 9)}
    makers["gzip 6"] = in_context(Algorithm.GZIP, 6, window_log)
    if native:
        makers |= {f"own {level}": zstd_in_context(level, window_log) for level in (6, 9, 12, 15, 19)}
    print("| stream | raw kB | gzip 6 per batch, kB | " + " | ".join(makers) + " | zstd 6, 2nd half |")
    print("| --- |" + " --- |" * (len(makers) + 3))
    for name, batches in batches_of.items():
        base = wire(standard(6), batches)
        cells = [f"{base / wire(maker, batches):.2f}" for maker in makers.values()]
        half = len(batches) // 2
        warm = wire(standard(6), batches[half:]) / (
            wire(makers["zstd 6"], batches) - wire(makers["zstd 6"], batches[:half])
        )
        print(f"| {name} | {sum(map(len, batches)) / 1e3:,.0f} | {base / 1e3:.1f} | {' | '.join(cells)} | {warm:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window-log", type=int, default=17, help="of zstd's contexts")
    parser.add_argument("--once", action="store_true", help="entries as logbale ship --once makes them")
    parser.add_argument("--native", action="store_true", help="zstd's own levels too")
    given = parser.parse_args()
    by_size = {size: streams(given.files, size, once=given.once) for size in (50, 500, 2000)}
    print_levels(by_size, given.rounds, given.window_log, given.native)
    print()
    print_halves(by_size[50], given.window_log, given.native)


if __name__ == "__main__":
    main()
