"""One client's connection at the receiver: bytes → frames, in order, and items on their way to the sink.

The first header decides: a control frame opens a ReceivingSession; anything else is a base client's, for BaseReceiving.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from logbale.access import REASONS
from logbale.base_receiving import BaseReceiving
from logbale.clients import Client
from logbale.committer import weight
from logbale.compression import RATIO_FREE_BYTES
from logbale.config import format_address
from logbale.decoding import Decoded
from logbale.errors import ProtocolError
from logbale.liveness import PING_AFTER, Due, Liveness, Pace
from logbale.messages import UNAUTHORIZED, Busy, Error, Goaway, Message, Ping, encode_message
from logbale.origins import NO_ADDRESS
from logbale.protocol import Algorithm, Flag, Frame, FrameDecoder
from logbale.receiving_session import ReceivingSession
from logbale.room import raw_bytes_at_most
from logbale.sinks import Item, Outcome, ReceivedBatch, Stored
from logbale.tls.names import names_of

if TYPE_CHECKING:
    from logbale.tcp_server import TCPLogReceiver

log = logging.getLogger("logbale.receiver")

MAX_UNREAD_ANSWERS = 1024 * 1024
"""Bytes of answers that a client may leave unread before it counts as gone."""

TURN_SECONDS = 0.002
"""After so long the frames that wait let the other connections go first: one read may hold thousands of small ones."""

WAITING_BYTES = 1024 * 1024
"""Of frames that wait undecoded; with more, a client is not read, so that it does not use up everybody's bytes."""


class Connection(asyncio.Protocol):
    """One client, from its first byte to its last."""

    def __init__(self, receiver: TCPLogReceiver) -> None:
        self.peer = NO_ADDRESS
        self.host = NO_ADDRESS
        """The peer's address without the port."""
        self.receiver = receiver
        self.settings = receiver.settings
        """As they were when it came: a session goes by the limits that it was told."""
        self.session: ReceivingSession | None = None
        self.at_end = False
        """Nothing more is taken from the client."""
        self.unsettled = 0
        """Items on their way to the sink."""
        self._base: BaseReceiving | None = None
        self._decoder = FrameDecoder(
            self.settings.max_frame_bytes, session=None, max_control=self.settings.max_hello_bytes
        )
        self._transport: asyncio.Transport | None = None
        self._frames: deque[tuple[Frame, float]] = deque()
        """What waits undecoded, and when each was there as a whole."""
        self._arrived = 0.0
        """When the frame that is being taken was."""
        self._submitted: deque[float] = deque()
        """The same of the items on their way to the sink."""
        self._client: Client | None = None
        self._is_lost = False
        self._waiting_bytes = 0
        self._is_held = False
        """Not read, because too many bytes wait here, or what came cannot be stored."""
        self._cannot_store = False
        self._turn: asyncio.Handle | None = None
        self._working: asyncio.Task[None] | None = None
        self._error: ProtocolError | None = None
        """The stream is unsound behind the frames that wait."""
        self._live = Liveness(0.0)
        self._pace = Pace()
        self._due = Due(self.settings.frame_timeout, self.settings.frame_min_rate)
        self.arriving_bytes = 0
        """Of the frame that is not whole yet, as the receiver counts them."""
        self._is_in_line = False
        """The next frame waits for room to be decoded in."""
        self._turn_bytes = 0
        """It has that room, and so much of it is left."""
        self._said = 0.0
        self._hello_due: float | None = None

    @property
    def certificate_names(self) -> list[str]:
        """Who the client is by its certificate; none without one."""
        certificate = self._transport.get_extra_info("peercert") if self._transport is not None else None
        return names_of(certificate) if certificate else []

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        if (peer := transport.get_extra_info("peername")) is not None:  # a health check may be gone already
            self.host = peer[0]
            self.peer = format_address(*peer[:2])
        # A base client may be silent for days; only the kernel can tell it from one whose cable was cut.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._live.heard(monotonic())
        if not self.receiver.opened(self):
            self._end_with_reset()
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.at_end:  # a batch behind one that failed must not be taken, whatever a closing transport still gives us
            return
        now = monotonic()
        self._live.heard(now)
        try:
            self._decoder.feed(data)
            for frame in self._decoder.frames():
                self.receiver.reserve(frame.wire_bytes)
                self._frames.append((frame, now))
                self._waiting_bytes += frame.wire_bytes
        except ProtocolError as error:
            self._end_with(error)
        if self.receiver.access.refuses_base_clients and self._decoder.session is False and self._error is None:
            self._refuse_base_client()
            return
        self._due.received(now, self._decoder)
        self._work()
        self.receiver.arriving(self, self._decoder.buffered_bytes)
        if self._waiting_bytes > WAITING_BYTES:
            self._is_held = True
            self.pause()

    def eof_received(self) -> bool:
        try:
            self._decoder.close()
        except ProtocolError as error:
            self._end_with(error)
        self.at_end = True
        self._work()
        return True  # stays open until all that came is stored: our end of stream then tells the client so

    def connection_lost(self, error: Exception | None) -> None:
        self.at_end = True
        if self.session is not None:
            self.session.lost()
        self._is_lost = True
        self.receiver.arriving(self, 0)
        if self._client is not None:
            self.receiver.clients.disconnected(self._client, self._live, monotonic())
        self.receiver.closed(self, error)

    # what the receiver calls

    def pause(self) -> None:
        """Reads nothing for now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads on, where nothing else speaks against it."""
        if self._is_held or self._error is not None or self.at_end:
            return
        if self._transport is not None and not self._transport.is_closing():
            self._live.heard(monotonic())
            self._pace.restart()
            self._due.restart(monotonic())
            self._transport.resume_reading()

    def close(self) -> None:
        """Ends the connection; what was written still leaves."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Ends the connection now, whatever has not left."""
        self._abort()

    def goaway(self, reason: str) -> None:
        """Tells a session that the receiver shuts down."""
        if self.session is not None:
            self.send(Goaway(reason))

    def busy(self, retry_after: float, reason: str) -> None:
        """Tells an open session that what it sent waits, and is not to be sent again."""
        if self.session is not None and self.session.stream is not None:
            self.send(Busy(retry_after, reason))

    def check_liveness(self, now: float) -> None:
        """Pings a silent session, ends a dead one, and one that does not say hello."""
        assert self._transport is not None
        is_closing = self._transport.is_closing()  # while answers are left that the client does not read
        if self.at_end and not is_closing:
            return
        try:
            if not self._is_held:
                self._due.check(now, self._decoder)
            if self.session is None:
                self._check_hello(now)
                return
            if not self._is_held:  # whom we do not read, we cannot hear
                self._pace.check(now, self._decoder)
            if not self._is_held and (ping := self._live.tick(now)) is not None:
                self.send(ping)
            elif now - self._said >= PING_AFTER:
                # A client that takes half a minute to send one frame over a slow link has to know that we are there.
                self.send(Ping(0))
        except ProtocolError as error:
            if not is_closing:
                self._break(error)
            self._abort()

    def _check_hello(self, now: float) -> None:
        if not self._decoder.session:  # a base client, or not known yet
            return
        timeout = self.settings.hello_timeout
        self._hello_due = self._hello_due or now + timeout
        if now >= self._hello_due:
            raise ProtocolError(f"no whole hello within {timeout:g} s (HELLO_TIMEOUT)", reason="hello_timeout")

    def too_much(self) -> None:
        """Its unfinished frame is the one that the receiver gives up for want of memory."""
        message = "too much of unfinished frames is in memory, and this one takes the most for the longest time"
        self.receiver.arriving(self, 0)
        self._break(ProtocolError(message, reason="frame_memory"))
        self._abort()

    def held_up(self, now: float) -> float:
        """Byte-seconds that the unfinished frame has taken."""
        return self.arriving_bytes * (now - self._due.since) if self._due.since is not None else 0.0

    def settled(self, item: Item, outcome: Outcome) -> None:
        """The sink has said its word on one item of this connection."""
        arrived = self._returned(item)
        if isinstance(outcome, Stored):
            self.receiver.metrics.item_stored(monotonic(), arrived if isinstance(item, ReceivedBatch) else None)
        if self.session is not None:
            self.session.settled(item, outcome)

    def given_up(self, item: Item) -> None:
        """It waited for its own place in the sink, and with others took too much memory."""
        self._returned(item)
        if self.session is not None:
            self.session.given_up()

    def _returned(self, item: Item) -> float:
        """The committer has done with an item; when it arrived."""
        self.unsettled -= 1
        self.receiver.give_room(weight(item))
        if isinstance(item, ReceivedBatch):
            self.receiver.metrics.pending_entries -= item.count
        return self._submitted.popleft()

    def group_ended(self) -> None:
        """All of a group that came from here is settled."""
        if self.session is not None:
            self.session.acknowledge()
        if self._cannot_store:
            self._cannot_store = False
            self._work()
        self._close_when_settled()

    def held(self, seconds: float, reason: str) -> None:
        """What it sent waits for its own place in the sink: it is told so, and not read meanwhile."""
        self._is_held = self._cannot_store = True
        self.pause()
        self.busy(seconds, reason)

    # what the session calls too

    def send(self, message: Message) -> None:
        """Answers a session."""
        self.write(encode_message(message))

    def write(self, frame: bytes) -> None:
        """Gives a frame to the transport, while that stands."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(frame)
        self._said = monotonic()
        if transport.get_write_buffer_size() > MAX_UNREAD_ANSWERS:
            self.receiver.metrics.errors["unread_answers"] += 1
            log.warning("%s does not read the answers; its connection is closed", self.peer)
            self._abort()

    def refuse(self, reason: str) -> None:
        """Ends a session that may not be; the client learns no more than that."""
        self._fail(Error(UNAUTHORIZED), REASONS[reason])

    def _refuse_base_client(self) -> None:
        self.receiver.access.count("base_client")
        log.warning("%s: %s: %s; its connection is closed", self.peer, UNAUTHORIZED, REASONS["base_client"])
        self._end_with_reset()
        self._abort()

    def fail(self, code: str, detail: str) -> None:
        """Ends the session with a reason, and drops what is not decoded yet."""
        self._fail(Error(code, detail), detail)

    def _fail(self, error: Error, why: str) -> None:
        if not self.at_end:
            log.warning("%s: %s: %s; its connection is closed", self.peer, error.code, why)
            self.send(error)
        self.at_end = True
        self.drop_frames()
        self.close()

    def _end_with(self, error: ProtocolError) -> None:
        """The framing is unsound: nothing more is read, and what came whole before it is still taken."""
        self._error = self._error or error
        self.pause()

    def _break(self, error: ProtocolError) -> None:
        """The peer broke the rules: it is told so, and its connection ends when all that came before is settled."""
        self.receiver.metrics.errors[error.reason] += 1
        log.warning("%s: %s; its connection is closed", self.peer, error)
        if self.session is not None:
            self.send(Error("protocol" if error.reason == "protocol" else "limit", str(error)))
        else:
            self._end_with_reset()
        self.pause()
        self.at_end = True

    def _end_with_reset(self) -> None:
        """Lets a base client see a failure: it takes the plain end of our stream for the word that all is stored."""
        assert self._transport is not None
        connected = self._transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _unforeseen(self, wire_bytes: int) -> None:
        """To be called in the handler of an error of ours, with its frame's weight: it ends this connection only."""
        self.receiver.release(wire_bytes)
        self.receiver.metrics.errors["unforeseen"] += 1
        log.exception("%s: an error that nobody foresaw; its connection is closed", self.peer)
        self._abort()

    def _abort(self) -> None:
        self.at_end = True
        self.drop_frames()
        if self._transport is not None:
            self._transport.abort()

    def drop_frames(self) -> None:
        """What waits here undecoded is forgotten."""
        while self._frames:
            self.receiver.release(self._next_frame()[0].wire_bytes)

    def _close_when_settled(self) -> None:
        if self.at_end and not self._frames and self._working is None and not self.unsettled:
            self.close()

    # frames

    def _work(self) -> None:
        """Takes what waits, in order: on the loop while a frame is small, in the pool otherwise."""
        if self._turn is not None or self._is_in_line:
            return
        ends = monotonic() + TURN_SECONDS
        while self._frames and self._working is None:
            if monotonic() > ends:
                self._turn = asyncio.get_running_loop().call_soon(self._next_turn)
                return
            if not self._has_room():
                return
            frame, self._arrived = self._next_frame()
            try:
                if frame.flags == Flag.CONTROL or self.session is not None:
                    self.session = self.session or ReceivingSession(self)
                    self.session.take(frame)
                else:
                    self._base = self._base or BaseReceiving(self)
                    self._base.take(frame)
            except ProtocolError as error:
                self.receiver.release(frame.wire_bytes)
                self.drop_frames()
                self._error = None
                self._break(error)
            except Exception:
                self._unforeseen(frame.wire_bytes)
                return
        if self._error is not None and not self._frames and self._working is None:
            unsound, self._error = self._error, None
            self._break(unsound)
        self._close_when_settled()
        if self._is_held and not self._cannot_store and self._waiting_bytes <= WAITING_BYTES // 2:
            self._is_held = False
            if not self.receiver.is_paused:
                self.resume()

    def _has_room(self) -> bool:
        """Whether the next frame may be decoded now; otherwise it has its place in line."""
        receiver, frame = self.receiver, self._frames[0][0]
        size = raw_bytes_at_most(frame, self.settings)
        if size <= self._turn_bytes:
            self._turn_bytes -= size
            return True
        if not size or receiver.room.has(size):
            return True
        self._is_in_line = True
        receiver.room.wait(self, size)
        return False

    def go_on(self) -> None:
        """There is room for the next frame."""
        self._is_in_line = False
        if self._frames:
            # The first one's need is promised; with small ones behind it, or their sender falls behind one who floods.
            first = raw_bytes_at_most(self._frames[0][0], self.settings)
            self._turn_bytes = max(first, RATIO_FREE_BYTES)
        self._work()
        self._turn_bytes = 0

    def _next_turn(self) -> None:
        self._turn = None
        self._work()

    def _next_frame(self) -> tuple[Frame, float]:
        frame, arrived = self._frames.popleft()
        self._waiting_bytes -= frame.wire_bytes
        return frame, arrived

    def work(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Runs what takes a while; no further frame is taken before it is done."""

        async def worked() -> None:
            try:
                await function(*arguments)
            except Exception:
                self._unforeseen(getattr(arguments[0], "wire_bytes", 0))
            self._working = None
            self._work()

        self._working = asyncio.create_task(worked())

    def cancel_work(self) -> None:
        """Ends it before it is done."""
        if self._working is not None:
            self._working.cancel()

    def count(self, algorithm: Algorithm, decoded: Decoded, wire_bytes: int) -> None:
        """A batch arrived and is sound."""
        metrics = self.receiver.metrics
        metrics.batch_received(
            algorithm, entries=decoded.lines.count, raw_bytes=decoded.raw_bytes, wire_bytes=wire_bytes
        )
        metrics.levels_received(decoded.lines.levels)
        if decoded.lines.rewritten:
            metrics.errors["rewritten"] += decoded.lines.rewritten
        assert self._client is not None, "who ships is known before what"
        self._client.add(algorithm, decoded.lines.count, decoded.raw_bytes, wire_bytes)

    def identify(self, *, stream: str = "", name: str = "", host: str = "", agent: str = "") -> None:
        """The client is one to be listed: it has a session, or has sent a sound base frame."""
        self.receiver.known(self)
        self._client = self.receiver.clients.connected(
            stream=stream,
            address=self.peer,
            name=name,
            host=host,
            agent=agent,
            identity=next(iter(self.certificate_names), ""),
            live=self._live,
            now=monotonic(),
        )
        if self._is_lost:  # its first batch was decoded meanwhile
            self.receiver.clients.disconnected(self._client, self._live, monotonic())

    def report(self, status: bytes) -> None:
        """The client has said what it counts. What makes no sense is counted, and otherwise ignored."""
        if self._client is not None and not self._client.take_report(status, monotonic()):
            self.receiver.metrics.errors["bad_status"] += 1

    def submit(self, item: Item, wire_bytes: int) -> None:
        """Hands an item to the committer; its own weight takes the place of the frame's."""
        self.receiver.take_room(weight(item))
        self.receiver.release(wire_bytes)
        self.unsettled += 1
        self._submitted.append(self._arrived)
        if isinstance(item, ReceivedBatch):
            self.receiver.metrics.pending_entries += item.count
        self.receiver.committer.submit(item, self)
