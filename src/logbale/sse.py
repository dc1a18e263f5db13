"""Server-sent events, both ends of them: events to bytes, bytes to events. No I/O.

The reader takes whatever pieces the network makes of them, and refuses an event that never ends.
"""

from __future__ import annotations

import msgspec

from logbale.errors import ProtocolError

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Of one event, as we read it."""


class Event(msgspec.Struct, frozen=True):
    """One event, and the id that stands when it ends."""

    name: str
    data: str
    id: str = ""


def encode_event(name: str, data: bytes, id: int | None) -> bytes:
    """An event of one line of data, JSON for example; without an `id` the one before it stands."""
    numbered = b"" if id is None else b"id: %d\n" % id
    return b"event: %s\n%sdata: %s\n\n" % (name.encode(), numbered, data)


def encode_silence(id: int) -> bytes:
    """What is sent where nothing happens: a comment, so that a dead connection shows, and how far one would resume."""
    return b":\nid: %d\n\n" % id


class EventDecoder:
    """Pieces of a stream in, whole events out."""

    def __init__(self, last_id: str = "") -> None:
        """`last_id` is that of the connection before this one."""
        self.last_id = last_id
        """What a reconnect should give as Last-Event-ID; also moved by blocks that are no events."""
        self._rest = bytearray()
        self._name = ""
        self._id = last_id
        self._data: list[str] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes. Raises ProtocolError."""
        events = []
        # A line begun earlier has no end in it yet: only what is new is looked at, however small the pieces.
        if b"\n" in piece:
            self._rest += piece
            *lines, rest = self._rest.split(b"\n")
            self._rest = rest
            for line in lines:
                if (event := self._take(line.removesuffix(b"\r").decode("utf-8", "replace"))) is not None:
                    events.append(event)
        else:
            self._rest += piece
        if len(self._rest) + self._data_bytes > MAX_EVENT_BYTES:
            raise ProtocolError(f"an event of more than {MAX_EVENT_BYTES:,} bytes")
        return events

    def _take(self, line: str) -> Event | None:
        if not line:
            return self._end()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "data":
            self._data.append(value)
            self._data_bytes += len(value)
        return None

    def _end(self) -> Event | None:
        self.last_id = self._id
        event = Event(self._name or "message", "\n".join(self._data), self._id) if self._data else None
        self._name, self._data, self._data_bytes = "", [], 0
        return event
