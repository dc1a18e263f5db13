"""Many sessions on one receiver: how soon all of them are acknowledged, and what that takes in memory and CPU.

    .venv/bin/python benchmarks/connections.py [--sessions 10000] [--entries 3] [--every 1] [--seconds 60]
    .venv/bin/python benchmarks/connections.py --busy [--sessions 200] [--entries 50] [--seconds 20]

The receiver is `logbale receive` in a process of its own, on a free port of the loopback, with its archive in DIR; the
sessions are opened by LOADS processes of plain asyncio, each session a protocol with a ShipperSession and a
ContextCompressor (zstd, level 2), which obeys the windows that the receiver says. Not measured: the shipper itself.

Without --busy each session sends a batch of so many entries every so many seconds, whether or not the last one is
acknowledged, so an overloaded receiver cannot hide behind its own slowness; the sessions are spread evenly over the
interval. The latency is from write() of the frame to the ack that covers it, durable, in the load's own loop: a load
that gets no CPU adds its own delay. With --busy each session has eight batches on the way, always; a tenth of the
sessions sends batches ten times as large. Fairness is what each got done of its kind: the slowest beside the median.

It raises the soft limit of descriptors to the hard one; a load has a loopback address of its own for each 10,000
sessions. The load average beside the figures says what else the machine did.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections import deque
from pathlib import Path

import uvloop
from receiving import certificates, receiving

from logbale.compressing import context_flags
from logbale.context import ContextCompressor
from logbale.messages import MAX_CONTROL_BYTES, Ack, Context, Error, Status, encode_message
from logbale.protocol import Algorithm, FrameDecoder
from logbale.session import ShipperSession, Welcomed, batch_crc, encode_batch

LEVEL = 2
OPENING = 64
"""Connections that a load opens at a time."""
BUSY_BATCHES = 8
"""On the way of each busy session."""
ADDRESS_SESSIONS = 10_000
"""Sessions that share a source address: a third of Linux's ephemeral ports."""
DRAIN_SECONDS = 30.0
STATUS_INTERVAL = 5.0
LEVELS = ("INFO", "INFO", "DEBUG", "WARNING")


class Session(asyncio.Protocol):
    """One stream: counts what is acknowledged, and how long that took."""

    def __init__(self, stream: str, latencies: array[float], entries: int, busy: bool) -> None:
        self.welcomed = asyncio.get_running_loop().create_future()
        self.acked_batches = 0
        self.ended = ""
        self.sequence = 0
        self.window_log = 0
        self._latencies = latencies
        self._entries = entries
        self._busy = busy
        self._stream = stream
        self._session = ShipperSession(
            stream=stream, first=1, assigned=0, window_bytes=1 << 24, now=time.monotonic(), last_crc={}
        )
        self._decoder = FrameDecoder(MAX_CONTROL_BYTES, session=True)
        self._chance = random.Random(stream)
        self._context: ContextCompressor | None = None
        self._sent: deque[float] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self._session.hello(agent="connections", host="bench"))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._decoder.feed(data)
        for frame in self._decoder.frames():
            event, answer = self._session.receive(frame, time.monotonic())
            if answer:
                self.transport.write(answer)  # type: ignore[attr-defined]
            if isinstance(event, Ack):
                while self._sent and self.acked_batches < event.last:
                    self._latencies.append(now - self._sent.popleft())
                    self.acked_batches += 1
            elif isinstance(event, Welcomed):
                self.window_log = event.welcome.window_log
                self.welcomed.set_result(None)
            elif isinstance(event, Context):
                self.window_log, self._context = event.window_log, None
            elif isinstance(event, Error):
                self.ended = f"{event.code}: {event.detail}"
        while self._busy and len(self._sent) < BUSY_BATCHES:
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = self.ended or str(error or "the receiver closed the connection")
        if not self.welcomed.done():
            self.welcomed.set_exception(ConnectionError(self.ended))

    def send(self) -> None:
        """The next batch."""
        if self.ended:
            return
        self.sequence += 1
        raw = self._raw()
        crc = batch_crc(self.sequence, raw)
        if self.window_log:
            if self._context is None:
                self._context = ContextCompressor(Algorithm.ZSTD, LEVEL, window_log=self.window_log)
            flags = context_flags(self._context)
            frame = encode_batch(
                self.sequence, len(raw), crc, self._context.compress(raw), Algorithm.ZSTD, context=flags
            )
        else:
            frame = encode_batch(self.sequence, len(raw), crc, raw, Algorithm.NONE)
        self._session.sent(self.sequence, len(frame))
        self._sent.append(time.perf_counter())
        self.transport.write(frame)  # type: ignore[attr-defined]

    def tell(self) -> None:
        """The status that a shipper sends."""
        if not self.ended:
            counts = {
                "read": self.sequence,
                "delivered": self.acked_batches,
                "level": LEVEL,
                "waiting": len(self._sent),
            }
            self.transport.write(encode_message(Status(counts)))  # type: ignore[attr-defined]

    def rest(self) -> None:
        self._busy = False

    def _raw(self) -> bytes:
        chance = self._chance.randrange
        return b"".join(
            b'{"timestamp":"2026-01-01T00:00:%02d.%03dZ","level":"%b","service":"web",'
            b'"message":"GET /cart/%d took %d us, %d bytes"}\n'
            % (chance(60), chance(1000), LEVELS[chance(4)].encode(), chance(10**6), chance(10**5), chance(5000))
            for _ in range(self._entries)
        )


async def load(given: argparse.Namespace) -> dict[str, object]:
    """Opens its sessions, says so, waits for a line on standard input, and sends."""
    loop = asyncio.get_running_loop()
    host, port = given.load.rsplit(":", 1)
    latencies: array[float] = array("f")
    gate = asyncio.Semaphore(OPENING)
    tls = ssl.create_default_context(cafile=given.ca) if given.ca else None
    if tls is not None:
        tls.load_cert_chain(given.ca.with_name("bench.pem"), given.ca.with_name("bench.key"))

    async def opened(number: int) -> Session:
        large = given.busy and number % 10 == 9
        entries = given.entries * (10 if large else 1)
        async with gate:
            source = (f"127.0.{given.part}.{1 + number // ADDRESS_SESSIONS}", 0)
            _, session = await loop.create_connection(
                lambda: Session(f"c-{given.part}-{number}", latencies, entries, False),
                host,
                int(port),
                local_addr=source,
                ssl=tls,
                server_hostname=host if tls else None,
            )
            await session.welcomed
            return session

    began = time.perf_counter()
    sessions = await asyncio.gather(*[opened(number) for number in range(given.sessions)])
    print(json.dumps({"opened": time.perf_counter() - began}), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    cpu = time.process_time()
    began = time.perf_counter()
    if given.busy:
        for session in sessions:
            session._busy = True
            session.data_received(b"")
        await asyncio.sleep(given.seconds)
        counts = [session.acked_batches for session in sessions]
        for session in sessions:
            session.rest()
    else:
        await paced(sessions, given.every, given.seconds, began)
        counts = []
    ended = time.perf_counter()
    while any(session.acked_batches < session.sequence for session in sessions if not session.ended):
        if time.perf_counter() - ended > DRAIN_SECONDS:
            break
        await asyncio.sleep(0.05)
    windows = [session.window_log for session in sessions]
    return {
        "sent": sum(session.sequence for session in sessions),
        "acked": sum(session.acked_batches for session in sessions),
        "ended": sorted({session.ended for session in sessions if session.ended})[:5],
        "lost": sum(bool(session.ended) for session in sessions),
        "seconds": ended - began,
        "cpu": time.process_time() - cpu,
        "counts": counts,
        "windows": {str(window): windows.count(window) for window in sorted(set(windows))},
        "latencies": latencies.tolist(),
    }


async def paced(sessions: list[Session], every: float, seconds: float, began: float) -> None:
    """Each session's batch at its own moment of the interval."""
    done, told, n = 0, 0.0, len(sessions)
    while (elapsed := time.perf_counter() - began) < seconds:
        due = int(elapsed / every * n)
        for number in range(done, due):
            sessions[number % n].send()
            if number % 50 == 0:
                await asyncio.sleep(0)
        done = due
        status_due = elapsed / STATUS_INTERVAL * n
        while told < status_due:
            sessions[int(told) % n].tell()
            told += 1
        await asyncio.sleep(0.005)


def raise_descriptors() -> int:
    """The soft limit is the hard one from now on, for this process and those it starts."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def status_bytes(pid: int, field: str) -> int:
    """A line of /proc/PID/status that is in kB."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(given: argparse.Namespace, directory: Path) -> dict[str, object]:
    """Measures against a new receiver with an empty archive."""
    loads: list[subprocess.Popen[str]] = []
    certs = directory / "certs"
    flags = certificates(certs)[0] if given.tls else []
    with (
        receiving(directory, messages=given.messages, flags=flags) as (receiver, address),
        contextlib.ExitStack() as ending,
    ):
        pid = receiver.pid
        empty = status_bytes(pid, "VmRSS")
        for part in range(given.loads):
            count = given.sessions // given.loads + (part < given.sessions % given.loads)
            again = ["--load", address, "--part", str(part), "--sessions", str(count), "--every", str(given.every)]
            again += ["--entries", str(given.entries), "--seconds", str(given.seconds), *["--busy"] * given.busy]
            again += ["--ca", str(certs / "ca.pem")] * given.tls
            command = [sys.executable, __file__, *again]
            loads.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            ending.callback(loads[-1].kill)
        opened = [json.loads(process.stdout.readline())["opened"] for process in loads]  # type: ignore[union-attr]
        idle = status_bytes(pid, "VmRSS")
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        cpu = cpu_seconds(pid)
        for process in loads:
            process.stdin.write("go\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        parts = [json.loads(process.stdout.readline()) for process in loads]  # type: ignore[union-attr]
        cpu = cpu_seconds(pid) - cpu
        peak, last = status_bytes(pid, "VmHWM"), status_bytes(pid, "VmRSS")
        return {"opened": max(opened), "empty": empty, "idle": idle, "peak": peak, "last": last, "cpu": cpu,
                "descriptors": descriptors, "parts": parts}  # fmt: skip


def tenths(parts: list[dict[str, object]]) -> list[float]:
    """The p99 of each, in seconds: one bad moment is another thing than a slow receiver."""
    found = []
    for tenth in range(10):
        some: list[float] = []
        for part in parts:
            latencies: list[float] = part["latencies"]  # type: ignore[assignment]
            some += latencies[len(latencies) * tenth // 10 : len(latencies) * (tenth + 1) // 10]
        found.append(statistics.quantiles(some, n=100, method="inclusive")[98])
    return found


def report(given: argparse.Namespace, found: dict[str, object]) -> dict[str, object]:
    parts: list[dict[str, object]] = found.pop("parts")  # type: ignore[assignment]
    latencies = [latency for part in parts for latency in part["latencies"]]  # type: ignore[attr-defined]
    cuts = statistics.quantiles(latencies, n=1000, method="inclusive")
    seconds = max(part["seconds"] for part in parts)  # type: ignore[type-var]
    windows: dict[str, int] = {}
    for part in parts:
        for window, count in part["windows"].items():  # type: ignore[attr-defined]
            windows[window] = windows.get(window, 0) + count
    results: dict[str, object] = {
        "sessions": given.sessions,
        "sessions lost": sum(part["lost"] for part in parts),  # type: ignore[misc]
        "opened in, s": round(found["opened"], 1),  # type: ignore[call-overload]
        "batches sent": sum(part["sent"] for part in parts),  # type: ignore[misc]
        "batches acknowledged": len(latencies),
        "batches a second": round(len(latencies) / seconds),  # type: ignore[operator]
        "ack p50, ms": round(cuts[499] * 1000, 1),
        "ack p99, ms": round(cuts[989] * 1000, 1),
        "ack max, ms": round(max(latencies) * 1000, 1),
        "ack p99 of each tenth of the run, ms": [round(tenth * 1000) for tenth in tenths(parts)],
        "receiver, MiB: empty": found["empty"] >> 20,  # type: ignore[operator]
        "receiver, MiB: all welcomed": found["idle"] >> 20,  # type: ignore[operator]
        "receiver, MiB: at the end": found["last"] >> 20,  # type: ignore[operator]
        "receiver, MiB: peak": found["peak"] >> 20,  # type: ignore[operator]
        "receiver, KiB a session": round((found["peak"] - found["empty"]) / given.sessions / 1024, 1),  # type: ignore[operator]
        "receiver, descriptors": found["descriptors"],
        "receiver, cores": round(found["cpu"] / seconds, 2),  # type: ignore[operator]
        "loads, cores each": [round(part["cpu"] / part["seconds"], 2) for part in parts],  # type: ignore[operator]
        "windows (2**n): sessions": windows,
        "load average": [round(load, 1) for load in os.getloadavg()],
    }
    if given.busy:
        for name, large in (("small", False), ("large", True)):
            counts = [
                count
                for part in parts
                for number, count in enumerate(part["counts"])  # type: ignore[arg-type]
                if (number % 10 == 9) is large
            ]
            if counts:
                median = statistics.median(counts)
                results[f"{name} batches a second: slowest, median, fastest"] = [
                    round(count / seconds, 1)  # type: ignore[operator]
                    for count in (min(counts), median, max(counts))
                ]
                results[f"{name}: slowest of the median"] = f"{min(counts) / median:.0%}"
    if why := [reason for part in parts for reason in part["ended"]]:  # type: ignore[attr-defined]
        results["why sessions were lost"] = why
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sessions", type=int)
    parser.add_argument("--entries", type=int, help="in a batch")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between the batches of a session")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--tls", action="store_true", help="with certificates at both ends")
    parser.add_argument("--loads", type=int, default=2)
    parser.add_argument("--dir", type=Path, help="where to work: the disk to measure")
    parser.add_argument("--messages", type=Path, help="where the receiver's messages are kept")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--ca", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.sessions = given.sessions or (200 if given.busy else 10_000)
    given.entries = given.entries or (50 if given.busy else 3)
    given.seconds = given.seconds or (20 if given.busy else 60)
    hard = raise_descriptors()
    if given.load:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(load(given))), flush=True)
        os._exit(0)  # ten thousand connections need no orderly end
    if hard < given.sessions + 100:
        raise SystemExit(f"{given.sessions} sessions need more descriptors than the hard limit of {hard} (ulimit -Hn)")
    with tempfile.TemporaryDirectory(dir=given.dir) as directory:
        results = report(given, run(given, Path(directory)))
    for name, value in results.items():
        print(f"{name:50}{value:,}" if isinstance(value, int) else f"{name:50}{value}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
