"""How long after a batch of 50 entries is given to the connection its ack is there: durable, over a real socket.

    .venv/bin/python benchmarks/ack_latency.py [--batches 2000] [--sessions 1 10 100] [--dir DIR] [--json OUT]

The receiver is `logbale receive` in a process of its own, with its archive in DIR; the sessions are opened by this one.
From just before write() of the frame, made and compressed (zstd, level 6) beforehand, to the ack that covers it, which
follows the fdatasync of its block. Each session sends its next batch when the last one is acknowledged, so there are as
many batches on the way as sessions, and several share a group commit. Nothing else should run on the machine.

The bare figure is fdatasync alone after an append of 4 KiB to a file in the same directory. Both are measured in turns,
a tenth of the batches and then fifty bare syncs while no batch is on its way, so that they meet the same disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import uvloop
from receiving import receiving

from logbale.compression import CompressionHandler
from logbale.messages import MAX_CONTROL_BYTES, Ack
from logbale.protocol import Algorithm, FrameDecoder
from logbale.session import ShipperSession, Welcomed, batch_crc, encode_batch

ENTRIES = 50
ROUNDS = 10
WARM_UP = 20
"""Batches of each session that are not counted."""
BARE_SYNCS = 50
"""In each round."""


class Session(asyncio.Protocol):
    """One stream: send() gives a batch to the connection and returns the seconds until its ack."""

    def __init__(self, stream: str) -> None:
        self._session = ShipperSession(
            stream=stream, first=1, assigned=0, window_bytes=1 << 24, now=time.monotonic(), last_crc={}
        )
        self._decoder = FrameDecoder(MAX_CONTROL_BYTES, session=True)
        self._chance = random.Random(stream)
        self._handler = CompressionHandler(Algorithm.ZSTD, 6)
        self._sequence = 0
        self._frames: deque[bytes] = deque()
        self._answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(self._session.hello(agent="ack_latency", host="bench"))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._decoder.feed(data)
        for frame in self._decoder.frames():
            event, answer = self._session.receive(frame, time.monotonic())
            if answer:
                self._transport.write(answer)  # type: ignore[attr-defined]
            if isinstance(event, Welcomed) or (isinstance(event, Ack) and event.last >= self._sequence):
                self._answer.set_result(now)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the receiver closed the connection"))

    async def welcomed(self) -> None:
        await self._answer

    def prepare(self, batches: int) -> None:
        """Makes the next ones."""
        first = self._sequence + 1
        self._frames.extend(self._frame(sequence) for sequence in range(first, first + batches))

    async def send(self) -> float:
        frame = self._frames.popleft()
        self._sequence += 1
        self._session.sent(self._sequence, len(frame))
        self._answer = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self._transport.write(frame)  # type: ignore[attr-defined]
        return await self._answer - began

    def _frame(self, sequence: int) -> bytes:
        chance = self._chance
        entries = [
            {
                "timestamp": "2026-01-01T00:00:00.000Z",
                "level": chance.choice(("INFO", "INFO", "DEBUG", "WARNING")),
                "service": "web",
                "message": f"GET /cart/{chance.randrange(10**6)} took {chance.random() * 100:.3f} ms, {n} of {ENTRIES}",
            }
            for n in range(ENTRIES)
        ]
        raw = json.dumps(entries, separators=(",", ":")).encode()
        body = self._handler.compress(raw).payload
        return encode_batch(sequence, len(raw), batch_crc(sequence, raw), body, Algorithm.ZSTD)


async def measure(address: str, sessions: int, batches: int, other: Path) -> dict[str, list[float]]:
    """Seconds to the ack of each batch, and of each bare sync; and how long the batches took in all."""
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    opened = [
        (await loop.create_connection(lambda n=n: Session(f"bench-{sessions}-{n}"), host, int(port)))[1]  # type: ignore[misc]
        for n in range(sessions)
    ]
    found: dict[str, list[float]] = {"ack": [], "bare": [], "busy": []}

    async def many(session: Session, count: int) -> list[float]:
        return [await session.send() for _ in range(count)]

    for session in opened:
        await session.welcomed()
        session.prepare(WARM_UP)
    await asyncio.gather(*[many(session, WARM_UP) for session in opened])
    each = -(-batches // (ROUNDS * sessions))
    with other.open("ab", buffering=0) as plain:
        for _ in range(ROUNDS):
            for session in opened:
                session.prepare(each)
            began = time.perf_counter()
            for latencies in await asyncio.gather(*[many(session, each) for session in opened]):
                found["ack"] += latencies
            found["busy"].append(time.perf_counter() - began)
            found["bare"] += [bare(plain.fileno()) for _ in range(BARE_SYNCS)]
    for session in opened:
        session._transport.close()
    return found


def bare(fd: int) -> float:
    """Seconds of one fdatasync after an append."""
    os.write(fd, bytes(4096))
    began = time.perf_counter()
    os.fdatasync(fd)
    return time.perf_counter() - began


def run(sessions: int, directory: Path, batches: int) -> dict[str, list[float]]:
    """Measures against a new receiver with an empty archive."""
    with receiving(directory) as (_, address), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure(address, sessions, batches, directory / "bare"))


def quantile(seconds: list[float], share: float) -> float:
    """In milliseconds."""
    return statistics.quantiles(seconds, n=1000, method="inclusive")[round(share * 1000) - 1] * 1000


def main() -> int:
    """Measures each number of sessions."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, default=2000, help="in all, for each number of sessions")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--dir", type=Path, help="where to work: the disk to measure")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    print(f"batches of {ENTRIES} entries, {arguments.batches:,} or more each; milliseconds to the ack")
    print(f"{'sessions':>8}{'p50':>9}{'p99':>9}{'bare p50':>10}{'bare p99':>10}{'batches/s':>11}")
    for sessions in arguments.sessions:
        with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
            found = run(sessions, Path(directory), arguments.batches)
        row = [quantile(found[name], share) for name in ("ack", "bare") for share in (0.5, 0.99)]
        rate = len(found["ack"]) / sum(found["busy"])
        names = ("p50", "p99", "bare_p50", "bare_p99", "batches", "batches_per_second")
        results[sessions] = dict(zip(names, (*row, len(found["ack"]), rate), strict=True))
        print(f"{sessions:8}{row[0]:9.2f}{row[1]:9.2f}{row[2]:10.2f}{row[3]:10.2f}{rate:11,.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
