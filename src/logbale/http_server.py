"""HTTPServer: one ASGI app, served inside the caller's event loop.

A guest in a process that has other work: it installs no signal handler, writes no access log, believes no proxy's
headers, and holds no more than MAX_CONNECTIONS sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections import Counter
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from logbale.accepting import unfailing
from logbale.tls.server import Listening

MAX_CONNECTIONS = 128
"""Open at a time, where nothing else is said (DASHBOARD_MAX_CONNECTIONS); a further one is reset.

The descriptors belong to the shippers' connections.
"""

STALLED = 30.0
"""Seconds in which a client must take what is on its way to it (64 KiB and one write at most), or is cut off."""

STOP_GRACE = 1
"""Seconds (uvicorn wants a whole number) that a stop gives to answers that are still on their way."""


class HTTPServer:
    """Serves `app` on `host` and `port` (0: the system chooses). `start`, then `stop`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        tls: Listening | None = None,
        max_connections: int = MAX_CONNECTIONS,
        errors: Counter[str] | None = None,
    ) -> None:
        """What is refused is counted in `errors`."""

        def connection(**given: Any) -> asyncio.Protocol:
            protocol = _Connection(**given)
            protocol.most = max_connections
            protocol.errors = errors
            return protocol if tls is None else tls.wrap(protocol)

        self._host = host
        self._port = port
        self._server = _Server(
            uvicorn.Config(
                app,
                http=unfailing(connection),  # type: ignore[arg-type]  # they want a class, and call it
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_GRACE,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens. Raises OSError where the address or the port cannot be had."""
        sockets = await _listen(self._host, self._port)
        self._port = sockets[0].getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets))

    @property
    def port(self) -> int:
        """The port, as it was bound once start() is over."""
        return self._port

    async def stop(self) -> None:
        """Closes every connection, idle ones at once, and frees the port; takes little more than STOP_GRACE at most."""
        if self._serving is None:
            return
        self._server.should_exit = True
        await self._serving
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # its client reads no answer


class _Server(uvicorn.Server):
    """uvicorn's server, with the signals left to whoever owns the process."""

    def capture_signals(self) -> contextlib.nullcontext[None]:  # type: ignore[override]  # theirs is a generator
        """Captures none."""
        return contextlib.nullcontext()


class _Connection(H11Protocol):
    """uvicorn's connection, refused beyond `most`: its own limit answers 503 and keeps the socket.

    Also ended where its client takes nothing for STALLED: uvicorn would wait for it for ever.
    """

    most = MAX_CONNECTIONS
    errors: Counter[str] | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as theirs
        super().connection_made(transport)
        if len(self.connections) > self.most:
            if self.errors is not None:
                self.errors["too_many_page_connections"] += 1
            transport.abort()

    def pause_writing(self) -> None:
        """The client is behind."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        self._no_longer_stalled()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, by whoever."""
        self._no_longer_stalled()
        super().connection_lost(exc)

    def _no_longer_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""`localhost` is ::1 too in the hosts file of many a container that has no IPv6."""


async def _listen(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of `host` that this machine has, all on one port."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, _, _, _, address in found:
            try:
                listening.append(socket.create_server((address[0], port, *address[2:]), family=family, backlog=128))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
            else:
                port = listening[0].getsockname()[1]
    except OSError:
        for taken in listening:
            taken.close()
        raise
    if not listening:
        raise missing or OSError(errno.EADDRNOTAVAIL, f"{host!r} has no address")
    return listening
