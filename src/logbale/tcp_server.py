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
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from ssl import SSLContext
from time import monotonic
from typing import Any, TypeVar

from logbale.accepting import unfailing
from logbale.access import Access
from logbale.clients import Clients
from logbale.committer import Committer
from logbale.config import Settings
from logbale.connection import Connection
from logbale.context_budget import ContextBudget
from logbale.floods import is_worth_saying
from logbale.losses import Losses
from logbale.messages import TLS_REQUIRED, Error, encode_message
from logbale.metrics import ReceiverMetrics
from logbale.newcomers import Newcomers
from logbale.protocol import FLAGS_AT, Flag
from logbale.proxies import Proxies
from logbale.receiving_session import ReceivingSession
from logbale.room import Room, Waiting
from logbale.sinks import Sink
from logbale.streams import Streams
from logbale.terminal import count
from logbale.tls.failures import TLSError
from logbale.tls.server import Failures, Listening

log = logging.getLogger("logbale.receiver")

LIVENESS_INTERVAL = 1.0
"""Seconds between looks for sessions that have fallen silent."""

BUSY_INTERVAL = 5.0
"""Seconds between two `busy` while it lasts."""

SLICE = 500
"""Connections that are looked at, or told something, in one turn of the loop: 5 ms at 10 µs each."""

CONTEXT_INTERVAL = 0.1
CONTEXT_MOVES = 100
"""Every so often at most so many sessions are asked for another window: each answers with a new context, which costs
it more bytes and CPU than going on.
"""

MEMORY_SAID_EVERY = 3600.0
"""Seconds between two words on contexts that there is no memory for: at the limit sessions come and go."""

BACKLOG = 4096
"""Connections that the kernel keeps until we accept them: what Linux allows, since the next one would wait a second."""

CLOSE_GRACE = 1.0
"""Seconds that a stop gives to answers that are still on their way."""

_Decoded = TypeVar("_Decoded")


class TCPLogReceiver:
    """Listens, decodes each frame by its own flags, and commits the batches of all connections in groups.

    One event loop owns all of it. `start`, then `stop`; the sink stays the caller's to close. Raises ConfigError where
    the tokens cannot be had.
    """

    def __init__(
        self, settings: Settings, sink: Sink, metrics: ReceiverMetrics, tls: Callable[[], SSLContext] | None = None
    ) -> None:
        """`tls` gives the context for the next connection; without it they are in plain."""
        self.settings = settings
        self.sink = sink
        self.metrics = metrics
        self.pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="logbale-decode")
        self.streams = Streams(sink)
        self.losses = Losses(metrics)
        self.clients = Clients()
        self.access = Access(settings, metrics.errors)
        # Half of what may be decoded and not stored (Room): the others go on with the rest.
        self.committer = Committer(sink, metrics, max_held=lambda: self.settings.max_in_flight_bytes // 4)
        self.tasks: list[asyncio.Task[None]] = []
        """They end only by an error that nobody foresaw: the owner should await them beside everything else."""
        self._budget: ContextBudget[ReceivingSession] = ContextBudget(settings.context_memory)
        self._memory_said = -inf
        self._newcomers = Newcomers(lambda: self.settings.max_connections_per_address)
        self._strangers: set[Connection] = set()
        self._arriving_bytes = 0
        self.room = Room(lambda: self.settings.max_in_flight_bytes // 2, self._wake)
        metrics.window_log = self._budget.window_log
        self._connections: set[Connection] = set()
        self._nothing_in_flight = asyncio.Event()
        self._nothing_in_flight.set()
        self._nobody_connected = asyncio.Event()
        self._nobody_connected.set()
        self._paused = False
        self._stopping = False
        self._server: asyncio.Server | None = None

        def timeout() -> float:
            return self.settings.hello_timeout

        self._proxies = Proxies(settings.proxy_from, metrics.errors, timeout) if settings.proxy_from else None
        self.tls_failures = Failures(metrics.errors)
        self._tls = None
        if tls is not None:
            self._tls = Listening(tls, self.tls_failures, plain_answer=_plain_answer, timeout=timeout)

    async def start(self) -> None:
        """Listens on SERVER_HOST and SERVER_PORT. Raises OSError where that cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            unfailing(self._connection), self.settings.server_host, self.settings.server_port, backlog=BACKLOG
        )
        parts = (self.committer.run(), self._watch_sessions(), self._share_contexts())
        self.tasks = [asyncio.create_task(part) for part in parts]

    def _connection(self) -> asyncio.Protocol:
        connection = Connection(self)
        protocol: asyncio.Protocol = connection if self._tls is None else self._tls.wrap(connection)
        return protocol if self._proxies is None else self._proxies.wrap(protocol)

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
        if self._proxies is not None:
            self._proxies.close()
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
                async for connection in self._in_slices():
                    connection.busy(BUSY_INTERVAL, why)
            async for connection in self._in_slices():
                if not self._paused:  # whom we do not read, we cannot hear
                    connection.check_liveness(monotonic())

    async def _in_slices(self) -> AsyncIterator[Connection]:
        """The connections that are open now, and still open at their turn; the loop turns between slices of them."""
        for number, connection in enumerate(list(self._connections), start=1):
            if connection in self._connections:
                yield connection
            if number % SLICE == 0:
                await asyncio.sleep(0)

    async def _share_contexts(self) -> None:
        """Takes memory for contexts back from sessions when there are many, and gives it when there are few."""
        while True:
            await asyncio.sleep(CONTEXT_INTERVAL)
            now = monotonic()
            for session, window_log in self._budget.moves(now, CONTEXT_MOVES):
                session.ask_for(window_log)
            if not self._paused:  # whom we do not read, we cannot hear
                for session in self._budget.disobedient(now):
                    session.disobeyed()
            self.metrics.window_log = self._budget.window_log

    # what connections call

    def opened(self, connection: Connection) -> bool:
        """A connection came; False where there are too many, or its address is locked out."""
        self.metrics.connections += 1
        if self.access.is_locked_out(connection.host):
            log.debug("%s refused: its address is locked out", connection.peer)
            return False
        if len(self._connections) >= self.settings.max_connections:
            self.metrics.errors["too_many_connections"] += 1
            log.warning(
                "%s refused: %s open, the limit (MAX_CONNECTIONS)",
                connection.peer,
                count(len(self._connections), "connection is", "connections are"),
            )
            return False
        if not self._newcomers.came(connection.host):
            self.metrics.errors["too_many_of_address"] += 1
            refused = self.metrics.errors["too_many_of_address"]
            if is_worth_saying(refused):
                log.warning(
                    "%s refused (%d so far): too many connections of its address sent nothing sound yet "
                    "(MAX_CONNECTIONS_PER_ADDRESS)",
                    connection.peer,
                    refused,
                )
            return False
        log.info("%s connected", connection.peer)
        self._strangers.add(connection)
        self._connections.add(connection)
        self._nobody_connected.clear()
        self.metrics.clients = len(self._connections)
        if self._paused:
            connection.pause()
        return True

    def known(self, connection: Connection) -> None:
        """Its client has been welcomed, or has sent a sound base frame, or it is gone."""
        if connection in self._strangers:
            self._strangers.discard(connection)
            self._newcomers.settled(connection.host)

    def closed(self, connection: Connection, error: Exception | None) -> None:
        """A connection is gone, by its own end or by an error."""
        if connection not in self._connections:
            return
        # What was wrong with TLS has been said, and a flood of it by doubling.
        why = f": {error}" if error is not None and not isinstance(error, TLSError) else ""
        log.info("%s disconnected%s", connection.peer, why)
        self._connections.discard(connection)
        self.known(connection)
        self.metrics.clients = len(self._connections)
        if not self._connections:
            self._nobody_connected.set()

    def session_came(self, session: ReceivingSession) -> int:
        """A session is about to be welcomed: the window that its contexts may have."""
        now = monotonic()
        window_log = self._budget.came(session, now)
        if self._budget.memory and self._budget.is_used_up and now - self._memory_said >= MEMORY_SAID_EVERY:
            self._memory_said = now
            log.warning(
                "CONTEXT_MEMORY is used up (%d bytes, %s): those that come now get no context, and each of their "
                "batches is compressed alone",
                self.settings.context_memory,
                count(self._budget.sessions, "session", "sessions"),
            )
        self.metrics.sessions = self._budget.sessions
        self.metrics.window_log = self._budget.window_log
        return window_log

    def session_obeyed(self, session: ReceivingSession) -> int:
        """A session has ended its context, as it was asked to: the window that its contexts may have from now on."""
        return self._budget.obeyed(session)

    def session_left(self, session: ReceivingSession) -> None:
        """A session is over, whether or not it was ever welcomed."""
        self._budget.left(session)
        self.metrics.sessions = self._budget.sessions

    @property
    def is_paused(self) -> bool:
        """Nobody is read now."""
        return self._paused or self._stopping

    def reserve(self, size: int) -> None:
        """Counts bytes as in flight; pauses every connection when they are too many."""
        self.metrics.in_flight_bytes += size
        self._nothing_in_flight.clear()
        self._pause_if_full()

    def arriving(self, connection: Connection, size: int) -> None:
        """So much of a connection's unfinished frame is here now.

        Of all of them, half of what may be in flight: over that the one goes that has taken the most for the longest
        time. The other half gets stored, so that those who wait are read again.
        """
        self._arriving_bytes += size - connection.arriving_bytes
        connection.arriving_bytes = size
        if self._arriving_bytes > self.settings.max_in_flight_bytes // 2:
            now = monotonic()
            max(self._connections, key=lambda one: one.held_up(now)).too_much()
        self._pause_if_full()

    def _pause_if_full(self) -> None:
        if not self._paused and self._all_bytes > self.settings.max_in_flight_bytes:
            self._paused = True
            for connection in self._connections:
                connection.pause()

    @property
    def _all_bytes(self) -> int:
        return self.metrics.in_flight_bytes + self._arriving_bytes

    def take_room(self, size: int) -> None:
        """Like reserve(), for what is decoded or is about to be."""
        self.room.taken += size
        self.reserve(size)

    def give_room(self, size: int) -> None:
        """The reverse."""
        self.room.taken -= size
        self.release(size)

    async def decode(self, size: int, function: Callable[..., _Decoded], *arguments: Any) -> _Decoded:
        """Runs a pure function in the pool; the room that was taken for what it gives is given back."""
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.pool, lambda: function(*arguments))
        finally:
            self.give_room(size)

    def _wake(self, who: Waiting, size: int) -> None:
        def go_on() -> None:
            self.room.taken -= size
            who.go_on()
            self.room.settled()

        asyncio.get_running_loop().call_soon(go_on)

    def release(self, size: int) -> None:
        """The reverse; reading resumes at three quarters of the limit."""
        self.metrics.in_flight_bytes -= size
        if not self.metrics.in_flight_bytes:
            self._nothing_in_flight.set()
        self.room.settled()
        enough = self._all_bytes <= self.settings.max_in_flight_bytes * 3 // 4
        if self._paused and enough and not self._stopping:
            self._paused = False
            self._budget.forgive(monotonic())
            for connection in self._connections:
                connection.resume()


def _plain_answer(first: bytes) -> bytes:
    """What a client that speaks no TLS is told: a session in its own terms, a base client nothing."""
    if first[FLAGS_AT : FLAGS_AT + 1] != bytes([Flag.CONTROL]):
        return b""
    return encode_message(Error(TLS_REQUIRED, "this port speaks TLS only: set TLS_CA_FILE"))
