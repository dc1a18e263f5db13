"""OpenSession: one connection of the shipper, from its hello to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from time import monotonic

import msgspec

from logbale import __version__
from logbale.acks import Acks
from logbale.compressing import Compressing
from logbale.config import Settings
from logbale.connecting import READ_BYTES, SessionEnded, refuse_too_old
from logbale.errors import ProtocolError, StorageError
from logbale.liveness import Pace
from logbale.messages import (
    MAX_CONTROL_BYTES,
    UNAUTHORIZED,
    WRONG_STREAM,
    Ack,
    Busy,
    Context,
    Error,
    Goaway,
    Message,
    Reject,
    Status,
    Welcome,
    encode_message,
)
from logbale.metrics import ShipperMetrics
from logbale.protocol import FrameDecoder
from logbale.reports import Report, encode_report
from logbale.sending import Sending
from logbale.session import WELCOME_TIMEOUT, Event, ShipperSession, Welcomed
from logbale.spool_queue import SpoolQueue
from logbale.terminal import duration
from logbale.tls.failures import TLSError
from logbale.tls.names import owns

log = logging.getLogger("logbale.client")

STATUS_INTERVAL = 5.0

LEAVE_SECONDS = 10.0
"""So long a session that is left may take to acknowledge what it was sent. What it has not by then is sent elsewhere
again, and is marked there."""

BUSY_SECONDS = 30.0
"""So long a receiver that cannot store is waited for while there is another one."""

BUSY_SILENCE = 15.0
"""Seconds without the word that it still cannot store after which it can: it says so every 5."""


class OpenSession:
    """Sends from the queue what the receiver lacks, and gives the queue the receiver's word on it."""

    def __init__(
        self,
        queue: SpoolQueue,
        settings: Settings,
        compressing: Compressing,
        metrics: ShipperMetrics,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        token: str | None,
        sent: int | None,
        report: Callable[[bool], Report],
        opened: Callable[[Welcome], Awaitable[None]],
        first_alone: bool,
        has_others: bool,
        name: str = "",
    ) -> None:
        """`report` tells what the receiver is told now and then, and, with True, that this is the end.

        `sent`: other receivers may have the batches up to there. `opened` is called before the first batch leaves.
        `first_alone`: that one travels outside any context, because it did not decode inside one.
        `has_others`: there are other receivers, so one that cannot store for long is left.
        `name` is what people call the shipper.
        """
        self._queue = queue
        self._settings = settings
        self._metrics = metrics
        self._reader = reader
        self._writer = writer
        self._token = token
        self._sent = sent
        self._name = name
        self._report = report
        self._opened = opened
        store = queue.store
        self._session = ShipperSession(
            stream=store.stream,
            first=store.first,
            assigned=store.next_sequence - 1,
            window_bytes=settings.window_bytes,
            now=monotonic(),
            last_crc=store.known_crcs(),
        )
        self._sending = Sending(queue, settings, compressing, metrics, self._session, writer, first_alone=first_alone)
        self._decoder = FrameDecoder(MAX_CONTROL_BYTES, session=True)
        self._pace = Pace()
        self._acks = Acks(queue)
        self._welcomed = asyncio.Event()
        self._may_send = asyncio.Event()
        """The store has taken the welcome in."""
        self._is_listening = True
        """False while the store takes in what the receiver has said."""
        self._resume_at = 0
        self._has_others = has_others
        self._busy_since: float | None = None
        """Since when, without an acknowledgement, the receiver says that it cannot store."""
        self._busy_heard = 0.0
        self._busy_reason = ""
        self._acked = 0.0
        """When the last acknowledgement came, or the welcome."""
        self._leaving = asyncio.Event()

    @property
    def last_sent(self) -> int:
        """The highest sequence that this receiver may have."""
        return self._session.last_sent

    @property
    def has_sent(self) -> bool:
        """Whether this receiver may have any of what waited when it was asked."""
        return self._session.has_sent

    def standing(self, now: float) -> str:
        """Once it is open: why what was sent is not acknowledged yet, as far as is known."""
        if self._busy_since is not None and now - self._busy_heard <= BUSY_SILENCE:
            return f"the receiver says that it cannot store: {self._busy_reason}"
        return f"in session, without an acknowledgement for {duration(now - self._acked)}"

    def leave(self) -> None:
        """Ends the session once what was sent is acknowledged, or LEAVE_SECONDS later."""
        self._leaving.set()

    async def run(self) -> bool:
        """True when the queue's input is closed and everything is consumed, False when it was left.

        Raises SessionEnded otherwise.
        """
        try:
            return await self._run()
        except RuntimeError as error:  # uvloop's, for a transport that has ended; it names objects, not what happened
            raise self._lost("the receiver closed the connection") from error
        except TLSError as error:
            raise SessionEnded(error.reason, str(error)) from error
        except OSError as error:
            raise self._lost(error.strerror or str(error) or type(error).__name__) from error
        except ProtocolError as error:
            raise SessionEnded("connection_lost", str(error)) from error
        except StorageError as error:  # no room for a dead letter, say: tried again in the next session
            raise SessionEnded("storage", str(error)) from error

    async def _run(self) -> bool:
        hello = self._session.hello(
            agent=f"logbale/{__version__}",
            host=socket.gethostname(),
            token=self._token,
            sent=self._sent,
            name=self._name,
        )
        self._writer.write(hello)
        sending = asyncio.create_task(self._send())
        parts = (self._send_or_leave(sending), self._receive(), self._acks.run(), self._watch())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            return not sending.cancelled()
        finally:
            try:
                for task in (*tasks, sending):
                    task.cancel()
                await asyncio.wait([*tasks, sending])
            finally:  # who is cancelled just here leaves no connection behind
                self._writer.transport.abort()
            await self._acks.pass_on()  # before another session asks what waits; its receiver may be another one
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    # what the receiver says

    async def _receive(self) -> None:
        while data := await self._reader.read(READ_BYTES):
            self._decoder.feed(data)
            for frame in self._decoder.frames():
                unacked = self._session.unacked_bytes
                event, answer = self._session.receive(frame, monotonic())
                self._metrics.arrived_bytes += unacked - self._session.unacked_bytes
                if answer:
                    self._writer.write(answer)
                if event is not None:
                    self._is_listening = False
                    await self._handle(event)
                    self._is_listening = True
        raise self._lost("the receiver closed the connection")

    def _lost(self, how: str) -> SessionEnded:
        if not self._welcomed.is_set():
            how += " before its welcome: its own log says why"
        return SessionEnded("connection_lost", how)

    async def _handle(self, event: Event) -> None:
        if isinstance(event, Ack):
            self._busy_since = None
            self._acked = monotonic()
            self._acks.heard(event.last)
            self._sending.acked.set()
        elif isinstance(event, Reject):
            await self._queue.reject(event.sequence, event.reason)
        elif isinstance(event, Welcomed):
            await self._welcome(event)
        elif isinstance(event, Busy):
            self._hear_busy(event, monotonic())
        elif isinstance(event, Context):
            self._sending.end_context(event.window_log)
        elif isinstance(event, Goaway):
            log.info("the receiver goes away: %s", event.reason)
        elif isinstance(event, Error):
            if event.code == WRONG_STREAM:
                await self._take_own_stream()
            raise SessionEnded(event.counter, self._refusal(event))

    def _hear_busy(self, busy: Busy, now: float) -> None:
        if self._busy_since is None or now - self._busy_heard > BUSY_SILENCE:
            log.warning("the receiver cannot store now, everything waits: %s", busy.reason)
            self._busy_since = now
        self._busy_heard, self._busy_reason = now, busy.reason
        if self._has_others and now - self._busy_since >= BUSY_SECONDS:
            raise SessionEnded("busy", f"it could not store for {BUSY_SECONDS:g} s: {busy.reason}")

    def _refusal(self, error: Error) -> str:
        if error.code != UNAUTHORIZED:
            return f"the receiver says {error.code}: {error.detail}"
        if self._token is None:
            return "unauthorized: the receiver wants a token; set TOKEN_FILE"
        name = "TOKEN_FILE" if self._settings.token_file else "TOKEN"
        return (
            f"unauthorized: the receiver does not take the token in {name}, or not for stream "
            f"{self._queue.store.stream}; its log says which, and its TOKENS_FILE decides"
        )

    async def _take_own_stream(self) -> None:
        """Where the stream is from before there was a certificate: another one, which is called as that is."""
        old, owner = self._queue.store.stream, self._queue.store.owner
        if not owner or owns([owner], old):
            return
        await self._acks.end()
        await self._queue.new_stream()
        log.error(
            "the receiver does not let %s write stream %s, which was begun without its certificate. What waits goes on "
            "as stream %s; what was sent and not acknowledged may be stored twice",
            owner,
            old,
            self._queue.store.stream,
        )

    async def _welcome(self, event: Welcomed) -> None:
        self._welcomed.set()
        refuse_too_old(event.welcome)
        if event.other_history:
            old = self._queue.store.stream
            await self._queue.new_stream()
            log.error(
                "the receiver knows another history of stream %s: this spool is a copy or was restored. It goes on as "
                "stream %s; the %d entries that wait may be stored twice",
                old,
                self._queue.store.stream,
                self._queue.counts["spooled"],
            )
            raise SessionEnded("other_history", "a new stream begins")
        for reject in event.welcome.rejects:
            await self._queue.reject(reject.sequence, reject.reason)
        await self._queue.acknowledge(event.resume_at - 1)
        await self._queue.begin_sending(event.resume_at, self._sent or 0)
        self._resume_at = event.resume_at
        self._sending.window_log = event.welcome.window_log
        self._acked = monotonic()
        await self._opened(event.welcome)
        self._may_send.set()

    # what is sent

    async def _send_or_leave(self, sending: asyncio.Task[None]) -> None:
        """Until all is consumed; or until leave(), what was sent is acknowledged, and `sending` is cancelled."""
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
        if sending.done():
            return sending.result()
        sending.cancel()
        await asyncio.wait([sending])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._sending.settled()
        self._tell_all(ended=True)
        return None

    async def _send(self) -> None:
        await self._may_send.wait()
        await self._sending.run(self._resume_at)
        self._tell_all(ended=True)

    # time

    async def _watch(self) -> None:
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT):
                await self._welcomed.wait()
        except TimeoutError:
            raise SessionEnded(
                "no_welcome",
                f"no welcome within {WELCOME_TIMEOUT:g} s; a receiver that knows only the base protocol "
                "needs SESSION_MODE=off",
            ) from None
        self._tell_all()
        told = monotonic()
        while True:
            await asyncio.sleep(1.0)
            now = monotonic()
            if not self._is_listening:  # whom we do not read, we cannot hear
                self._session.live.heard(now)
                self._pace.restart()
            self._pace.check(now, self._decoder)
            if (ping := self._session.live.tick(now)) is not None:
                self._tell(ping)
            if now - told >= STATUS_INTERVAL:
                told = now
                self._tell_all()

    def _tell_all(self, *, ended: bool = False) -> None:
        self._tell(Status(msgspec.Raw(encode_report(self._report(ended)))))

    def _tell(self, message: Message) -> None:
        self._writer.write(encode_message(message))
