"""The clients of a receiver: what each has sent, and what it reports of itself; bounded, no I/O, no clock.

`now` is of a clock that never goes back; Unix times are made of it where they are asked for. A client that came back
under its stream's name keeps its row. Connected clients are as many as there are connections; of them and of those that
have gone, MAX_ROWS are shown, and so many of those that have gone are kept, for KEPT_SECONDS.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import msgspec

from logbale.liveness import Liveness
from logbale.metrics import Totals
from logbale.protocol import Algorithm
from logbale.reports import MAX_CHANGES, Change, Report, decode_report

MAX_ROWS = 1000
KEPT_SECONDS = 24 * 3600.0
RATE_INTERVAL = 5.0
"""Seconds between two samples of a client's entries: its rate is that of the last one or two intervals."""

SILENT_AFTER = 60.0
"""Seconds of silence after which a client that has gone without a word is missed."""

GONE_AFTER = 10.0
"""Seconds that it has to come back, also where it had nothing to say, or was not read, for longer."""

MAX_REASONS = 32
"""Reasons for drops that are added up apart, over all clients."""

MAX_TEXT = 256
"""Characters of what a client calls itself."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One client for people, as /api/clients has it. Times are Unix seconds."""

    id: str
    stream: str
    name: str
    host: str
    agent: str
    address: str
    identity: str
    connected: bool
    connected_since: float
    last_seen: float
    entries_per_second: float
    entries: int
    raw_bytes: int
    wire_bytes: int
    ratio: float
    algorithm: str
    level: int | None
    level_reason: str | None
    lag_batches: int | None
    lag_seconds: float | None
    spool_bytes: int | None
    reconnects: int
    choice: int | None
    dropped: dict[str, int]
    report: dict[str, Any] | None
    reported_at: float | None


class Client:
    """One client, while it is connected and for a while after. Changed by its connection; owned by Clients."""

    def __init__(self, id: str, stream: str, now: float) -> None:
        self.id = id
        self.stream = stream
        self.address = self.name = self.host = self.agent = self.identity = ""
        self.live: Liveness | None = None
        """Of its connection; None while there is none."""
        self.gone = now
        """Since when."""
        self.connections = 0
        self.since = self.seen = now
        self.totals = Totals()
        self.report: Report | None = None
        self.reported: float | None = None
        self._new_changes: list[Change] = []
        self._algorithm = Algorithm.NONE
        self._known_change = 0.0
        self._samples = ((now, 0), (now, 0))

    def add(self, algorithm: Algorithm, entries: int, raw_bytes: int, wire_bytes: int) -> None:
        """A sound batch came."""
        self._algorithm = algorithm
        self.totals.add(entries, raw_bytes, wire_bytes)

    def take_report(self, text: bytes, now: float) -> bool:
        """The client says what it counts; False where that is no report, which changes nothing."""
        if (report := decode_report(text)) is None:
            return False
        self.report, self.reported = report, now
        new = [change for change in report.changes if change[0] > self._known_change]
        if new:
            self._known_change = max(change[0] for change in new)
            self._new_changes = [*self._new_changes, *new][-MAX_CHANGES:]
        return True

    def take_changes(self) -> list[Change]:
        """Changes of the level that were reported and not taken yet."""
        changes, self._new_changes = self._new_changes, []
        return changes

    @property
    def label(self) -> str:
        """For people, on one line: the host, where that is a name and no trick, its own name, and the stream."""
        host = self.host if self.host.isprintable() and (self.name or self.host not in self.stream) else ""
        return " ".join(filter(None, (host, self.name, self.stream))) or self.address

    @property
    def last_seen(self) -> float:
        """When something came from it."""
        return self.live.heard_at if self.live is not None else self.seen

    def rate(self, now: float) -> float:
        """Entries a second, lately."""
        then, entries = self._samples[0]
        return (self.totals.entries - entries) / (now - then) if now > then else 0.0

    def sample(self, now: float) -> None:
        """To be called about every second."""
        if now - self._samples[1][0] >= RATE_INTERVAL:
            self._samples = self._samples[1], (now, self.totals.entries)

    def is_missed(self, now: float) -> bool:
        """Whether it had a session, has been silent for SILENT_AFTER and has not said that it was done.

        One that is connected is not: its session ends long before, or else it is we who do not read.
        """
        if self.live is not None or not self.stream or (self.report is not None and self.report.ended):
            return False
        return now - self.seen >= SILENT_AFTER and now - self.gone >= GONE_AFTER

    def row(self, now: float, unix: float) -> Row:
        """The client for people; `unix` is the time of day at `now`."""
        day, report = unix - now, self.report
        return Row(
            id=self.id,
            stream=self.stream,
            name=self.name,
            host=self.host,
            agent=self.agent,
            address=self.address,
            identity=self.identity,
            connected=self.live is not None,
            connected_since=round(self.since + day, 3),
            last_seen=round(self.last_seen + day, 3),
            entries_per_second=round(self.rate(now), 1),
            entries=self.totals.entries,
            raw_bytes=self.totals.raw_bytes,
            wire_bytes=self.totals.wire_bytes,
            ratio=self.totals.ratio,
            algorithm=report.algorithm if report is not None and report.algorithm else self._algorithm.label,
            level=report.level if report is not None else None,
            level_reason=report.level_reason if report is not None else None,
            lag_batches=report.waiting_batches if report is not None else None,
            lag_seconds=report.oldest_waiting if report is not None else None,
            spool_bytes=report.spool_bytes if report is not None else None,
            reconnects=self.connections - 1,
            choice=report.choice if report is not None else None,
            dropped=report.dropped if report is not None else {},
            report=msgspec.structs.asdict(report) if report is not None else None,
            reported_at=round(self.reported + day, 3) if self.reported is not None else None,
        )


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """What the connected shippers report, taken together."""

    reporting: int
    read_entries: int
    delivered_entries: int
    rejected_entries: int
    dropped: dict[str, int]
    waiting_entries: int


class Load(msgspec.Struct, frozen=True):
    """How the connected shippers compress, taken together; None where none reports."""

    level: float | None = None
    cpu_percent: float | None = None
    backlog_bytes: float | None = None


class Clients:
    """The table. Owned by the receiver's event loop."""

    def __init__(self) -> None:
        self._connected: dict[str, Client] = {}
        self._gone: OrderedDict[str, Client] = OrderedDict()
        """The one that went first comes first."""

    def __len__(self) -> int:
        return len(self._connected) + len(self._gone)

    def __iter__(self) -> Iterator[Client]:
        """Those that are connected, then the others, the one that went last first."""
        return chain(self._connected.values(), reversed(self._gone.values()))

    @property
    def connected_count(self) -> int:
        """Clients that are connected now."""
        return len(self._connected)

    def connected(
        self,
        *,
        stream: str,
        address: str,
        name: str = "",
        host: str = "",
        agent: str = "",
        identity: str = "",
        live: Liveness,
        now: float,
    ) -> Client:
        """A client came, or came again; without a stream it is another one each time."""
        # A stream's name has no slash, so the two kinds of names cannot meet.
        id = stream or f"base/{address}"
        client = self._connected.get(id) or self._gone.pop(id, None) or Client(id, stream, now)
        self._connected[id] = client
        client.address, client.identity, client.live, client.since = address, identity, live, now
        client.name, client.host, client.agent = name[:MAX_TEXT], host[:MAX_TEXT], agent[:MAX_TEXT]
        client.connections += 1
        client.report = None  # it may be another process, which counts anew
        return client

    def disconnected(self, client: Client, live: Liveness, now: float) -> None:
        """The connection with this liveness is over; if the client has a newer one, it stays."""
        if client.live is not live:
            return
        client.seen, client.gone, client.live = live.heard_at, now, None
        del self._connected[client.id]
        self._gone[client.id] = client
        if len(self._gone) > MAX_ROWS:
            self._gone.popitem(last=False)

    def tick(self, now: float) -> None:
        """To be called about every second: keeps the rates, and forgets who has been gone for KEPT_SECONDS."""
        while self._gone and now - next(iter(self._gone.values())).seen >= KEPT_SECONDS:
            self._gone.popitem(last=False)
        for client in self:
            client.sample(now)

    def rows(self, now: float, unix: float) -> list[Row]:
        """MAX_ROWS at most."""
        return [client.row(now, unix) for client in islice(self, MAX_ROWS)]

    def reported(self) -> Reported:
        """The sums that the connected shippers report."""
        reports = self._reports()
        dropped: dict[str, int] = {}
        for report in reports:
            for reason, count in report.dropped.items():
                name = reason if reason in dropped or len(dropped) < MAX_REASONS else "other"
                dropped[name] = dropped.get(name, 0) + count
        return Reported(
            reporting=len(reports),
            read_entries=sum(report.read for report in reports),
            delivered_entries=sum(report.delivered for report in reports),
            rejected_entries=sum(report.rejected for report in reports),
            dropped=dropped,
            waiting_entries=sum(report.waiting_entries for report in reports),
        )

    def load(self) -> Load:
        """Mean level and CPU, and the backlog of all."""
        reports = self._reports()
        cpu = [report.cpu_percent for report in reports if report.cpu_percent is not None]
        return Load(
            sum(report.level for report in reports) / len(reports) if reports else None,
            sum(cpu) / len(cpu) if cpu else None,
            float(sum(report.backlog_bytes for report in reports)) if reports else None,
        )

    def _reports(self) -> list[Report]:
        return [client.report for client in self._connected.values() if client.report is not None]
