"""What `logbale top` is told: /api/stats and /api/clients of a receiver, and the order of its clients. No I/O.

A receiver may be of another version: whatever it does not say has a default, and what we do not know is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec


class _Answer(msgspec.Struct):
    """Has a default for whatever another version may not say."""


class Totals(_Answer):
    entries: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0


class Rates(_Answer):
    entries: float = 0.0
    raw_bytes: float = 0.0
    wire_bytes: float = 0.0


class Latency(_Answer):
    p50: float | None = None
    p99: float | None = None


class Shippers(_Answer):
    reporting: int = 0
    read_entries: int = 0
    delivered_entries: int = 0
    rejected_entries: int = 0
    dropped: dict[str, int] = {}
    waiting_entries: int = 0


class Alarm(_Answer):
    severity: str = "warning"
    text: str = ""
    todo: str = ""


class Disk(_Answer):
    path: str = ""
    free_bytes: int = 0
    total_bytes: int = 0


class Stats(_Answer):
    """/api/stats of a receiver."""

    end: str = ""
    version: str = ""
    host: str = ""
    state: str = ""
    why: str = ""
    now: float = 0.0
    uptime: float = 0.0
    clients: int = 0
    received: Totals = msgspec.field(default_factory=Totals)
    ratio: float = 0.0
    rates: Rates = msgspec.field(default_factory=Rates)
    stored_entries: int = 0
    duplicate_entries: int = 0
    rejected_entries: int = 0
    waiting_entries: int = 0
    in_flight_bytes: int = 0
    latency: Latency = msgspec.field(default_factory=Latency)
    shippers: Shippers | None = None
    levels: dict[str, int] = {}
    alarms: list[Alarm] = []
    disk: Disk | None = None
    last_sync: float | None = None
    errors: dict[str, int] = {}


class Client(_Answer):
    """A row of /api/clients."""

    stream: str = ""
    name: str = ""
    host: str = ""
    agent: str = ""
    address: str = ""
    identity: str = ""
    connected: bool = False
    last_seen: float = 0.0
    entries_per_second: float = 0.0
    entries: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    ratio: float = 0.0
    algorithm: str = ""
    level: int | None = None
    level_reason: str | None = None
    lag_batches: int | None = None
    lag_seconds: float | None = None
    spool_bytes: int | None = None
    reconnects: int = 0
    choice: int | None = None
    dropped: dict[str, int] = {}

    @property
    def label(self) -> str:
        """Who it is: its host and name, which is what fits, and its stream, which begins with the host as a rule."""
        if self.name:
            return " ".join(filter(None, (self.host, self.name, self.stream)))
        if self.host and not self.stream.startswith(self.host):
            return f"{self.host} {self.stream}".rstrip()
        return self.stream or self.address


class Clients(_Answer):
    """/api/clients."""

    now: float = 0.0
    clients: list[Client] = []
    left_out: int = 0


# The order of the clients


class Order(msgspec.Struct, frozen=True):
    """What clients can be sorted by."""

    key: str
    """On the keyboard."""
    name: str
    """With the key's letter in it."""
    value: Callable[[Client], Any]
    descends: bool = True


ORDERS = (
    Order("e", "entries/s", lambda client: client.entries_per_second),
    Order("r", "ratio", lambda client: client.ratio),
    Order("l", "lag", lambda client: (client.lag_seconds or 0.0, client.lag_batches or 0)),
    Order("s", "spool", lambda client: client.spool_bytes or 0),
    Order("w", "wire", lambda client: client.wire_bytes),
    Order("d", "drops", lambda client: sum(client.dropped.values())),
    Order("n", "name", lambda client: client.label, descends=False),
    Order("t", "time seen", lambda client: client.last_seen),
)


def ordered(clients: Iterable[Client], order: Order, *, reverse: bool = False) -> list[Client]:
    """Connected ones first; the same order for equal ones each time."""
    by_name = sorted(clients, key=lambda client: client.label)
    by_value = sorted(by_name, key=order.value, reverse=order.descends != reverse)
    return sorted(by_value, key=lambda client: not client.connected)
