"""LogGenerator: synthetic entries that look like a small web shop's, at an exact rate.

The words are rendered beforehand and one draw of 64 random bits picks and fills a template, so that a core makes
several hundred thousand a second. A seed makes a run reproducible.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from math import inf

import msgspec

from logbale.models import Chunk, rfc3339

TICK = 0.02
"""Seconds between two chunks of a fast generator."""

MAX_CHUNK = 5000
"""Entries in one chunk, however far behind the generator is: about 8 ms in which the event loop does nothing else."""

MICROSECONDS = 1_000_000

_Fill = Callable[[int], str]
"""Makes a message of random bits."""

_PATHS = [
    f"/{area}/{item}"
    for area in ("cart", "orders", "products", "search", "account", "static/img", "api/v2/items", "checkout")
    for item in ("", "list", "87", "1204", "new", "latest", "45f1", "status")
]
_USERS = [f"user-{number:05d}" for number in range(0, 64_000, 1000)]
_TRACES = [
    'Traceback (most recent call last):\n  File "/srv/app/worker.py", line 118, in run\n    self.handle(job)\n'
    '  File "/srv/app/worker.py", line 164, in handle\n    total = price * quantity\n'
    "TypeError: unsupported operand type(s) for *: 'NoneType' and 'int'",
    "java.lang.IllegalStateException: connection pool is closed\n\tat shop.db.Pool.take(Pool.java:88)\n"
    "\tat shop.orders.Store.save(Store.java:41)\n\tat shop.orders.Service.place(Service.java:112)",
]


def _address(bits: int) -> str:
    return f"10.{bits >> 16 & 3}.{bits >> 8 & 255}.{bits & 255}"


_TEMPLATES: list[tuple[int, str, str, _Fill]] = [
    # of about 1,000 entries so many have this service, level and message
    (
        300,
        "web",
        "INFO",
        lambda r: f'{_address(r)} "GET {_PATHS[r >> 20 & 63]} HTTP/1.1" 200 {r >> 26 & 0xFFFF} {r >> 42 & 511}ms',
    ),
    (
        90,
        "web",
        "INFO",
        lambda r: f'{_address(r)} "POST {_PATHS[r >> 20 & 63]} HTTP/1.1" 201 {r >> 26 & 0xFFF} {r >> 42 & 1023}ms',
    ),
    (40, "web", "WARNING", lambda r: f'{_address(r)} "GET {_PATHS[r >> 20 & 63]} HTTP/1.1" 404 162 {r >> 42 & 31}ms'),
    (
        110,
        "auth",
        "INFO",
        lambda r: f"{_USERS[r & 63]} logged in from {_address(r >> 6)} session={r >> 30 & 0xFFFFFFFF:08x}",
    ),
    (
        15,
        "auth",
        "WARNING",
        lambda r: f"failed password for {_USERS[r & 63]} from {_address(r >> 6)} port {1024 + (r >> 30 & 0x7FFF)}",
    ),
    (
        120,
        "orders",
        "INFO",
        lambda r: (
            f"order {r & 0xFFFFFFFF:08x} placed by {_USERS[r >> 32 & 63]}: "
            f"{1 + (r >> 38 & 7)} items, {r >> 41 & 511}.{r >> 50 & 63:02d} EUR"
        ),
    ),
    (100, "orders", "DEBUG", lambda r: f"stock of item {r & 4095} is {r >> 12 & 255}, reserved {r >> 20 & 15}"),
    (8, "orders", "ERROR", lambda r: f"payment of order {r & 0xFFFFFFFF:08x} declined: code {50 + (r >> 32 & 15)}"),
    (
        120,
        "db",
        "DEBUG",
        lambda r: f"query took {r & 255}.{r >> 8 & 7} ms, {r >> 11 & 1023} rows, plan {r >> 21 & 0xFFFFFF:06x}",
    ),
    (
        12,
        "db",
        "WARNING",
        lambda r: f"slow query: {1 + (r & 7)}.{r >> 3 & 511:03d} s, connection {r >> 12 & 127} of 128",
    ),
    (
        75,
        "worker",
        "INFO",
        lambda r: f"job {r & 0xFFFFFFFFFF:010x} done in {r >> 40 & 0x3FFF} ms after {r >> 54 & 3} retries",
    ),
    (7, "worker", "ERROR", lambda r: f"job {r & 0xFFFFFFFFFF:010x} failed\n{_TRACES[r >> 40 & 1]}"),
    (3, "worker", "CRITICAL", lambda r: f"no answer from broker {_address(r)}:9092 for {1 + (r >> 20 & 63)} s"),
]
_WHEEL = [(service, level, fill) for weight, service, level, fill in _TEMPLATES for _ in range(weight)]


class Generated(msgspec.Struct, frozen=True, gc=False):
    """A synthetic entry."""

    timestamp: str
    level: str
    service: str
    message: str


def as_lines(entries: list[Generated]) -> list[bytes]:
    """The entries as a Chunk has them."""
    return msgspec.json.Encoder().encode_lines(entries).splitlines(keepends=True)


class LogGenerator:
    """A Source of synthetic entries."""

    def __init__(
        self,
        rate: float,
        run_time: float,
        *,
        seed: int | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`rate` entries a second for `run_time` seconds; 0 is for ever."""
        self.rate = rate
        self.run_time = run_time
        self._random = random.Random(seed)  # nosec B311  # for entries that repeat, not for secrets
        self._now = now
        self._clock = clock
        self._sleep = sleep

    def take(self, count: int, *, start: float | None = None, first: int = 0) -> list[Generated]:
        """The next `count` entries at once, as if made at the rate since `start` (Unix seconds, now by default).

        `first` is how many were made since then already.
        """
        begin = round((self._now() if start is None else start) * MICROSECONDS)
        bits, size, step = self._random.getrandbits, len(_WHEEL), MICROSECONDS / self.rate
        entries = []
        second, prefix = -1, ""
        for number in range(first, first + count):
            # Rendered once a second: a datetime for each entry would take longer than all the rest of it.
            now, fraction = divmod(begin + int(number * step), MICROSECONDS)
            if now != second:
                second, prefix = now, rfc3339(now)[: -len("000000Z")]
            r = bits(64)
            service, level, fill = _WHEEL[(r >> 48) * size >> 16]
            entries.append(Generated(f"{prefix}{fraction:06d}Z", level, service, fill(r)))
        return entries

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The entries that are due, as time goes by: floor(elapsed * rate), whatever a sleep took too long."""
        begin, start = self._now(), self._clock()
        total = round(self.run_time * self.rate) if self.run_time else inf
        made = due = 0
        while made < total:
            # One that is behind catches up at once, but does not keep the loop to itself.
            pause = 0.0 if made < due else max(TICK, start + (made + 1) / self.rate - self._clock())
            await self._sleep(pause)
            due = int(min((self._clock() - start) * self.rate + 1e-9, total))
            if due > made:
                entries = self.take(min(due - made, MAX_CHUNK), start=begin, first=made)
                made += len(entries)
                yield Chunk(as_lines(entries))

    def counts(self) -> dict[str, int]:
        """Nothing has to be mended here."""
        return {}

    def total_bytes(self) -> int | None:
        """Unknown: it is counted in entries."""
        return None

    @property
    def read_bytes(self) -> int:
        """Likewise."""
        return 0
