"""logbale beside others: the same lines over loopback, from file to file; speed, CPU, wire, memory, and what is lost.

    make bench-peers [ARGS="FILE..."]
    .venv/bin/python benchmarks/peers.py [FILE...] [--lines 1000000] [--rounds 3] [--only NAME]... [--json OUT]
    .venv/bin/python benchmarks/peers.py --replay LOG...
    .venv/bin/python benchmarks/peers.py --show-config

Without a FILE the lines are generated, with --replay they are those of real logs (replay.py). Each peer has its own
instances, files and port; they take turns, and medians are printed; of lines lost, doubled, damaged or out of order,
the most. scripts/peers.sh fetches what Debian has; what is not here is named in the table. Nothing is tuned for us; a
peer's setting is changed where it would be idle by default, and all of them are printed. against/ has a file for each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import machine
from against import fidelity, floors, fluent_bit, ours, rsyslog, syslog_ng
from against.exchange import Failed, exchange
from against.loopback import enter_namespace
from against.peer import Peer, Place, environment, find
from pipeline import generated, replayed

import logbale

PEERS: list[ours.Ours | Peer] = [
    *ours.PEERS,
    *rsyslog.PEERS,
    *syslog_ng.PEERS,
    *fluent_bit.PEERS,
    *floors.PEERS,
]
WORST = ("lost", "duplicated", "damaged", "out_of_order")
LEGEND = """\
In brackets: multiples of the first logbale's. Wire: both directions, headers included. Acks: what the shipper is told.
Synced: whether the lines would survive a power cut of the receiver at the moment when the clock stops.
"""


def gathered(path: Path, files: list[Path], count: int) -> None:
    """The lines of files, one after the other, each with its newline; without empty ones, which some do not ship."""

    def lines() -> Iterator[bytes]:
        for file in files:
            with file.open("rb") as source:
                yield from (line.rstrip(b"\r\n") + b"\n" for line in source if line.strip())

    with path.open("wb") as target:
        target.writelines(islice(lines(), count))


def aside(function: Callable[..., Any], *arguments: Any) -> Any:
    """Called in a process that ends then: a child's peak memory begins with its parent's, which must stay small."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def judged(source: Path, directory: Path) -> fidelity.Fidelity:
    """What a round's destination holds."""
    stored = Place(source, directory, 0).destination
    if (directory / ours.ARCHIVE).exists():
        ours.extract(directory / ours.ARCHIVE, stored)
    return fidelity.compare_files(source, stored)


def run(peer: ours.Ours | Peer, source: Path, count: int, directory: Path) -> dict[str, float]:
    """One round. Raises Failed."""
    os.sync()  # nobody waits for what the one before him left to be written
    extra: dict[str, float] = {}
    if isinstance(peer, ours.Ours):
        taken, extra["own_wire_bytes"] = peer.take(source, count, directory)
    else:
        taken = exchange(peer, source, directory)
    found: fidelity.Fidelity = aside(judged, source, directory)
    shutil.rmtree(directory)
    return asdict(taken) | asdict(found) | extra | {"entries_per_second": (count - found.lost) / taken.seconds}


def measure(peers: list[ours.Ours | Peer], source: Path, count: int, rounds: int, place: Path) -> dict[str, Any]:
    """By name: the medians of its rounds, or why there are none."""
    results: dict[str, Any] = {peer.name: {"absent": reason} for peer in peers if (reason := peer.missing())}
    taken: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in peers if peer.name not in results}
    for number in range(rounds):
        for index, peer in enumerate(peers):
            if peer.name not in results:
                try:
                    taken[peer.name].append(run(peer, source, count, place / f"{number}-{index}"))
                except Failed as failure:
                    results[peer.name] = {"failed": str(failure)}
    medians = {
        name: {key: (max if key in WORST else statistics.median)(one[key] for one in of) for key in of[0]}
        for name, of in taken.items()
        if name not in results
    }
    return results | medians


def table(peers: list[ours.Ours | Peer], results: dict[str, Any]) -> Iterator[str]:
    """Rows of Markdown; the figures in brackets are multiples of the first logbale's."""
    yield (
        "| | entries/s | wire MB | CPU s, shipper + receiver | peak MiB | lost | doubled | damaged | out of order "
        "| acks | synced |"
    )
    yield "|---" * 11 + "|"
    base = results.get(ours.PEERS[0].name)
    for peer in peers:
        of = results[peer.name]
        name = peer.name.replace("|", "\\|")
        if len(of) == 1:
            [(why, reason)] = of.items()
            yield f"| {name} | {why}: {reason} |" + " |" * 9
            continue

        def ratio(*keys: str, of: dict[str, float] = of) -> str:
            if base is None:
                return ""
            return f" ({sum(of[key] for key in keys) / sum(base[key] for key in keys):.2f})"

        yield (
            f"| {name} | {of['entries_per_second']:,.0f}{ratio('entries_per_second')} "
            f"| {of['wire_bytes'] / 1e6:.2f}{ratio('wire_bytes')} "
            f"| {of['ship_cpu']:.2f} + {of['receive_cpu']:.2f}{ratio('ship_cpu', 'receive_cpu')} "
            f"| {of['ship_memory']:.0f} / {of['receive_memory']:.0f} "
            f"| {' | '.join(f'{of[key]:,.0f}' for key in WORST)} | {peer.acks} | {peer.synced} |"
        )


def version(peer: ours.Ours | Peer) -> str:
    """What a peer says that it is."""
    if isinstance(peer, ours.Ours):
        return logbale.__version__
    program = find(peer.version[0]) or peer.version[0]
    told = subprocess.run([program, *peer.version[1:]], capture_output=True, text=True, env=environment(program))
    number = re.search(r"\d+(\.\d+)+", told.stdout + told.stderr)
    return f"{peer.version[0]} {number[0] if number else 'of unknown version'}"


def notes(peers: list[ours.Ours | Peer], results: dict[str, Any]) -> Iterator[str]:
    """What the table's reader has to know."""
    for peer in peers:
        of = results[peer.name]
        if len(of) > 1:
            yield f"- {peer.name} ({version(peer)}): {peer.settings}"
        if own := of.get("own_wire_bytes"):
            yield f"  By its own count it sent frames of {own / 1e6:.2f} MB."


def configurations(peers: list[ours.Ours | Peer]) -> Iterator[str]:
    """Every command and configuration, as a round would use them."""
    with tempfile.TemporaryDirectory(prefix="logbale-peers-") as temporary:
        for index, peer in enumerate(peers):
            yield f"\n=== {peer.name}"
            if isinstance(peer, ours.Ours):
                yield "logbale receive --listen 127.0.0.1:0 --archive DIRECTORY/archive"
                yield f"SPOOL_DIR=DIRECTORY/spools logbale ship --once --to ADDRESS {peer.flags} SOURCE"
                continue
            directory = Path(temporary) / str(index)
            directory.mkdir()
            for name, end in zip(
                ("receiver", "shipper"), peer.ends(Place(Path("SOURCE"), directory, 5000)), strict=True
            ):
                said = [" | ".join(" ".join(command) for command in end.commands)]
                said += [f"--- {file}\n{text}" for file, text in end.files.items()]
                yield f"--- {name}: " + "\n".join(said).replace(str(directory), "DIRECTORY")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--replay", nargs="+", type=Path, metavar="LOG")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", metavar="NAME", help="peers whose name begins so; may be repeated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show-config", action="store_true")
    options = parser.parse_args()
    peers = [peer for peer in PEERS if any(peer.name.startswith(name) for name in options.only or [""])]
    if not peers:
        parser.error(f"--only {options.only}: expected the beginning of one of {[peer.name for peer in PEERS]}")
    if options.show_config:
        print("\n".join(configurations(peers)))
        return
    own_wire = enter_namespace()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended then, too
    described = machine.describe()
    with tempfile.TemporaryDirectory(prefix="logbale-peers-") as temporary:
        place = Path(temporary)
        source = place / "lines.log"
        if options.files:
            aside(gathered, source, options.files, options.lines)
        elif options.replay:
            aside(replayed, source, options.lines, options.replay)
        else:
            aside(generated, source, options.lines)
        with source.open("rb") as lines:
            count = sum(1 for _ in lines)
        size = source.stat().st_size
        results = measure(peers, source, count, options.rounds, place)
    print(f"{count:,} lines, {size / 1e6:.1f} MB; medians of {options.rounds} rounds in turn")
    print(machine.sentence(described))
    print("\n".join(["", *table(peers, results), "", LEGEND]))
    if not own_wire:
        print("No network namespace could be had: the wire is the machine's own loopback, with all that was on it.")
    print("\n".join(notes(peers, results)))
    if options.json:
        known = {"machine": described, "lines": count, "bytes": size, "rounds": options.rounds}
        options.json.write_text(json.dumps(known | {"namespace": own_wire, "results": results}, indent=2))


if __name__ == "__main__":
    main()
