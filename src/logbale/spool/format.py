"""The bytes of a spool segment, without I/O: records out, records in.

A segment is a sequence of records. The first one is a snapshot: the whole state of the spool at that point. Batches
and notes follow, each with what changed since the record before it. All numbers are little-endian.

    magic | CRC-32 of header and meta | kind, position, … | meta: JSON | body: the batch, one zstd frame

The header's CRC covers the body's CRC, so a damaged body costs that batch but neither its place nor its cursors.
A *position* counts the batches of a spool and never starts again; a stream's sequence is a position less a base, so
that a new stream renumbers what is left without rewriting it.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, UnsetType

from logbale.deflate import crc32
from logbale.errors import StorageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

VERSION = 1
KiB = 1024
MiB = 1024 * KiB

MAGIC = b"\xb5LB\x00"
"""Starts a record. No UTF-8 text holds it, so no log line, as a literal in a zstd frame, can look like a record."""

SNAPSHOT, BATCH, NOTE = 1, 2, 3

MAX_META = 256 * MiB
MAX_RAW = 256 * MiB
"""Bytes of one batch before compression."""

_LEVEL = 1
"""zstd's. On log lines the fast levels below it are no faster here by much (1.6 GB/s), and a quarter larger."""

_HEADER = struct.Struct("<4sIIQQQIIIIIIQ")
HEADER_BYTES = _HEADER.size
_CHECKED_FROM = 8

MAX_NUMBER = 2**62
"""Of batches and of entries: with room above it, so that what is counted on from a forged header still fits."""

Natural = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]


class NotARecord(ValueError):
    """No sound record starts here."""


class Header(NamedTuple):
    """What stands before each record's meta."""

    kind: int
    position: int
    """Of the batch; of the next batch where this is none."""
    before: int
    """Entries in all batches before it, since the spool began."""
    first: int
    """The lowest position that was not consumed when this was written."""
    entries: int
    raw_bytes: int
    crc: int
    """session.batch_crc of the sequence that it then had, and the raw batch."""
    meta_bytes: int
    body_bytes: int
    body_crc: int
    synced: int
    """Bytes of this file that were durable when this was written: damage before that is no torn write."""

    @property
    def size(self) -> int:
        """Bytes of the whole record."""
        return HEADER_BYTES + self.meta_bytes + self.body_bytes


class Skip(msgspec.Struct, frozen=True, array_like=True):
    """Sequences (on disk: positions) that will never be sent."""

    first: Natural
    last: Natural
    entries: Natural
    reason: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The whole state, at the start of a segment."""

    v: int = VERSION
    serial: Natural
    stream: str
    base: Natural
    """A position less this is its sequence in the stream."""
    epoch: Natural
    """The first position whose record has its CRC by this base."""
    next: Natural
    first: Natural
    before: Natural
    """Entries appended so far."""
    consumed_crc: int | None
    """CRC of the batch before `first`; None where none is known."""
    cursors: dict[str, Any]
    counts: dict[str, int]
    skips: list[Skip]
    rejects: dict[int, int]
    """Entries of each rejected batch, by position, that batches before it still hold up."""
    sent: Natural | None = None
    """Up to this position batches may have been sent; None, from before this was written: any of them may."""


class Delta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What changed since the record before: new values, not differences, so that a lost one heals with the next."""

    cursors: dict[str, Any] = {}
    """None takes a cursor away."""
    counts: dict[str, int] = {}
    consumed_crc: int | UnsetType | None = msgspec.UNSET
    skips: list[Skip] | UnsetType = msgspec.UNSET
    rejects: dict[int, int] | UnsetType = msgspec.UNSET
    sent: int | UnsetType = msgspec.UNSET
    """Batches that are appended while nothing is sent say nothing: they lie above the bound."""


class _Version(msgspec.Struct):
    v: int


_encode = msgspec.json.Encoder().encode
_decode_version = msgspec.json.Decoder(_Version).decode
_decode_snapshot = msgspec.json.Decoder(Snapshot).decode
_decode_delta = msgspec.json.Decoder(Delta).decode
_compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.compression_level: _LEVEL})


def compress(raw: bytes) -> bytes:
    """A batch as it is stored."""
    return _compressor.compress(raw, mode=_compressor.FLUSH_FRAME)


def decompress(body: bytes, raw_bytes: int) -> bytes:
    """The raw batch. Raises NotARecord where it is not `raw_bytes` long."""
    decompressor = zstd.ZstdDecompressor()
    try:
        raw = decompressor.decompress(body, max_length=raw_bytes + 1)
    except zstd.ZstdError as error:
        raise NotARecord(f"the batch does not decompress: {error}") from error
    if len(raw) != raw_bytes or not decompressor.eof:
        raise NotARecord(f"the batch has not the {raw_bytes} raw bytes that its header tells")
    return raw


def encode_record(
    kind: int,
    meta: Snapshot | Delta,
    *,
    position: int,
    before: int,
    first: int,
    synced: int,
    entries: int = 0,
    raw_bytes: int = 0,
    crc: int = 0,
    body: bytes = b"",
) -> tuple[Header, bytes]:
    """A record's header and all of its bytes."""
    text = _encode(meta)
    header = Header(
        kind, position, before, first, entries, raw_bytes, crc, len(text), len(body), crc32(body, 0), synced
    )
    packed = _HEADER.pack(MAGIC, 0, *header)[_CHECKED_FROM:]
    checked = zlib.crc32(text, zlib.crc32(packed))
    return header, b"".join((MAGIC, checked.to_bytes(4, "little"), packed, text, body))


def parse_header(data: bytes | memoryview, offset: int = 0) -> Header:
    """The header there; only its shape and its lengths are checked. Raises NotARecord."""
    if len(data) - offset < HEADER_BYTES:
        raise NotARecord("cut short")
    magic, _, *fields = _HEADER.unpack_from(data, offset)
    if magic != MAGIC:
        raise NotARecord("no record starts here")
    header = Header(*fields)
    if header.meta_bytes > MAX_META or header.raw_bytes > MAX_RAW or header.body_bytes > header.raw_bytes + KiB * KiB:
        raise NotARecord(f"lengths over the limits: meta {header.meta_bytes}, raw {header.raw_bytes}")
    if max(header.position, header.before) > MAX_NUMBER or not 1 <= header.first <= header.position + 1:
        raise NotARecord(
            f"position {header.position} after {header.before} entries, {header.first} the first not consumed"
        )
    return header


def check_header(data: bytes | memoryview, offset: int = 0) -> tuple[Header, bytes]:
    """The sound header there, and its meta. Raises NotARecord."""
    header = parse_header(data, offset)
    start = offset + HEADER_BYTES
    end = start + header.meta_bytes
    if end > len(data):
        raise NotARecord("cut short")
    meta = bytes(data[start:end])
    checked = zlib.crc32(meta, zlib.crc32(data[offset + _CHECKED_FROM : start]))
    if checked != int.from_bytes(data[offset + 4 : offset + 8], "little"):
        raise NotARecord("the header's CRC differs")
    return header, meta


class Found(NamedTuple):
    """A record whose header is sound, and whether its body is."""

    offset: int
    header: Header
    meta: bytes
    is_sound: bool

    @property
    def end(self) -> int:
        """Where the next record starts."""
        return self.offset + self.header.size


class Damage(NamedTuple):
    """Bytes that no sound header explains."""

    offset: int
    end: int
    reason: str


def walk(data: bytes, *, bodies: bool) -> Iterator[Found | Damage]:
    """Everything in a segment's bytes, in order; bodies are checked where that is asked for."""
    view = memoryview(data)
    offset = 0
    while offset < len(data):
        try:
            found = _found_at(view, offset, bodies)
        except NotARecord as error:
            end = _search(data, view, offset + 1)
            yield Damage(offset, end, str(error))
            offset = end
        else:
            yield found
            offset = found.end


def _found_at(view: memoryview, offset: int, bodies: bool) -> Found:
    header, meta = check_header(view, offset)
    end = offset + header.size
    if end > len(view):
        raise NotARecord("cut short")
    is_sound = not bodies or zlib.crc32(view[end - header.body_bytes : end]) == header.body_crc
    return Found(offset, header, meta, is_sound)


def _search(data: bytes, view: memoryview, start: int) -> int:
    """Where the next sound header is, or the end."""
    while (start := data.find(MAGIC, start)) >= 0:
        try:
            check_header(view, start)
        except NotARecord:
            start += 1
        else:
            return start
    return len(data)


def decode_snapshot(meta: bytes) -> Snapshot:
    """A snapshot's meta. Raises NotARecord, and StorageError where a later version wrote it."""
    try:
        if (version := _decode_version(meta).v) != VERSION:
            raise StorageError(f"spool format {version}: this logbale reads {VERSION}; use the one that wrote it")
        snapshot = _decode_snapshot(meta)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotARecord(f"the snapshot is not what it should be: {error}") from error
    if not snapshot.base < snapshot.first <= snapshot.next:
        raise NotARecord(f"base {snapshot.base}, first {snapshot.first} and next {snapshot.next} contradict each other")
    return snapshot


def decode_delta(meta: bytes) -> Delta:
    """A batch's or note's meta. Raises NotARecord."""
    try:
        return _decode_delta(meta)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotARecord(f"the record's meta is not what it should be: {error}") from error
