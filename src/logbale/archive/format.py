"""The bytes of a segment, without I/O: blocks and a footer out, blocks and a footer in.

A segment is a sequence of frames. Ours are zstd skippable frames (magic and length, uint32 little-endian), so zstd and
whatever reads its files pass over them; their content starts with a CRC-32. Three kinds exist:

    block       CRC-32 | header JSON         then a zstd frame of NDJSON; the CRC covers header and frame
    footer      CRC-32 | footer JSON | uint32 length of this frame, so that it is found from the end of the file
    quarantine  CRC-32 | bytes               damage that sealing met, kept where plain tools do not stumble over it

Nothing is believed before its CRC is right, and no length is acted upon before it meets a limit here or the end of the
file at the caller.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from logbale.deflate import crc32
from logbale.errors import StorageError
from logbale.sinks import Mark

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

VERSION = 1
KiB = 1024
MiB = 1024 * KiB

BLOCK_MAGIC = 0x184D2A50
FOOTER_MAGIC = 0x184D2A51
QUARANTINE_MAGIC = 0x184D2A52
MAGIC_PATTERN = rb"[\x50-\x52]\x2a\x4d\x18"
"""What any of our frames starts with, for a search through damage. NDJSON itself never holds a bare 0x18."""

MAX_HEADER = 1 * MiB
"""Bytes of a block's header JSON."""
MAX_FOOTER = 256 * MiB
"""Bytes of a footer, which holds a mark of every stream."""
MAX_QUARANTINE = 4 * MiB
"""Bytes in one quarantine frame; larger damage takes several."""

PREFIX_BYTES = 12
_PREFIX = struct.Struct("<III")  # magic, bytes of content, CRC-32: the content's first four bytes
_CONTENT_STARTS = 8
_LENGTH = struct.Struct("<I")
_LIMITS = {BLOCK_MAGIC: MAX_HEADER, FOOTER_MAGIC: MAX_FOOTER, QUARANTINE_MAGIC: MAX_QUARANTINE}

Buffer = bytes | memoryview
Natural = Annotated[int, Meta(ge=0)]


class NotAFrame(ValueError):
    """No whole, sound frame starts here; what is left of it is damage or a torn tail."""


class Range(msgspec.Struct, frozen=True, array_like=True):
    """The batches of one stream in one block: sequences `first` to `last`, and the CRC-32 of the last."""

    first: Natural
    last: Natural
    crc: Natural


class Reject(msgspec.Struct, frozen=True, array_like=True):
    """A batch that can never be stored."""

    stream: str
    sequence: Natural
    reason: str
    crc: Natural = 0
    """CRC-32 of it; 0 where that is unknown."""


class Skip(msgspec.Struct, frozen=True, array_like=True):
    """Sequences of a stream that will never come."""

    stream: str
    first: Natural
    last: Natural
    entries: Natural
    reason: str


class BlockHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a block without decompressing it."""

    v: int = VERSION
    size: Natural
    """Bytes of the zstd frame."""
    count: Natural
    """Entries, one a line."""
    raw: Natural
    """Bytes of the NDJSON."""
    first: str
    """The lowest timestamp in it as models.rfc3339 writes it; empty where one of them is unknown."""
    last: str
    """The highest one."""
    streams: dict[str, Range] = {}
    rejects: list[Reject] = []
    skips: list[Skip] = []
    elsewhere: bool | UnsetType = UNSET
    """True: it holds one batch, which another receiver may have stored too. It is never merged with others."""
    arrivals: dict[str, Natural] | UnsetType = UNSET
    """Streams that go on here behind a gap, and a sequence: what of the gap is before it is durable at another
    receiver, what is not is lost. A block with such begins with them and is never merged with the one before it."""

    def parts(self) -> dict[str, list[tuple[int, int]]]:
        """Of each stream what this accounts for, stored, rejected or skipped: first and last sequences, in order."""
        found = {stream: [(part.first, part.last)] for stream, part in self.streams.items()}
        if self.rejects or self.skips:
            for reject in self.rejects:
                found.setdefault(reject.stream, []).append((reject.sequence, reject.sequence))
            for skip in self.skips:
                found.setdefault(skip.stream, []).append((skip.first, skip.last))
            for parts in found.values():
                parts.sort()
        return found


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """The place of a segment that an archiver made of a partition of a topic: it begins where the one before ended."""

    topic: str
    partition: Natural
    start: Natural
    """`next` of the segment before it, and its name; 0 of the first."""
    next: Natural
    """The offset to read on from: every message before it is archived here or earlier, or never will be."""
    taken: Natural
    """Messages of base clients below this offset are archived; `next` may be lower."""
    id: str
    """By chance, so that whoever put it knows it again."""


class Footer(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a sealed segment."""

    v: int = VERSION
    serial: Natural
    blocks: list[Natural]
    """Where each block starts, in bytes from the start of the file."""
    count: Natural
    raw: Natural
    first: str
    last: str
    marks: dict[str, Mark] = {}
    """Every stream's mark at the end of this segment, also of the streams that are not in it."""
    chain: Chain | UnsetType = UNSET
    """In the segments of a topic; readers before it pass over it."""


class Block(msgspec.Struct, frozen=True):
    """A block whose CRC was right."""

    offset: int
    """Where it starts in its segment."""
    header: BlockHeader
    data: bytes
    """All of it, as it stands in the file."""

    @property
    def overhead(self) -> int:
        """Bytes of it that are not the zstd frame."""
        return len(self.data) - self.header.size

    def ndjson(self) -> bytes:
        """The entries. Raises NotAFrame where they are not what the header says; never makes more bytes than that."""
        decompressor = zstd.ZstdDecompressor()
        try:
            # One byte more than expected: a full buffer would stop it before it has checked the frame's end.
            text = decompressor.decompress(memoryview(self.data)[self.overhead :], max_length=self.header.raw + 1)
        except zstd.ZstdError as error:
            raise NotAFrame(f"the zstd frame does not decompress: {error}") from error
        whole = decompressor.eof and not decompressor.unused_data
        if not whole or len(text) != self.header.raw or text.count(b"\n") != self.header.count:
            raise NotAFrame("the zstd frame holds other entries than the header says")
        return text


class Quarantine(msgspec.Struct, frozen=True):
    """Damaged bytes that sealing set aside."""

    size: int


Frame = Block | Footer | Quarantine


class BlockEncoder:
    """Makes blocks with one compressor: making a compressor for each small block would halve the speed."""

    def __init__(self, level: int) -> None:
        parameters = zstd.CompressionParameter
        options: dict[int, int] = {
            parameters.compression_level: level,
            parameters.checksum_flag: 1,
            parameters.content_size_flag: 1,
        }
        self._compressor = zstd.ZstdCompressor(options=options)

    def compress(self, ndjson: bytes) -> bytes:
        """The lines as the frame of a block."""
        return self._compressor.compress(ndjson, mode=self._compressor.FLUSH_FRAME)

    def encode(self, ndjson: bytes, **header: Any) -> bytes:
        """A block of these lines; the rest as block() takes it."""
        return self.block(self.compress(ndjson), raw=len(ndjson), **header)

    def block(
        self,
        frame: bytes,
        *,
        raw: int,
        count: int,
        first: str,
        last: str,
        streams: dict[str, Range],
        rejects: Sequence[Reject] = (),
        skips: Sequence[Skip] = (),
        elsewhere: bool = False,
        arrivals: Mapping[str, int] = {},
    ) -> bytes:
        """One block of a frame of `raw` bytes. Raises ValueError where its header would be too long to read."""
        header = BlockHeader(
            size=len(frame),
            count=count,
            raw=raw,
            first=first,
            last=last,
            streams=streams,
            rejects=list(rejects),
            skips=list(skips),
            elsewhere=elsewhere or UNSET,  # left out where it says nothing: most blocks are a line or two
            arrivals=dict(arrivals) or UNSET,
        )
        content = msgspec.json.encode(header)
        if len(content) > MAX_HEADER:
            raise ValueError(f"a block header of {len(content)} bytes: the limit is {MAX_HEADER}; use smaller blocks")
        crc = crc32(frame, zlib.crc32(content))
        return b"".join((_PREFIX.pack(BLOCK_MAGIC, 4 + len(content), crc), content, frame))

    def merge(self, blocks: Sequence[Block]) -> bytes:
        """Neighbouring blocks as one. Raises NotAFrame where one does not decompress."""
        headers = [block.header for block in blocks]
        first, last = span((header.first, header.last) for header in headers if header.count)
        return self.encode(
            b"".join([block.ndjson() for block in blocks]),
            count=sum(header.count for header in headers),
            first=first,
            last=last,
            streams=join_ranges(item for header in headers for item in header.streams.items()),
            rejects=[reject for header in headers for reject in header.rejects],
            skips=[skip for header in headers for skip in header.skips],
            arrivals=headers[0].arrivals or {},
        )


def span(times: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The lowest first and the highest last; both empty where one is: then nothing is known of the whole.

    Leave out what holds no entries: it has no times, and that is known.
    """
    known = list(times)
    if not known or not all(first and last for first, last in known):
        return "", ""
    return min(first for first, _ in known), max(last for _, last in known)


def join_ranges(ranges: Iterable[tuple[str, Range]]) -> dict[str, Range]:
    """One range a stream, from its lowest to its highest sequence."""
    joined: dict[str, Range] = {}
    for stream, other in ranges:
        known = joined.get(stream)
        if known is None:
            joined[stream] = other
        else:
            highest = max(known, other, key=lambda part: part.last)
            joined[stream] = Range(min(known.first, other.first), highest.last, highest.crc)
    return joined


def encode_footer(footer: Footer) -> bytes:
    """The footer as a frame that also ends with its own length. Raises ValueError where that is too long to be read."""
    content = msgspec.json.encode(footer)
    length = PREFIX_BYTES + len(content) + _LENGTH.size
    if length > MAX_FOOTER:
        raise ValueError(f"a footer of {length} bytes: the limit is {MAX_FOOTER}; lower MAX_STREAMS or MARKS_DAYS")
    content += _LENGTH.pack(length)
    return _PREFIX.pack(FOOTER_MAGIC, length - _CONTENT_STARTS, zlib.crc32(content)) + content


def footer_length(end: bytes) -> int:
    """The length of the footer that a file with these last four bytes would end with. Raises NotAFrame."""
    if len(end) != _LENGTH.size:
        raise NotAFrame("too short for a footer")
    length: int = _LENGTH.unpack(end)[0]
    if not PREFIX_BYTES + _LENGTH.size < length <= MAX_FOOTER:
        raise NotAFrame("no footer")
    return length


def encode_quarantine(data: bytes) -> bytes:
    """At most MAX_QUARANTINE damaged bytes as a frame that zstd passes over."""
    return _PREFIX.pack(QUARANTINE_MAGIC, 4 + len(data), zlib.crc32(data)) + data


class _Extent(msgspec.Struct):
    """The part of a header that every version keeps, so that an older reader still finds a newer block's end."""

    v: int
    size: Natural


_decode_extent = msgspec.json.Decoder(_Extent).decode
_decode_header = msgspec.json.Decoder(BlockHeader).decode
_decode_footer = msgspec.json.Decoder(Footer).decode


def measure(data: Buffer) -> int:
    """How many bytes it takes to know more about the frame that `data` starts with; with that many in hand, its length.

    Raises NotAFrame. Nothing is verified yet.
    """
    if len(data) < PREFIX_BYTES:
        return PREFIX_BYTES
    magic, length, _ = _PREFIX.unpack_from(data)
    limit = _LIMITS.get(magic)
    if limit is None:
        raise NotAFrame("no frame of an archive starts here")
    if not 4 <= length <= limit + 4:
        raise NotAFrame(f"a frame of {length} bytes: the limit is {limit}")
    end: int = _CONTENT_STARTS + length
    if magic != BLOCK_MAGIC or len(data) < end:
        return end
    try:
        return end + _decode_extent(data[PREFIX_BYTES:end]).size
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotAFrame(f"the block's header is not what it should be: {error}") from error


def parse(data: bytes, offset: int = 0) -> Frame:
    """The frame that `data` is, all of it and nothing more, as measure() told; `offset` is for the block to know.

    Raises NotAFrame where it is damaged, and StorageError where it is sound but of a version after this one.
    """
    magic, length, crc = _PREFIX.unpack_from(data)
    content = memoryview(data)[PREFIX_BYTES : _CONTENT_STARTS + length]
    if zlib.crc32(memoryview(data)[PREFIX_BYTES:]) != crc:
        raise NotAFrame("the CRC differs")
    if magic == QUARANTINE_MAGIC:
        return Quarantine(len(content))
    if magic == FOOTER_MAGIC:
        content = content[: -_LENGTH.size]
    try:
        frame = Block(offset, _decode_header(content), data) if magic == BLOCK_MAGIC else _decode_footer(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _refuse_newer(_version_of(content))
        raise NotAFrame(f"the CRC is right, the content is not: {error}") from error
    _refuse_newer(frame.header.v if isinstance(frame, Block) else frame.v)
    return frame


def next_header(data: memoryview, offset: int) -> tuple[BlockHeader, int] | None:
    """The header of the block that stands at `offset` and the block's length, in one step.

    None where no whole, sound block of this version stands there: measure() and parse() tell what does.
    """
    if len(data) < offset + PREFIX_BYTES:
        return None
    magic, length, crc = _PREFIX.unpack_from(data, offset)
    start, middle = offset + PREFIX_BYTES, offset + _CONTENT_STARTS + length
    if magic != BLOCK_MAGIC or not 4 <= length <= MAX_HEADER + 4 or middle > len(data):
        return None
    try:
        header = _decode_header(data[start:middle])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    end = middle + header.size
    if end > len(data) or header.v > VERSION or zlib.crc32(data[start:end]) != crc:
        return None
    return header, end - offset


class _Version(msgspec.Struct):
    v: int


def _version_of(content: Buffer) -> int:
    try:
        return msgspec.json.decode(content, type=_Version).v
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0


def _refuse_newer(version: int) -> None:
    if version > VERSION:
        raise StorageError(f"format {version}: this logbale reads up to {VERSION}; use a newer one")
