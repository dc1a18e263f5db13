"""What fixed levels and both adaptive policies cost over links of 1 and 10 Mbit/s, an open one, and beside CPU hogs.

    .venv/bin/python benchmarks/adaptive_links.py [--rounds 3] [--algorithm zstd] [--spool] [--scene NAME] [--json OUT]

Real `logbale ship` and `logbale receive` in two network namespaces of their own, joined by a veth pair whose shipper's
end is a token bucket (tc tbf). cost = seconds until everything is durable + wire bytes / 10 MB + CPU seconds of both
processes, start-up included; wire bytes are the interface's, headers and all. The settings take turns; medians are
printed, beside the machine's load. `--spool` gives each shipper a spool on disk, as it has by default; without it
batches wait in memory. `--scene` may be repeated. Needs root, `ip` and `tc`; nothing leaves the namespaces, and they
are deleted at the end whatever happens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from logbale.adaptive_balanced import SECOND_WORTH

LOGBALE = [sys.executable, "-m", "logbale"]
ADDRESSES = {"ship": "10.231.77.1", "receive": "10.231.77.2"}
LEVELS = (1, 2, 3, 6, 9)
HOG = "while True: pass"


@dataclass(frozen=True)
class Scene:
    """A link, what is shipped over it, and what else runs."""

    lines: int
    rate: str = ""
    """Of the token bucket; empty is no limit."""
    hogs: int = 0
    """Busy loops on the shipper's CPU."""
    seconds: float = 0.0
    """If not 0, the lines are generated so long at an even rate, and time is what it takes longer."""


SCENES = {
    "1 Mbit/s": Scene(60_000, "1mbit"),
    "10 Mbit/s": Scene(700_000, "10mbit"),
    "no limit": Scene(1_500_000),
    "3 CPU hogs": Scene(500_000, hogs=3),
    "steady": Scene(200_000, "100mbit", seconds=10),
}


def missing() -> str | None:
    """Why this cannot run here, or None."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root, for network namespaces"
    for tool in ("ip", "tc", "taskset"):
        if shutil.which(tool) is None:
            return f"needs {tool} (Debian: iproute2, util-linux)"
    try:
        with link("1mbit"):
            return None
    except subprocess.CalledProcessError as error:  # root in a container has not all of root's rights
        return f"{' '.join(error.cmd)}: {error.stderr.strip()}"


def command(words: str) -> str:
    return subprocess.run(words.split(), check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def link(rate: str) -> Iterator[dict[str, list[str]]]:
    """Two namespaces and a wire between them; gives for each end the words that run a command there."""
    names = {end: f"logbale-{os.getpid()}-{end}" for end in ADDRESSES}
    with contextlib.ExitStack() as stack:
        for name in names.values():
            command(f"ip netns add {name}")
            stack.callback(subprocess.run, ["ip", "netns", "del", name], capture_output=True)
        near, far = names["ship"], names["receive"]
        command(f"ip link add ship netns {near} type veth peer receive netns {far}")
        for end, name in names.items():
            command(f"ip -n {name} address add {ADDRESSES[end]}/30 dev {end}")
            command(f"ip -n {name} link set {end} up")
        if rate:
            bucket = f"tbf rate {rate} burst 32kb latency 50ms"
            command(f"ip netns exec {near} tc qdisc add dev ship root {bucket}")
        yield {end: ["ip", "netns", "exec", name] for end, name in names.items()}


@contextlib.contextmanager
def hogs(count: int, cpu: int) -> Iterator[None]:
    """So many busy loops on one CPU."""
    running = [subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-c", HOG]) for _ in range(count)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def usage(process: subprocess.Popen[str]) -> float:
    """CPU seconds of a process that ends now."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


def run(scene: Scene, lines: Path, flags: list[str], directory: Path, spool: str) -> dict[str, float]:
    """One round; the archive is in `directory`, and SPOOL_DIR is `spool`."""
    cpus = sorted(os.sched_getaffinity(0))
    pinned = [["taskset", "-c", str(cpu)] if scene.hogs else [] for cpu in (cpus[0], cpus[-1])]
    environ = {**os.environ, "SPOOL_DIR": spool, "DRAIN_TIMEOUT": "120"}
    address = f"{ADDRESSES['receive']}:5000"
    source = ["--once", str(lines)]
    if scene.seconds:
        source = ["--demo", "--rate", str(scene.lines / scene.seconds), "--run-time", str(scene.seconds)]
    with link(scene.rate) as inside, hogs(scene.hogs, cpus[0]), contextlib.ExitStack() as stack:
        receiver = subprocess.Popen(
            [*inside["receive"], *pinned[1], *LOGBALE, "receive", "--listen", address, "--archive", str(directory)],
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        stack.callback(receiver.kill)
        assert receiver.stderr is not None
        next(line for line in receiver.stderr if "listening on" in line)
        start = time.monotonic()
        shipper = subprocess.Popen(
            [*inside["ship"], *pinned[0], *LOGBALE, "ship", "--to", address, "--batch-size", "500", *flags, *source],
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        stack.callback(shipper.kill)
        assert shipper.stderr is not None
        said = shipper.stderr.read()
        ship_cpu = usage(shipper)
        elapsed = time.monotonic() - start
        sent = command(" ".join([*inside["ship"], "cat /sys/class/net/ship/statistics/tx_bytes"]))
        receiver.send_signal(signal.SIGTERM)
        table = receiver.stderr.read()
        receive_cpu = usage(receiver)
    if shipper.returncode:
        raise SystemExit(f"the shipper failed with {shipper.returncode}:\n{said}")
    stored = int(re.search(r"entries stored\D+([\d,]+)", table)[1].replace(",", ""))  # type: ignore[index]
    if not 0.99 * scene.lines <= stored <= 1.01 * scene.lines:
        raise SystemExit(f"{stored} entries stored, not {scene.lines}:\n{said}")
    wire_bytes = int(sent)
    seconds = elapsed - scene.seconds
    changes = re.findall(r"compression level (\d+): ", said)
    return {
        "cost": seconds + wire_bytes / SECOND_WORTH + ship_cpu + receive_cpu,
        "seconds": seconds,
        "wire_bytes": wire_bytes,
        "ship_cpu": ship_cpu,
        "receive_cpu": receive_cpu,
        "changes": len(changes),
        "last_level": int(changes[-1]) if changes else 0,
    }


def generate(path: Path, count: int) -> None:
    """Lines as a service writes them, from logbale's own generator."""
    from logbale.sources.generator import LogGenerator

    with path.open("w") as file:
        for entry in LogGenerator(count, 0, seed=1).take(count):
            message = entry.message.replace("\n", " | ")
            file.write(f"{entry.timestamp} {entry.level} {entry.service} {message}\n")


def settings(algorithm: str) -> dict[str, list[str]]:
    """By name, the flags of what is compared."""
    fixed = {f"level {level}": ["--algorithm", algorithm, "--level", str(level)] for level in LEVELS}
    adaptive = {
        policy: ["--algorithm", algorithm, "--adaptive", "--adaptive-policy", policy] for policy in ("cpu", "balanced")
    }
    return fixed | adaptive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--algorithm", choices=["gzip", "zlib", "zstd"], default="gzip")
    parser.add_argument("--spool", action="store_true")
    parser.add_argument("--scene", action="append", choices=[*SCENES])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if reason := missing():
        print(f"skipped: {reason}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the namespaces go then, too
    compared = settings(options.algorithm)
    results: dict[str, dict[str, dict[str, float]]] = {}
    where = "spool on disk" if options.spool else "in memory"
    print(f"{options.algorithm}, {where}; medians of {options.rounds} rounds in turn", end="; ")
    print(f"{platform.machine()}, {os.cpu_count()} cores")
    print(f"{'':<12}{'':<10}    cost  of best  seconds  wire MB  CPU s ship+receive  changes, last level; load")
    for name in options.scene or SCENES:
        scene = SCENES[name]
        rounds: dict[str, list[dict[str, float]]] = {setting: [] for setting in compared}
        with tempfile.TemporaryDirectory(prefix="logbale-links-") as temporary:
            lines = Path(temporary) / "lines.log"
            generate(lines, scene.lines)
            for number in range(options.rounds):
                for setting, flags in compared.items():
                    directory = Path(temporary) / f"{number}-{setting}"
                    spool = Path(temporary) / "spool"
                    taken = run(scene, lines, flags, directory, str(spool) if options.spool else "off")
                    rounds[setting].append(taken | {"load": os.getloadavg()[0]})
                    shutil.rmtree(directory)
                    shutil.rmtree(spool, ignore_errors=True)
        results[name] = {
            setting: {key: statistics.median(one[key] for one in taken) for key in taken[0]}
            for setting, taken in rounds.items()
        }
        best = min(of["cost"] for setting, of in results[name].items() if setting.startswith("level"))
        for setting, of in results[name].items():
            print(
                f"{name:<12}{setting:<10}{of['cost']:>8.2f}{of['cost'] / best - 1:>+9.1%}{of['seconds']:>9.2f}"
                f"{of['wire_bytes'] / 1e6:>9.3f}{of['ship_cpu']:>12.2f} + {of['receive_cpu']:.2f}"
                + (f"{of['changes']:>8.0f}, {of['last_level']:.0f}" if of["changes"] else "")
                + f"; {of['load']:.1f}",
                flush=True,
            )
    print("all scenes  " + "  ".join(
        f"{setting} {sum(scene[setting]['cost'] for scene in results.values()):.1f}" for setting in compared
    ))  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"machine": platform.platform(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
