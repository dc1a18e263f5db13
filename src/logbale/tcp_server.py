"""TCPLogReceiver: many connections in on one event loop, durable batches out, and an ack for whoever asked for one.

Refuses a connection whose framing is unsound (that connection only) and skips a frame whose payload is no batch. Reads
no faster than the sink stores: over MAX_IN_FLIGHT_BYTES every connection pauses, and a sink that cannot store now is
asked again until it can, while the clients wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

from logbale.committer import Committer
from logbale.config import Settings
from logbale.connection import Connection
from logbale.metrics import ReceiverMetrics
from logbale.sinks import Sink
from logbale.streams import Streams

log = logging.getLogger("logbale.receiver")

LIVENESS_INTERVAL = 1.0
"""Seconds between looks for sessions that have fallen silent."""

BUSY_INTERVAL = 5.0
"""Seconds between two `busy` while it lasts."""

CLOSE_GRACE = 1.0
"""Seconds that a stop gives to answers that are still on their way."""


class TCPLogReceiver:
    """Listens, decodes each frame by its own flags, and commits the batches of all connections in groups.

    One event loop owns all of it. `start`, then `stop`; the sink stays the caller's to close.
    """

    def __init__(self, settings: Settings, sink: Sink, metrics: ReceiverMetrics) -> None:
        self.settings = settings
        self.sink = sink
        self.metrics = metrics
        self.pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="logbale-decode")
        self.streams = Streams(sink)
        self.statuses: dict[str, dict[str, Any]] = {}
        """What each connected shipper last said of itself, by stream."""
        self.committer = Committer(sink, metrics)
        self.tasks: list[asyncio.Task[None]] = []
        """They end only by an error that nobody foresaw: the owner should await them beside everything else."""
        self._connections: set[Connection] = set()
        self._nothing_in_flight = asyncio.Event()
        self._nothing_in_flight.set()
        self._nobody_connected = asyncio.Event()
        self._nobody_connected.set()
        self._paused = False
        self._stopping = False
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens on SERVER_HOST and SERVER_PORT. Raises OSError where that cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), self.settings.server_host, self.settings.server_port, backlog=1024
        )
        self.tasks = [asyncio.create_task(self.committer.run()), asyncio.create_task(self._watch_sessions())]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port as they were bound."""
        assert self._server is not None, "start() comes first"
        host, port, *_ = self._server.sockets[0].getsockname()
        return host, port

    async def stop(self, deadline: float) -> int:
        """Accepts and reads nothing more, stores what was received until `deadline` (the loop's time), closes.

        Returns the entries that were received and could not be stored.
        """
        assert self._server is not None, "start() comes first"
        self._stopping = True
        self._server.close()
        for connection in self._connections:
            connection.pause()
            connection.goaway("shutting down")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._nothing_in_flight.wait()
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        await self._close_connections(deadline)
        await self._server.wait_closed()
        self.pool.shutdown(wait=False, cancel_futures=True)
        return self.metrics.snapshot(monotonic()).waiting_entries

    async def _close_connections(self, deadline: float) -> None:
        """Since Python 3.12 wait_closed() waits for every connection, also for a client that never reads its answers.

        Whether earlier Pythons or uvloop wait for them differs; here all behave alike.
        """
        for connection in list(self._connections):
            connection.close()
        now = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(deadline, now + CLOSE_GRACE)):
                await self._nobody_connected.wait()
        for connection in list(self._connections):
            connection.abort()
        await self._nobody_connected.wait()

    async def _watch_sessions(self) -> None:
        """Pings the silent, ends the dead, and tells the waiting that they wait."""
        told = -BUSY_INTERVAL
        while True:
            await asyncio.sleep(LIVENESS_INTERVAL)
            now = monotonic()
            why = self.committer.storage_error or ("too much waits for the sink" if self._paused else None)
            if why is not None and now - told >= BUSY_INTERVAL:
                told = now
                for connection in list(self._connections):
                    connection.busy(BUSY_INTERVAL, why)
            if not self._paused:  # whom we do not read, we cannot hear
                for connection in list(self._connections):
                    connection.check_liveness(now)

    # what connections call

    def opened(self, connection: Connection) -> bool:
        """A connection came; False where there are too many."""
        self.metrics.connections += 1
        if len(self._connections) >= self.settings.max_connections:
            self.metrics.errors["too_many_connections"] += 1
            log.warning(
                "%s refused: %d connections are open, the limit (MAX_CONNECTIONS)",
                connection.peer,
                len(self._connections),
            )
            return False
        log.info("%s connected", connection.peer)
        self._connections.add(connection)
        self._nobody_connected.clear()
        self.metrics.clients = len(self._connections)
        if self._paused:
            connection.pause()
        return True

    def closed(self, connection: Connection, error: Exception | None) -> None:
        """A connection is gone, by its own end or by an error."""
        if connection not in self._connections:
            return
        log.info("%s disconnected%s", connection.peer, f": {error}" if error else "")
        self._connections.discard(connection)
        self.metrics.clients = len(self._connections)
        if not self._connections:
            self._nobody_connected.set()

    def reserve(self, size: int) -> None:
        """Counts bytes as in flight; pauses every connection when they are too many."""
        self.metrics.in_flight_bytes += size
        self._nothing_in_flight.clear()
        if not self._paused and self.metrics.in_flight_bytes > self.settings.max_in_flight_bytes:
            self._paused = True
            for connection in self._connections:
                connection.pause()

    def release(self, size: int) -> None:
        """The reverse; reading resumes at three quarters of the limit."""
        self.metrics.in_flight_bytes -= size
        if not self.metrics.in_flight_bytes:
            self._nothing_in_flight.set()
        enough = self.metrics.in_flight_bytes <= self.settings.max_in_flight_bytes * 3 // 4
        if self._paused and enough and not self._stopping:
            self._paused = False
            for connection in self._connections:
                connection.resume()
