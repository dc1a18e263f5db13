"""The wire protocol, without I/O: bytes in, frames out; payloads in, frames out.

A frame is a 5-byte header (payload length as big-endian uint32, flags as uint8) and a payload (docs/protocol.md).
A length over the limit and a flag byte that means nothing are refused on the header alone, before any payload is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag

import msgspec

from logbale.errors import ProtocolError

HEADER_BYTES = 5
FLAGS_AT = 4
_HEADER = struct.Struct("!IB")


class Algorithm(IntEnum):
    """Bits 1-2 of the flags: how the payload is compressed."""

    NONE = 0
    GZIP = 1
    ZLIB = 2
    ZSTD = 3  # our extension

    @classmethod
    def named(cls, name: str) -> Algorithm:
        """The algorithm that the settings call `name`. Raises KeyError."""
        return cls[name.upper()]

    @property
    def label(self) -> str:
        """The name in settings, metrics and tables."""
        return self.name.lower()


class Flag(IntFlag):
    """Bits of the flags byte beside the algorithm. All but COMPRESSED belong to a session."""

    COMPRESSED = 0x01
    SEQUENCED = 0x08
    CONTINUED = 0x10
    NEW_CONTEXT = 0x20
    RESERVED = 0x40
    CONTROL = 0x80


_ALGORITHM_SHIFT = 1
_ALGORITHM_MASK = 0b110
_ALGORITHMS = tuple(Algorithm)
_SESSION = Flag.SEQUENCED | Flag.CONTINUED | Flag.NEW_CONTEXT


class Frame(msgspec.Struct, frozen=True):
    """One message as it came: flags that make sense, and a payload that is still compressed."""

    flags: int
    payload: bytes

    @property
    def algorithm(self) -> Algorithm:
        """How the payload is compressed."""
        return _ALGORITHMS[(self.flags & _ALGORITHM_MASK) >> _ALGORITHM_SHIFT]

    @property
    def wire_bytes(self) -> int:
        """What the frame took on the wire, header included."""
        return HEADER_BYTES + len(self.payload)


def base_flags(algorithm: Algorithm) -> int:
    """The flags byte of a base frame: 0x00 raw, 0x03 gzip, 0x05 zlib, 0x07 zstd."""
    return algorithm << _ALGORITHM_SHIFT | (algorithm is not Algorithm.NONE)


def check_flags(flags: int, *, session: bool = False) -> None:
    """Raises ProtocolError, naming the rule, where a flags byte has no meaning (protocol.md, "Base protocol")."""
    if flags & Flag.CONTROL:
        if flags != Flag.CONTROL:
            raise ProtocolError(f"flags 0x{flags:02x}: a control frame is exactly 0x80")
        if not session:
            raise ProtocolError("flags 0x80: a control frame outside a session")
        return
    if flags & Flag.RESERVED:
        raise ProtocolError(f"flags 0x{flags:02x}: bit 6 is reserved")
    if bool(flags & Flag.COMPRESSED) != bool(flags & _ALGORITHM_MASK):
        raise ProtocolError(f"flags 0x{flags:02x}: the compressed bit and the algorithm contradict each other")
    if flags & _SESSION and not session:
        raise ProtocolError(f"flags 0x{flags:02x}: a session's bits outside a session")
    if session and not flags & Flag.SEQUENCED:
        raise ProtocolError(f"flags 0x{flags:02x}: a data frame without a sequence inside a session")
    if flags & Flag.NEW_CONTEXT and not flags & Flag.CONTINUED:
        raise ProtocolError(f"flags 0x{flags:02x}: a new context on a frame that has none")
    if flags & Flag.CONTINUED and not flags & Flag.COMPRESSED:
        raise ProtocolError(f"flags 0x{flags:02x}: a continued frame that is not compressed")


def _is_sound(flags: int, *, session: bool) -> bool:
    try:
        check_flags(flags, session=session)
    except ProtocolError:
        return False
    return True


_SOUND = {
    session: frozenset(flags for flags in range(256) if _is_sound(flags, session=session)) for session in (False, True)
}
"""By whether in a session. A look here is a tenth of check_flags(), whose enums took 10 % of a busy receiver's time."""


_FOREIGN = {
    "HTTP": (
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELET",
        b"OPTIO",
        b"PATCH",
        b"CONNE",
        b"TRACE",
        b"PRI *",
        b"HTTP/",
    ),
    "TLS": (b"\x16\x03", b"\x15\x03"),
    "SSH": (b"SSH-",),
}
"""How a stream begins that is meant for another port. As headers, these have lengths over 350 MB: no limit allows them.
"""


_PROXY_HEADERS = (b"\r\n\r\n\0", b"PROXY")
_TLS_HERE = "this port speaks none: set TLS_CERT_FILE at the receiver, or leave TLS_CA_FILE out at the shipper"


def _foreign(header: bytes) -> str | None:
    """What is said of a first header that is another protocol's; None where it is none that is known."""
    if header.startswith(_PROXY_HEADERS):
        return "a header of the PROXY protocol, from an address that is not in PROXY_FROM"
    for name, beginnings in _FOREIGN.items():
        if header.startswith(beginnings):
            why = _TLS_HERE if name == "TLS" else "most likely the wrong port"
            return f"the first bytes are {name}, not a frame ({header!r}): {why}"
    return None


def encode_header(payload_bytes: int, flags: int) -> bytes:
    """The 5 bytes before a payload of that length. Raises ProtocolError where uint32 cannot hold the length."""
    if payload_bytes > 0xFFFFFFFF:
        raise ProtocolError(f"a payload of {payload_bytes} bytes: the length field holds at most {0xFFFFFFFF}")
    return _HEADER.pack(payload_bytes, flags)


def encode_frame(payload: bytes, algorithm: Algorithm) -> bytes:
    """A whole base frame around a payload that `algorithm` compressed."""
    return encode_header(len(payload), base_flags(algorithm)) + payload


class FrameDecoder:
    """Cuts a byte stream into frames, however the network sliced it.

    `feed` bytes, then take `frames`. The first unsound header raises ProtocolError after the sound frames before it;
    from then on the decoder raises that error again and keeps nothing.
    """

    def __init__(self, max_frame: int, *, session: bool | None = False, max_control: int | None = None) -> None:
        """`session`: whether these are a session's frames; None lets the first header say so.

        `max_control` is the limit of control frames, where it is another one.
        """
        self.session = session
        self.taken_bytes = 0
        """Bytes of the frames that were whole: where in the stream the next one begins."""
        self._max_frame = max_frame
        self._max_control = max_frame if max_control is None else max_control
        self._buffer = bytearray()
        self._error: ProtocolError | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes held of frames that are not whole yet."""
        return len(self._buffer)

    @property
    def announced_bytes(self) -> int:
        """Bytes of the frame that has begun, as far as they are known: of its header, or all."""
        if len(self._buffer) < HEADER_BYTES:
            return HEADER_BYTES
        return HEADER_BYTES + int.from_bytes(self._buffer[:FLAGS_AT], "big")

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes of the stream. Raises the error that an earlier header left."""
        if self._error is not None:
            raise self._error
        self._buffer += data

    def frames(self) -> Iterator[Frame]:
        """Every frame that is whole by now. Raises ProtocolError at an unsound header."""
        if self._error is not None:
            raise self._error
        position = 0
        try:
            while len(self._buffer) - position >= HEADER_BYTES:
                length, flags = _HEADER.unpack_from(self._buffer, position)
                self._check(length, flags, is_first=not (self.taken_bytes or position))
                end = position + HEADER_BYTES + length
                if len(self._buffer) < end:
                    break
                with memoryview(self._buffer) as view:
                    payload = bytes(view[position + HEADER_BYTES : end])
                position = end
                yield Frame(flags, payload)
        finally:
            # One cut a call, not one a frame: cutting the front of a bytearray for each of ten thousand small frames
            # costs more than decoding them.
            del self._buffer[:position]
            self.taken_bytes += position

    def _check(self, length: int, flags: int, *, is_first: bool) -> None:
        if self.session is None:
            self.session = flags == Flag.CONTROL
        try:
            if flags not in _SOUND[self.session]:
                check_flags(flags, session=self.session)
            if flags == Flag.CONTROL and length > self._max_control:
                raise ProtocolError(
                    f"a control message of {length} bytes: the limit is {self._max_control}", reason="frame_limit"
                )
            if length > self._max_frame:
                raise ProtocolError(
                    f"a frame of {length} bytes: the limit is {self._max_frame} (MAX_FRAME_BYTES)", reason="frame_limit"
                )
        except ProtocolError as error:
            foreign = _foreign(bytes(self._buffer[:HEADER_BYTES])) if is_first else None
            self._error = error if foreign is None else ProtocolError(foreign)
            self._buffer.clear()
            raise self._error from None

    def close(self) -> None:
        """The stream has ended. Raises ProtocolError where it ended inside a frame."""
        if self._error is None and self._buffer:
            raise ProtocolError(f"the stream ended inside a frame, {len(self._buffer)} bytes after its start")
