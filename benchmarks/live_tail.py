"""What the viewers of /api/tail cost a receiver: its CPU with and without them, in turn; real processes.

    .venv/bin/python benchmarks/live_tail.py [--viewers 5] [--rate 100000] [--seconds 10] [--rounds 5] [QUERY]...

The receiver stores what `logbale ship --demo` generates, while viewers (sockets of this process, which reads and drops)
come and go from one stretch of `--seconds` to the next. Each QUERY (`level=ERROR`, `q=payment`; none by default) is one
viewer's filter, in turn. `cost` is the median of the differences between stretches with viewers and the ones before
them, in per cent of one core; `entries/s` is what the archive took in each kind of stretch.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil

LOGBALE = [sys.executable, "-m", "logbale"]


class Viewers:
    """Connections to /api/tail that are read and dropped; what came is counted."""

    def __init__(self, port: int, count: int, queries: list[str]) -> None:
        self.received_bytes = 0
        self.events = 0
        self.skipped = 0
        self._sockets = [self._connect(port, queries[number % len(queries)]) for number in range(count)]
        self._ended = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _connect(self, port: int, query: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(b"GET /api/tail?%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % query.encode())
        return connection

    def _read(self) -> None:
        while not self._ended:
            for ready in select.select(self._sockets, [], [], 0.1)[0]:
                some = ready.recv(1 << 20)
                self.received_bytes += len(some)
                self.events += some.count(b"event: entries")
                self.skipped += sum(map(int, re.findall(rb'\{"entries":(\d+)', some)))

    def leave(self) -> None:
        self._ended = True
        self._thread.join()
        for connection in self._sockets:
            connection.close()


def stretch(receiver: psutil.Process, port: int, seconds: float) -> tuple[float, float]:
    """Per cent of one core that the receiver takes, and the entries that it stores a second."""
    cpu, stored, began = sum(receiver.cpu_times()[:2]), stored_entries(port), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return 100 * (sum(receiver.cpu_times()[:2]) - cpu) / took, (stored_entries(port) - stored) / took


def stored_entries(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/stats") as answer:
        return int(json.load(answer)["stored_entries"])


def measure(receiver: psutil.Process, port: int, options: argparse.Namespace) -> None:
    without, with_viewers, costs = [], [], []
    print(
        f"{'round':>5} {'without':>9} {'with':>9} {'cost':>7}   entries/s {'without':>9} {'with':>9}   a viewer's kB/s"
    )
    for number in range(options.rounds):
        without.append(stretch(receiver, port, options.seconds))
        viewers = Viewers(port, options.viewers, options.queries or [""])
        try:
            time.sleep(2)  # what they saved up in the quiet is spent
            before = viewers.received_bytes
            with_viewers.append(stretch(receiver, port, options.seconds))
            seen = (viewers.received_bytes - before) / options.seconds / max(1, options.viewers) / 1000
        finally:
            viewers.leave()
        costs.append(with_viewers[-1][0] - without[-1][0])
        print(
            f"{number + 1:>5} {without[-1][0]:>8.2f}% {with_viewers[-1][0]:>8.2f}% {costs[-1]:>6.2f}%"
            f"             {without[-1][1]:>9,.0f} {with_viewers[-1][1]:>9,.0f}   {seen:>9,.1f}"
        )
        time.sleep(2)
    print(
        f"{options.viewers} viewers: cost {statistics.median(costs):.2f} % of one core; entries/s "
        f"{statistics.median(rate for _, rate in without):,.0f} without, "
        f"{statistics.median(rate for _, rate in with_viewers):,.0f} with"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=5)
    parser.add_argument("--rate", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("queries", nargs="*", metavar="QUERY")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        environ = {**os.environ, "SPOOL_DIR": "off"}
        receive = ["receive", "--listen", "127.0.0.1:0", "--archive", f"{directory}/archive"]
        messages = Path(directory, "messages")
        with messages.open("wb") as out:
            receiver = subprocess.Popen(
                [*LOGBALE, *receive, "--dashboard", "--dashboard-port", "0"], stderr=out, env=environ
            )
        shipper = None
        try:
            while (found := re.search(r"listening on (\S+)", messages.read_text())) is None:
                time.sleep(0.05)
            port = int(re.search(r"dashboard on http://\S+:(\d+)/", messages.read_text())[1])
            ship = [*LOGBALE, "ship", "-q", "--to", found[1], "--demo", "--rate", str(options.rate)]
            shipper = subprocess.Popen([*ship, "--run-time", "0"], env=environ)
            time.sleep(3)
            measure(psutil.Process(receiver.pid), port, options)
        finally:
            for process in filter(None, (shipper, receiver)):
                process.terminate()
                process.wait(30)


if __name__ == "__main__":
    main()
