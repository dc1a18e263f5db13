"""How long after write() a line appended to an idle, followed file is durable in the archive; real processes.

    .venv/bin/python benchmarks/append_latency.py [--appends 500] [--dir DIR] [--ship "FLAGS"]... [--json OUT]

From just before write() of the line to the return of the fdatasync of the archive segment that holds its block. The
receiver runs as ever but for a wrapper of os.fdatasync, which notes the end of each call (CLOCK_MONOTONIC, one clock
for all processes) and the length of the file; the first that ends after the write with more bytes than before it is
the line's. Appends do not overlap. The bare figure is fdatasync alone after an append of 300 bytes to a file in the
same directory, done between the lines, so both meet the same disk. With the spool, a line takes two such syncs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from receiving import LOGBALE, receiving

LINGER = 0.005
SETTINGS = ["", "--spool-dir off", "--poll"]

RECEIVER = """
import os, struct, sys, time
notes = open(sys.argv.pop(1), "ab", buffering=0)
fdatasync = os.fdatasync
def noted(fd):
    fdatasync(fd)
    notes.write(struct.pack("<dq", time.monotonic(), os.fstat(fd).st_size))
os.fdatasync = noted
from logbale.cli import main
sys.exit(main())
"""


def synced(notes: Path, offset: int) -> list[tuple[float, int]]:
    """The syncs noted from this byte of the notes on: when each ended, and the length of its file."""
    from struct import iter_unpack

    with notes.open("rb") as file:
        file.seek(offset)
        data = file.read()
    return list(iter_unpack("<dq", data[: len(data) // 16 * 16]))


def bare(fd: int, line: bytes) -> float:
    """Seconds of one fdatasync after an append."""
    os.write(fd, line)
    began = time.monotonic()
    os.fdatasync(fd)
    return time.monotonic() - began


def run(flags: str, directory: Path, appends: int, pause: float) -> dict[str, list[float]]:
    """The latencies of lines and of bare syncs, in seconds."""
    chance = random.Random(1)
    log, notes = directory / "app.log", directory / "notes"
    log.touch()
    notes.touch()
    environ = {**os.environ, "SPOOL_DIR": str(directory / "spools"), "BATCH_LINGER": str(LINGER)}
    with receiving(directory, command=[sys.executable, "-c", RECEIVER, str(notes)], environ=environ) as (_, address):
        command = [*LOGBALE, "ship", "--to", address, *flags.split(), str(log)]
        with (directory / "shipper.log").open("wb") as messages:
            shipper = subprocess.Popen(command, stderr=messages, env=environ)
        try:
            time.sleep(2)
            return measure(log, notes, directory / "bare", chance, appends, pause)
        finally:
            shipper.terminate()
            shipper.wait(30)


def measure(
    log: Path, notes: Path, other: Path, chance: random.Random, appends: int, pause: float
) -> dict[str, list[float]]:
    """Appends one line after the other; the first ten warm up."""
    latencies: list[float] = []
    bares: list[float] = []
    with log.open("ab", buffering=0) as file, other.open("ab", buffering=0) as plain:
        for number in range(appends + 10):
            time.sleep(pause * chance.uniform(0.5, 1.5))
            bares.append(bare(plain.fileno(), b"x" * 300))
            time.sleep(pause / 2)
            begun = notes.stat().st_size
            size = max((length for _, length in synced(notes, 0)[-1:]), default=0)
            line = f"{number} INFO request {chance.randbytes(8).hex()} took {chance.random() * 100:.3f} ms\n".encode()
            written = time.monotonic()
            file.write(line)
            while not (done := [at for at, length in synced(notes, begun) if at > written and length > size]):
                if time.monotonic() - written > 10:
                    raise SystemExit(f"line {number} is not durable after 10 s")
                time.sleep(0.001)
            latencies.append(done[0] - written)
    return {"durable": latencies[10:], "bare": bares[10:]}


def quantile(seconds: list[float], share: float) -> float:
    """In milliseconds."""
    return statistics.quantiles(seconds, n=1000, method="inclusive")[round(share * 1000) - 1] * 1000


def main() -> int:
    """Measures each setting; 1 where the first misses 20 ms + twice the bare sync at p99."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--appends", type=int, default=500)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two lines")
    parser.add_argument("--dir", type=Path, help="where to work: the disk to measure")
    parser.add_argument("--ship", action="append", help="flags of `logbale ship` to measure; repeatable")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    print(f"BATCH_LINGER={LINGER}, {arguments.appends} lines each, milliseconds")
    print(f"{'ship':28}{'p50':>8}{'p99':>8}{'bare p50':>10}{'bare p99':>10}{'20 + 2 x bare p99':>20}")
    for flags in arguments.ship or SETTINGS:
        with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
            found = run(flags, Path(directory), arguments.appends, arguments.pause)
        row = [quantile(found[name], share) for name in ("durable", "bare") for share in (0.5, 0.99)]
        results[flags] = dict(zip(("p50", "p99", "bare_p50", "bare_p99"), row, strict=True))
        print(
            f"{flags or '(as it is)':28}{row[0]:8.1f}{row[1]:8.1f}{row[2]:10.2f}{row[3]:10.2f}{20 + 2 * row[3]:20.1f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    first = next(iter(results.values()))
    return int(first["p99"] > 20 + 2 * first["bare_p99"])


if __name__ == "__main__":
    sys.exit(main())
