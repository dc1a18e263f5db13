"""Archiver: reads its partitions of a topic and puts their segments into a store, each message's entries once.

One thread owns the consumer and everything here; the store is asked on others. Nothing is remembered: a partition is
read on from where the last segment in the store says, whoever put that. The offsets that are committed to the group
are for those who watch the lag.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from operator import methodcaller
from typing import Any

from confluent_kafka import KafkaError, Message

from logbale.archive.format import BlockEncoder
from logbale.errors import MessageError, StorageError
from logbale.kafka.address import KafkaTopic
from logbale.kafka.chain import Place
from logbale.kafka.looking import Looking
from logbale.kafka.metrics import ArchiverMetrics, ArchiverSnapshot
from logbale.kafka.ownership import Ownership
from logbale.kafka.partition import Limits, PartitionArchive, put
from logbale.kafka.reader import TopicReader
from logbale.segment_store import SegmentStore

log = logging.getLogger("logbale.archiver")

POLL_SECONDS = 0.1
TICK_SECONDS = 0.1
"""How often what is due is looked for."""
REVOKE_PATIENCE = 20.0
"""Seconds that a hand-over waits for the store: well below max.poll.interval.ms, which nobody can wait beyond."""
LEAVE_PATIENCE = 5.0
"""Seconds that the end waits for the farewell to the group; without brokers that takes session.timeout.ms, 45 s."""
REFUSED_RETRY = 60.0
"""Seconds after which a partition that does not go with its chain is looked at again."""
STORE_THREADS = 4
LEVEL = 1
"""zstd's, for blocks of small batches; the receiver's archive has the same."""

SAY_LOSSES = 60.0
"""Seconds in which what was lost is said once, together."""

REFUSED = "refused: "
"""Begins the problem of a partition that only a person can solve."""

UNREADABLE = (
    "offset {} cannot be read from the broker that leads: {}. Let another replica lead: stop that broker, or move the "
    "partition. Where none can read it, kafka-delete-records up to the offset behind it gives it up"
)

_RESET = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
_SPOILT = (KafkaError._BAD_MSG, KafkaError._NOT_IMPLEMENTED)
"""A batch whose CRC is wrong, and what librdkafka makes of the bytes behind it."""


class Archiver:
    """One member of a group of archivers. run() in a thread of its own; stop() from any."""

    def __init__(
        self,
        topic: KafkaTopic,
        store: SegmentStore,
        settings: Mapping[str, Any],
        limits: Limits,
        *,
        group: str,
        drain_timeout: float = 10.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`settings` are librdkafka's; `now` is the clock by which segments are cut. Raises ConfigError."""
        self.metrics = ArchiverMetrics(now=time.monotonic())
        self.limits = limits
        self.drain_timeout = drain_timeout
        self._topic = topic
        self._store = store
        self._now = now
        self._encoder = BlockEncoder(LEVEL)
        self._owned: dict[int, Ownership] = {}
        self._stopping = threading.Event()
        self._said: Counter[str] = Counter()
        self._say_at = 0.0
        self._pool = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="logbale-store")
        self._looking = Looking(topic, store, settings)
        self._reader = TopicReader(topic, settings, group=group)

    def run(self) -> None:
        """Archives until stop(). Raises UnavailableError where Kafka will never let this member go on."""
        try:
            self._reader.join(assigned=self._assigned, revoked=self._revoked, lost=self._lost)
            next_tick = 0.0
            while not self._stopping.is_set():
                message = self._reader.poll(POLL_SECONDS)
                if message is not None:
                    self._receive(message)
                if (now := time.monotonic()) >= next_tick:
                    self._tick(now)
                    next_tick = now + TICK_SECONDS
            self.metrics.waiting_entries = self._let_go(list(self._owned), self.drain_timeout, is_end=True)
            self._say_losses()
        finally:
            for owned in self._owned.values():
                owned.close()
            self._owned.clear()
            self._leave()
            self._pool.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Puts what there is within `drain_timeout` and leaves the group; Kafka holds the rest for the next owner."""
        self._stopping.set()

    def _leave(self) -> None:
        leaving = threading.Thread(target=self._reader.close, name="logbale-leave", daemon=True)
        leaving.start()
        leaving.join(LEAVE_PATIENCE)

    def snapshot(self) -> ArchiverSnapshot:
        """The numbers now; from any thread."""
        return self.metrics.snapshot(time.monotonic())

    def ready(self) -> tuple[bool, str]:
        """Whether this member archives, or waits for partitions; and if not, why."""
        problem = self.metrics.problem
        return not problem, problem

    # the group's word

    def _assigned(self, partitions: list[int]) -> None:
        self._owned |= {number: Ownership() for number in partitions}

    def _revoked(self, partitions: list[int]) -> None:
        self._let_go(partitions, REVOKE_PATIENCE)

    def _lost(self, partitions: list[int]) -> None:
        for number in partitions:
            if (owned := self._owned.pop(number, None)) is not None:
                owned.close()

    def _let_go(self, partitions: Iterable[int], patience: float, *, is_end: bool = False) -> int:
        """Puts what there is of these, and forgets what could not be put in time: who owns them next reads it again.

        Returns how many entries that are.
        """
        deadline = time.monotonic() + patience
        leaving = {number: owned for number in partitions if (owned := self._owned.pop(number, None)) is not None}
        for number, owned in leaving.items():
            self._cut(number, owned)
            self._begin_put(owned)
        wait([owned.putting for owned in leaving.values() if owned.putting is not None], patience)
        committed: dict[int, int] = {}
        left = left_entries = 0
        for number, owned in leaving.items():
            if owned.putting is not None and owned.putting.done():
                next_offset = self._collect_put(number, owned)
                if next_offset is not None and self._cut(number, owned):
                    self._begin_put(owned)
                    with suppress(StorageError, TimeoutError):
                        assert owned.putting is not None, "it was just begun"
                        owned.putting.result(max(0.0, deadline - time.monotonic()))
                        next_offset = self._collect_put(number, owned) or next_offset
                if next_offset is not None:
                    committed[number] = next_offset
            left += owned.finished is not None
            left_entries += owned.waiting_entries
            owned.close()
        if left:
            log.warning("%d segments were not put in time; nothing is lost: who owns them next reads them again", left)
        self._reader.commit(committed, wait=not is_end)  # at the end the farewell waits for it
        return left_entries

    # what comes

    def _receive(self, message: Message) -> None:
        error = message.error()
        number = message.partition()
        if error is not None:
            self._receive_error(number, error)
            return
        offset = message.offset()
        assert number is not None, "every message has a partition"
        assert offset is not None, "and a place in it"
        owned = self._owned.get(number)
        if owned is None or owned.archive is None or not owned.is_reading:
            return
        if offset != owned.archive.position and not self._is_next(number, owned, owned.archive, offset):
            return
        if owned.problem and owned.finished is None:
            owned.worked()
        value: Any = message.value()
        try:
            owned.archive.add(offset, _headers(message), value, now=self._now())
        except MessageError as refusal:
            self._refuse(number, owned, f"offset {offset}: {refusal}; use a logbale that knows it")
            self._cut(number, owned)
        except StorageError as failure:
            self._lose(number, owned, "temporary_file", str(failure))

    def _is_next(self, number: int, owned: Ownership, archive: PartitionArchive, offset: int) -> bool:
        """Whether the log has nothing between what was read and this: such a hole is believed when it is seen twice."""
        if offset < archive.position:
            return False
        if owned.doubted == offset:
            archive.jump(offset)
            owned.doubted = None
            return True
        owned.doubted = offset
        self._seek(number, owned)
        return False

    def _receive_error(self, number: int | None, error: KafkaError) -> None:
        owned = self._owned.get(number) if number is not None else None
        if error.code() in _RESET and owned is not None and number is not None:
            owned.is_reading = False
            owned.has_ended = True
            if self._cut(number, owned) or owned.finished is not None:
                owned.ends_with_put = True  # it is in nobody else's hands any more
            else:
                owned.close()
            return
        if error.code() in _SPOILT and owned is not None and number is not None:
            if owned.is_reading and owned.archive is not None:
                self._wait_for_a_leader(number, owned, owned.archive, error)
            return
        self._reader.errored(error)

    def _wait_for_a_leader(self, number: int, owned: Ownership, archive: PartitionArchive, error: KafkaError) -> None:
        """What stands here was acknowledged, so it is not passed over, as a hole would be: what comes behind it comes
        without it, however often it is read.
        """
        self._pause(number, owned)
        self._cut(number, owned)
        self._fail(number, owned, "unreadable", UNREADABLE.format(archive.position, error.str()), time.monotonic())

    # what is to be done

    def _tick(self, now: float) -> None:
        for number, owned in self._owned.items():
            if owned.is_reading and owned.archive is not None and self._reader.high(number) == owned.archive.position:
                owned.archive.keep_reading(self._now())
            if owned.looking is not None and owned.looking.done():
                self._collect_look(number, owned, now)
            if owned.putting is not None and owned.putting.done():
                next_offset = self._collect_put(number, owned)
                if next_offset is not None:
                    self._reader.commit({number: next_offset})
            is_due = owned.archive is not None and owned.archive.is_due(self.limits, self._now())
            if is_due and owned.finished is not None and owned.is_reading:
                self._pause(number, owned)  # two segments wait for the store: that is enough
            if now < owned.retry_at:
                continue
            if owned.finished is not None:
                self._begin_put(owned)
            elif owned.archive is None:
                if owned.looking is None:
                    owned.looking = self._pool.submit(self._looking.look, number)
            elif is_due:
                self._cut(number, owned)
                self._begin_put(owned)
            is_refused = owned.problem.startswith(REFUSED)
            if owned.archive is not None and owned.finished is None and not owned.is_reading and not is_refused:
                self._seek(number, owned)
        self._measure()
        if now >= self._say_at:
            self._say_losses()
            self._say_at = now + SAY_LOSSES

    def _say_losses(self) -> None:
        news = {what: self.metrics.counts[what] - self._said[what] for what in ("damaged", "missing_sequences")}
        if any(news.values()):
            log.error(
                "%d batches in the topic cannot be read, and %d that were acknowledged are not in it; the archive says "
                "which of what stream",
                *news.values(),
            )
        self._said.update(news)

    def _measure(self) -> None:
        metrics = self.metrics
        problems = [f"partition {number}: {owned.problem}" for number, owned in self._owned.items() if owned.problem]
        metrics.problem = problems[0] if problems else ""
        metrics.partitions = len(self._owned)
        metrics.errors["kafka"] = self._reader.errors
        metrics.errors["stray"] = len(self._store.strays)
        metrics.waiting_entries = sum(owned.waiting_entries for owned in self._owned.values())
        stored = {number: start for number, owned in self._owned.items() if (start := owned.stored_to) is not None}
        highs = {number: self._reader.high(number) for number in stored}
        metrics.lag = {number: max(0, high - stored[number]) for number, high in highs.items() if high is not None}

    def _collect_look(self, number: int, owned: Ownership, now: float) -> None:
        looking, owned.looking = owned.looking, None
        assert looking is not None, "it is done"
        try:
            found = looking.result()
        except StorageError as error:
            self._fail(number, owned, "store", str(error), now)
            return
        start = found.start
        if start > found.high:
            self._refuse(
                number,
                owned,
                f"the archive has come to offset {start}, the topic ends at {found.high}: it was made anew or has lost "
                "messages; archive it --to another place",
            )
            owned.retry_at = now + REFUSED_RETRY
            return
        owned.goes_on()
        owned.archive = PartitionArchive(
            self._topic.name, number, found.place or Place(), self._encoder, self.metrics.counts
        )
        if start < found.low:
            lost = found.low - start
            self.metrics.lost_offsets += lost
            if found.place is None:
                text = "partition %d: a new archive, without %d offsets (%d to %d): Kafka has deleted what was there"
            else:
                text = (
                    "partition %d: %d offsets (%d to %d) were deleted by Kafka before they were archived; raise the "
                    "topic's retention.ms, or add archivers"
                )
            log.error(text, number, lost, start, found.low - 1)
            owned.archive.jump(found.low)
        self._seek(number, owned)

    def _seek(self, number: int, owned: Ownership) -> None:
        assert owned.archive is not None, "it was looked up"
        owned.is_reading = self._reader.read_from(number, owned.archive.position, anew=owned.has_ended)
        owned.has_ended = owned.has_ended and not owned.is_reading

    def _pause(self, number: int, owned: Ownership) -> None:
        owned.is_reading = False
        self._reader.pause(number)

    def _cut(self, number: int, owned: Ownership) -> bool:
        """Ends the segment, where it can be and none is on its way; whether it did."""
        archive = owned.archive
        if archive is None or owned.finished is not None or not archive.can_cut():
            return False
        try:
            owned.finished = archive.cut(self.limits)
        except StorageError as error:
            self._lose(number, owned, "temporary_file", str(error))
            return False
        return True

    def _begin_put(self, owned: Ownership) -> None:
        if owned.finished is not None and owned.putting is None:
            owned.putting = self._pool.submit(put, self._store, owned.finished)

    def _collect_put(self, number: int, owned: Ownership) -> int | None:
        """What became of a put: the offset that the chain has come to, None where it has not come further."""
        putting, owned.putting = owned.putting, None
        finished = owned.finished
        assert putting is not None, "it is done"
        assert finished is not None, "it was put"
        try:
            is_stored = putting.result()
        except StorageError as error:
            self._fail(number, owned, "store", str(error), time.monotonic())
            return None
        owned.finished = None
        finished.body.close()
        if not owned.problem.startswith(REFUSED):
            owned.worked()
        if not is_stored:
            self.metrics.races_lost += 1
            log.warning(
                "partition %d: another archiver was first with %s; what was read here is discarded and read again",
                number,
                finished.name,
            )
            owned.close()
            return None
        self.metrics.put(
            batches=finished.batches, entries=finished.footer.count, raw_bytes=finished.footer.raw, size=finished.size
        )
        log.debug("%s: %d entries, %d bytes", finished.name, finished.footer.count, finished.size)
        if owned.ends_with_put:
            owned.close()
        return finished.chain.next

    def _fail(self, number: int, owned: Ownership, reason: str, problem: str, now: float) -> None:
        self.metrics.errors[reason] += 1
        owned.failed(problem, now)
        log.error(
            "partition %d: %s; tried again in %.0f s, Kafka holds the messages", number, problem, owned.retry_at - now
        )

    def _lose(self, number: int, owned: Ownership, reason: str, problem: str) -> None:
        """What is in the temporary file is worth nothing any more."""
        owned.close()
        self._fail(number, owned, reason, problem, time.monotonic())

    def _refuse(self, number: int, owned: Ownership, problem: str) -> None:
        self.metrics.errors["refused"] += 1
        self._pause(number, owned)
        owned.problem = f"{REFUSED}{problem}"
        log.error("partition %d is not archived: %s", number, problem)


# Not message.headers(): where the interpreter has specialized that call it does not look for an error, which then is
# raised anywhere, and what was returned has a hole.
_ask_headers = methodcaller("headers")


def _headers(message: Message) -> Any:
    """A message's headers; none where the name of one is not UTF-8, which confluent-kafka answers with SystemError."""
    try:
        return _ask_headers(message)
    except (SystemError, UnicodeDecodeError):
        return None
