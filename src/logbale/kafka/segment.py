"""A segment of a topic while it is built, in a temporary file; and the footer that the next one goes on from."""

from __future__ import annotations

import uuid
from tempfile import TemporaryFile
from typing import IO

import msgspec

from logbale.archive import blocks, format
from logbale.archive.format import BlockEncoder, Chain, Footer, NotAFrame
from logbale.archive.layout import chain_folder, name_in_chain
from logbale.errors import StorageError
from logbale.kafka.chain import Place
from logbale.segment_store import SegmentStore, StoredSegment
from logbale.sinks import Item, ReceivedBatch

FOOTER_GUESS = 256 * 1024
"""Bytes of a segment's end that are read at first: a footer of some thousand streams."""


class Finished(msgspec.Struct, frozen=True):
    """A whole segment that is in no store yet."""

    name: str
    body: IO[bytes]
    size: int
    footer: Footer
    end: bytes
    """The footer's bytes, like no other segment's."""
    batches: int

    @property
    def chain(self) -> Chain:
        """Its place in the chain."""
        assert isinstance(self.footer.chain, Chain), "finish() gives it one"
        return self.footer.chain


class SegmentBuilder:
    """Takes items and makes blocks of them. Its methods raise OSError where the temporary file takes no more."""

    def __init__(self, encoder: BlockEncoder) -> None:
        self.size = 0
        """Bytes in the file; what the last, open block will take is not known."""
        self.entries = 0
        self.raw = 0
        self._encoder = encoder
        self._file: IO[bytes] = TemporaryFile()  # noqa: SIM115  # open until the segment is put or discarded
        self._group = blocks.Group()
        self._offsets: list[int] = []
        self._times: list[tuple[str, str]] = []
        self._batches = 0

    def add(self, item: Item) -> None:
        """The next item."""
        if not self._group.has_room_for(item):
            self._end_block()
        self._group.add(item)
        if isinstance(item, ReceivedBatch):
            self._batches += 1
            self.entries += item.count
            self.raw += item.raw_bytes
            self._times.append((item.first, item.last))

    def finish(self, topic: str, partition: int, start: int, place: Place) -> Finished:
        """The segment that says `place` at its end; nothing is added after that."""
        self._end_block()
        first, last = format.span(self._times)
        chain = Chain(
            topic=topic, partition=partition, start=start, next=place.next, taken=place.taken, id=uuid.uuid4().hex
        )
        footer = Footer(
            serial=start,
            blocks=self._offsets,
            count=self.entries,
            raw=self.raw,
            first=first,
            last=last,
            marks=place.marks,
            chain=chain,
        )
        end = format.encode_footer(footer)
        self._write(end)
        self._file.flush()
        name = name_in_chain(topic, partition, start)
        return Finished(name, self._file, self.size, footer, end, self._batches)

    def discard(self) -> None:
        """Frees the file."""
        self._file.close()

    def _end_block(self) -> None:
        if self._group.items:
            block = blocks.encode(self._encoder, self._group)
            self._offsets.append(self.size)
            self._write(block)
            self._group = blocks.Group()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)


def last_footer(store: SegmentStore, topic: str, partition: int) -> Footer | None:
    """The footer of the chain's last segment, None where it has none. Raises StorageError."""
    segment = store.last(chain_folder(topic, partition))
    if segment is None:
        return None
    footer = read_footer(store, segment)
    chain = footer.chain
    if not isinstance(chain, Chain) or (chain.topic, chain.partition) != (topic, partition):
        raise StorageError(
            f"{segment.name}: not a segment of partition {partition} of {topic}; what else writes there?"
        )
    return footer


def read_footer(store: SegmentStore, segment: StoredSegment) -> Footer:
    """The footer of a segment. Raises StorageError, also where it has no sound one: nothing may go on behind that."""
    try:
        end = store.read(segment.name, max(0, segment.size - FOOTER_GUESS), min(segment.size, FOOTER_GUESS))
        length = format.footer_length(end[-4:])
        if length > len(end):
            end = store.read(segment.name, max(0, segment.size - length), length)
        frame = format.parse(end[-length:])
    except NotAFrame as error:
        raise StorageError(f"{segment.name}: no footer of a segment ({error}); `logbale verify` says more") from error
    if not isinstance(frame, Footer):
        raise StorageError(f"{segment.name}: no footer of a segment; `logbale verify` says more")
    return frame


def is_ours(store: SegmentStore, finished: Finished) -> bool:
    """Whether the segment that has the name is this very one: an answer to a put may get lost.

    Where that cannot be told it is not: to read the messages again harms nothing.
    """
    end = finished.end
    try:
        return store.read(finished.name, finished.size - len(end), len(end)) == end
    except StorageError:
        return False
