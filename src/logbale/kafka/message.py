"""A batch as messages of a Kafka topic, and back: items in, messages out; headers and a value in, an item out.

No Kafka here and no clock. Whoever may write to the topic may write anything: decode() raises MessageError for what no
receiver of ours wrote, and takes no number without a limit. docs/decisions/0013-kafka-messages.md has the format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from logbale.compression import frame_of_size
from logbale.errors import EntryError, MessageError
from logbale.ndjson import to_ndjson
from logbale.protocol import Algorithm
from logbale.sinks import Item, ReceivedBatch, RejectedSequence, SkippedRange

VERSION = 1

RECORD_BYTES = 128
"""What Kafka adds to a message beside its key, headers and value: the heads of the record batch (61) and the record."""

HEADER_BYTES = 10
"""What it adds to a header at most: two lengths."""

SMALLEST_LIMIT = 4096
"""A limit on messages that leaves room for the headers of any, and for some of its value."""

MAX_PARTS = 100_000
"""Of one batch: 32 MiB in the smallest messages take 10,000."""

MAX_RAW_BYTES = 64 * 1024 * 1024
"""Of a batch's lines, twice what a shipper makes at most (BATCH_MAX_BYTES): an archiver decompresses no larger ones."""

REASON_BYTES = 400
"""Bytes of a reason that are kept."""

Headers = Sequence[tuple[str, bytes | None]]


class Message(msgspec.Struct, frozen=True):
    """What is produced to Kafka."""

    key: bytes | None
    """The stream's name; None for a base client's batch, which has no place in any order."""
    headers: list[tuple[str, bytes]]
    value: bytes

    @property
    def size(self) -> int:
        """Bytes that it takes of the topic's max.message.bytes, at most."""
        headers = sum(HEADER_BYTES + len(name) + len(value) for name, value in self.headers)
        return RECORD_BYTES + len(self.key or b"") + headers + len(self.value)


class Part(msgspec.Struct, frozen=True):
    """What one message says."""

    item: Item
    """A batch's lines are in its `frame`, not decompressed or looked at; where `count` is over 1, a piece of that."""
    index: int = 1
    """Which part of `count` it is, from 1 on."""
    count: int = 1
    session: str = ""
    """Of the sink that produced it: parts of one batch have the same. Empty for a base client's."""


# items in, messages out


def encode(item: Item, *, limit: int, session: str, compress: Callable[[bytes], bytes]) -> list[Message]:
    """The messages of one item, each at most `limit` bytes; those of a stream are to stay in their order.

    `compress` makes one zstd frame with size and checksum; `session` is the random id of the producing sink. A batch of
    a session over the limit goes in parts, one of a base client in several batches. Raises EntryError where a single
    entry of a base client is over the limit or a batch of a session over MAX_RAW_BYTES, and ValueError where the limit
    is below SMALLEST_LIMIT.
    """
    if limit < SMALLEST_LIMIT:
        raise ValueError(f"messages of {limit} bytes: expected {SMALLEST_LIMIT} or more")
    if not isinstance(item, ReceivedBatch):
        return [Message(item.stream.encode(), _note_headers(item, session), b"")]
    if not item.stream:
        return _of_base_client(item, limit, compress)
    if item.raw_bytes > MAX_RAW_BYTES:
        raise EntryError(f"a batch of {item.raw_bytes} bytes: Kafka's archivers take {MAX_RAW_BYTES}", reason="limit")
    return _in_parts(item, item.frame or compress(item.ndjson), limit, session)


def encode_lines(batch: ReceivedBatch, *, limit: int) -> list[Message]:
    """One message an entry, for consumers that know nothing of us. Raises EntryError where one is over the limit."""
    key = batch.stream.encode() or None
    messages = [Message(key, [], line) for line in batch.lines().removesuffix(b"\n").split(b"\n")]
    if (longest := max(message.size for message in messages)) > limit:
        raise _too_long(longest, limit)
    return messages


def _headers(kind: str, **values: str | int) -> list[tuple[str, bytes]]:
    named = {"v": VERSION, "kind": kind, **values}
    return [(name, str(value).encode()) for name, value in named.items()]


def _note_headers(item: RejectedSequence | SkippedRange, session: str) -> list[tuple[str, bytes]]:
    common: dict[str, str | int] = {"stream": item.stream, "base": item.base, "session": session}
    common["reason"] = _short(item.reason)
    if isinstance(item, RejectedSequence):
        return _headers("reject", **common, sequence=item.sequence, crc=item.crc)
    return _headers("skip", **common, sequence=item.first, last=item.last, entries=item.entries)


def _batch_headers(item: ReceivedBatch, **more: str | int) -> list[tuple[str, bytes]]:
    span: dict[str, str | int] = {"first": item.first, "last_time": item.last}
    return _headers("batch", count=item.count, algorithm=Algorithm.ZSTD.label, raw=item.raw_bytes, **span, **more)


def _in_parts(item: ReceivedBatch, frame: bytes, limit: int, session: str) -> list[Message]:
    key = item.stream.encode()
    place: dict[str, str | int] = {"stream": item.stream, "sequence": item.sequence, "base": item.base}
    headers = _batch_headers(item, **place, crc=item.crc, session=session)
    whole = Message(key, headers, frame)
    if whole.size <= limit:
        return [whole]
    part = ("part", f"{MAX_PARTS}/{MAX_PARTS}".encode())
    room = limit - Message(key, [*headers, part], b"").size
    pieces = [frame[start : start + room] for start in range(0, len(frame), room)]
    if len(pieces) > MAX_PARTS:
        raise EntryError(f"a batch of {len(pieces)} messages: the limit is {MAX_PARTS}", reason="limit")
    return [
        Message(key, [*headers, ("part", f"{number}/{len(pieces)}".encode())], piece)
        for number, piece in enumerate(pieces, 1)
    ]


def _of_base_client(item: ReceivedBatch, limit: int, compress: Callable[[bytes], bytes]) -> list[Message]:
    message = Message(None, _batch_headers(item), item.frame or compress(item.ndjson))
    if message.size <= limit and item.raw_bytes <= MAX_RAW_BYTES:
        return [message]
    if item.count == 1:
        raise _too_long(max(message.size, item.raw_bytes), min(limit, MAX_RAW_BYTES))
    lines = item.lines().removesuffix(b"\n").split(b"\n")
    middle = len(lines) // 2
    halves = [_batch_of(half) for half in (lines[:middle], lines[middle:])]
    return [message for half in halves for message in _of_base_client(half, limit, compress)]


def _batch_of(entries: list[bytes]) -> ReceivedBatch:
    lines = to_ndjson(b"\n".join([*entries, b""]), max_entries=len(entries), in_session=True)
    return ReceivedBatch(lines.ndjson, lines.count, lines.first, lines.last)


def _too_long(size: int, limit: int) -> EntryError:
    return EntryError(f"an entry takes a message of {size} bytes: the topic's limit is {limit}", reason="limit")


def _short(reason: str) -> str:
    return reason.encode(errors="replace")[:REASON_BYTES].decode(errors="ignore")


# headers and a value in, an item out

_NUMBER = re.compile(rb"0|[1-9]\d{0,18}")
_PART = re.compile(rb"([1-9]\d{0,5})/([1-9]\d{0,5})")
_STREAM = re.compile(rb"[A-Za-z0-9._:@-]{1,128}")
_SESSION = re.compile(rb"[A-Za-z0-9]{1,64}")
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z|")


def decode(headers: Headers | None, value: bytes | None) -> Part:
    """What a message says, as its headers have it; of its value only the length is looked at.

    Raises MessageError: `foreign` where it does not claim to be ours, `newer` where it is of a version after this one,
    `malformed` where it claims to be ours and makes no sense.
    """
    fields = _Fields(headers or ())
    version = fields.number("v", foreign=True)
    if version != VERSION:
        raise MessageError("newer" if version > VERSION else "malformed", f"version {version}: expected {VERSION}")
    kind = fields.take("kind")
    if kind == b"batch":
        return _batch(fields, value or b"")
    if value:
        raise _malformed(f"a {kind!r} with a value of {len(value)} bytes")
    if kind == b"reject":
        crc = fields.number("crc", most=2**32 - 1)
        reject = RejectedSequence(
            fields.text("stream", _STREAM), fields.number("sequence", 1), fields.reason(), crc, fields.number("base", 1)
        )
        return Part(reject, session=fields.text("session", _SESSION))
    if kind == b"skip":
        first, last = fields.number("sequence", 1), fields.number("last", 1)
        if last < first:
            raise _malformed(f"a skip from {first} to {last}")
        skip = SkippedRange(
            fields.text("stream", _STREAM),
            first,
            last,
            fields.number("entries"),
            fields.reason(),
            fields.number("base", 1),
        )
        return Part(skip, session=fields.text("session", _SESSION))
    raise _malformed(f"kind {kind!r}")


def _batch(fields: _Fields, value: bytes) -> Part:
    if (algorithm := fields.take("algorithm")) != Algorithm.ZSTD.label.encode():
        raise _malformed(f"algorithm {algorithm!r}: expected {Algorithm.ZSTD.label}")
    count, raw = fields.number("count", 1), fields.number("raw", 1, MAX_RAW_BYTES)
    if 3 * count > raw:
        raise _malformed(f"{count} entries in {raw} bytes")
    first, last = fields.text("first", _TIME), fields.text("last_time", _TIME)
    if first > last or bool(first) != bool(last):
        raise _malformed(f"times from {first!r} to {last!r}")
    batch = ReceivedBatch(b"", count, first, last, frame=value, frame_raw_bytes=raw)
    part = Part(batch)
    if fields.has("stream"):
        batch = msgspec.structs.replace(
            batch,
            stream=fields.text("stream", _STREAM),
            sequence=fields.number("sequence", 1),
            base=fields.number("base", 1),
            crc=fields.number("crc", most=2**32 - 1),
        )
        part = Part(batch, *fields.part(), fields.text("session", _SESSION))
    if not value or len(value) > longest_frame(raw):
        raise _malformed(f"a value of {len(value)} bytes for {raw} bytes of lines")
    if part.count == 1 and not frame_of_size(value, raw):
        raise _malformed(f"a value that is not one zstd frame of {raw} bytes with a checksum")
    return part


def longest_frame(raw_bytes: int) -> int:
    """Bytes of a zstd frame that no compressor exceeds (ZSTD_COMPRESSBOUND, and its checksum)."""
    return raw_bytes + (raw_bytes >> 8) + 1024


def is_whole(batch: ReceivedBatch) -> bool:
    """Whether the frame of a batch that decode() gave states the size of its lines and has a checksum."""
    return frame_of_size(batch.frame, batch.frame_raw_bytes)


class _Fields:
    """The headers of a message by name, each once."""

    def __init__(self, headers: Headers) -> None:
        self._values: dict[str, bytes] = {}
        for name, value in headers:
            if value is None:
                continue
            if name in self._values:
                raise _malformed(f"two headers {name[:20]!r}")
            self._values[name] = value

    def has(self, name: str) -> bool:
        return name in self._values

    def take(self, name: str) -> bytes:
        try:
            return self._values[name]
        except KeyError:
            raise _malformed(f"no header {name}") from None

    def number(self, name: str, least: int = 0, most: int = 2**63 - 1, *, foreign: bool = False) -> int:
        if foreign and not self.has(name):
            raise MessageError("foreign", f"no header {name}: no receiver of logbale wrote this")
        value = self.take(name)
        if not _NUMBER.fullmatch(value) or not least <= int(value) <= most:
            reason = "foreign" if foreign else "malformed"
            raise MessageError(reason, f"header {name}={value[:40]!r}: expected a number of {least} to {most}")
        return int(value)

    def text(self, name: str, pattern: re.Pattern[bytes]) -> str:
        value = self.take(name)
        if not pattern.fullmatch(value):
            raise _malformed(f"header {name}={value[:40]!r}")
        return value.decode("ascii")

    def reason(self) -> str:
        text = self.take("reason")[:REASON_BYTES].decode(errors="replace")
        return "".join(letter if letter.isprintable() else "?" for letter in text)

    def part(self) -> tuple[int, int]:
        if not self.has("part"):
            return 1, 1
        found = _PART.fullmatch(self.take("part"))
        index, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= index <= count <= MAX_PARTS or count == 1:
            raise _malformed(f"header part={self.take('part')[:40]!r}")
        return index, count


def _malformed(detail: str) -> MessageError:
    return MessageError("malformed", detail)
