"""Guards the hot path in CI, where seconds say nothing: it counts what an entry takes, and fails where that has grown.

    make guard                   compares with guard_baseline.json; exit code 1 where something grew
    make guard-update            makes the figures of this tree the baseline of this Python

Two figures, neither of which a busy machine can change. *Bytecodes*: how many instructions of Python an entry takes,
counted by tracing, entries in a batch of 400 less those of 200. They are exact: one statement more in a loop over
entries fails. *Instructions* of the processor, counted by valgrind, see what happens in C, too: a second pass over the
bytes, a regular expression for a split. They depend on the compiler, so they are given in those of fixed work of a
similar kind (guard_work.py), and may differ by TOLERANCE, less where Python, libraries and processor are the
baseline's.

The baseline has a row for each minor version of Python and kind of processor. Without one, or without valgrind, that
part is skipped, which is said.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import machine
from guard_work import WORK, Maker

BASELINE = Path(__file__).with_name("guard_baseline.json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor} on {platform.machine()}"
LIBRARIES = ("msgspec", "isal", "zlib-ng", "backports.zstd")
BYTECODES = 0.9
"""What may come on top, of an entry: less than any statement takes, enough for a few more for each batch of 50."""
SAME_TOLERANCE = 0.05
"""The same tree differs by 0.5 %, one with other code elsewhere by 3 %: where in memory objects come to lie."""
TOLERANCE = 0.1
"""Two builds of CPython 3.11 differ by up to 8 %."""
LEAST_UNITS = 0.01
"""Some fifty instructions: what takes hardly any for an entry may take a few more."""
TRACED_ENTRIES = 200
COUNTED_ENTRIES = 2000
BOUNDARY = "getppid"
"""A function of the C library that nothing else here calls: callgrind writes down its count at each call."""


def bytecodes(make: Maker) -> float:
    """Of Python, for an entry."""
    _traced(make, TRACED_ENTRIES)  # the first time 3.12 counts nothing
    few, many = (_traced(make, count) for count in (TRACED_ENTRIES, 2 * TRACED_ENTRIES))
    return round((many - few) / TRACED_ENTRIES, 3)


def _traced(make: Maker, entries: int) -> int:
    """Bytecodes of one run."""
    count = 0

    def trace(frame, event, argument):  # type: ignore[no-untyped-def]
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    gc.disable()  # what is collected may have Python to run
    sys.settrace(trace)
    try:
        make(entries)()  # 3.13 makes code traceable while it first runs so, and counts a part of it
        run = make(entries)
        count = 0
        run()
    finally:
        sys.settrace(None)
        gc.enable()
    return count


def run_all() -> None:
    """What runs inside valgrind: each work and then its unit, once to warm up and once between two boundaries."""
    gc.disable()
    for pair in WORK.values():
        for make in pair:
            make(COUNTED_ENTRIES)()
            run = make(COUNTED_ENTRIES)
            gc.collect()
            getattr(os, BOUNDARY)()
            run()
            getattr(os, BOUNDARY)()


def instructions() -> list[float] | str:
    """Of the processor, for an entry: each work and its unit, in turn; or why they cannot be counted."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    with tempfile.TemporaryDirectory() as directory:
        out = f"--callgrind-out-file={directory}/out"
        command = ["valgrind", "--tool=callgrind", f"--dump-before={BOUNDARY}", out]
        command += [sys.executable, __file__, "--run"]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False
        )
        if done.returncode:  # without valgrind the same work has just been done
            return f"valgrind failed with {done.returncode}: {done.stderr.splitlines()[-1:]}"
        parts = sorted(Path(directory).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        totals = [int(re.search(r"^totals: (\d+)", part.read_text(), re.MULTILINE)[1]) for part in parts]  # type: ignore[index]
    if len(totals) != 4 * len(WORK):
        return f"valgrind saw {len(totals)} calls of {BOUNDARY}(): expected {4 * len(WORK)}"
    return [total / COUNTED_ENTRIES for total in totals[1::2]]


def measure() -> tuple[dict[str, dict[str, float]], str]:
    """The figures of this tree by work, and why instructions are not among them."""
    found = {name: {"bytecodes": bytecodes(make)} for name, (make, _) in WORK.items()}
    counted = instructions()
    if isinstance(counted, str):
        return found, counted
    for row, own, unit in zip(found.values(), counted[::2], counted[1::2], strict=True):
        row |= {"instructions": round(own), "units": round(own / unit, 4)}
    return found, ""


def made_with() -> list[str]:
    """What instructions depend on beside the code."""
    libraries = []
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            libraries.append(f"{name} {version(name)}")
    return [sys.version, str(machine.describe()["cpu"]), " ".join(platform.libc_ver()), *libraries]


def compare(
    found: dict[str, dict[str, float]], baseline: dict[str, dict[str, float]], tolerance: float
) -> tuple[list[str], list[str]]:
    """What grew, and what shrank so far that the baseline should follow."""
    grown, shrunk = [], []
    for name, row in found.items():
        before = baseline.get(name, {})
        for key in ("bytecodes", "units"):
            if key not in row:
                continue
            if key not in before:
                grown.append(f"{name}: {key} are not in the baseline")
                continue
            allowed = BYTECODES if key == "bytecodes" else max(before[key] * tolerance, LEAST_UNITS)
            change = f"{name}: {before[key]:g} → {row[key]:g} {key} an entry"
            if row[key] > before[key] + allowed:
                grown.append(change)
            elif row[key] < before[key] - allowed:
                shrunk.append(change)
    return grown, shrunk


def print_table(found: dict[str, dict[str, float]], baseline: dict[str, dict[str, float]]) -> None:
    """The figures of this tree, and in brackets the baseline's."""
    print(f"{'an entry takes':<30}{'bytecodes':>20}{'instructions':>14}{'units':>18}")
    for name, row in found.items():
        before = baseline.get(name, {})
        cells = [
            f"{row[key]:,.{digits}f} ({before[key]:,.{digits}f})" if key in before else f"{row[key]:,.{digits}f}"
            for key, digits in (("bytecodes", 1), ("units", 3))
            if key in row
        ]
        print(f"{name:<30}{cells[0]:>20}" + (f"{row['instructions']:>14,}{cells[1]:>18}" if cells[1:] else ""))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="make these figures the baseline of this Python")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        run_all()
        return 0
    rows = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    baseline = rows.get(PYTHON, {"made_with": [], "work": {}})
    found, skipped = measure()
    print_table(found, baseline["work"])
    if skipped:
        print(f"instructions: skipped, {skipped}")
    if options.update:
        if skipped:
            raise SystemExit("a baseline needs both figures")
        BASELINE.write_text(json.dumps(rows | {PYTHON: {"made_with": made_with(), "work": found}}, indent=2) + "\n")
        return 0
    if PYTHON not in rows:
        print(f"nothing is compared: the baseline has no row for Python {PYTHON} (make guard-update adds it)")
        return 0
    tolerance = SAME_TOLERANCE if baseline["made_with"] == made_with() else TOLERANCE
    print(f"tolerance of the units: {tolerance:.0%}")
    grown, shrunk = compare(found, baseline["work"], tolerance)
    for change in shrunk:
        print(f"less than the baseline, make guard-update keeps it: {change}")
    for change in grown:
        print(f"MORE than the baseline: {change}")
    if grown:
        print("Take it out of the path of every entry or, if it is worth that, make guard-update and say why.")
    return bool(grown)


if __name__ == "__main__":
    sys.exit(main())
