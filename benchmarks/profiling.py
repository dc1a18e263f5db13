"""Where the time of each end goes while the pipeline runs: flame graphs, and the functions that take most themselves.

    make profile [ARGS="..."]
    .venv/bin/python benchmarks/profiling.py [FILE] [--replay LOG...] [--lines 1000000] [--level 2] [--native]

Lines as pipeline.py makes them go from a file to the archive, both ends under py-spy: once for the flame graphs
(shipper.svg, receiver.svg in --out), and some rounds for the list. It has what a function's own lines took, what they
call in C included, and below it those lines. All threads that do something are sampled, so a second may have two; one
that waits for the disk does something. py-spy does not stop the process, so a few samples are of moments that never
were; with --native, which names functions of C and is to be had on few platforms, it does, and waiting threads look
busy.
"""

from __future__ import annotations

import argparse
import linecache
import re
import subprocess
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path

import machine
import psutil
from pipeline import environment, make_lines
from receiving import LOGBALE, receiving

PY_SPY = Path(sysconfig.get_path("scripts"), "py-spy")
FUNCTIONS, LINES = 8, 3
"""In the printed list: functions, and lines of each."""
LEAST_SHARE = 0.005
"""A line with less is not printed."""
SOURCE = Path(__file__).parent.parent / "src"


class Ends:
    """What one run writes: the files of both ends, made by py-spy in one format."""

    def __init__(self, directory: Path, kind: str, suffix: str, options: argparse.Namespace) -> None:
        self._watch = [str(PY_SPY), "record", "--rate", str(options.rate), "--format", kind]
        self._watch.append("--native" if options.native else "--nonblocking")
        self.shipper, self.receiver = directory / f"shipper.{suffix}", directory / f"receiver.{suffix}"

    def watched(self, out: Path, *command: str) -> list[str]:
        return [*self._watch, "--output", str(out), "--", *LOGBALE, *command]


def run(lines: Path, level: int, ends: Ends) -> None:
    """All lines from the file to the archive."""
    with tempfile.TemporaryDirectory(prefix="logbale-profile-") as temporary:
        directory = Path(temporary)
        environ = environment(directory)
        with receiving(directory, command=ends.watched(ends.receiver), environ=environ) as (receiver, address):
            command = ends.watched(ends.shipper, "ship", "--once", "--level", str(level), "--to", address, str(lines))
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
            if done.returncode or not ends.shipper.exists():
                raise SystemExit(f"the shipper failed with {done.returncode}:\n{done.stdout}{done.stderr}")
            # py-spy writes when what it watches ends, and nothing when it is ended itself.
            for child in psutil.Process(receiver.pid).children():
                child.terminate()
            receiver.wait(60)


def own_samples(stacks: str) -> Counter[str]:
    """Samples by the last frame of each stack: `NAME (FILE:LINE)`."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, samples = line.rpartition(" ")
        found[stack.rpartition(";")[2] or "(outside of Python)"] += int(samples)
    return found


def listed(found: Counter[str]) -> list[str]:
    """The functions with the most samples of their own, each with its lines."""
    functions: dict[str, Counter[str]] = {}
    for place, samples in found.items():
        function, line = re.fullmatch(r"(.*?)(?::(\d+)\))?", place).groups()  # type: ignore[union-attr]
        functions.setdefault(function + ")" * (line is not None), Counter())[line] += samples
    lines = []
    for function, places in sorted(functions.items(), key=lambda item: -item[1].total())[:FUNCTIONS]:
        lines.append(f"{places.total() / found.total():>6.1%}  {function}")
        path = SOURCE / function.rpartition("(")[2].removesuffix(")")
        for number, samples in places.most_common(LINES):
            share = samples / found.total()
            if number and share >= LEAST_SHARE and (text := linecache.getline(str(path), int(number)).strip()):
                lines.append(f"        {share:>6.1%}  {number}: {text}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--replay", nargs="+", type=Path, metavar="LOG")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--level", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="for the list")
    parser.add_argument("--rate", type=int, default=500, help="samples a second")
    parser.add_argument("--native", action="store_true", help="name functions of C")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    options = parser.parse_args()
    options.each = False
    options.out.mkdir(parents=True, exist_ok=True)
    made_on = machine.describe()
    found: dict[str, Counter[str]] = {"shipper": Counter(), "receiver": Counter()}
    with tempfile.TemporaryDirectory(prefix="logbale-profile-") as temporary:
        directory = Path(temporary)
        (lines,) = make_lines(options, directory).values()
        run(lines, options.level, Ends(options.out, "flamegraph", "svg", options))
        for _ in range(options.rounds):
            ends = Ends(directory, "raw", "txt", options)
            run(lines, options.level, ends)
            found["shipper"] += own_samples(ends.shipper.read_text())
            found["receiver"] += own_samples(ends.receiver.read_text())
    print(f"level {options.level}, {options.rounds} rounds; {machine.sentence(made_on)}")
    for end, places in found.items():
        print(f"\n{end}: {places.total():,} samples, {options.rate} a second; flame graph: {options.out / end}.svg")
        print("\n".join(listed(places)))


if __name__ == "__main__":
    main()
