"""ReceivingSession: what a connection at the receiver is once its client has said hello.

It takes the session's messages and batches in order, hands batches to the connection's way to the sink, and answers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from logbale.context import ContextDecompressor, context_bytes
from logbale.decoding import INLINE_BYTES, INLINE_RAW_BYTES, Decoded, decode_sequenced
from logbale.errors import DecompressionError, EntryError, ProtocolError
from logbale.messages import (
    NO_CONTEXT,
    SMALLEST_WINDOW_LOG,
    WRONG_STREAM,
    Ack,
    Context,
    Hello,
    Ping,
    Pong,
    Reject,
    Skip,
    Status,
)
from logbale.protocol import Algorithm, Frame
from logbale.session import ReceiverSession, SequencedBatch
from logbale.sinks import Item, Mark, Outcome, ReceivedBatch, Rejected, RejectedSequence, SkippedRange
from logbale.tls.names import MARK, owns

if TYPE_CHECKING:
    from logbale.connection import Connection
    from logbale.streams import Stream

log = logging.getLogger("logbale.receiver")


class ReceivingSession:
    """One client's session on one connection."""

    def __init__(self, connection: Connection) -> None:
        self.stream: Stream | None = None
        """From the welcome on."""
        self._claimed: Stream | None = None
        """From the hello on."""
        self._connection = connection
        self._receiver = connection.receiver
        settings = connection.settings
        self._session = ReceiverSession(
            max_raw=settings.max_raw_bytes, max_hello=settings.max_hello_bytes, max_name=settings.max_name_bytes
        )
        self._window_log = NO_CONTEXT
        """The largest window that a new context may have."""
        self._asked_for: int | None = None
        """Another one, which the client was asked for and has not confirmed."""
        self._next = 0
        """What the stream has below it was settled before this session, here or, by the hello, at another receiver."""
        self._sent = 0
        """The highest sequence that it may have sent to another receiver, as its hello says."""
        self._context: ContextDecompressor | None = None
        self._context_bytes = 0

    # what the connection calls

    def superseded(self) -> None:
        """Another connection has taken the stream over: what waits here undecoded will be sent there again."""
        self._connection.fail("superseded", "another connection writes this stream now")

    def settled(self, item: Item, outcome: Outcome) -> None:
        """The sink has said its word on one item of this session."""
        stream = self.stream
        assert stream is not None, "nothing is submitted before the welcome"
        last = item.last_sequence
        stream.settled(last)
        self._receiver.streams.forget_if_idle(stream)
        if isinstance(item, RejectedSequence):
            self._connection.send(Reject(item.sequence, item.reason))
        elif isinstance(outcome, Rejected):
            self._connection.send(Reject(last, outcome.reason))

    def given_up(self) -> None:
        """The sink cannot store the stream, of which too much waits: all that is not acknowledged comes again."""
        stream = self.stream
        assert stream is not None, "nothing is submitted before the welcome"
        stream.returned()
        # Nobody's from now on: what is still being decoded must not be stored without what is missing before it.
        self._receiver.streams.release(stream, self)
        self._connection.fail("limit", f"stream {stream.name} cannot be stored now, and too much waits for that")

    def acknowledge(self) -> None:
        """One acknowledgement for all that has become durable."""
        if self.stream is not None and self.stream.writer is self:
            self._connection.send(Ack(self.stream.durable))

    def ask_for(self, window_log: int) -> None:
        """The client is to end its context, and to begin none with a larger window than this."""
        self._asked_for = window_log
        self._connection.send(Context(window_log))

    def disobeyed(self) -> None:
        """The client has not ended its context for long: its next session is welcomed with the window that fits."""
        self._connection.fail("limit", f"context was not answered: no context with window_log over {self._asked_for}")

    def lost(self) -> None:
        """The connection is gone."""
        self._receiver.session_left(self)
        self._end_context()
        if (stream := self._claimed) is None:
            return
        if self.stream is None:
            self._connection.cancel_work()  # nobody is left to be welcomed
        # Taken up now, a skip would stand in for the batches before it that are dropped as nobody's.
        self._connection.drop_frames()
        self._receiver.streams.release(stream, self)

    def take(self, frame: Frame) -> None:
        """The next frame. Raises ProtocolError where the session does not allow it now."""
        message = self._session.receive(frame)
        if isinstance(message, SequencedBatch):
            self._take_batch(message)
            return
        if isinstance(message, Hello):
            self._take_hello(message)
        elif isinstance(message, Ping):
            self._connection.send(Pong(message.id))
        elif isinstance(message, Skip):
            self._take_skip(message)
        elif isinstance(message, Context):
            self._obey(message.window_log)
        elif isinstance(message, Status):
            self._connection.report(bytes(message.counts))
        self._receiver.release(frame.wire_bytes)

    def _take_hello(self, hello: Hello) -> None:
        refusal = self._receiver.access.refusal(hello.token, hello.stream, self._connection.host)
        if refusal is not None:  # before it supersedes anybody
            self._connection.refuse(refusal)
            return
        names = self._connection.certificate_names
        if self._receiver.settings.tls_bind_streams and not owns(names, hello.stream):  # before it supersedes anybody
            self._receiver.metrics.errors[WRONG_STREAM] += 1
            expected = ", ".join(f"{name} or {name}{MARK}…" for name in names) or "a name in the client's certificate"
            self._connection.fail(WRONG_STREAM, f"stream {hello.stream}: expected {expected}")
            return
        stream = self._claimed = self._receiver.streams.claim(hello.stream, self)
        if stream is None:
            self._receiver.metrics.errors["too_many_streams"] += 1
            self._connection.fail(
                "limit", f"stream {hello.stream} is new, and the receiver knows as many as it can (MAX_STREAMS)"
            )
            return
        self._connection.work(self._welcome, hello, stream)

    async def _welcome(self, hello: Hello, stream: Stream) -> None:
        """Answers a hello once nothing of its stream is on its way to the sink any more."""
        await stream.wait_until_settled()
        if stream.writer is not self or self._connection.at_end:
            return
        sink = self._receiver.sink
        sink.forget_rejects(stream.name, before=hello.next)
        known = sink.mark(stream.name)
        # Where nobody knows, the client does: it has the acknowledgement of everything before its next one.
        mark = Mark(hello.next - 1) if known is None else known
        stream.accepted = stream.durable = mark.sequence
        self.stream = stream
        self._sent = hello.sent or 0
        self._next = hello.next if known is None else self._receiver.losses.settled_below(hello, known)
        self._window_log = self._receiver.session_came(self)
        self._connection.write(
            self._session.welcome(
                last=mark.sequence if known is not None else None,
                last_crc=mark.crc,
                rejects=mark.rejects,
                max_frame=self._connection.settings.max_frame_bytes,
                max_entries=self._connection.settings.max_batch_entries,
                window_log=self._window_log,
            )
        )
        name = hello.plain_name
        self._connection.identify(stream=stream.name, name=name, host=hello.host, agent=hello.agent)
        log.info(
            "%s ships stream %s from %d on (%s)",
            self._connection.peer,
            stream.name,
            hello.next,
            ", ".join(filter(None, (name, hello.host, hello.agent))),
        )

    def _take_skip(self, skip: Skip) -> None:
        stream = self.stream
        assert stream is not None, "the session takes no skip before the welcome"
        if skip.last <= stream.accepted:
            self._acknowledge_duplicate()
            return
        first = max(skip.first, stream.accepted + 1)
        log.error(
            "%s: %d entries of stream %s will never come (%d to %d): %s",
            self._connection.peer,
            skip.entries,
            stream.name,
            first,
            skip.last,
            skip.reason,
        )
        self._receiver.metrics.skipped_entries += skip.entries
        self._submit(
            SkippedRange(stream.name, first, skip.last, skip.entries, skip.reason, self._base_of(stream)), wire_bytes=0
        )

    def _take_batch(self, batch: SequencedBatch) -> None:
        context = self._context_of(batch)
        if len(batch.body) < INLINE_BYTES and batch.raw_bytes <= INLINE_RAW_BYTES:
            self._take_sequenced(batch, decode_sequenced(batch, context, self._connection.settings))
        else:
            self._receiver.take_room(batch.raw_bytes)
            self._connection.work(self._decode_in_pool, batch, context)

    def _context_of(self, batch: SequencedBatch) -> ContextDecompressor | None:
        """Where the batch's body goes on, or None where it stands alone."""
        if not batch.continued:
            return None
        if batch.new_context:
            self._begin_context(batch.algorithm)
        if self._context is None or self._context.algorithm is not batch.algorithm:
            raise ProtocolError(f"batch {batch.sequence} continues a context that was never begun, or has ended")
        return self._context

    def _begin_context(self, algorithm: Algorithm) -> None:
        """The only one that the connection has: the one before it is freed now, whatever its algorithm."""
        self._end_context()
        # A client of version 1 cannot be told that there is no room for any.
        window_log = self._window_log or (SMALLEST_WINDOW_LOG if self._session.version == 1 else NO_CONTEXT)
        if window_log == NO_CONTEXT:
            raise ProtocolError("a context where there is no room for one (window_log 0)")
        self._context = ContextDecompressor(algorithm, window_log=window_log)
        self._context_bytes = context_bytes(algorithm, window_log).usual
        self._receiver.metrics.context_bytes += self._context_bytes

    def _end_context(self) -> None:
        self._receiver.metrics.context_bytes -= self._context_bytes
        self._context, self._context_bytes = None, 0

    def _obey(self, window_log: int) -> None:
        """What came before this may have crossed our word; what comes after it may not."""
        if window_log != self._asked_for:
            raise ProtocolError(f"a context of window_log {window_log}: asked for {self._asked_for}")
        self._asked_for = None
        self._window_log = self._receiver.session_obeyed(self)
        self._end_context()

    async def _decode_in_pool(self, batch: SequencedBatch, context: ContextDecompressor | None) -> None:
        decoded = await self._receiver.decode(
            batch.raw_bytes, decode_sequenced, batch, context, self._connection.settings
        )
        self._take_sequenced(batch, decoded)

    def _take_sequenced(self, batch: SequencedBatch, decoded: Decoded | DecompressionError | EntryError) -> None:
        stream = self.stream
        assert stream is not None, "the session takes no batch before the welcome"
        if stream.writer is not self:  # superseded, or gone: it comes again on another connection
            self._receiver.release(batch.wire_bytes)
            return
        if isinstance(decoded, DecompressionError):
            self._undecodable(batch, stream, decoded)
        elif isinstance(decoded, EntryError):
            self._reject(batch, stream, str(decoded))
        elif batch.duplicate or batch.sequence <= stream.accepted:
            self._connection.count(batch.algorithm, decoded, batch.wire_bytes)
            self._receiver.metrics.duplicate_entries += decoded.lines.count
            self._receiver.release(batch.wire_bytes)
            self._acknowledge_duplicate()
        else:
            self._connection.count(batch.algorithm, decoded, batch.wire_bytes)
            lines = decoded.lines
            item = ReceivedBatch(
                b"" if decoded.frame else lines.ndjson,
                lines.count,
                lines.first,
                lines.last,
                self._connection.peer,
                stream.name,
                batch.sequence,
                batch.crc,
                decoded.frame,
                decoded.raw_bytes if decoded.frame else 0,
                self._base_of(stream),
                batch.sequence <= self._sent,
            )
            self._submit(item, batch.wire_bytes)

    def _undecodable(self, batch: SequencedBatch, stream: Stream, error: DecompressionError) -> None:
        """A flipped bit on the way, most likely: sent again, alone. Twice the same bytes alone never decode."""
        self._receiver.metrics.frame_refused(error.reason)
        if not batch.continued and self._receiver.streams.failed_before(stream.name, batch):
            self._reject(batch, stream, str(error))
            return
        self._receiver.release(batch.wire_bytes)
        self._connection.fail("decode", f"batch {batch.sequence}: {error}")

    def _reject(self, batch: SequencedBatch, stream: Stream, reason: str) -> None:
        if batch.sequence <= stream.accepted:
            self._receiver.release(batch.wire_bytes)
            self._acknowledge_duplicate()
            return
        log.error(
            "%s: batch %d of stream %s is rejected: %s", self._connection.peer, batch.sequence, stream.name, reason
        )
        self._receiver.metrics.errors["rejected"] += 1
        self._submit(
            RejectedSequence(stream.name, batch.sequence, reason, batch.crc, self._base_of(stream)), batch.wire_bytes
        )

    def _acknowledge_duplicate(self) -> None:
        """What is durable already is acknowledged at once; what is on its way will be when it is."""
        if not self._connection.unsettled:
            self.acknowledge()

    def _base_of(self, stream: Stream) -> int:
        """What is below it was settled before what is taken now."""
        return max(self._next, stream.durable + 1)

    def _submit(self, item: Item, wire_bytes: int) -> None:
        assert self.stream is not None, "the session takes nothing to submit before the welcome"
        self.stream.submitted(item.last_sequence)
        self._connection.submit(item, wire_bytes)
