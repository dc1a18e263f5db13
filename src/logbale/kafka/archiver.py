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
from concurrent.futures import wait
from contextlib import suppress
from typing import Any

from confluent_kafka import Message

from logbale.errors import StorageError
from logbale.kafka.address import KafkaTopic
from logbale.kafka.looking import Looking
from logbale.kafka.metrics import ArchiverMetrics, ArchiverSnapshot
from logbale.kafka.ownership import Ownership, Shared
from logbale.kafka.partition import Limits
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

SAY_LOSSES = 60.0
"""Seconds in which what was lost is said once, together."""


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
        self.drain_timeout = drain_timeout
        self._owned: dict[int, Ownership] = {}
        self._stopping = threading.Event()
        self._said: Counter[str] = Counter()
        self._say_at = 0.0
        looking = Looking(topic, store, settings)
        self._reader = TopicReader(topic, settings, group=group)
        self._shared = Shared(topic.name, store, self._reader, looking, self.metrics, limits, now)

    def limit(self, limits: Limits) -> None:
        """Others from now on, also for what is being built."""
        self._shared.limits = limits

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
            self._shared.pool.shutdown(wait=False, cancel_futures=True)

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
        self._owned |= {number: Ownership(number, self._shared) for number in partitions}

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
        for owned in leaving.values():
            owned.cut()
            owned.begin_put()
        wait([owned.putting for owned in leaving.values() if owned.putting is not None], patience)
        committed: dict[int, int] = {}
        left = left_entries = 0
        for number, owned in leaving.items():
            if owned.putting is not None and owned.putting.done():
                next_offset = owned.collect_put()
                if next_offset is not None and owned.cut():
                    owned.begin_put()
                    with suppress(StorageError, TimeoutError):
                        assert owned.putting is not None, "it was just begun"
                        owned.putting.result(max(0.0, deadline - time.monotonic()))
                        next_offset = owned.collect_put() or next_offset
                if next_offset is not None:
                    committed[number] = next_offset
            left += owned.finished is not None
            left_entries += owned.waiting_entries
            owned.close()
        if left:
            log.warning("%d segments were not put in time; nothing is lost: who owns them next reads them again", left)
        self._reader.commit(committed, wait=not is_end)  # at the end the farewell waits for it
        return left_entries

    # what comes, and is to be done

    def _receive(self, message: Message) -> None:
        error, number, offset = message.error(), message.partition(), message.offset()
        owned = self._owned.get(number) if number is not None else None
        if error is not None:
            if owned is None or not owned.receive_error(error):
                self._reader.errored(error)
            return
        assert offset is not None, "every message has a place in its partition"
        if owned is not None:
            owned.receive(offset, message)

    def _tick(self, now: float) -> None:
        for number, owned in self._owned.items():
            if (next_offset := owned.tick(now)) is not None:
                self._reader.commit({number: next_offset})
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
        problems = [
            f"partition {number}: {why}" for number, owned in self._owned.items() if (why := owned.trouble.problem)
        ]
        metrics.problem = problems[0] if problems else ""
        metrics.partitions = len(self._owned)
        metrics.errors["kafka"] = self._reader.errors
        metrics.errors["stray"] = len(self._shared.store.strays)
        metrics.waiting_entries = sum(owned.waiting_entries for owned in self._owned.values())
        stored = {number: start for number, owned in self._owned.items() if (start := owned.stored_to) is not None}
        highs = {number: self._reader.high(number) for number in stored}
        metrics.lag = {number: max(0, high - stored[number]) for number, high in highs.items() if high is not None}
