"""One client's connection at the receiver: bytes → frames → batches, in order; in a session, the answers too.

The first header decides: a control frame opens a session; anything else is a base client, to whom nothing is written.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, cast

import msgspec

from logbale.committer import weight
from logbale.compression import decompress
from logbale.config import Settings, format_address
from logbale.context import ContextDecompressor
from logbale.errors import DecompressionError, EntryError, ProtocolError
from logbale.messages import (
    MAX_HELLO_BYTES,
    Ack,
    Busy,
    Error,
    Goaway,
    Hello,
    Message,
    Ping,
    Pong,
    Reject,
    Skip,
    Status,
    encode_message,
)
from logbale.ndjson import Lines, to_ndjson
from logbale.protocol import Algorithm, Flag, Frame, FrameDecoder
from logbale.session import PING_AFTER, WELCOME_TIMEOUT, Liveness, ReceiverSession, SequencedBatch, batch_crc
from logbale.sinks import Item, Outcome, ReceivedBatch, Rejected, RejectedSequence, SkippedRange

if TYPE_CHECKING:
    from logbale.streams import Stream
    from logbale.tcp_server import TCPLogReceiver

log = logging.getLogger("logbale.receiver")

INLINE_BYTES = 64 * 1024
"""Payloads below this are decoded on the loop: a trip to the pool costs about 40 µs, more than it saves."""

WINDOW_LOG = 17
"""The largest zstd window that a session's context may have: about 600 KiB for each connection."""

MAX_UNREAD_ANSWERS = 1024 * 1024
"""Bytes of answers that a client may leave unread before it counts as gone."""


class Connection(asyncio.Protocol):
    """One client, from its first byte to its last."""

    def __init__(self, receiver: TCPLogReceiver) -> None:
        self.peer = "?"
        self.session: ReceiverSession | None = None
        self._receiver = receiver
        self._decoder = FrameDecoder(receiver.settings.max_frame_bytes, session=None, max_control=MAX_HELLO_BYTES)
        self._transport: asyncio.Transport | None = None
        self._frames: deque[Frame] = deque()
        self._working: asyncio.Task[None] | None = None
        self._unsettled = 0
        self._bad_frames = 0
        self._at_end = False
        self._error: ProtocolError | None = None
        """The stream is unsound behind the frames that wait."""
        self._live = Liveness(0.0)
        self._said = 0.0
        self._hello_due: float | None = None
        self._claimed: Stream | None = None
        """From the hello on."""
        self._stream: Stream | None = None
        """From the welcome on."""
        self._contexts: dict[Algorithm, ContextDecompressor] = {}
        self._acked = 0

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        if (peer := transport.get_extra_info("peername")) is not None:  # a health check may be gone already
            self.peer = format_address(*peer[:2])
        # A base client may be silent for days; only the kernel can tell it from one whose cable was cut.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._live.heard(monotonic())
        if not self._receiver.opened(self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._live.heard(monotonic())
        try:
            self._decoder.feed(data)
            for frame in self._decoder.frames():
                self._receiver.reserve(frame.wire_bytes)
                self._frames.append(frame)
        except ProtocolError as error:
            self._end_with(error)
        self._work()

    def eof_received(self) -> bool:
        try:
            self._decoder.close()
        except ProtocolError as error:
            self._end_with(error)
        self._at_end = True
        self._work()
        return True  # stays open until all that came is stored: our end of stream then tells the client so

    def connection_lost(self, error: Exception | None) -> None:
        self._at_end = True
        if (stream := self._claimed) is not None:
            if self._stream is None and self._working is not None:
                self._working.cancel()  # nobody is left to be welcomed
            # Taken up now, a skip would stand in for the batches before it that are dropped as nobody's.
            self._drop_frames()
            if stream.writer is self:
                self._receiver.statuses.pop(stream.name, None)
            self._receiver.streams.release(stream, self)
        self._receiver.closed(self, error)

    # what the receiver calls

    def pause(self) -> None:
        """Reads nothing for now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self._transport is not None and not self._transport.is_closing() and not self._at_end:
            self._live.heard(monotonic())
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
            self._send(Goaway(reason))

    def busy(self, retry_after: float, reason: str) -> None:
        """Tells an open session that what it sent waits, and is not to be sent again."""
        if self._stream is not None:
            self._send(Busy(retry_after, reason))

    def check_liveness(self, now: float) -> None:
        """Pings a silent session, ends a dead one, and one that does not say hello."""
        assert self._transport is not None
        is_closing = self._transport.is_closing()  # while answers are left that the client does not read
        if self._at_end and not is_closing:
            return
        try:
            if self.session is None:
                self._check_hello(now)
            elif (ping := self._live.tick(now)) is not None:
                self._send(ping)
            elif now - self._said >= PING_AFTER:
                # A client that takes half a minute to send one frame over a slow link has to know that we are there.
                self._send(Ping(0))
        except ProtocolError as error:
            if not is_closing:
                self._break(error)
            self._abort()

    def _check_hello(self, now: float) -> None:
        if not self._decoder.session:  # a base client, or not known yet
            return
        self._hello_due = self._hello_due or now + WELCOME_TIMEOUT
        if now >= self._hello_due:
            raise ProtocolError(f"no whole hello within {WELCOME_TIMEOUT:g} s")

    def superseded(self) -> None:
        """Another connection has taken the stream over: what waits here undecoded will be sent there again."""
        self._fail("superseded", "another connection writes this stream now")

    def settled(self, item: Item, outcome: Outcome) -> None:
        """The sink has said its word on one item of this connection."""
        self._unsettled -= 1
        self._receiver.release(weight(item))
        if self._stream is None:
            return
        last = item.last_sequence
        self._stream.settled(last)
        self._receiver.streams.forget_if_idle(self._stream)
        if isinstance(item, RejectedSequence):
            self._send(Reject(item.sequence, item.reason))
        elif isinstance(outcome, Rejected):
            self._send(Reject(last, outcome.reason))

    def group_ended(self) -> None:
        """One acknowledgement for all that has become durable."""
        self._acknowledge()
        self._close_when_settled()

    # answers

    def _send(self, message: Message) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(encode_message(message))
        self._said = monotonic()
        if transport.get_write_buffer_size() > MAX_UNREAD_ANSWERS:
            log.warning("%s does not read the answers; its connection is closed", self.peer)
            self._abort()

    def _acknowledge(self) -> None:
        if self._stream is not None and self._stream.writer is self:
            self._acked = self._stream.durable
            self._send(Ack(self._acked))

    def _fail(self, code: str, detail: str) -> None:
        """Ends the session with a reason, and drops what is not decoded yet."""
        if not self._at_end:
            log.warning("%s: %s: %s; its connection is closed", self.peer, code, detail)
            self._send(Error(code, detail))
        self._at_end = True
        self._drop_frames()
        self.close()

    def _end_with(self, error: ProtocolError) -> None:
        """The framing is unsound: nothing more is read, and what came whole before it is still taken."""
        self._error = self._error or error
        self.pause()

    def _break(self, error: ProtocolError) -> None:
        """The peer broke the rules: it is told so, and its connection ends when all that came before is settled."""
        self._receiver.metrics.errors["protocol"] += 1
        log.warning("%s: %s; its connection is closed", self.peer, error)
        if self.session is not None:
            self._send(Error("protocol", str(error)))
        self.pause()
        self._at_end = True

    def _abort(self) -> None:
        self._at_end = True
        self._drop_frames()
        if self._transport is not None:
            self._transport.abort()

    def _drop_frames(self) -> None:
        while self._frames:
            self._receiver.release(self._frames.popleft().wire_bytes)

    def _close_when_settled(self) -> None:
        if self._at_end and not self._frames and self._working is None and not self._unsettled:
            self.close()

    # frames

    def _work(self) -> None:
        """Takes what waits, in order: on the loop while a frame is small, in the pool otherwise."""
        while self._frames and self._working is None:
            frame = self._frames.popleft()
            try:
                if frame.flags == Flag.CONTROL or self.session is not None:
                    self._take_session_frame(frame)
                elif len(frame.payload) < INLINE_BYTES:
                    self._take_base(frame, _decode_base(frame, self._receiver.settings))
                else:
                    self._working = asyncio.create_task(self._decode_base_in_pool(frame))
            except ProtocolError as error:
                self._receiver.release(frame.wire_bytes)
                self._drop_frames()
                self._error = None
                self._break(error)
        if self._error is not None and not self._frames and self._working is None:
            unsound, self._error = self._error, None
            self._break(unsound)
        self._close_when_settled()

    def _worked(self) -> None:
        self._working = None
        self._work()

    async def _decode_base_in_pool(self, frame: Frame) -> None:
        receiver = self._receiver
        loop = asyncio.get_running_loop()
        self._take_base(frame, await loop.run_in_executor(receiver.pool, _decode_base, frame, receiver.settings))
        self._worked()

    def _take_base(self, frame: Frame, decoded: Decoded | DecompressionError | EntryError) -> None:
        receiver = self._receiver
        if not isinstance(decoded, Decoded):
            self._bad_frames += 1
            receiver.metrics.frame_refused(decoded.reason)
            if self._bad_frames & (self._bad_frames - 1) == 0:  # the 1st, 2nd, 4th, 8th: a flood of them stays readable
                log.warning("%s: frame skipped, the %d. bad one: %s", self.peer, self._bad_frames, decoded)
            receiver.release(frame.wire_bytes)
            return
        self._count(frame.algorithm, decoded, frame.wire_bytes)
        lines = decoded.lines
        self._submit(ReceivedBatch(lines.ndjson, lines.count, lines.first, lines.last, self.peer), frame.wire_bytes)

    def _count(self, algorithm: Algorithm, decoded: Decoded, wire_bytes: int) -> None:
        metrics = self._receiver.metrics
        metrics.batch_received(
            algorithm, entries=decoded.lines.count, raw_bytes=decoded.raw_bytes, wire_bytes=wire_bytes
        )
        if decoded.lines.rewritten:
            metrics.errors["rewritten"] += decoded.lines.rewritten

    def _submit(self, item: Item, wire_bytes: int) -> None:
        """Hands an item to the committer; its own weight takes the place of the frame's."""
        self._receiver.reserve(weight(item))
        self._receiver.release(wire_bytes)
        self._unsettled += 1
        if self._stream is not None:
            self._stream.submitted(item.last_sequence)
        self._receiver.committer.submit(item, self)

    # the session

    def _take_session_frame(self, frame: Frame) -> None:
        if self.session is None:
            self.session = ReceiverSession(max_raw=self._receiver.settings.max_raw_bytes)
        message = self.session.receive(frame)
        if isinstance(message, SequencedBatch):
            self._take_batch(message)
            return
        if isinstance(message, Hello):
            stream = self._claimed = self._receiver.streams.claim(message.stream, self)
            self._working = asyncio.create_task(self._welcome(message, stream))
        elif isinstance(message, Ping):
            self._send(Pong(message.id))
        elif isinstance(message, Skip):
            self._take_skip(message)
        elif isinstance(message, Status):
            self._receiver.statuses[self.session.stream] = message.counts
        self._receiver.release(frame.wire_bytes)

    async def _welcome(self, hello: Hello, stream: Stream) -> None:
        """Answers a hello once nothing of its stream is on its way to the sink any more."""
        await stream.wait_until_settled()
        if stream.writer is self and self.session is not None and not self._at_end:
            sink = self._receiver.sink
            sink.forget_rejects(stream.name, before=hello.next)
            mark = sink.mark(stream.name)
            stream.accepted = stream.durable = mark.sequence
            self._stream = stream
            assert self._transport is not None
            self._said = monotonic()
            self._transport.write(
                self.session.welcome(
                    last=mark.sequence,
                    last_crc=mark.crc,
                    rejects=mark.rejects,
                    max_frame=self._receiver.settings.max_frame_bytes,
                    window_log=WINDOW_LOG,
                )
            )
            log.info(
                "%s ships stream %s from %d on (%s, %s)", self.peer, stream.name, hello.next, hello.host, hello.agent
            )
        self._worked()

    def _take_skip(self, skip: Skip) -> None:
        stream = self._stream
        assert stream is not None, "the session takes no skip before the welcome"
        if skip.last <= stream.accepted:
            self._acknowledge_duplicate()
            return
        first = max(skip.first, stream.accepted + 1)
        log.error(
            "%s: %d entries of stream %s will never come (%d to %d): %s",
            self.peer,
            skip.entries,
            stream.name,
            first,
            skip.last,
            skip.reason,
        )
        self._receiver.metrics.skipped_entries += skip.entries
        self._submit(SkippedRange(stream.name, first, skip.last, skip.entries, skip.reason), wire_bytes=0)

    def _take_batch(self, batch: SequencedBatch) -> None:
        context = self._context(batch)
        if len(batch.body) < INLINE_BYTES and batch.raw_bytes < 4 * INLINE_BYTES:
            self._take_sequenced(batch, _decode_sequenced(batch, context, self._receiver.settings))
        else:
            self._working = asyncio.create_task(self._decode_sequenced_in_pool(batch, context))

    def _context(self, batch: SequencedBatch) -> ContextDecompressor | None:
        """Where the batch's body goes on, or None where it stands alone."""
        if not batch.continued:
            return None
        if batch.new_context:
            self._contexts[batch.algorithm] = ContextDecompressor(batch.algorithm, window_log=WINDOW_LOG)
        if batch.algorithm not in self._contexts:
            raise ProtocolError(f"batch {batch.sequence} continues a context that was never begun")
        return self._contexts[batch.algorithm]

    async def _decode_sequenced_in_pool(self, batch: SequencedBatch, context: ContextDecompressor | None) -> None:
        receiver = self._receiver
        loop = asyncio.get_running_loop()
        decoded = await loop.run_in_executor(receiver.pool, _decode_sequenced, batch, context, receiver.settings)
        self._take_sequenced(batch, decoded)
        self._worked()

    def _take_sequenced(self, batch: SequencedBatch, decoded: Decoded | DecompressionError | EntryError) -> None:
        stream = self._stream
        assert stream is not None, "the session takes no batch before the welcome"
        if stream.writer is not self:  # superseded, or gone: it comes again on another connection
            self._receiver.release(batch.wire_bytes)
            return
        if isinstance(decoded, DecompressionError):
            self._undecodable(batch, stream, decoded)
        elif isinstance(decoded, EntryError):
            self._reject(batch, stream, str(decoded))
        elif batch.duplicate or batch.sequence <= stream.accepted:
            self._count(batch.algorithm, decoded, batch.wire_bytes)
            self._receiver.metrics.duplicate_entries += decoded.lines.count
            self._receiver.release(batch.wire_bytes)
            self._acknowledge_duplicate()
        else:
            self._count(batch.algorithm, decoded, batch.wire_bytes)
            lines = decoded.lines
            item = ReceivedBatch(
                lines.ndjson,
                lines.count,
                lines.first,
                lines.last,
                self.peer,
                stream.name,
                batch.sequence,
                batch.crc,
            )
            self._submit(item, batch.wire_bytes)

    def _undecodable(self, batch: SequencedBatch, stream: Stream, error: DecompressionError) -> None:
        """A flipped bit on the way, most likely: sent again, alone. A batch that fails alone twice never decodes."""
        self._receiver.metrics.frame_refused(error.reason)
        if not batch.continued and self._receiver.streams.failed_before(stream.name, batch.sequence):
            self._reject(batch, stream, str(error))
            return
        self._receiver.release(batch.wire_bytes)
        self._fail("decode", f"batch {batch.sequence}: {error}")

    def _reject(self, batch: SequencedBatch, stream: Stream, reason: str) -> None:
        if batch.sequence <= stream.accepted:
            self._receiver.release(batch.wire_bytes)
            self._acknowledge_duplicate()
            return
        log.error("%s: batch %d of stream %s is rejected: %s", self.peer, batch.sequence, stream.name, reason)
        self._receiver.metrics.errors["rejected"] += 1
        self._submit(RejectedSequence(stream.name, batch.sequence, reason, batch.crc), batch.wire_bytes)

    def _acknowledge_duplicate(self) -> None:
        """What is durable already is acknowledged at once; what is on its way will be when it is."""
        if not self._unsettled:
            self._acknowledge()


class Decoded(msgspec.Struct, frozen=True):
    """A frame's entries."""

    lines: Lines
    raw_bytes: int


def _decode_base(frame: Frame, settings: Settings) -> Decoded | DecompressionError | EntryError:
    """A base frame's entries, or why it has none. Pure: runs on the loop and in the pool."""
    try:
        raw = decompress(frame.algorithm, frame.payload, max_raw=settings.max_raw_bytes)
        return Decoded(to_ndjson(raw, max_entries=settings.max_batch_entries), len(raw))
    except (DecompressionError, EntryError) as error:
        return error


def _decode_sequenced(
    batch: SequencedBatch, context: ContextDecompressor | None, settings: Settings
) -> Decoded | DecompressionError | EntryError:
    """A sequenced batch's entries; DecompressionError where it is not what was sent, EntryError where it is."""
    try:
        if context is not None:
            raw = context.decompress(batch.body, batch.raw_bytes)
        else:
            raw = decompress(batch.algorithm, batch.body, max_raw=batch.raw_bytes, max_ratio=None)
        if len(raw) != batch.raw_bytes or batch_crc(batch.sequence, raw) != batch.crc:
            raise DecompressionError("corrupt", "its length or CRC is not that of its prefix")
        return Decoded(to_ndjson(raw, max_entries=settings.max_batch_entries), len(raw))
    except (DecompressionError, EntryError) as error:
        return error
