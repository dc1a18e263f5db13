"""The control messages of a session: one JSON object each, in a frame whose flags byte is exactly 0x80.

Unknown fields are ignored, so that either end may be newer; an unknown type, a missing field or a wrong type is a
protocol error, and so is a wrong crc, or none from version 2 on. Field names are those of the wire (docs/protocol.md).
"""

from __future__ import annotations

import zlib
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from logbale.errors import ProtocolError
from logbale.protocol import Flag, encode_header

VERSION = 2
"""The highest version of the session that this code speaks."""

CRC_SINCE = 2
"""From this version on every message ends in its crc (decision 0005)."""

LINES_SINCE = 2
"""From this version on a batch may be lines of one object each; a receiver of any version takes an array."""

_CRC_BEGINS = b',"crc":"'
CRC_BYTES = len(_CRC_BEGINS + b'01234567"}')

MAX_CONTROL_BYTES = 64 * 1024
"""Longest control frame; hello and status are held to less."""

MAX_HELLO_BYTES = 4 * 1024
"""Longest hello or status, where nothing else is said (MAX_HELLO_BYTES)."""

MAX_SHIPPER_NAME = 64
"""Characters of what a shipper is called, as of a spool's name: more are cut off."""

MAX_NAME_BYTES = 128
"""Of a stream: no setting allows more, as it is part of the archive's index."""

Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
FirstSequence = Annotated[int, Meta(ge=1, le=2**63 - 1)]
StreamName = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9._:@-]{{1,{MAX_NAME_BYTES}}}\Z")]
Text = Annotated[str, Meta(max_length=1024)]
WindowLog = Annotated[int, Meta(ge=0, le=27)]
"""What every zstd takes, 10 to 27 (1 KiB to 128 MiB), or NO_CONTEXT."""

UNAUTHORIZED = "unauthorized"
"""The code of the error for a client that may not ship here; it learns no more."""

WRONG_STREAM = "wrong_stream"
"""The code of an error: this client may not write the stream that it named."""

TLS_REQUIRED = "tls_required"
"""Likewise, in plain: this port speaks TLS only."""

ERROR_CODES = (
    UNAUTHORIZED,
    WRONG_STREAM,
    TLS_REQUIRED,
    "superseded",
    "unsupported",
    "limit",
    "decode",
    "protocol",
    "storage",
)
"""Why a receiver ends a connection."""

NO_CONTEXT = 0
"""The window_log that says: no context, each batch alone."""

SMALLEST_WINDOW_LOG = 10


class _Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower, omit_defaults=True):
    """A control message; its type on the wire is the class name in lower case."""


class Hello(_Message, frozen=True):
    """client → receiver, first: who ships, and from where on."""

    version: Annotated[int, Meta(ge=1)]
    stream: StreamName
    next: FirstSequence
    """The lowest sequence that the client still holds unacknowledged."""
    algorithms: list[Text] = []
    agent: Text = ""
    host: Text = ""
    token: Text | None = None
    sent: Sequence | None = None
    """The highest sequence that another receiver may ever have been sent, 0 for none; None where nothing is said."""
    name: Text = ""
    """What people call the shipper, as its spool; anybody may say anything."""

    @property
    def plain_name(self) -> str:
        """The name as it may be shown: short, on one line, without what steers a terminal or turns the text."""
        return "".join(c if c.isprintable() else "?" for c in self.name[:MAX_SHIPPER_NAME])


class RejectedBatch(msgspec.Struct, frozen=True):
    """A batch that was rejected, as welcome repeats it."""

    sequence: Sequence
    reason: str


class Welcome(_Message, frozen=True):
    """receiver → client: where the stream stands here, and the limits."""

    version: Annotated[int, Meta(ge=1)]
    last: Sequence | None
    """The highest durable sequence; 0 where the stream is unknown, None where this receiver cannot know."""
    max_frame: Annotated[int, Meta(ge=1)]
    max_raw: Annotated[int, Meta(ge=1)]
    max_entries: Annotated[int, Meta(ge=0)] = 0
    """Of one batch; 0 where the receiver does not say."""
    last_crc: int = 0
    window_log: WindowLog = 17
    algorithms: list[str] = []
    rejects: list[RejectedBatch] = []

    def __post_init__(self) -> None:
        _check_window_log(self.window_log)


class Skip(_Message, frozen=True, rename={"first": "from", "last": "to"}):
    """client → receiver: these sequences will never come; they take their place in the order."""

    first: FirstSequence
    last: Sequence
    entries: Annotated[int, Meta(ge=0)]
    reason: Text


class Status(_Message, frozen=True):
    """client → receiver, every few seconds: what the shipper counts."""

    counts: msgspec.Raw = msgspec.Raw(b"{}")
    """An object (reports.py); not looked at here, because 4 KiB of empty lists would take 95 as objects."""


class Ack(_Message, frozen=True):
    """receiver → client: every batch up to and including `last` is durable in the sink."""

    last: Sequence


class Reject(_Message, frozen=True):
    """receiver → client: this batch can never be stored; it counts as consumed."""

    sequence: Sequence
    reason: str


class Busy(_Message, frozen=True):
    """receiver → client: it cannot store now. What was accepted stays accepted; nothing is to be sent again."""

    retry_after: float
    reason: str


class Context(_Message, frozen=True):
    """receiver → client: the context ends; the next one has no larger window than this, or there is none.

    client → receiver, the same: here it has ended.
    """

    window_log: WindowLog

    def __post_init__(self) -> None:
        _check_window_log(self.window_log)


class Error(_Message, frozen=True):
    """receiver → client: why the connection closes now."""

    code: str
    """One of ERROR_CODES, or what a later receiver says."""
    detail: str = ""

    @property
    def counter(self) -> str:
        """Under what it is counted: whoever sends it must not be able to begin counters without end."""
        return self.code if self.code in ERROR_CODES else "other"


class Goaway(_Message, frozen=True):
    """receiver → client: shutting down; reconnect later."""

    reason: str = ""


class Ping(_Message, frozen=True):
    """Either way: are you there?"""

    id: int


class Pong(_Message, frozen=True):
    """The answer, with the ping's id."""

    id: int


FromClient = Hello | Skip | Status | Context | Ping | Pong
FromReceiver = Welcome | Ack | Reject | Busy | Context | Error | Goaway | Ping | Pong
Message = FromClient | FromReceiver

_from_client: msgspec.json.Decoder[FromClient] = msgspec.json.Decoder(FromClient)
_from_receiver: msgspec.json.Decoder[FromReceiver] = msgspec.json.Decoder(FromReceiver)
_T = TypeVar("_T")


def encode_message(message: Message) -> bytes:
    """The whole control frame. It has its crc in any version: an end that knows of none ignores the field."""
    text = msgspec.json.encode(message)
    payload = text[:-1] + _crc_member(text)
    return encode_header(len(payload), Flag.CONTROL) + payload


def decode_from_client(payload: bytes, version: int = 1) -> FromClient:
    """What a client says in a session of that version; a hello is of its own. Raises ProtocolError."""
    return _decode(_from_client, payload, version)


def decode_from_receiver(payload: bytes, version: int = 1) -> FromReceiver:
    """What a receiver says in a session of that version; a welcome is of its own. Raises ProtocolError."""
    return _decode(_from_receiver, payload, version)


def _check_window_log(window_log: int) -> None:
    if NO_CONTEXT < window_log < SMALLEST_WINDOW_LOG:
        raise ValueError(f"window_log {window_log}: expected {NO_CONTEXT} or {SMALLEST_WINDOW_LOG} to 27")


def _decode(decoder: msgspec.json.Decoder[_T], payload: bytes, version: int) -> _T:
    has_crc = _has_crc(payload)
    try:
        message = decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a control message that makes no sense: {error}") from None
    if isinstance(message, Hello | Welcome):
        version = message.version
    if version >= CRC_SINCE and not has_crc:
        raise ProtocolError(f"a control message without a crc in version {version}")
    return message


def _has_crc(payload: bytes) -> bool:
    """Whether a message ends in its crc. Raises ProtocolError where that is a wrong one, whatever the version."""
    member = payload[-CRC_BYTES:]
    if member == _crc_member(payload[:-CRC_BYTES] + b"}"):
        return True
    if member.startswith(_CRC_BEGINS):
        raise ProtocolError("a control message whose crc is not that of its bytes")
    return False


def _crc_member(text: bytes) -> bytes:
    """What takes the place of the closing brace: the last member, always as long, so it is found without a parser."""
    return _CRC_BEGINS + b'%08x"}' % zlib.crc32(text)
