"""Alarms: what a receiver knows of itself and its clients, judged, with one line of what to do; no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from logbale.terminal import size

Severity = Literal["warning", "critical"]

ALARMS = ("storage", "loss", "disk", "sum", "damage", "rejects", "silent", "upstream", "latency", "certificate")
"""Every id there is."""

LOW_DISK = 0.10
"""Part of the disk that is free, below which it is time to do something."""

LAST_DISK = 0.02
"""Below which it is late."""

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

REJECTS_REMEMBERED = HOUR
"""Seconds for which a reject is news."""

CERTIFICATE_WARNING = 14 * DAY
CERTIFICATE_CRITICAL = DAY

NAMED = 3
"""Clients that are named in an alarm; the others are counted."""


class Disk(msgspec.Struct, frozen=True):
    """Where the archive lies."""

    path: str
    free_bytes: int
    """That this process may use."""
    total_bytes: int


class Upstream(msgspec.Struct, frozen=True):
    """A receiver that a relay does not reach, though something waits for it."""

    address: str
    why: str
    entries: int
    seconds: float
    """That the oldest of them waits."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known. Ages in seconds; None where there is nothing to know."""

    storage_error: str | None = None
    disk: Disk | None = None
    unaccounted_entries: int = 0
    """Received, and neither stored, duplicate, rejected nor waiting; below 0, more of them than received."""
    unbalanced: Sequence[str] = ()
    """Shippers whose own sum does not add up."""
    damaged_blocks: int = 0
    lost_batches: int = 0
    """Acknowledged here and not here any more."""
    lost_streams: Sequence[str] = ()
    """Whose they are."""
    rejects: int = 0
    """Batches and frames refused for good, since the start."""
    rejected_ago: float | None = None
    missed: Sequence[str] = ()
    """Clients that are silent though they did not say that they are done."""
    upstream: Upstream | None = None
    """Where a relay forwards to, while it cannot."""
    p99: float | None = None
    latency_target: float = 0.0
    """0 is none."""
    certificate_left: float | None = None
    """Seconds until the receiver's certificate ends."""


class Alarm(msgspec.Struct, frozen=True):
    """Something is not as it should be."""

    id: str
    severity: Severity
    text: str
    todo: str
    since: float = 0.0
    """Unix seconds; a Board knows."""


def alarms(facts: Facts) -> list[Alarm]:
    """What is wrong, the worst first."""
    return sorted(_alarms(facts), key=lambda alarm: (alarm.severity != "critical", ALARMS.index(alarm.id)))


def _alarms(facts: Facts) -> Iterator[Alarm]:
    if facts.storage_error is not None:
        yield Alarm(
            "storage",
            "critical",
            f"nothing can be stored: {facts.storage_error}",
            "the reason says what to do; the clients keep what waits, and it goes on by itself",
        )
    if facts.lost_batches:
        yield Alarm(
            "loss",
            "critical",
            f"{_number(facts.lost_batches, 'acknowledged batch', 'acknowledged batches')} of "
            f"{_named(facts.lost_streams)} are not here any more",
            "a damaged disk or an older copy of the archive: logbale verify names the gaps; keep a newer copy",
        )
    yield from _disk(facts.disk)
    yield from _sum(facts)
    if facts.damaged_blocks:
        yield Alarm(
            "damage",
            "warning",
            f"{_number(facts.damaged_blocks, 'block')} of the archive cannot be read",
            "logbale verify says which; restore those segments from a backup if there is one",
        )
    if facts.rejected_ago is not None and facts.rejected_ago < REJECTS_REMEMBERED:
        yield Alarm(
            "rejects",
            "warning",
            f"{_number(facts.rejects, 'batch', 'batches')} refused so far, the last one {_ago(facts.rejected_ago)}",
            "the log says whose and why; a session's shipper keeps its own as dead letters (logbale spool)",
        )
    if facts.missed:
        yield Alarm(
            "silent",
            "warning",
            f"nothing heard for over a minute of {_named(facts.missed)}",
            "see whether the shipper runs there and reaches this port",
        )
    if (upstream := facts.upstream) is not None and upstream.seconds >= MINUTE:
        yield Alarm(
            "upstream",
            "warning",
            f"nothing is forwarded to {upstream.address}: {upstream.why or 'no session'}; "
            f"{_number(upstream.entries, 'entry', 'entries')} wait, the oldest for {_ago(upstream.seconds)[:-4]}",
            "see whether the receiver there runs and is reached; what waits is safe here until SPOOL_MAX_BYTES",
        )
    if facts.p99 is not None and 0 < facts.latency_target < facts.p99:
        yield Alarm(
            "latency",
            "warning",
            f"1 % of the last minute's batches took over {_seconds(facts.p99)} until they were durable, "
            f"the target is {_seconds(facts.latency_target)}",
            "see whether the disk or the CPU is busy; the target is LATENCY_TARGET",
        )
    yield from _certificate(facts.certificate_left)


def _disk(disk: Disk | None) -> Iterator[Alarm]:
    if disk is None or not disk.total_bytes or (part := disk.free_bytes / disk.total_bytes) >= LOW_DISK:
        return
    yield Alarm(
        "disk",
        "critical" if part < LAST_DISK else "warning",
        f"{100 * part:.1f} % of the archive's disk is free, {size(disk.free_bytes)}",
        "free some space, or let the oldest segments go with ARCHIVE_RETENTION_BYTES",
    )


def _sum(facts: Facts) -> Iterator[Alarm]:
    if facts.unaccounted_entries:
        yield Alarm(
            "sum",
            "critical",
            f"received and stored, duplicate, rejected and waiting entries differ by {facts.unaccounted_entries:,}",
            "logbale is at fault: keep the archive and the log, and report it",
        )
    elif facts.unbalanced:
        yield Alarm(
            "sum",
            "critical",
            f"read and delivered, rejected, dropped and waiting entries differ at {_named(facts.unbalanced)}",
            "logbale is at fault there: keep the spool and the log, and report it",
        )


def _certificate(left: float | None) -> Iterator[Alarm]:
    if left is None or left >= CERTIFICATE_WARNING:
        return
    yield Alarm(
        "certificate",
        "critical" if left < CERTIFICATE_CRITICAL else "warning",
        f"the certificate ends in {left / DAY:.1f} days" if left > 0 else f"the certificate ended {_ago(-left)}",
        "put a renewed one in its place",
    )


def _named(names: Sequence[str]) -> str:
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _ago(seconds: float) -> str:
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s ago"
    if seconds < 2 * HOUR:
        return f"{seconds / MINUTE:.0f} min ago"
    return f"{seconds / HOUR:.0f} h ago" if seconds < 2 * DAY else f"{seconds / DAY:.0f} days ago"


class Board:
    """The alarms that are on, and since when."""

    def __init__(self) -> None:
        self.alarms: list[Alarm] = []

    def update(self, found: Sequence[Alarm], unix: float) -> None:
        """Takes what was found now, at that Unix time: what was on before keeps its time."""
        since = {alarm.id: alarm.since for alarm in self.alarms}
        self.alarms = [msgspec.structs.replace(alarm, since=since.get(alarm.id, unix)) for alarm in found]

    @property
    def critical(self) -> Alarm | None:
        """The first of those that mean that the receiver does not do its work."""
        return next((alarm for alarm in self.alarms if alarm.severity == "critical"), None)
