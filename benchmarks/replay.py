"""Replays real logs at any length: their lines in turn, with fresh ids and times, so that no line comes twice.

    .venv/bin/python benchmarks/replay.py LOG... [--lines 1000000] [--seed 1] [--json] >mixed.log

The lines of all LOGs are interleaved as they would be on a machine that runs these systems side by side; each LOG
begins again when it is through. A clock time becomes the time of a clock that goes on. A number of five or more digits
and a hexadecimal id become others of their length, the same one for as long as a LOG is not through: ids recur as they
did. What is left, the text and its proportions, is the log's own: so it compresses as such logs do, and not as copies
of a few thousand lines would. With `--json` each line is the message of a JSON object, as a program logs them: with a
time of its own, a level, a logger and a number.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

_FRESH = re.compile(rb"\b\d\d:\d\d:\d\d(,\d\d\d)?\b|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b|\d{5,}")


class _Replayed:
    """One log, again and again."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        self._lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        if not self._lines:
            raise SystemExit(f"{path}: expected lines, it has none")
        self._chance = chance
        self._now = 0.0
        self._ids: dict[bytes, bytes] = {}

    def lines(self, clock: list[float]) -> Iterator[bytes]:
        """For ever, each with its newline; `clock` holds the seconds since midnight."""
        while True:
            self._ids.clear()
            for line in self._lines:
                self._now = clock[0]
                yield _FRESH.sub(self._fresh, line) + b"\n"

    def _fresh(self, found: re.Match[bytes]) -> bytes:
        old = found[0]
        if b":" in old:
            whole = int(self._now) % 86_400
            text = b"%02d:%02d:%02d" % (whole // 3600, whole // 60 % 60, whole % 60)
            return text + b",%03d" % (self._now * 1000 % 1000) if b"," in old else text
        if old not in self._ids:
            digits, form = (10, b"%0*d") if old.isdigit() else (16, b"%0*x")
            self._ids[old] = form % (len(old), self._chance.randrange(digits ** len(old)))
        return self._ids[old]


def replay(logs: list[Path], *, seed: int = 1) -> Iterator[bytes]:
    """Lines for ever, each with its newline: one of each log in turn, five hundred a second by their own clock."""
    chance = random.Random(seed)
    clock = [0.0]
    sources = [_Replayed(log, chance).lines(clock) for log in logs]
    while True:
        for source in sources:
            clock[0] += 0.002
            yield next(source)


def objects(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines as JSON lines, a millisecond apart."""
    for number, line in enumerate(lines):
        time = f"2026-11-26T{number // 3_600_000 % 24:02}:{number // 60_000 % 60:02}:{number / 1000 % 60:09.6f}Z"
        fields = {"timestamp": time, "level": "INFO", "logger": "app.replay", "number": number}
        yield json.dumps(fields | {"message": line.decode(errors="replace").rstrip()}).encode() + b"\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lines = islice(replay(options.logs, seed=options.seed), options.lines)
    sys.stdout.buffer.writelines(objects(lines) if options.json else lines)


if __name__ == "__main__":
    main()
