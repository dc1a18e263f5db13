"""What an archiver does for one partition while the group says that it is its own; see archiver.py.

It is looked up, read and put, segment after segment. What waits runs in the pool, and is collected at a tick.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from confluent_kafka import KafkaError, Message

from logbale.archive.format import BlockEncoder
from logbale.errors import MessageError, StorageError
from logbale.kafka.chain import Place
from logbale.kafka.looking import Looking, LookUp
from logbale.kafka.metrics import ArchiverMetrics
from logbale.kafka.partition import Limits, PartitionArchive, put
from logbale.kafka.reader import TopicReader, headers_of
from logbale.kafka.segment import Finished
from logbale.kafka.trouble import REFUSED_RETRY, Trouble
from logbale.segment_store import SegmentStore

log = logging.getLogger("logbale.archiver")

STORE_THREADS = 4
LEVEL = 1
"""zstd's, for blocks of small batches; the receiver's archive has the same."""

UNREADABLE = (
    "offset {} cannot be read from the broker that leads: {}. Let another replica lead: stop that broker, or move the "
    "partition. Where none can read it, kafka-delete-records up to the offset behind it gives it up"
)

_RESET = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
_SPOILT = (KafkaError._BAD_MSG, KafkaError._NOT_IMPLEMENTED)
"""A batch whose CRC is wrong, and what librdkafka makes of the bytes behind it."""


class Shared:
    """What an archiver's partitions have in common."""

    def __init__(
        self,
        topic: str,
        store: SegmentStore,
        reader: TopicReader,
        looking: Looking,
        metrics: ArchiverMetrics,
        limits: Limits,
        now: Callable[[], float],
    ) -> None:
        """`now` is the clock by which segments are cut."""
        self.topic = topic
        self.store = store
        self.reader = reader
        self.looking = looking
        self.metrics = metrics
        self.limits = limits
        self.now = now
        self.encoder = BlockEncoder(LEVEL)
        self.pool = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="logbale-store")


class Ownership:
    """One partition: being looked up, or read, or being put, or neither because of something that was said."""

    def __init__(self, number: int, shared: Shared) -> None:
        self.number = number
        self.archive: PartitionArchive | None = None
        """Once it was looked up."""
        self._looking: Future[LookUp] | None = None
        self.finished: Finished | None = None
        """A segment that is to be put."""
        self.putting: Future[bool] | None = None
        self._is_reading = False
        """Whether Kafka was told from where on to deliver."""
        self._has_ended = False
        """Whether an error has ended the reading, so that a seek is not enough."""
        self._doubted: int | None = None
        """An offset that came where a lower one was expected; it is believed when it comes again."""
        self.trouble = Trouble()
        self._ends_with_put = False
        """Whether it is looked up anew after the segment that is to be put."""
        self._shared = shared

    @property
    def stored_to(self) -> int | None:
        """The offset that the chain in the store has come to, where that is known."""
        if self.finished is not None:
            return self.finished.chain.start
        return self.archive.start if self.archive is not None else None

    @property
    def waiting_entries(self) -> int:
        """Entries that are in no segment of the store."""
        waiting = self.archive.waiting_entries if self.archive is not None else 0
        return waiting + (self.finished.footer.count if self.finished is not None else 0)

    # what comes

    def receive(self, offset: int, message: Message) -> None:
        """The next message that Kafka gave; one that is not wanted now is not taken."""
        if self.archive is None or not self._is_reading:
            return
        if offset != self.archive.position and not self._is_next(self.archive, offset):
            return
        if self.trouble.problem and self.finished is None:
            self.trouble.worked()
        value: Any = message.value()
        try:
            self.archive.add(offset, headers_of(message), value, now=self._shared.now())
        except MessageError as refusal:
            self._refuse(f"offset {offset}: {refusal}; use a logbale that knows it")
            self.cut()
        except StorageError as failure:
            self._lose("temporary_file", str(failure))

    def receive_error(self, error: KafkaError) -> bool:
        """What Kafka said in place of a message; False where that is nothing of this partition's."""
        if error.code() in _RESET:
            self._is_reading = False
            self._has_ended = True
            if self.cut() or self.finished is not None:
                self._ends_with_put = True  # it is in nobody else's hands any more
            else:
                self.close()
            return True
        if error.code() in _SPOILT:
            if self._is_reading and self.archive is not None:
                self._wait_for_a_leader(self.archive, error)
            return True
        return False

    def _is_next(self, archive: PartitionArchive, offset: int) -> bool:
        """Whether the log has nothing between what was read and this: such a hole is believed when it is seen twice."""
        if offset < archive.position:
            return False
        if self._doubted == offset:
            archive.jump(offset)
            self._doubted = None
            return True
        self._doubted = offset
        self._seek()
        return False

    def _wait_for_a_leader(self, archive: PartitionArchive, error: KafkaError) -> None:
        """What stands here was acknowledged, so it is not passed over, as a hole would be: what comes behind it comes
        without it, however often it is read.
        """
        self._pause()
        self.cut()
        self._fail("unreadable", UNREADABLE.format(archive.position, error.str()), time.monotonic())

    def tick(self, now: float) -> int | None:
        """Does what is due, `now` by the monotonic clock; the offset that the store has come to, where that is news."""
        shared = self._shared
        news = None
        if self._is_reading and self.archive is not None and shared.reader.high(self.number) == self.archive.position:
            self.archive.keep_reading(shared.now())
        if self._looking is not None and self._looking.done():
            self._collect_look(now)
        if self.putting is not None and self.putting.done():
            news = self.collect_put()
        is_due = self.archive is not None and self.archive.is_due(shared.limits, shared.now())
        if is_due and self.finished is not None and self._is_reading:
            self._pause()  # two segments wait for the store: that is enough
        if now < self.trouble.retry_at:
            return news
        if self.finished is not None:
            self.begin_put()
        elif self.archive is None:
            if self._looking is None:
                self._looking = shared.pool.submit(shared.looking.look, self.number)
        elif is_due:
            self.cut()
            self.begin_put()
        is_refused = self.trouble.is_refused
        if self.archive is not None and self.finished is None and not self._is_reading and not is_refused:
            self._seek()
        return news

    def _collect_look(self, now: float) -> None:
        looking, self._looking = self._looking, None
        assert looking is not None, "it is done"
        try:
            found = looking.result()
        except StorageError as error:
            self._fail("store", str(error), now)
            return
        start = found.start
        if start > found.high:
            self._refuse(
                f"the archive has come to offset {start}, the topic ends at {found.high}: it was made anew or has lost "
                "messages; archive it --to another place",
            )
            self.trouble.retry_at = now + REFUSED_RETRY
            return
        self.trouble.goes_on()
        self.archive = PartitionArchive(
            self._shared.topic, self.number, found.place or Place(), self._shared.encoder, self._shared.metrics.counts
        )
        if start < found.low:
            lost = found.low - start
            self._shared.metrics.lost_offsets += lost
            if found.place is None:
                text = "partition %d: a new archive, without %d offsets (%d to %d): Kafka has deleted what was there"
            else:
                text = (
                    "partition %d: %d offsets (%d to %d) were deleted by Kafka before they were archived; raise the "
                    "topic's retention.ms, or add archivers"
                )
            log.error(text, self.number, lost, start, found.low - 1)
            self.archive.jump(found.low)
        self._seek()

    def _seek(self) -> None:
        assert self.archive is not None, "it was looked up"
        self._is_reading = self._shared.reader.read_from(self.number, self.archive.position, anew=self._has_ended)
        self._has_ended = self._has_ended and not self._is_reading

    def _pause(self) -> None:
        self._is_reading = False
        self._shared.reader.pause(self.number)

    def cut(self) -> bool:
        """Ends the segment, where it can be and none is on its way; whether it did."""
        archive = self.archive
        if archive is None or self.finished is not None or not archive.can_cut():
            return False
        try:
            self.finished = archive.cut(self._shared.limits)
        except StorageError as error:
            self._lose("temporary_file", str(error))
            return False
        return True

    def begin_put(self) -> None:
        """Where there is a segment and it is not on its way."""
        if self.finished is not None and self.putting is None:
            self.putting = self._shared.pool.submit(put, self._shared.store, self.finished)

    def collect_put(self) -> int | None:
        """What became of a put: the offset that the chain has come to, None where it has not come further."""
        putting, self.putting = self.putting, None
        finished = self.finished
        assert putting is not None, "it is done"
        assert finished is not None, "it was put"
        try:
            is_stored = putting.result()
        except StorageError as error:
            self._fail("store", str(error), time.monotonic())
            return None
        self.finished = None
        finished.body.close()
        self.trouble.worked()
        if not is_stored:
            self._shared.metrics.races_lost += 1
            log.warning(
                "partition %d: another archiver was first with %s; what was read here is discarded and read again",
                self.number,
                finished.name,
            )
            self.close()
            return None
        self._shared.metrics.put(
            batches=finished.batches, entries=finished.footer.count, raw_bytes=finished.footer.raw, size=finished.size
        )
        log.debug("%s: %d entries, %d bytes", finished.name, finished.footer.count, finished.size)
        if self._ends_with_put:
            self.close()
        return finished.chain.next

    def _fail(self, reason: str, problem: str, now: float) -> None:
        self._shared.metrics.errors[reason] += 1
        self.trouble.failed(problem, now)
        log.error(
            "partition %d: %s; tried again in %.0f s, Kafka holds the messages",
            self.number,
            problem,
            self.trouble.retry_at - now,
        )

    def _lose(self, reason: str, problem: str) -> None:
        """What is in the temporary file is worth nothing any more."""
        self.close()
        self._fail(reason, problem, time.monotonic())

    def _refuse(self, problem: str) -> None:
        self._shared.metrics.errors["refused"] += 1
        self._pause()
        self.trouble.refused(problem)
        log.error("partition %d is not archived: %s", self.number, problem)

    def close(self) -> None:
        """Forgets what is in no segment. Kafka holds it."""
        if self.archive is not None:
            self.archive.discard()
            self.archive = None
        if self.finished is not None:
            # A put that runs has the file in its hands; its end is seen by nobody, and what it stored is right.
            if self.putting is None or self.putting.cancel() or self.putting.done():
                self.finished.body.close()
            self.finished = None
        self.putting = self._looking = None
        self._is_reading = False
        self._doubted = None
        self._ends_with_put = False
