"""Monitor: what a receiver knows of itself beyond its counters, gathered once a second while somebody may look.

It asks the disk for its room on a thread: a file system that hangs must not take the event loop with it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Protocol

import msgspec

from logbale.alarms import Alarm, Board, Disk, Facts, Upstream, alarms
from logbale.archive.statistics import Statistics
from logbale.clients import Reported, Row
from logbale.committer import COMMIT_BYTES
from logbale.history import History, LevelChange, Sample
from logbale.levels import ERRORS, WARNINGS
from logbale.metrics import ReceiverSnapshot, RelaySnapshot
from logbale.tcp_server import TCPLogReceiver

DISK_INTERVAL = 5.0
"""Seconds between looks at the room on the disk."""

LAST_ROOM = 0.01
"""Part of a small disk that has to be free; of a large one it is what a commit may take."""

PATIENCE = 30.0
"""Seconds without an answer from the disk after which it counts as one that cannot be written to."""


class Store(Protocol):
    """Where the receiver stores on a disk: an archive, or a relay's spools."""

    @property
    def directory(self) -> Path:
        """Whose disk it is."""
        ...

    @property
    def statistics(self) -> Statistics:
        """Of which the damage is looked at."""
        ...


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside a receiver's snapshot in /api/stats and /metrics. Times are Unix seconds."""

    now: float
    shippers: Reported
    """What the connected shippers report, summed up."""
    alarms: list[Alarm]
    disk: Disk | None
    last_sync: float | None
    damaged_blocks: int
    """Places without a sound block that the archive's recovery and sealing met."""


class Monitor:
    """`tick` about every second; the rest says what is known."""

    def __init__(
        self,
        server: TCPLogReceiver,
        archive: Store | None,
        *,
        certificate_expires: float | None = None,
        clock: Callable[[], float] = monotonic,
        day_clock: Callable[[], float] = time.time,
    ) -> None:
        """`archive` is None where nothing is stored on a disk; `certificate_expires` is in Unix seconds."""
        self.history = History()
        self.certificate_expires = certificate_expires
        self._server = server
        self._archive = archive
        self._clock = clock
        self._day_clock = day_clock
        self._board = Board()
        self._disk: Disk | None = None
        self._disk_answered = self._idle = clock()
        self._asking: asyncio.Task[None] | None = None
        self._rejects = 0
        self._rejected: float | None = None
        # The first second counts from here.
        self._keep(server.metrics.snapshot(self._idle), self._idle, day_clock())

    # once a second

    def tick(self, snapshot: ReceiverSnapshot) -> None:
        """Takes the receiver as it is now."""
        now, unix = self._clock(), self._day_clock()
        clients = self._server.clients
        clients.tick(now)
        for client in clients:
            for when, before, after, reason in client.take_changes():
                self.history.level_changed(
                    LevelChange(min(when, unix), client.stream, client.host, before, after, reason)
                )
        self._ask_disk(now)
        if not self._server.metrics.pending_entries:
            self._idle = now
        self._keep(snapshot, now, unix)
        self._board.update(alarms(self._facts(snapshot, now, unix)), unix)

    def _keep(self, snapshot: ReceiverSnapshot, now: float, unix: float) -> None:
        clients = self._server.clients
        self.history.add(
            Sample(
                time=unix,
                now=now,
                received=snapshot.received,
                by_algorithm=snapshot.by_algorithm,
                durations=snapshot.ack_durations,
                errors=sum(snapshot.levels.get(level, 0) for level in ERRORS),
                warnings=sum(snapshot.levels.get(level, 0) for level in WARNINGS),
                clients=clients.connected_count,
                load=clients.load(),
            )
        )

    def _ask_disk(self, now: float) -> None:
        is_due = self._disk is None or now - self._disk_answered >= DISK_INTERVAL
        if self._archive is not None and is_due and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._read_disk(self._archive.directory))

    async def _read_disk(self, path: Path) -> None:
        try:
            room = await asyncio.to_thread(os.statvfs, path)
        except OSError:  # what is wrong there, the next commit tells
            return
        self._disk = Disk(str(path), room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize)
        self._disk_answered = self._clock()

    def _facts(self, snapshot: ReceiverSnapshot, now: float, unix: float) -> Facts:
        metrics = self._server.metrics
        rejects = snapshot.errors.get("rejected", 0) + snapshot.bad_frames
        if rejects > self._rejects:
            self._rejects, self._rejected = rejects, now
        clients = list(self._server.clients)
        return Facts(
            storage_error=self._storage_error(now),
            disk=self._disk,
            unaccounted_entries=snapshot.waiting_entries - metrics.pending_entries,
            unbalanced=[client.label for client in clients if client.report is not None and not client.report.adds_up],
            damaged_blocks=self._damaged_blocks,
            lost_batches=snapshot.lost_batches,
            lost_streams=list(metrics.lost_streams),
            rejects=rejects,
            rejected_ago=now - self._rejected if self._rejected is not None else None,
            missed=[client.label for client in clients if client.is_missed(now)],
            upstream=_upstream(snapshot.relay),
            p99=snapshot.latency.p99,
            latency_target=self._server.settings.latency_target,
            certificate_left=self.certificate_expires - unix if self.certificate_expires is not None else None,
        )

    @property
    def _damaged_blocks(self) -> int:
        return self._archive.statistics.damaged_blocks if self._archive is not None else 0

    def _storage_error(self, now: float) -> str | None:
        """Why nothing can be stored now; None while it can, as far as is known without trying."""
        metrics, disk = self._server.metrics, self._disk
        if (error := self._server.committer.storage_error) is not None:
            return error
        if self._archive is None:
            return None
        path = self._archive.directory
        stored = max(self._idle, metrics.last_stored if metrics.last_stored is not None else self._idle)
        if now - stored >= PATIENCE:
            return f"{path}: {metrics.pending_entries:,} entries wait and nothing was synced for {now - stored:.0f} s"
        if now - self._disk_answered >= PATIENCE:
            return f"{path}: the disk has not answered for {now - self._disk_answered:.0f} s"
        if disk is None or disk.free_bytes >= (needed := min(COMMIT_BYTES, int(disk.total_bytes * LAST_ROOM))):
            return None
        if metrics.last_stored is not None and metrics.last_stored > self._disk_answered:
            return None  # there was room since
        return f"{path}: {disk.free_bytes:,} bytes are free, {needed:,} are needed; free some space"

    # what is known

    def ready(self) -> tuple[bool, str]:
        """Whether batches can be accepted and stored, and if not, why."""
        error = self._storage_error(self._clock())
        return (True, "listening, storing") if error is None else (False, error)

    def state(self) -> tuple[bool, str]:
        """The same, and whether no alarm is critical."""
        is_ready, why = self.ready()
        if is_ready and (alarm := self._board.critical) is not None:
            return False, alarm.text
        return is_ready, why

    def overview(self) -> Overview:
        """Everything at once."""
        now, unix = self._clock(), self._day_clock()
        stored = self._server.metrics.last_stored if self._archive is not None else None
        return Overview(
            now=unix,
            shippers=self._server.clients.reported(),
            alarms=self._board.alarms,
            disk=self._disk,
            last_sync=round(stored - now + unix, 3) if stored is not None else None,
            damaged_blocks=self._damaged_blocks,
        )

    def rows(self) -> tuple[list[Row], int]:
        """The clients for people, and how many were left out."""
        clients = self._server.clients
        rows = clients.rows(self._clock(), self.now)
        return rows, len(clients) - len(rows)

    @property
    def now(self) -> float:
        """The time of day, in Unix seconds."""
        return self._day_clock()


def _upstream(relay: RelaySnapshot | None) -> Upstream | None:
    if relay is None or relay.sessions or not relay.waiting_entries:
        return None
    return Upstream(relay.upstream, relay.last_error, relay.waiting_entries, relay.oldest_waiting)
