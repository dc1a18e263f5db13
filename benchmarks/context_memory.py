"""What one decompression context keeps in memory: the resident size of a process that holds many of them.

    .venv/bin/python benchmarks/context_memory.py [--contexts 10000] [--window-logs 14 17] [--noise] [--file FILE]

For each algorithm and window a new process makes that many contexts, as the receiver does, and has each decode batches
of 50 entries (of generated ones, or of FILE's lines) until twice its window has gone through, so that all of it is in
use. `--noise`: bodies of 256 KiB that do not compress take its place, the most that a peer can make a context hold. The
figure is the growth of the process's resident size for each context. gzip and zlib always have a window of
32 KiB; `standard` is zlib without zlib-ng. context.CONTEXT_BYTES holds the results, rounded up.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from pathlib import Path

DEFLATE_WINDOW_LOG = 15
NOISE_BYTES = 256 * 1024


def resident_bytes() -> int:
    """Of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def hold(algorithm_name: str, window_log: int, contexts: int, file: Path | None, noise: bool) -> float:
    """Bytes for each context, in this process."""
    from logbale.bench_corpus import from_files, generated
    from logbale.config import Settings
    from logbale.context import ContextCompressor, ContextDecompressor
    from logbale.protocol import Algorithm

    algorithm = Algorithm.named(algorithm_name)
    if noise:
        batches = [random.Random(1).randbytes(NOISE_BYTES)]
    else:
        batches = (from_files([file], Settings()) if file else generated(Settings(), entries=5000)).batches
    sender = ContextCompressor(algorithm, 6, window_log=window_log)
    bodies: list[tuple[bytes, int]] = []
    while sum(raw_bytes for _, raw_bytes in bodies) <= 2 << window_log:
        raw = batches[len(bodies) % len(batches)]
        bodies.append((sender.compress(raw), len(raw)))
    held = [ContextDecompressor(algorithm, window_log=window_log)]
    _decode(held[0], bodies)
    before = resident_bytes()
    for _ in range(contexts):
        held.append(ContextDecompressor(algorithm, window_log=window_log))
        _decode(held[-1], bodies)
    return (resident_bytes() - before) / contexts


def _decode(context: object, bodies: list[tuple[bytes, int]]) -> None:
    for body, raw_bytes in bodies:
        context.decompress(body, raw_bytes)  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--contexts", type=int, default=10_000)
    parser.add_argument("--window-logs", type=int, nargs="+", default=[14, 17])
    parser.add_argument("--file", type=Path)
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--hold", nargs=2, metavar=("ALGORITHM", "WINDOW_LOG"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hold:
        print(f"{hold(given.hold[0], int(given.hold[1]), given.contexts, given.file, given.noise):.0f}")
        return
    again = [sys.executable, __file__, "--contexts", str(given.contexts)]
    again += ["--file", str(given.file)] if given.file else []
    again += ["--noise"] if given.noise else []
    cases = [("gzip", DEFLATE_WINDOW_LOG, False), ("gzip", DEFLATE_WINDOW_LOG, True)]
    cases += [("zstd", window_log, False) for window_log in given.window_logs]
    print("| algorithm | window_log | bytes a context |\n| --- | --- | --- |")
    for name, window_log, standard in cases:
        command = [*again, "--hold", name, str(window_log)]
        if standard:
            start = f"import sys, runpy; sys.modules['zlib_ng'] = None; sys.argv = {command[1:]!r}; "
            command = [sys.executable, "-c", start + "runpy.run_path(sys.argv[0], run_name='__main__')"]
        made = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        print(f"| {name}{', standard' if standard else ''} | {window_log} | {int(made.stdout):,} |", flush=True)


if __name__ == "__main__":
    main()
