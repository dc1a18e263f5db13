"""How many bytes an entry takes on the wire, by log, batch size and way of compressing; a Markdown table.

    .venv/bin/python benchmarks/wire_bytes.py [--sizes 10 50 500] FILE...

The files' lines become entries as `logbale ship` makes them when it follows the files, each with a time of its own;
each file is a stream of its own, and where there are several, one more holds all of them, which take turns. Whole
frames are counted, header and the session's prefix included.

gzip 6 is the standard library's, zstd 3 is zstd's own level 3: both compress each batch alone, as a base frame (a JSON
array). "session" is what logbale sends by default: lines, zstd at level 6, going on from batch to batch in a window of
2^17, but a batch of 128 KiB or more alone. In brackets: how many times smaller than gzip 6.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from levels import OVERHEAD, Encoder, Maker, standard, streams, zstd_alone

from logbale.compression import CompressionHandler
from logbale.context import ContextCompressor
from logbale.models import entry_lines
from logbale.protocol import HEADER_BYTES, Algorithm
from logbale.storing import LARGE_BYTES

LEVEL = 6
WINDOW_LOG = 17


def session() -> Encoder:
    """A stream's batches as a session with a spool sends them."""
    context = ContextCompressor(Algorithm.ZSTD, LEVEL, window_log=WINDOW_LOG)
    alone = CompressionHandler(Algorithm.ZSTD, LEVEL)

    def encode(array: bytes) -> bytes:
        raw = b"".join(entry_lines(array))
        return alone.compress_always(raw) if len(raw) >= LARGE_BYTES else context.compress(raw)

    return encode


WAYS: dict[str, tuple[Maker, int]] = {
    "gzip 6": (standard(6), HEADER_BYTES),
    "zstd 3": (zstd_alone(3), HEADER_BYTES),
    "session": (session, OVERHEAD),
}
"""The encoder, and what it adds to a batch."""


def per_entry(batches: list[bytes], entries: int) -> dict[str, float]:
    """Bytes of frames for an entry of one stream, each way."""
    found = {}
    for way, (make, overhead) in WAYS.items():
        encode = make()
        found[way] = sum(overhead + len(encode(raw)) for raw in batches) / entries
    return found


def table(by_size: dict[int, dict[str, list[bytes]]]) -> list[str]:
    """The lines of the table."""
    columns = [f"{way}, {size}" for size in by_size for way in WAYS]
    lines = [f"| log | entries | raw | {' | '.join(columns)} |", "| --- |" + " --: |" * (len(columns) + 2)]
    for name, batches in next(iter(by_size.values())).items():
        entries = sum(len(entry_lines(raw)) for raw in batches)
        cells = []
        for made in by_size.values():
            found = per_entry(made[name], entries)
            ratio = found["gzip 6"] / found["session"]
            cells += [f"{found['gzip 6']:.1f}", f"{found['zstd 3']:.1f}", f"{found['session']:.1f} ({ratio:.2f})"]
        lines.append(f"| {name} | {entries:,} | {sum(map(len, batches)) / entries:.0f} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--sizes", nargs="+", type=int, default=[10, 50, 500], help="entries a batch")
    options = parser.parse_args()
    print("\n".join(table({size: streams(options.files, size, once=False) for size in options.sizes})))


if __name__ == "__main__":
    main()
