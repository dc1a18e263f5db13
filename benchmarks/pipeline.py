"""What a line costs from a file to the archive: entries/s, CPU and memory of both ends, wire bytes; real processes.

    make bench-pipeline [ARGS="..."]
    .venv/bin/python benchmarks/pipeline.py [FILE] [--lines 1000000] [--rounds 3] [--case NAME]... [--ship="FLAGS"]...
    .venv/bin/python benchmarks/pipeline.py --replay LOG... [--each] [--json OUT] [--chart OUT.svg]

Without a FILE the lines are generated, with --replay they are those of real logs, interleaved, with fresh ids and times
(replay.py); --each measures each LOG alone as well, as many lines, and says how far it is from all of them together.
The settings are the CASES, those of them named by --case, or what --ship says in flags of `logbale ship`, and --tls for
TLS with certificates at both ends; settings that stand in the environment are left out of it. The rounds of all
settings take turns, and medians are printed.

Every round has an archive of its own, and its entries are counted. The time is that from the start of the shipper's
process to its end, when all is durable; the first row is what that takes for one line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from itertools import islice
from pathlib import Path

import machine
from receiving import LOGBALE, certificates, receiving

CASES = {
    "level 1": "--level 1",
    "level 2": "--level 2",
    "level 6": "--level 6",
    "level 2, TLS": "--level 2 --tls",
    "adaptive": "--adaptive",
    "adaptive, no spool": "--adaptive --spool-dir off",
    "gzip 6, base frames of 50": "--session-mode off --spool-dir off --algorithm gzip --level 6 --batch-size 50",
}
TLS = "--tls"
"""Among the flags: both ends have certificates."""
ONE_LINE = "one line"
ALL = "all logs"

Row = dict[str, float]
"""Of one run, or the medians of several."""


def generated(path: Path, count: int) -> None:
    """Lines as a service writes them, from logbale's own generator."""
    from logbale.sources.generator import LogGenerator

    with path.open("w") as file:
        for entry in LogGenerator(count, 0, seed=1).take(count):
            message = entry.message.replace("\n", " | ")
            file.write(f"{entry.timestamp} {entry.level} {entry.service} {message}\n")


def replayed(path: Path, count: int, logs: list[Path]) -> None:
    """Lines of real logs."""
    from replay import replay

    with path.open("wb") as file:
        file.writelines(islice(replay(logs), count))


def environment(directory: Path) -> dict[str, str]:
    """That of both ends: without this one's settings, spools in `directory`."""
    from logbale.config import SETTINGS

    settings = {setting.variable for setting in SETTINGS.values()} | {"LOGBALE_CONFIG"}
    # Without the bytecode every start would compile all of it anew.
    kept = {name: value for name, value in os.environ.items() if name not in settings | {"PYTHONDONTWRITEBYTECODE"}}
    return kept | {"SPOOL_DIR": str(directory / "spools")}


def usage(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """CPU seconds and peak MiB of a process that ends now."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def wire_bytes(table: str) -> int:
    """To the byte, from the receiver's table, which costs the run nothing: the rounded figure, then the exact one."""
    found = re.search(r"^ +wire  .*?([\d,]+) B$", table, re.MULTILINE)
    if found is None:
        raise SystemExit(f"expected a row like `wire  23.1 MB = 23,104,512 B` in the receiver's table:\n{table}")
    return int(found[1].replace(",", ""))


def run(lines: Path, count: int, flags: str, directory: Path) -> Row:
    """One round: a receiver, a shipper, and what both took."""
    directory.mkdir()
    environ = environment(directory)
    said = directory / "shipper"
    words = flags.split()
    theirs, ours = certificates(directory / "certs") if TLS in words else ([], [])
    with receiving(directory, environ=environ, flags=theirs) as (receiver, address):
        words = [*(word for word in words if word != TLS), *ours]
        command = [*LOGBALE, "ship", "--once", "--to", address, *words, str(lines)]
        start = time.monotonic()
        with said.open("wb") as messages:
            shipper = subprocess.Popen(command, stderr=messages, env=environ)
        ship_cpu, ship_memory = usage(shipper)
        elapsed = time.monotonic() - start
        receiver.terminate()
        receive_cpu, receive_memory = usage(receiver)
    if shipper.returncode:
        raise SystemExit(f"the shipper failed with {shipper.returncode}:\n{said.read_text()}")
    table = (directory / "messages").read_text()
    stored = int(re.search(r"entries stored\D+([\d,]+)", table)[1].replace(",", ""))  # type: ignore[index]
    with subprocess.Popen([*LOGBALE, "cat", str(directory / "archive")], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        archived = sum(1 for _ in cat.stdout)
    if not archived == stored >= count:  # more where an overlong line was cut
        raise SystemExit(f"{flags}: {count} lines, {stored} entries stored as the receiver says, {archived} archived")
    return {
        "entries": stored,
        "seconds": elapsed,
        "entries_per_second": stored / elapsed,
        "wire_bytes": wire_bytes(table),
        "ship_cpu": ship_cpu,
        "ship_memory": ship_memory,
        "receive_cpu": receive_cpu,
        "receive_memory": receive_memory,
    }


def make_lines(options: argparse.Namespace, directory: Path) -> dict[str, Path]:
    """The files to ship, by name."""
    if options.file:
        return {ALL: options.file}
    wanted = {ALL: options.replay or []}
    if options.each:
        wanted |= {log.stem: [log] for log in options.replay}
    files = {name: directory / f"{number}.log" for number, name in enumerate(wanted)}
    for name, logs in wanted.items():
        make, more = (replayed, (logs,)) if logs else (generated, ())
        # In a process of its own: a child's peak memory begins with its parent's.
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(files[name], options.lines, *more))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit(maker.exitcode)  # it has said why
    return files


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(not line.isspace() for line in file)


def measure(options: argparse.Namespace, cases: dict[str, str], directory: Path) -> list[dict[str, object]]:
    """The medians of each file with each setting, the first row what a start takes; and each round's rate."""
    files = make_lines(options, directory)
    one = directory / "one.log"
    one.write_text("one line\n")
    todo = [("", ONE_LINE, "", one), *((name, case, cases[case], files[name]) for name in files for case in cases)]
    counts = {path: count_lines(path) for path in (one, *files.values())}
    rounds: list[list[Row]] = [[] for _ in todo]
    run(one, 1, "", directory / "warm")
    for number in range(options.rounds):
        for index, (_, _, flags, path) in enumerate(todo):
            place = directory / f"{number}-{index}"
            rounds[index].append(run(path, counts[path], flags, place))
            shutil.rmtree(place)
    results: list[dict[str, object]] = []
    for (name, case, flags, path), taken in zip(todo, rounds, strict=True):
        medians = {key: statistics.median(row[key] for row in taken) for key in taken[0]}
        rates = [round(row["entries_per_second"]) for row in taken]
        source = {"lines": name, "case": case, "flags": flags, "source_bytes": path.stat().st_size}
        results.append(source | medians | {"rounds": rates})
    return results


def print_results(results: list[dict[str, object]], each: bool) -> None:
    """A row for each setting; with `each`, how far each log alone is from all of them."""
    names = [f"{row['lines']}, {row['case']}" if each and row["lines"] else row["case"] for row in results]
    wide = max(map(len, names))
    print(f"{'':<{wide}}  seconds entries/s  MB/s  wire MB   B each  CPU s ship+receive  s/GB  peak MiB ship/receive")
    for name, row in zip(names, results, strict=True):
        cpu = (row["ship_cpu"] + row["receive_cpu"]) / row["source_bytes"] * 1e9
        print(
            f"{name:<{wide}}  {row['seconds']:>7.2f} {row['entries_per_second']:>9,.0f}"
            f" {row['source_bytes'] / 1e6 / row['seconds']:>5.0f} {row['wire_bytes'] / 1e6:>8.2f}"
            f" {row['wire_bytes'] / row['entries']:>8.1f}  {row['ship_cpu']:>8.2f} + {row['receive_cpu']:<7.2f}"
            f" {format(cpu, '.1f') if row['lines'] else '':>5}"
            f"  {row['ship_memory']:>8.0f} / {row['receive_memory']:.0f}"
        )
    if not each:
        return
    together = {row["case"]: row for row in results if row["lines"] == ALL}
    print(f"\n{'against all logs together':<{wide}}  entries/s    MB/s    s/GB")
    for name, row in zip(names, results, strict=True):
        if row["lines"] not in ("", ALL):
            rate, speed, cpu = compared(row, together[row["case"]])
            print(f"{name:<{wide}}  {rate:>+9.0%} {speed:>+7.0%} {cpu:>+7.0%}")


def compared(row: dict[str, object], other: dict[str, object]) -> tuple[float, float, float]:
    """How much more entries/s, bytes of lines a second, and CPU for a byte of lines than another row."""
    rate = row["entries_per_second"] / other["entries_per_second"]
    size = row["source_bytes"] / other["source_bytes"]
    cpu = (row["ship_cpu"] + row["receive_cpu"]) / (other["ship_cpu"] + other["receive_cpu"])
    return rate - 1, size * other["seconds"] / row["seconds"] - 1, cpu / size - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--replay", nargs="+", type=Path, metavar="LOG")
    parser.add_argument("--each", action="store_true", help="each LOG of --replay alone, too")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--ship", action="append", metavar="FLAGS")
    parser.add_argument("--dir", type=Path, help="where to work: the disk to measure")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path, help="an SVG or PNG file")
    options = parser.parse_args()
    if options.each and not options.replay:
        parser.error("--each: expected --replay LOG...")
    cases = {case: CASES[case] for case in options.case or ([] if options.ship else CASES)}
    cases |= {flags: flags for flags in options.ship or []}
    made_on = machine.describe()
    with tempfile.TemporaryDirectory(prefix="logbale-", dir=options.dir) as directory:
        results = measure(options, cases, Path(directory))
    described = f"{results[1]['entries']:,.0f} entries, {results[1]['source_bytes'] / 1e6:.1f} MB of lines"
    where = f"{len(options.replay)} logs, interleaved" if options.replay else options.file or "generated"
    print(f"{described} ({where}); medians of {options.rounds} rounds in turn; GB and MB/s are of lines")
    print(machine.sentence(made_on))
    print_results(results, options.each)
    found = {"machine": made_on, "rounds": options.rounds, "results": results}
    for path in filter(None, (options.json, options.chart)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    if options.chart:
        from pipeline_chart import chart  # not before: a child's peak memory begins with its parent's

        chart(found, options.chart)


if __name__ == "__main__":
    main()
