"""One partition while it is ours: where its chain has come to, and the segment that is being built on that.

No thread and no Kafka: the archiver says which message comes next, when to cut, and where the store is asked. What is
discarded here Kafka still holds: it is read again, from where the last segment in the store says.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from logbale.archive.format import BlockEncoder, Chain
from logbale.errors import StorageError
from logbale.kafka.chain import ChainState, Place
from logbale.kafka.message import Headers
from logbale.kafka.segment import Finished, SegmentBuilder, is_ours, last_footer
from logbale.segment_store import SegmentStore


class Limits(msgspec.Struct, frozen=True):
    """When a segment is cut, and when a stream is forgotten."""

    segment_bytes: int
    segment_seconds: float
    marks_days: float = 30


def look_up(store: SegmentStore, topic: str, partition: int) -> Place | None:
    """Where the chain has come to, by its last segment; None where it has none. Raises StorageError."""
    footer = last_footer(store, topic, partition)
    if footer is None:
        return None
    assert isinstance(footer.chain, Chain), "last_footer() gives no other"
    return Place(footer.chain.next, footer.chain.taken, footer.marks)


def put(store: SegmentStore, finished: Finished) -> bool:
    """Stores it; False where another owner of the partition was first. Raises StorageError: then it may be tried again.

    It may be called from another thread.
    """
    finished.body.seek(0)
    return store.put(finished.name, finished.body) or is_ours(store, finished)


class PartitionArchive:
    """The chain of one partition, between two looks at the store."""

    def __init__(self, topic: str, partition: int, place: Place, encoder: BlockEncoder, counts: Counter[str]) -> None:
        self.topic = topic
        self.partition = partition
        self.start = place.next
        """Where the segment that is being built starts: its name."""
        self._encoder = encoder
        self._chain = ChainState(place, counts)
        self._builder: SegmentBuilder | None = None
        self._begun = 0.0

    @property
    def position(self) -> int:
        """The offset of the message that is wanted next."""
        return self._chain.position

    @property
    def waiting_entries(self) -> int:
        """Entries that are taken and in no segment of the store."""
        return self._builder.entries if self._builder is not None else 0

    def add(self, offset: int, headers: Headers | None, value: bytes | None, *, now: float) -> None:
        """The next message, `now` in Unix seconds.

        Raises MessageError where a newer version wrote it, and StorageError where the temporary file takes no more:
        after that only discard() may follow.
        """
        if self._builder is None:
            self._begin(now)
        assert self._builder is not None, "it was just begun"
        try:
            for item in self._chain.add(offset, headers, value, now=now):
                self._builder.add(item)
        except OSError as error:
            raise StorageError(
                f"temporary file: {error.strerror}; make room where TMPDIR says, or lower ARCHIVE_SEGMENT_BYTES"
            ) from error

    def keep_reading(self, now: float) -> None:
        """There is nothing behind the last message, as far as Kafka said; called often while so."""
        self._chain.keep_reading(now)

    def jump(self, offset: int) -> None:
        """Goes on at a higher offset: what is before it is not in the topic any more."""
        self._chain.position = max(self._chain.position, offset)

    def is_due(self, limits: Limits, now: float) -> bool:
        """Whether the segment is large or old enough to be cut, and can be."""
        if self._builder is None:
            return False
        self._begun = min(self._begun, now)  # a clock that went back starts the age anew
        is_full = self._builder.size >= limits.segment_bytes
        return (is_full or now - self._begun >= limits.segment_seconds) and self.can_cut()

    def can_cut(self) -> bool:
        """Whether a segment that ends here would lead on.

        While parts that stand where it starts wait for their rest, it would end where it starts, and so would its
        name be the next one's.
        """
        self._chain.expire_parts()
        return self._builder is not None and self._chain.place.next > self.start

    def cut(self, limits: Limits) -> Finished:
        """Ends the segment; the next message begins another, on the assumption that this one is put.

        Raises StorageError as add() does, and where the marks are more than a footer takes.
        """
        assert self._builder is not None, "can_cut() said so"
        builder, self._builder = self._builder, None
        self._chain.marks.expire(limits.marks_days)
        place = self._chain.place
        try:
            finished = builder.finish(self.topic, self.partition, self.start, place)
        except OSError as error:
            builder.discard()
            raise StorageError(f"temporary file: {error.strerror}; make room where TMPDIR says") from error
        except ValueError as error:  # whoever may write to the topic may name streams without end
            builder.discard()
            raise StorageError(f"{len(place.marks)} streams: {error}") from error
        self.start = place.next
        return finished

    def discard(self) -> None:
        """Forgets what is in no segment yet."""
        if self._builder is not None:
            self._builder.discard()
            self._builder = None

    def _begin(self, now: float) -> None:
        try:
            self._builder = SegmentBuilder(self._encoder)
        except OSError as error:
            raise StorageError(f"temporary file: {error.strerror}; make room where TMPDIR says") from error
        self._begun = now
        self._chain.marks.begin(now)
