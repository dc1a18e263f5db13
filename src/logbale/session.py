"""Both ends of a session, without I/O: frames in, events out; commands in, bytes out.

A session adds to the base protocol what makes delivery exact: every batch has a sequence and a CRC, the receiver says
which batches are durable, and after a reconnect only the others are sent again. Anything a peer may send gives an event
or a ProtocolError; `now` is passed in (seconds of a clock that never goes back).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Mapping
from enum import Enum

import msgspec

from logbale.deflate import crc32
from logbale.errors import ProtocolError
from logbale.liveness import Liveness
from logbale.messages import (
    MAX_CONTROL_BYTES,
    MAX_HELLO_BYTES,
    MAX_NAME_BYTES,
    MAX_SHIPPER_NAME,
    SMALLEST_WINDOW_LOG,
    VERSION,
    Ack,
    Busy,
    Context,
    Error,
    Goaway,
    Hello,
    Ping,
    Pong,
    Reject,
    RejectedBatch,
    Skip,
    Status,
    Welcome,
    decode_from_client,
    decode_from_receiver,
    encode_message,
)
from logbale.protocol import Algorithm, Flag, Frame, base_flags, encode_header

WELCOME_TIMEOUT = 5.0
"""Seconds that a hello waits for its welcome, and an opened connection for its hello."""

_CONTINUED, _NEW_CONTEXT = int(Flag.CONTINUED), int(Flag.NEW_CONTEXT)  # as enums they cost four times as much

_PREFIX = struct.Struct("!QII")
PREFIX_BYTES = _PREFIX.size


def batch_crc(sequence: int, raw: bytes) -> int:
    """CRC-32 of the sequence (uint64, big-endian) and the raw batch, as the prefix of a sequenced payload has it."""
    return crc32(raw, crc32(sequence.to_bytes(8, "big"), 0))


class SequencedBatch(msgspec.Struct, frozen=True):
    """A data frame of a session, its body still compressed."""

    sequence: int
    raw_bytes: int
    """Length that the body claims to have when it is decompressed; within max_raw."""
    crc: int
    algorithm: Algorithm
    continued: bool
    """The body belongs to the connection's compression context."""
    new_context: bool
    body: bytes
    duplicate: bool
    """Accepted before: decoded for the context's sake, acknowledged, not stored."""
    wire_bytes: int


def encode_batch(
    sequence: int, raw_bytes: int, crc: int, body: bytes, algorithm: Algorithm, *, context: Flag | None = None
) -> bytes:
    """The whole data frame. `context`: None for a stand-alone body, else CONTINUED, with NEW_CONTEXT for its first."""
    flags = base_flags(algorithm) | Flag.SEQUENCED | (context or 0)
    header = encode_header(PREFIX_BYTES + len(body), flags)
    return b"".join((header, _PREFIX.pack(sequence, raw_bytes, crc), body))


class _State(Enum):
    NEW = "before hello"
    GREETED = "between hello and welcome"
    OPEN = "open"


class ReceiverSession:
    """The receiver's end of one connection: the order of messages and of sequences."""

    def __init__(self, *, max_raw: int, max_hello: int = MAX_HELLO_BYTES, max_name: int = MAX_NAME_BYTES) -> None:
        """Limits in bytes: of a batch's raw bytes, of any message from the client, of the stream's name."""
        self._max_hello = max_hello
        self._max_name = max_name
        self.stream = ""
        self.version = VERSION
        self.max_raw = max_raw
        self._state = _State.NEW
        self._first = 1
        self._expected = 0

    def receive(self, frame: Frame) -> Hello | Skip | Status | Context | Ping | Pong | SequencedBatch:
        """What the client says. Raises ProtocolError where the session does not allow it now."""
        if frame.flags == Flag.CONTROL:
            return self._control(frame.payload)
        if self._state is not _State.OPEN:
            raise ProtocolError(f"a data frame {self._state.value}")
        return self._batch(frame)

    def _control(self, payload: bytes) -> Hello | Skip | Status | Context | Ping | Pong:
        if len(payload) > self._max_hello:
            raise ProtocolError(
                f"a control message of {len(payload)} bytes: the limit is {self._max_hello} (MAX_HELLO_BYTES)",
                reason="frame_limit",
            )
        message = decode_from_client(payload, self.version)
        if isinstance(message, Hello):
            if self._state is not _State.NEW:
                raise ProtocolError("a second hello")
            if len(message.stream) > self._max_name:
                raise ProtocolError(
                    f"a stream's name of {len(message.stream)} bytes: the limit is {self._max_name} (MAX_NAME_BYTES)",
                    reason="name_limit",
                )
            self._state = _State.GREETED
            self.stream = message.stream
            self.version = min(VERSION, message.version)
            self._first = message.next
        elif self._state is _State.NEW:
            raise ProtocolError(f"{type(message).__name__.lower()} before hello")
        elif isinstance(message, Skip):
            return self._skip(message)
        elif isinstance(message, Context) and self._state is not _State.OPEN:
            raise ProtocolError(f"a context {self._state.value}")
        return message

    def _skip(self, skip: Skip) -> Skip:
        if self._state is not _State.OPEN:
            raise ProtocolError(f"a skip {self._state.value}")
        if skip.last < skip.first:
            raise ProtocolError(f"a skip from {skip.first} to {skip.last}")
        if skip.first > self._expected:
            raise ProtocolError(f"a skip from {skip.first}: expected {self._expected}")
        self._expected = max(self._expected, skip.last + 1)
        return skip

    def _batch(self, frame: Frame) -> SequencedBatch:
        if len(frame.payload) < PREFIX_BYTES:
            raise ProtocolError(f"a sequenced payload of {len(frame.payload)} bytes: the prefix alone takes 16")
        sequence, raw_bytes, crc = _PREFIX.unpack_from(frame.payload)
        if raw_bytes > self.max_raw:
            raise ProtocolError(f"batch {sequence} claims {raw_bytes} raw bytes: the limit is {self.max_raw}")
        if not 1 <= sequence <= self._expected:
            raise ProtocolError(f"batch {sequence}: expected {self._expected}")
        duplicate = sequence < self._expected
        self._expected += not duplicate
        return SequencedBatch(
            sequence,
            raw_bytes,
            crc,
            frame.algorithm,
            bool(frame.flags & _CONTINUED),
            bool(frame.flags & _NEW_CONTEXT),
            frame.payload[PREFIX_BYTES:],
            duplicate,
            frame.wire_bytes,
        )

    def welcome(
        self,
        *,
        last: int | None,
        last_crc: int,
        rejects: list[RejectedBatch],
        max_frame: int,
        max_entries: int,
        window_log: int,
    ) -> bytes:
        """Opens the session. `last` is the stream's durable mark, with nothing of it still on its way to the sink.

        A client of version 1 knows no NO_CONTEXT: it is told the smallest window.
        """
        assert self._state is _State.GREETED, "a welcome answers a hello"
        self._state = _State.OPEN
        self._expected = max((last or 0) + 1, self._first)
        return encode_message(
            Welcome(
                version=self.version,
                last=last,
                last_crc=last_crc,
                max_frame=max_frame,
                max_raw=self.max_raw,
                max_entries=max_entries,
                window_log=window_log if self.version > 1 else window_log or SMALLEST_WINDOW_LOG,
                algorithms=[algorithm.label for algorithm in Algorithm],
                rejects=[reject for reject in rejects if reject.sequence >= self._first],
            )
        )


class Welcomed(msgspec.Struct, frozen=True):
    """The session is open: everything from `resume_at` on is to be sent."""

    resume_at: int
    welcome: Welcome
    other_history: bool
    """The receiver knows batches of this stream that this client never made: its spool is a copy or was restored."""


Event = Welcomed | Ack | Reject | Busy | Context | Error | Goaway


class ShipperSession:
    """The shipper's end of one connection: what may be sent, and what the receiver has said of it."""

    def __init__(
        self, *, stream: str, first: int, assigned: int, window_bytes: int, now: float, last_crc: Mapping[int, int]
    ) -> None:
        """`first` is the lowest sequence not consumed, `assigned` the highest ever assigned.

        `last_crc` has the CRCs of the batches that are remembered, by sequence.
        """
        self.stream = stream
        self.live = Liveness(now)
        self.welcome: Welcome | None = None
        self._first = first
        self._assigned = assigned
        self._window_bytes = window_bytes
        self._crcs = last_crc
        self._last_ack = first - 1
        self._last_sent = first - 1
        self._unacked: deque[tuple[int, int]] = deque()
        self.unacked_bytes = 0

    def hello(
        self, *, agent: str, host: str, token: str | None = None, sent: int | None = None, name: str = ""
    ) -> bytes:
        """The first frame of the connection; others may ever have been `sent` up to there; None says nothing."""
        algorithms = [algorithm.label for algorithm in Algorithm]
        name = name[:MAX_SHIPPER_NAME]
        return encode_message(Hello(VERSION, self.stream, self._first, algorithms, agent, host, token, sent, name))

    @property
    def last_sent(self) -> int:
        """The highest sequence that the receiver may have of this client."""
        return self._last_sent

    @property
    def has_sent(self) -> bool:
        """Whether the receiver may have any of what the client held when it said hello."""
        return self._last_sent >= self._first

    def receive(self, frame: Frame, now: float) -> tuple[Event | None, bytes]:
        """What the receiver says, and what to answer at once. Raises ProtocolError."""
        self.live.heard(now)
        if frame.flags != Flag.CONTROL:
            raise ProtocolError("the receiver sent a data frame")
        if len(frame.payload) > MAX_CONTROL_BYTES:
            raise ProtocolError(f"a control message of {len(frame.payload)} bytes: the limit is {MAX_CONTROL_BYTES}")
        version = 1 if self.welcome is None else self.welcome.version
        message = decode_from_receiver(frame.payload, version)
        if isinstance(message, Ping):
            return None, encode_message(Pong(message.id))
        if isinstance(message, Pong):
            return None, b""
        if isinstance(message, Welcome):
            return self._welcomed(message), b""
        if isinstance(message, Ack | Reject | Context) and self.welcome is None:
            raise ProtocolError(f"{type(message).__name__.lower()} before welcome")
        if isinstance(message, Context):
            # Where this stands among our frames, the old context has ended: the receiver forgets it there.
            return message, encode_message(Context(message.window_log))
        if isinstance(message, Ack):
            self._acked(message.last)
        elif isinstance(message, Reject) and not self._last_ack < message.sequence <= self._last_sent:
            raise ProtocolError(
                f"batch {message.sequence} rejected: {self._last_ack + 1} to {self._last_sent} are open"
            )
        return message, b""

    def _welcomed(self, welcome: Welcome) -> Welcomed:
        if self.welcome is not None:
            raise ProtocolError("a second welcome")
        if welcome.version > VERSION:
            raise ProtocolError(f"version {welcome.version}: this end speaks up to {VERSION}")
        self.welcome = welcome
        last = welcome.last or 0
        # A mark that ends with a skip has no CRC: what was skipped may be known here, for example as too large to send.
        known_crc = self._crcs.get(last) if welcome.last_crc else None
        other = last > self._assigned or (known_crc is not None and known_crc != welcome.last_crc)
        if not other:
            self._last_ack = self._last_sent = max(last, self._first - 1)
        return Welcomed(self._last_sent + 1, welcome, other)

    def _acked(self, last: int) -> None:
        if last > self._last_sent:
            raise ProtocolError(f"batch {last} acknowledged: {self._last_sent} was the last one sent")
        self._last_ack = max(self._last_ack, last)
        while self._unacked and self._unacked[0][0] <= last:
            self.unacked_bytes -= self._unacked.popleft()[1]

    def has_room(self, wire_bytes: int) -> bool:
        """Whether the window takes so many bytes more; one batch always fits into an empty one."""
        return not self._unacked or self.unacked_bytes + wire_bytes <= self._window_bytes

    def sent(self, sequence: int, wire_bytes: int) -> None:
        """A data frame or a skip up to `sequence` was given to the connection."""
        assert sequence > self._last_sent, "sequences only rise"
        self._last_sent = sequence
        self._unacked.append((sequence, wire_bytes))
        self.unacked_bytes += wire_bytes
