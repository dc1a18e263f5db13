"""What a line costs from a file to the archive: entries/s, CPU and memory of both ends, wire bytes; real processes.

    .venv/bin/python benchmarks/pipeline.py [FILE] [--lines 1000000] [--rounds 3] [--ship="FLAGS"]... [--json OUT]
    .venv/bin/python benchmarks/pipeline.py --replay LOG... [--lines 1000000]

Without a FILE the lines are generated, with --replay they are those of real logs, interleaved, with fresh ids and times
(replay.py). Each --ship is one setting to measure, in flags of `logbale ship`, with `--tls` among them for TLS with
certificates at both ends; the rounds of all settings take turns, and medians are printed. Every round has an archive of
its own, and its entries are counted. The time is that from the start of the shipper's process to its end, when all is
durable; the first row is what that takes for one line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

LOGBALE = [sys.executable, "-m", "logbale"]
DEFAULT = [
    "--adaptive",
    "--level 1",
    "--level 2",
    "--level 6",
    "--level 2 --spool-dir off",
    "--session-mode off --spool-dir off",
]
NOTHING = "(one line)"
TLS = "--tls"


def generated(path: Path, count: int) -> None:
    """Lines as a service writes them, from logbale's own generator."""
    from logbale.sources.generator import LogGenerator

    with path.open("w") as file:
        for entry in LogGenerator(count, 0, seed=1).take(count):
            message = entry.message.replace("\n", " | ")
            file.write(f"{entry.timestamp} {entry.level} {entry.service} {message}\n")


def replayed(path: Path, logs: list[Path], count: int) -> None:
    """Lines of real logs."""
    from replay import replay

    with path.open("wb") as file:
        file.writelines(islice(replay(logs), count))


def usage(process: subprocess.Popen[str]) -> tuple[float, float]:
    """CPU seconds and peak MiB of a process that ends now."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def run(lines: Path, flags: str, directory: Path) -> dict[str, float]:
    """One round: a receiver, a shipper, and what both took."""
    receive, ship, certs = [], [], directory / "certs"
    if TLS in (words := flags.split()):
        subprocess.run([*LOGBALE, "certs", str(certs), "--client", "bench"], check=True, capture_output=True)
        receive = ["--tls-cert-file", certs / "receiver.pem", "--tls-key-file", certs / "receiver.key"]
        receive += ["--tls-client-ca-file", certs / "ca.pem"]
        ship = ["--tls-cert-file", certs / "bench.pem", "--tls-key-file", certs / "bench.key"]
        ship += ["--tls-ca-file", certs / "ca.pem"]
    environ = {**os.environ, "SPOOL_DIR": str(directory / "spools")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every start compiles all of it anew
    receiver = subprocess.Popen(
        [*LOGBALE, "receive", "--listen", "127.0.0.1:0", "--archive", str(directory / "archive"), *receive],
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    assert receiver.stderr is not None
    address = next(m[1] for line in receiver.stderr if (m := re.search(r"listening on (\S+)", line)))
    start = time.monotonic()
    shipper = subprocess.Popen(
        [*LOGBALE, "ship", "--once", "--to", address, *(word for word in words if word != TLS), *ship, str(lines)],
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    assert shipper.stderr is not None
    said = shipper.stderr.read()
    ship_cpu, ship_memory = usage(shipper)
    elapsed = time.monotonic() - start
    receiver.terminate()
    table = receiver.stderr.read()
    receive_cpu, receive_memory = usage(receiver)
    if shipper.returncode:
        raise SystemExit(f"the shipper failed with {shipper.returncode}:\n{said}")
    stored = int(re.search(r"entries stored\D+([\d,]+)", table)[1].replace(",", ""))  # type: ignore[index]
    with subprocess.Popen([*LOGBALE, "cat", str(directory / "archive")], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        if sum(1 for _ in cat.stdout) != stored:
            raise SystemExit("the archive does not hold what the receiver says it stored")
    wire = re.search(r"wire\D+([\d.]+) (\w+)", table)
    assert wire is not None
    return {
        "entries": stored,
        "seconds": elapsed,
        "entries_per_second": stored / elapsed,
        "wire_bytes": float(wire[1]) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[wire[2]],
        "ship_cpu": ship_cpu,
        "ship_memory": ship_memory,
        "receive_cpu": receive_cpu,
        "receive_memory": receive_memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--replay", nargs="+", type=Path, metavar="LOG")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ship", action="append", metavar="FLAGS")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = options.ship or DEFAULT
    with tempfile.TemporaryDirectory(prefix="logbale-pipeline-") as temporary:
        directory = Path(temporary)
        lines = options.file or directory / "lines.log"
        if options.file is None:
            # In a process of its own: a child's peak memory begins with its parent's.
            make, arguments = (replayed, (options.replay,)) if options.replay else (generated, ())
            maker = multiprocessing.get_context("spawn").Process(target=make, args=(lines, *arguments, options.lines))
            maker.start()
            maker.join()
        one = directory / "one.log"
        one.write_text("one line\n")
        rounds: dict[str, list[dict[str, float]]] = {flags: [] for flags in settings}
        rounds = {NOTHING: []} | rounds
        run(one, "", directory / "warm")
        for number in range(options.rounds):
            for index, flags in enumerate(rounds):
                file, given = (one, "") if flags == NOTHING else (lines, flags)
                place = directory / f"{number}-{index}"
                rounds[flags].append(run(file, given, place))
                shutil.rmtree(place, ignore_errors=True)
        size = lines.stat().st_size
    results = {
        flags: {name: statistics.median(one[name] for one in taken) for name in taken[0]}
        for flags, taken in rounds.items()
    }
    count = int(max(of["entries"] for of in results.values()))
    print(f"{count:,} entries, {size / 1e6:.1f} MB of lines; medians of {options.rounds} rounds in turn;")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, CPython {platform.python_version()}"
    print(f"{machine}, load {os.getloadavg()[0]:.1f}; GB are of lines")
    print(f"{'logbale ship':<36} seconds entries/s  wire MB  CPU s ship+receive  s/GB  peak MiB ship/receive")
    for flags, of in results.items():
        cpu = of["ship_cpu"] + of["receive_cpu"]
        print(
            f"{flags:<36} {of['seconds']:>7.2f} {of['entries_per_second']:>9,.0f} {of['wire_bytes'] / 1e6:>8.2f}"
            f"  {of['ship_cpu']:>8.2f} + {of['receive_cpu']:<7.2f} {cpu / size * 1e9 if flags != NOTHING else 0:>5.1f}"
            f"  {of['ship_memory']:>8.0f} / {of['receive_memory']:.0f}"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"machine": platform.platform(), "lines": size, "results": results}, indent=2)
        )


if __name__ == "__main__":
    main()
