"""Publisher: gives messages to librdkafka and counts their delivery reports. It blocks: it is for a thread."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Event
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from logbale.errors import ConfigError, StorageError
from logbale.kafka.address import KafkaTopic
from logbale.kafka.library import LibraryLog
from logbale.kafka.message import Message
from logbale.kafka.topic import refused_settings

POLL_SECONDS = 0.1
"""How long one wait for reports lasts at most: so soon a stop is noticed."""

LINGER_MS = 1
"""How long librdkafka waits for a request's further messages: a group is there at once, its acknowledgement waits."""

REFUSED = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD)
"""A broker's word that a message can never be stored."""

Report = Callable[[KafkaError | None], None]


class Publisher:
    """One idempotent producer for one topic; a new one takes its place where librdkafka gives it up."""

    def __init__(self, topic: KafkaTopic, settings: Mapping[str, Any], *, limit: int, partitions: int) -> None:
        """`limit` is the topic's max.message.bytes. Raises ConfigError where librdkafka does not take the settings."""
        self.topic = topic
        self.limit = limit
        self.session = ""
        """The random id of the producer that there is now."""
        self.partitions = partitions
        """Of the topic; more where a report has named one."""
        self.closing = Event()
        """Set: nothing is waited for any more."""
        self._settings = settings
        self._last_error = ""
        self._producer = self._make()

    def _make(self) -> Producer:
        self.session = uuid.uuid4().hex
        own = {
            "bootstrap.servers": self.topic.brokers,
            "acks": "all",
            "enable.idempotence": True,
            "partitioner": "murmur2_random",  # as Java's: other producers agree; without a key any partition
            "compression.type": "none",
            "message.max.bytes": self.limit,
            # One request's messages of a partition are what max.message.bytes measures.
            "batch.size": min(1_000_000, self.limit * 9 // 10),
            "error_cb": self._errored,
        }
        try:
            return Producer({"linger.ms": LINGER_MS} | dict(self._settings) | own, logger=LibraryLog())
        except KafkaException as error:
            raise refused_settings(error) from None

    def renew(self, *, limit: int | None = None) -> None:
        """Another producer, whose parts do not mix with those of the one before; nothing may be on its way.

        Raises StorageError where there can be none now: a certificate is being replaced, or no file can be opened.
        """
        self._give_up()
        self.limit = self.limit if limit is None else limit
        try:
            self._producer = self._make()
        except ConfigError as error:
            raise StorageError(self.complaint(str(error))) from error

    def produce(self, message: Message, report: Report, *, deadline: float) -> None:
        """Hands one message over; `report` hears from poll() what became of it.

        Raises StorageError where librdkafka's queue has no room for it until `deadline` (by time.monotonic).
        """
        while True:
            try:
                self._producer.produce(
                    self.topic.name,
                    message.value,
                    message.key,
                    on_delivery=partial(self._delivered, report),
                    headers=list(message.headers),
                )
                return
            except BufferError:
                if self.closing.is_set() or time.monotonic() >= deadline:
                    raise StorageError(self.complaint("its queue is full")) from None
                self._poll(POLL_SECONDS)
            except KafkaException as error:
                report(error.args[0])
                return

    def poll(self, deadline: float) -> bool:
        """Waits for reports; False once `deadline` has passed or there is nothing to be waited for any more."""
        if self.closing.is_set():
            return False
        left = deadline - time.monotonic()
        self._poll(max(0.0, min(POLL_SECONDS, left)))
        return left > 0

    def complaint(self, what: str) -> str:
        """Why nothing can be stored now."""
        reason = f" ({self._last_error})" if self._last_error else ""
        return f"Kafka topic {self.topic.name}: {what}{reason}"

    def close(self) -> None:
        """Gives up what is on its way: nobody was told that it is stored."""
        self.closing.set()
        self._give_up()

    def _poll(self, seconds: float) -> None:
        try:
            self._producer.poll(seconds)
        except KafkaException as error:  # a fatal one; each message that it concerns gets its report
            self._errored(error.args[0])

    def _give_up(self) -> None:
        self._producer.purge()
        with suppress(KafkaException):  # what it died of, once more
            self._producer.flush(1.0)

    def _delivered(self, report: Report, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self._last_error = ""
            self.partitions = max(self.partitions, message.partition() + 1)
        report(error)

    def _errored(self, error: KafkaError) -> None:
        self._last_error = error.str()
