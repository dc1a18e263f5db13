"""What an entry takes at each stage of a fleet: CPU of shipper, receiver, brokers and archiver, bytes between them.

    .venv/bin/python benchmarks/fleet_stages.py FILE [--rate 20000]

Twice: with a backlog, when batches grow, and as the lines come at `--rate` a second, when they do not. All of it shares
this machine; docs/scaling.md does the arithmetic. The entries in the segments are counted.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import machine
from kafka_sink import brokers_cpu
from pipeline import count_lines, environment, usage
from receiving import LOGBALE, receiving

sys.path.append(str(Path(__file__).parent.parent / "scripts"))
from kafka_cluster import Cluster  # no package

TICK = 0.02


def run(lines: Path, directory: Path, cluster: Cluster, rate: int | None) -> dict[str, float]:
    """CPU seconds and bytes of one way through everything."""
    directory.mkdir()
    environ = environment(directory)
    topic = f"kafka://{cluster.bootstrap}/{cluster.create_topic(directory.name, 6)}"
    port, store = _free_port(), directory / "store"
    store.mkdir()
    flags = ["--sink", topic, "--metrics-port", str(port)]
    archive = [*LOGBALE, "archive", topic, "--to", f"file://{store}", "--archive-segment-seconds", "5"]
    with (
        receiving(directory, environ=environ, flags=flags) as (receiver, address),
        (directory / "archiver").open("wb") as said,
    ):
        brokers = brokers_cpu(cluster)
        archiver = subprocess.Popen(archive, stderr=said, env=environ)
        ship = [*LOGBALE, "ship", "--once", "--quiet", "--to", address]
        if rate is None:
            shipper = subprocess.Popen([*ship, str(lines)], env=environ)
        else:
            shipper = subprocess.Popen([*ship, "-"], env=environ, stdin=subprocess.PIPE)
            _feed(lines, shipper, rate)
        ship_cpu, _ = usage(shipper)
        entries = count_lines(lines)
        deadline = time.monotonic() + 120
        while _stored(store) < entries and time.monotonic() < deadline:
            time.sleep(1)
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        archiver.terminate()
        archive_cpu, _ = usage(archiver)
        receiver.terminate()
        receive_cpu, _ = usage(receiver)
        brokers = brokers_cpu(cluster) - brokers
    if (stored := _stored(store)) != entries:
        raise SystemExit(f"{stored} of {entries} entries archived:\n{(directory / 'archiver').read_text()}")
    return {
        "ship": ship_cpu / entries * 1e6,
        "receive": receive_cpu / entries * 1e6,
        "brokers": brokers / entries * 1e6,
        "archive": archive_cpu / entries * 1e6,
        "batch": entries / _sum(metrics, "received_batches"),
        "json": _sum(metrics, "received_raw_bytes") / entries,
        "wire": _sum(metrics, "received_wire_bytes") / entries,
        "topic": _sum(metrics, "published_bytes") / entries,
        "segments": sum(path.stat().st_size for path in store.rglob("*.zst")) / entries,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _feed(lines: Path, shipper: subprocess.Popen[bytes], rate: int) -> None:
    assert shipper.stdin is not None
    text = lines.read_bytes().splitlines(keepends=True)
    began, given = time.monotonic(), 0
    while given < len(text):
        due = min(len(text), int((time.monotonic() - began) * rate))
        shipper.stdin.write(b"".join(text[given:due]))
        shipper.stdin.flush()
        given = due
        time.sleep(TICK)
    shipper.stdin.close()


def _stored(store: Path) -> int:
    """By the counts in the segments' blocks; `logbale verify` decompresses each."""
    ended = subprocess.run([*LOGBALE, "verify", str(store)], capture_output=True, text=True, check=False)
    found = re.search(r"([\d,]+) sound entries", ended.stdout)
    return int(found[1].replace(",", "")) if found else 0


def _sum(metrics: str, name: str) -> float:
    return sum(
        float(value) for value in re.findall(rf"^logbale_receiver_{name}_total(?:{{.*}})? (\S+)$", metrics, re.M)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rate", type=int, default=20_000, help="lines a second of the second way")
    options = parser.parse_args()
    made_on = machine.describe()
    with tempfile.TemporaryDirectory(prefix="logbale-fleet-") as name:
        cluster = Cluster.start(Path(name) / "kafka")
        try:
            ways = {
                "backlog": run(options.file, Path(name) / "backlog", cluster, None),
                f"{options.rate:,} a second": run(options.file, Path(name) / "steady", cluster, options.rate),
            }
        finally:
            cluster.stop()
    print(f"{count_lines(options.file):,} entries, {options.file.stat().st_size / 1e6:.1f} MB of lines; level 6")
    print(machine.sentence(made_on))
    print("                 entries  µs of CPU an entry                       bytes an entry")
    print("                 a batch     ship  receive  brokers  archive       JSON    wire   topic segments")
    for way, row in ways.items():
        print(
            f"{way:<16} {row['batch']:>7.0f} {row['ship']:>8.2f} {row['receive']:>8.2f} {row['brokers']:>8.2f}"
            f" {row['archive']:>8.2f}    {row['json']:>7.0f} {row['wire']:>7.1f} {row['topic']:>7.1f}"
            f" {row['segments']:>8.1f}"
        )


if __name__ == "__main__":
    main()
