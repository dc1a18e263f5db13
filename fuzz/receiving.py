"""A receiver without a network: bytes of a client go into its connection as a transport would give them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from logbale.config import Settings
from logbale.connection import Connection
from logbale.metrics import ReceiverMetrics
from logbale.sinks.null import NullSink
from logbale.tcp_server import TCPLogReceiver

TURNS = 2000
"""Turns of the loop after which a connection that still works on what it was given hangs."""


class Transport:
    """What a connection needs of one."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": (self.host, 1), "socket": self}.get(name, default)

    def setsockopt(self, *_: object) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write(self, _: bytes) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


class Receiving:
    """One receiver for many connections, one after another."""

    def __init__(self, **settings: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self._unforeseen.append(context))
        self._unforeseen: list[dict[str, Any]] = []
        self._receiver = TCPLogReceiver(Settings(**settings), NullSink(), ReceiverMetrics(now=0.0))
        self._committing = self.loop.create_task(self._receiver.committer.run())

    def take(self, data: bytes) -> None:
        """A client that sends this, in slices of the size that its first byte tells, and ends."""
        if data:
            self.loop.run_until_complete(self._take(data[1:], (data[0] or 1) * 16))

    def close(self) -> None:
        """Ends the receiver and its loop."""
        self._committing.cancel()
        self.loop.run_until_complete(asyncio.wait([self._committing]))
        self._receiver.pool.shutdown()
        self.loop.close()

    async def _take(self, data: bytes, step: int) -> None:
        receiver = self._receiver
        errors = receiver.metrics.errors["unforeseen"]
        transport, connection = Transport(), Connection(receiver)
        connection.connection_made(transport)  # type: ignore[arg-type]
        for at in range(0, len(data), step):
            if not transport.closed:
                connection.data_received(data[at : at + step])
        if not transport.closed:
            connection.eof_received()
        for _ in range(TURNS):
            if transport.closed:
                break
            await asyncio.sleep(0)
            if connection._working is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await connection._working  # the pool's work is waited for
        assert transport.closed, "the connection neither ends nor goes on"
        connection.connection_lost(None)
        for _ in range(TURNS):
            if not receiver.metrics.in_flight_bytes:
                break
            await asyncio.sleep(0)
        assert receiver.metrics.in_flight_bytes == 0, "what a connection held is not given back"
        assert not receiver.streams._streams, "a stream that nobody writes any more is kept"
        assert receiver.metrics.errors["unforeseen"] == errors, "an error that nobody foresaw"
        assert not self._unforeseen, self._unforeseen
        assert not self._committing.done(), self._committing.exception()
