"""SessionLink: ships what the queue holds over sessions, one connection after another, until each batch is consumed.

What the receiver has not called durable is sent again after a reconnect, from the queue, the same: to the same
receiver, or, where that is away, to the next in the stream's order (receivers.py). Silence is never a downgrade: a
receiver that does not answer a hello is asked again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic

import msgspec

from logbale import __version__
from logbale.batch_buffer import GROWN_ENTRIES
from logbale.compressing import Compressing
from logbale.config import Settings
from logbale.config.credentials import shipper_token
from logbale.connecting import SessionEnded, connect, look
from logbale.errors import ConfigError, StorageError
from logbale.floods import is_worth_saying
from logbale.link_time import link_seconds
from logbale.messages import UNAUTHORIZED, Status, Welcome
from logbale.metrics import ShipperMetrics
from logbale.open_session import OpenSession
from logbale.receivers import Receiver, Receivers
from logbale.reports import Report, encode_report
from logbale.sent_to import Noted, SentTo
from logbale.session import ShipperSession
from logbale.spool.store import Store
from logbale.spool_queue import SpoolQueue
from logbale.tls.material import ShipperTLS

log = logging.getLogger("logbale.client")

STEADY_SECONDS = 30.0
"""So long a lost receiver is tried every second; after that the delays grow."""

RARE_TRY = 5.0
"""Seconds of a delay from which on each try in vain is worth a message."""

RESOLVE_INTERVAL = 300.0
"""Seconds between two questions to the resolver whether a name stands for several receivers by now, where there is but
one: a fleet has thousands of shippers."""

OUR_OWN = {"decode", "other_history", "token_file", "storage"}
"""Ends of a session after which another receiver would do no better, so the same one is asked again."""


class SessionLink:
    """One stream, one receiver at a time, one connection at a time."""

    def __init__(
        self,
        queue: SpoolQueue,
        settings: Settings,
        compressing: Compressing,
        metrics: ShipperMetrics,
        *,
        report: Callable[[bool], Report],
        name: str = "",
        tls: Callable[[], ShipperTLS | None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        knows_ways: bool = True,
    ) -> None:
        """`knows_ways`: no batch of the stream goes by a way that this end does not know, as past a relay."""
        self.unreachable_since = monotonic()
        """Since when, by time.monotonic, no session is open; infinity while one is."""
        self.growth_limit = 0
        self.tried = asyncio.Event()
        self._queue = queue
        self._settings = settings
        self._compressing = compressing
        self._metrics = metrics
        self._report = report
        self._name = name
        self._tls = tls
        self._sleep = sleep
        self._chance = chance
        self._receivers = Receivers(settings.receiver_addresses, chance=chance, steady=STEADY_SECONDS)
        self._receivers.failover.return_interval = settings.return_interval
        self._sent_to = _sent_to(queue.store)
        self._knows_ways = knows_ways
        self._troubles, self._in_vain = "", 0
        """Why there was no session the last time, and how often in a row for that reason."""
        self._lost: Receiver | None = None
        """With whom the last session ended, until another one opens."""
        self._session: OpenSession | None = None
        """From its welcome on, to its end."""
        self._writer: asyncio.StreamWriter | None = None
        self._first_alone = False
        """The last session ended because a body did not decode: the next one's first batch travels alone."""

    @property
    def last_error(self) -> str:
        """The last that is known of why not all is delivered: of the session that is open, or why there is none."""
        if self._session is not None:
            return self._session.standing(monotonic())
        return self._receivers.why_at(monotonic())

    async def run(self) -> None:
        """Ships until the queue is closed and all of it consumed."""
        failover = self._receivers.failover
        while not (self._queue.is_drained and self._queue.is_closed):
            receiver = await self._next_receiver()
            try:
                if await self._connection(receiver):
                    return
                failover.left(receiver.name)
                await self._queue.end_sending()
            except SessionEnded as end:
                is_refused = end.counter == UNAUTHORIZED
                failover.failed(receiver.name, monotonic(), refused=is_refused, stay=end.counter in OUR_OWN)
                self._receivers.errors[receiver.name] = str(end)
                self._lost = receiver
                self._metrics.errors[end.counter] += 1
                await self._queue.end_sending()
            finally:
                self.tried.set()
                self._session = None
                self._metrics.connected = False
                if self.unreachable_since == inf:
                    self.unreachable_since = monotonic()

    async def _next_receiver(self) -> Receiver:
        """The one to try now, once there is one."""
        stream = self._queue.store.stream
        await self._receivers.look_up(stream)
        name, wait = self._receivers.failover.next(monotonic())
        if wait:
            self._say(self._receivers.troubles(), wait)
            await self._sleep(wait)
            await self._receivers.look_up(stream)
            name, _ = self._receivers.failover.next(monotonic())
        elif self._lost is not None:
            log.warning("no session with %s; %s is next", self._receivers.trouble(self._lost.name), name)
        return self._receivers.named(name)

    def _say(self, troubles: str, wait: float) -> None:
        """Why there is no session; of tries of a second each, which there are dozens of at first, not every one."""
        self._in_vain = self._in_vain + 1 if troubles == self._troubles else 1
        self._troubles = troubles
        is_said = wait >= RARE_TRY or is_worth_saying(self._in_vain)
        so_far = f" ({self._in_vain:,} tries so far)" if self._in_vain > 1 else ""
        level = logging.WARNING if is_said else logging.DEBUG
        log.log(level, "no session with %s; next try in %.1f s%s", troubles, wait, so_far)

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
        self._receivers.failover.return_interval = settings.return_interval

    def status(self) -> tuple[bool, str]:
        """Whether a session is open, and if not, why."""
        if self._metrics.connected:
            return True, f"in session with {self._metrics.receiver}"
        return False, f"no session with {self._receivers.configured}: {self.last_error}"

    def _token(self) -> str | None:
        try:
            # Again each time: the file may have a newer one. Who else can read it was said at the start.
            return shipper_token(self._settings)
        except ConfigError as error:
            raise SessionEnded("token_file", str(error)) from None

    async def _connection(self, receiver: Receiver) -> bool:
        """One connection from hello to its end: True when everything is consumed, False where a better one is back.

        Raises SessionEnded otherwise.
        """
        token = self._token()
        self._receivers.asked_since = monotonic()
        reader, writer = await connect(receiver, self._tls())
        self._writer = writer
        store = self._queue.store
        peer = (writer.get_extra_info("peername") or [""])[0]
        holder = receiver.holder(peer)
        stream, others = store.stream, self._sent_to.elsewhere(holder)

        async def opened(welcome: Welcome) -> None:
            await self._note(Noted(stream, holder, others, counts_consumed=True))
            self._opened(receiver, welcome)
            self._session = session

        session = OpenSession(
            self._queue,
            self._settings,
            self._compressing,
            self._metrics,
            reader,
            writer,
            token=token,
            sent=self._said(others),
            report=self._report,
            opened=opened,
            first_alone=self._first_alone,
            has_others=self._receivers.are_several,
            name=self._name,
        )
        looking = asyncio.create_task(self._look_for_better(session, receiver, peer))
        try:
            return await session.run()
        except SessionEnded as end:
            self._first_alone = end.counter == "decode"
            raise
        finally:
            looking.cancel()
            await asyncio.wait([looking])
            if store.stream == stream:
                self._note_sent(holder, session)
            else:
                self._sent_to = SentTo(up_to=0)

    def _note_sent(self, holder: str, session: OpenSession) -> None:
        if session.has_sent:  # who was only asked has nothing, and must hide no loss
            self._sent_to.add(holder, session.last_sent)

    def _said(self, others: int) -> int | None:
        """What the hello says of what others may have been sent; None where more may have, and nothing waits of it."""
        return others if self._knows_ways or others >= self._queue.store.first else None

    async def _note(self, noted: Noted) -> None:
        if self._queue.store.sent_to == noted:
            return
        try:
            await self._queue.call(self._queue.store.note_receiver, noted)
        except StorageError as error:
            log.warning("after a crash now, what is sent counts as sent to any receiver: %s", error)

    def _opened(self, receiver: Receiver, welcome: Welcome) -> None:
        # Half a frame, because what does not compress is a little larger as one.
        is_growth_taken = welcome.max_entries >= GROWN_ENTRIES
        self.growth_limit = min(welcome.max_raw, welcome.max_frame // 2) if is_growth_taken else 0
        self.tried.set()
        self._receivers.failover.opened(receiver.name, monotonic())
        self._receivers.count(self._metrics, receiver, self._lost)
        self._metrics.connected = True
        self._metrics.connections += 1
        self._lost = None
        self.unreachable_since = inf
        self._in_vain = 0
        log.info("in session with %s, stream %s", receiver.name, self._queue.store.stream)

    async def _look_for_better(self, session: OpenSession, receiver: Receiver, peer: str) -> None:
        """While this one is in use: whether one that is wanted more is back, and then this session is left."""
        failover = self._receivers.failover
        current, holder = receiver.name, receiver.holder(peer)
        while self._receivers.may_change or failover.choice(current) > 1:
            interval = self._settings.return_interval if self._receivers.are_several else RESOLVE_INTERVAL
            # Not by self._sleep, which is before another try and says that there is no session.
            await asyncio.sleep(interval * (1 + self._chance() / 4))
            if self._receivers.may_change:
                await self._receivers.look_up(self._queue.store.stream)
                current = self._receivers.called_now(receiver, peer)
            if not self._metrics.connected:
                continue
            for name in failover.better(current, monotonic()):
                if await self._is_back(name, session, holder):
                    log.info("%s is back: going there from %s", name, current)
                    failover.is_back(name)
                    session.leave()
                    return

    async def _is_back(self, name: str, current: OpenSession, holder: str) -> bool:
        store = self._queue.store
        # Or what this session had acknowledged would look like a loss where it is asked.
        self._note_sent(holder, current)
        session = ShipperSession(
            stream=store.stream,
            first=store.first,
            assigned=store.next_sequence - 1,
            window_bytes=self._settings.window_bytes,
            now=monotonic(),
            last_crc=store.known_crcs(),
        )
        try:
            hello = session.hello(
                agent=f"logbale/{__version__}",
                host=socket.gethostname(),
                token=self._token(),
                sent=self._said(self._sent_to.elsewhere(name)),
                name=self._name,
            )
            goodbye = Status(msgspec.Raw(encode_report(self._report(True))))
            await look(self._receivers.named(name), self._tls(), session, hello, goodbye)
        except SessionEnded as end:
            self._receivers.failover.failed(name, monotonic(), refused=end.counter == UNAUTHORIZED)
            self._receivers.errors[name] = str(end)
            log.info("no session with %s yet (%s)", name, end)
            return False
        return True


def _sent_to(store: Store) -> SentTo:
    noted = store.sent_to
    if noted is None or noted.stream != store.stream:
        return SentTo(up_to=store.sent_up_to)
    return SentTo(up_to=store.sent_up_to, noted=noted.counting_consumed(store.first))
