"""SessionLink: ships what the queue holds over sessions, one connection after another, until each batch is consumed.

What the receiver has not called durable is sent again after a reconnect, from the queue, the same. Silence is never a
downgrade: a receiver that does not answer a hello is asked again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from math import inf
from time import monotonic

from logbale.backoff import delays
from logbale.batch_buffer import GROWN_ENTRIES
from logbale.compressing import Compressing
from logbale.config import Settings, connect_host, format_address
from logbale.config.credentials import shipper_token
from logbale.errors import ConfigError
from logbale.link_time import link_seconds
from logbale.messages import UNAUTHORIZED, Welcome
from logbale.metrics import ShipperMetrics
from logbale.open_session import OpenSession, SessionEnded
from logbale.reports import Report
from logbale.spool_queue import SpoolQueue
from logbale.tls.client import open_connection
from logbale.tls.failures import TLSError
from logbale.tls.material import ShipperTLS

log = logging.getLogger("logbale.client")

CONNECT_TIMEOUT = 10.0
STEADY_SECONDS = 30.0
"""So long a lost receiver is tried every second; after that the delays grow."""

FIRST_DELAY = 1.0
LONGEST_DELAY = 30.0


class SessionLink:
    """One receiver, one stream, one connection at a time."""

    def __init__(
        self,
        queue: SpoolQueue,
        settings: Settings,
        compressing: Compressing,
        metrics: ShipperMetrics,
        *,
        report: Callable[[bool], Report],
        tls: Callable[[], ShipperTLS | None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.unreachable_since = monotonic()
        """Since when, by time.monotonic, no session is open; infinity while one is."""
        self.growth_limit = 0
        self.tried = asyncio.Event()
        self._queue = queue
        self._settings = settings
        self._compressing = compressing
        self._metrics = metrics
        self._report = report
        self._tls = tls
        self._sleep = sleep
        self._chance = chance
        self._host = connect_host(settings.server_host)
        self._address = format_address(self._host, settings.server_port)
        self.last_error = "not tried yet"
        self._writer: asyncio.StreamWriter | None = None
        self._refused: Iterator[float] | None = None
        """The delays while the receiver refuses us: they grow at once, so that it need not lock our address out."""
        self._first_alone = False
        """The last session ended because a body did not decode: the next one's first batch travels alone."""

    async def run(self) -> None:
        """Ships until the queue is closed and all of it consumed."""
        waits = self._new_delays()
        while not (self._queue.is_drained and self._queue.is_closed):
            try:
                await self._connection()
                return
            except SessionEnded as end:
                if self.unreachable_since == inf:
                    waits = self._new_delays()
                if end.counter == UNAUTHORIZED:
                    waits = self._refused = self._refused or self._new_delays(steady=0.0)
                else:
                    self._refused = None
                self.last_error = str(end)
                self._metrics.errors[end.counter] += 1
                await self._queue.end_sending()
            finally:
                self.tried.set()
                self._metrics.connected = False
                if self.unreachable_since == inf:
                    self.unreachable_since = monotonic()
            delay = next(waits)
            log.warning("no session with %s (%s); next try in %.1f s", self._address, self.last_error, delay)
            await self._sleep(delay)

    def _new_delays(self, steady: float = STEADY_SECONDS) -> Iterator[float]:
        return delays(first=FIRST_DELAY, longest=LONGEST_DELAY, chance=self._chance, steady=steady)

    async def finish(self, timeout: float) -> bool:
        """True: run() returns only when the receiver has everything."""
        return self._queue.is_drained

    async def close(self) -> None:
        """Nothing is open outside run()."""

    def link_seconds(self) -> float | None:
        """How long this connection was held up by the network."""
        return link_seconds(self._writer)

    def follow(self, settings: Settings) -> None:
        """The next session goes by them."""
        self._settings = settings

    def status(self) -> tuple[bool, str]:
        """Whether a session is open, and if not, why."""
        if self._metrics.connected:
            return True, f"in session with {self._address}"
        return False, f"no session with {self._address}: {self.last_error}"

    async def _connection(self) -> None:
        """One connection from hello to its end; returns when everything is consumed, raises SessionEnded otherwise."""
        try:
            # Again each time: the file may have a newer one. Who else can read it was said at the start.
            token = shipper_token(self._settings, warns=False)
        except ConfigError as error:
            raise SessionEnded("token_file", str(error)) from None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                reader, writer = await open_connection(self._host, self._settings.server_port, self._tls())
        except TimeoutError:
            raise SessionEnded("connect", f"no answer within {CONNECT_TIMEOUT:g} s") from None
        except TLSError as error:
            raise SessionEnded(error.reason, str(error)) from None
        except OSError as error:
            raise SessionEnded("connect", error.strerror or str(error)) from None
        self._writer = writer
        session = OpenSession(
            self._queue,
            self._settings,
            self._compressing,
            self._metrics,
            reader,
            writer,
            token=token,
            report=self._report,
            opened=self._opened,
            first_alone=self._first_alone,
        )
        try:
            await session.run()
        except SessionEnded as end:
            self._first_alone = end.counter == "decode"
            raise

    def _opened(self, welcome: Welcome) -> None:
        # Half a frame, because what does not compress is a little larger as one.
        is_growth_taken = welcome.max_entries >= GROWN_ENTRIES
        self.growth_limit = min(welcome.max_raw, welcome.max_frame // 2) if is_growth_taken else 0
        self.tried.set()
        self._metrics.connected = True
        self._metrics.connections += 1
        self.unreachable_since = inf
        log.info("in session with %s, stream %s", self._address, self._queue.store.stream)
