"""TCPClient: frames out over one persistent connection, again and again until they have left.

It speaks the base protocol, in which nothing is acknowledged: a frame has left when the kernel has it. Only `finish`
learns more, because the receiver closes its end when all that came before is stored. Of several receivers each
connection goes to the first in the stream's order that can be had, and stays there until it is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic

from logbale.link_time import link_seconds
from logbale.metrics import ShipperMetrics
from logbale.receivers import Receiver, Receivers
from logbale.tls.client import open_connection
from logbale.tls.failures import TLSError
from logbale.tls.material import ShipperTLS

log = logging.getLogger("logbale.client")

CONNECT_TIMEOUT = 10.0


class TCPClient:
    """One connection to one receiver at a time, made anew whenever it is lost, with growing delays."""

    def __init__(
        self,
        receivers: Receivers,
        *,
        stream: str,
        send_timeout: float,
        metrics: ShipperMetrics,
        tls: Callable[[], ShipperTLS | None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`stream` is what chooses among the receivers."""
        self.unreachable_since = monotonic()
        """Since when, by time.monotonic, there is no connection; infinity while there is one."""
        self._receivers = receivers
        self._stream = stream
        self._receiver: Receiver | None = None
        """Of this connection, or of the one that was tried last."""
        self.send_timeout = send_timeout
        self._metrics = metrics
        self._tls = tls
        self._sleep = sleep
        self._failing = False
        """Something went wrong since the last frame that left: the delays have grown and the next one applies."""
        self._writer: asyncio.StreamWriter | None = None
        self._peer_ended: asyncio.Task[bool] | None = None

    @property
    def address(self) -> str:
        """Of the receiver that there is a connection to; all of them where there is none."""
        if self._writer is not None and self._receiver is not None:
            return self._receiver.name
        return self._receivers.configured

    @property
    def last_error(self) -> str:
        """Why no receiver could be reached, the last time that none could."""
        return self._receivers.why_at(monotonic())

    async def send(self, header: bytes, payload: bytes) -> None:
        """Returns when the whole frame is in the kernel's hands; a frame that a broken connection cut is sent again."""
        while True:
            writer = await self._connected()
            try:
                # One write a frame: two small ones would wait for each other (Nagle) or leave as two segments.
                writer.write(header + payload)
                self._metrics.send_begins(monotonic())
                try:
                    async with asyncio.timeout(self.send_timeout):
                        await writer.drain()
                finally:
                    self._metrics.send_ended(monotonic())
            except TimeoutError:
                await self._lost("send_timeout", f"a frame did not leave within {self.send_timeout:g} s")
            except OSError as error:
                await self._lost("connection_lost", error.strerror or str(error))
            else:
                self._metrics.arrived_bytes += len(header) + len(payload)
                if self._failing and self._receiver is not None:
                    self._failing = False
                    self._receivers.failover.opened(self._receiver.name, monotonic())
                return

    async def finish(self, timeout: float) -> bool:
        """Says that no more will come; True when the receiver answers, within `timeout` seconds, by ending too.

        logbale's receiver does so when everything that it received is stored. True also where nothing was ever sent.
        """
        if self._writer is None or self._peer_ended is None:
            return self._metrics.sent.batches == 0
        if self._writer.is_closing() or self._peer_ended.done():  # what ended before we did is no answer
            return False
        try:
            self._writer.write_eof()
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._peer_ended)
        except (TimeoutError, OSError):
            return False

    def link_seconds(self) -> float | None:
        """How long this connection was held up by the network."""
        return link_seconds(self._writer)

    async def close(self) -> None:
        """Ends the connection at once."""
        if self._peer_ended is not None:
            self._peer_ended.cancel()
            self._peer_ended = None
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self.unreachable_since = monotonic()
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self._metrics.connected = False

    async def _connected(self) -> asyncio.StreamWriter:
        """The connection: the one that is, or a new one, however long that takes."""
        if self._writer is not None and (self._writer.is_closing() or (self._peer_ended and self._peer_ended.done())):
            # Seen before the frame is written: the kernel would still take it, and nobody would ever read it.
            await self._lost("connection_lost", "the receiver closed the connection")
        while self._writer is None:
            lost, self._receiver = self._receiver, await self._next_receiver()
            self._receivers.asked_since = monotonic()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    reader, self._writer = await open_connection(
                        self._receiver.host,
                        self._receiver.port,
                        self._tls(),
                        waits_for_acceptance=True,
                        address=self._receiver.address,
                    )
            except TimeoutError:
                self._failed("connect", f"no answer within {CONNECT_TIMEOUT:g} s")
            except TLSError as error:
                self._failed(error.reason, str(error))
            except OSError as error:
                self._failed("connect", error.strerror or str(error))
            else:
                # Without this, drain() returns while 64 KiB are still ours to lose.
                self._writer.transport.set_write_buffer_limits(0)
                self._peer_ended = asyncio.create_task(_clean_end(reader))
                self._metrics.connections += 1
                self._metrics.connected = True
                self._receivers.count(self._metrics, self._receiver, lost)
                self.unreachable_since = inf
                log.info("connected to %s", self.address)
        return self._writer

    async def _next_receiver(self) -> Receiver:
        """The one to try now, once there is one."""
        await self._receivers.look_up(self._stream)
        name, wait = self._receivers.failover.next(monotonic())
        if self._failing and wait:
            log.warning("no connection to %s; next try in %.1f s", self._receivers.troubles(), wait)
            await self._sleep(wait)
            await self._receivers.look_up(self._stream)
            name, _ = self._receivers.failover.next(monotonic())
        elif self._failing and self._receiver is not None:
            log.warning("no connection to %s; %s is next", self._receivers.trouble(self._receiver.name), name)
        return self._receivers.named(name)

    async def _lost(self, counter: str, reason: str) -> None:
        self._failed(counter, reason)
        await self.close()

    def _failed(self, counter: str, reason: str) -> None:
        self._failing = True
        if self._receiver is not None:
            self._receivers.failover.failed(self._receiver.name, monotonic())
            self._receivers.errors[self._receiver.name] = reason
        self._metrics.errors[counter] += 1


async def _clean_end(reader: asyncio.StreamReader) -> bool:
    """Waits for the end of the receiver's stream, before which a base receiver sends nothing; False for a reset."""
    try:
        while await reader.read(65536):
            pass
    except OSError:
        return False
    return True
