"""KafkaSink: a topic as the sink that decides the acknowledgement. It knows no marks: any receiver takes any stream.

Everything that waits for Kafka runs on one thread of its own. A batch is stored when all of its messages are delivered:
all in-sync replicas have them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from confluent_kafka import KafkaError

from logbale.archive.format import BlockEncoder
from logbale.config import Settings
from logbale.errors import ConfigError, EntryError, StorageError
from logbale.kafka.address import KafkaTopic, kafka_topic
from logbale.kafka.client_settings import PRODUCER_OWN, client_settings
from logbale.kafka.message import Message, encode, encode_lines
from logbale.kafka.publisher import REFUSED, Publisher
from logbale.kafka.topic import TopicFacts, admin_client, look_at, topic_settings
from logbale.metrics import Published
from logbale.sinks import Item, Outcome, ReceivedBatch, Rejected, RejectedSequence, Stored

log = logging.getLogger("logbale.receiver")

PATIENCE = 5.0
"""Seconds without a delivery after which the clients are told that they wait; what is on its way stays on its way."""

LEVEL = 1
"""zstd's, for small batches: large ones come as frames and stay what they are. The archive's own."""


class _Group:
    """The items of one commit on their way to Kafka, in one attempt after the other."""

    def __init__(self, items: list[Item]) -> None:
        self.began = time.monotonic()
        self.items = items
        self.refused: dict[int, str] = {}
        """Items, by place, that can never be stored, and why. Found out, it holds in all later attempts."""
        self.one_by_one = False
        """Each message waits for the report of the one before: together with others it may be refused for theirs."""
        self.begin()

    def begin(self) -> None:
        """Another attempt: nothing of the one before counts."""
        self.waiting = 0
        self.messages = 0
        self.bytes = 0
        self.failures: Counter[str] = Counter()
        self.too_large: dict[int, str] = {}
        self.left: Iterator[tuple[int, Message]] | None = None
        self.next: tuple[int, Message] | None = None

    def outcomes(self) -> list[Outcome]:
        """Once every message has been delivered."""
        places = range(len(self.items))
        return [Rejected(self.refused[place]) if place in self.refused else Stored() for place in places]

    def reported(self, place: int, error: KafkaError | None) -> None:
        """A message of the item at this place was delivered, or why not."""
        self.waiting -= 1
        if error is None:
            return
        if error.code() in REFUSED and place not in self.refused:
            self.too_large[place] = f"Kafka refuses it: {error.str()}"
        else:
            self.failures[error.str()] += 1


class KafkaSink:
    """Publishes to a topic that was looked at."""

    def __init__(
        self,
        topic: KafkaTopic,
        facts: TopicFacts,
        settings: Mapping[str, Any],
        *,
        as_lines: bool = False,
        patience: float,
    ) -> None:
        """`settings` are librdkafka's, `patience` is in seconds; `as_lines` publishes each entry by itself.

        Raises ConfigError.
        """
        self.published = Published()
        """What was delivered. Owned by the event loop."""
        self._publisher = Publisher(topic, settings, limit=facts.limit, partitions=facts.partitions)
        self._settings = settings
        self._partitions = facts.partitions
        self._as_lines = as_lines
        self._patience = patience
        self._compress = BlockEncoder(LEVEL).compress
        self._group: _Group | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="logbale-kafka")

    async def commit(self, items: list[Item]) -> list[Outcome]:
        """Publishes all of them, delivered on return. Raises StorageError where that takes longer, or failed.

        Called again with the same list it goes on waiting for what is on its way, or begins again where that failed.
        """
        group = await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, items)
        self.published.add(group.messages, group.bytes, time.monotonic() - group.began)
        return group.outcomes()

    def mark(self, stream: str) -> None:
        """Unknown: another receiver may have published what comes after the last batch that this one saw."""

    def can_admit(self, stream: str) -> bool:
        """Always: nothing is kept of a stream."""
        return True

    def forget_rejects(self, stream: str, *, before: int) -> None:
        """None are kept: a batch that comes again is rejected again."""

    async def tick(self) -> None:
        """Lets librdkafka say what it has to, while nothing is published. Call it every second or so."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._publisher.poll, time.monotonic())

    async def close(self) -> None:
        """Gives up what is not delivered yet. No commit follows."""
        self._publisher.closing.set()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._publisher.close)
        self._thread.shutdown(wait=False)

    # on the thread

    def _commit(self, items: list[Item]) -> _Group:
        if self._group is not None and self._group.items is not items:  # nobody waits for it any more
            self._publisher.renew()
            self._group = None
        group = self._group = self._group or _Group(items)
        deadline = time.monotonic() + self._patience
        while True:
            self._publish(group, deadline)
            if not group.failures and not group.too_large:
                break
            self._begin_again(group)
        self._group = None
        if self._publisher.partitions > self._partitions:
            self._partitions = self._publisher.partitions
            log.error(
                "topic %s has got more partitions (%d by now): streams are in others than before, and what was sent "
                "twice may be archived twice; docs/operating.md has how a topic grows",
                self._publisher.topic.name,
                self._partitions,
            )
        return group

    def _publish(self, group: _Group, deadline: float) -> None:
        """Returns when each message has its report. Raises StorageError where that takes too long."""
        publisher = self._publisher
        if group.left is None:
            group.left = self._messages(group)
        while (current := group.next or next(group.left, None)) is not None:
            group.next = current
            place, message = current
            group.waiting += 1
            try:
                publisher.produce(message, partial(group.reported, place), deadline=deadline)
            except StorageError:
                group.waiting -= 1
                raise
            group.next = None
            group.messages += 1
            group.bytes += len(message.value)
            if group.one_by_one:
                self._wait(group, deadline)
                if group.too_large or group.failures:
                    return
        self._wait(group, deadline)

    def _wait(self, group: _Group, deadline: float) -> None:
        while group.waiting:
            if not self._publisher.poll(deadline) and group.waiting:
                what = f"{group.waiting} of {group.messages} messages are not delivered after {self._patience:g} s"
                raise StorageError(self._publisher.complaint(what))

    def _begin_again(self, group: _Group) -> None:
        """Some failed. Raises StorageError, so that it is tried again later, unless they are only too large."""
        failures, too_large = group.failures, group.too_large
        group.begin()
        limit = self._lower_limit() if too_large else None
        if group.one_by_one and limit is None:
            group.refused |= too_large
        # Another producer: one that has met an error remembers it, and a fatal one it never forgets.
        self._publisher.renew(limit=limit)
        group.one_by_one = bool(too_large)
        if failures:
            worst, number = failures.most_common(1)[0]
            raise StorageError(self._publisher.complaint(f"{number} messages were not delivered: {worst}"))

    def _lower_limit(self) -> int | None:
        """What messages may have by now, where that is less than was known. Raises StorageError."""
        topic = self._publisher.topic
        try:
            admin = admin_client(topic, self._settings)
        except ConfigError as error:
            raise StorageError(self._publisher.complaint(str(error))) from error
        settings = topic_settings(admin, topic.name)
        limit = TopicFacts(0, 0, settings).limit if settings else self._publisher.limit
        return limit if limit < self._publisher.limit else None

    def _messages(self, group: _Group) -> Iterator[tuple[int, Message]]:
        """What there is to be published, made while the first of it is on its way."""
        for place, item in enumerate(group.items):
            try:
                messages = self._encode(item) if place not in group.refused else []
            except EntryError as error:
                group.refused[place] = str(error)
                messages = []
            if place in group.refused and isinstance(item, ReceivedBatch) and item.stream and not self._as_lines:
                # In its place stands that it was refused: what comes after it would look like a gap.
                note = RejectedSequence(item.stream, item.sequence, group.refused[place], item.crc, item.base)
                messages = self._encode(note)
            for message in messages:
                yield place, message

    def _encode(self, item: Item) -> list[Message]:
        publisher = self._publisher
        if not self._as_lines:
            return encode(item, limit=publisher.limit, session=publisher.session, compress=self._compress)
        return encode_lines(item, limit=publisher.limit) if isinstance(item, ReceivedBatch) else []


async def open_kafka(address: str, settings: Settings) -> KafkaSink:
    """The sink for a topic's address, after a look at the topic; says what of it is dangerous.

    Raises ConfigError where the topic or KAFKA_CONFIG_FILE will not do, UnavailableError where no broker answers.
    """
    topic = kafka_topic(address)
    theirs = client_settings(settings.kafka_config_file, PRODUCER_OWN)
    mechanism = theirs.get("sasl.mechanism") or theirs.get("sasl.mechanisms") or ""
    if theirs.get("security.protocol", "").lower() == "sasl_plaintext" and mechanism.upper() in ("PLAIN", ""):
        log.warning("KAFKA_CONFIG_FILE: security.protocol=SASL_PLAINTEXT: whoever is on the way can read the password")
    facts = await asyncio.to_thread(look_at, topic, theirs)
    if facts.dangers:
        log.warning("topic %s can lose what was acknowledged: %s", topic.name, "; ".join(facts.dangers))
    sink = KafkaSink(topic, facts, theirs, as_lines=settings.kafka_format == "ndjson", patience=PATIENCE)
    log.info(
        "publishing to topic %s: %d partitions, %d replicas, messages of up to %d bytes",
        topic.name,
        facts.partitions,
        facts.replicas,
        facts.limit,
    )
    return sink
