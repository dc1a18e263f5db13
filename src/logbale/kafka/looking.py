"""Where a partition is read on: what the store says of its chain, and Kafka of its messages. For threads: it blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # it is there

from logbale.errors import StorageError
from logbale.kafka.address import KafkaTopic
from logbale.kafka.chain import Place
from logbale.kafka.partition import look_up
from logbale.kafka.topic import admin_client
from logbale.segment_store import SegmentStore

OFFSET_TIMEOUT = 10.0
"""Seconds in which a broker has to say where a partition begins and ends."""

EARLIEST: Any = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # theirs
LATEST: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class LookUp(msgspec.Struct, frozen=True):
    """What the store and Kafka say of a partition."""

    place: Place | None
    """None where the store has no segment of it."""
    low: int
    """Kafka's earliest offset."""
    high: int
    """The offset that its next message will have."""

    @property
    def start(self) -> int:
        """Where the chain goes on."""
        return self.place.next if self.place is not None else 0


class Looking:
    """Asks both."""

    def __init__(self, topic: KafkaTopic, store: SegmentStore, settings: Mapping[str, Any]) -> None:
        """`settings` are librdkafka's. Raises ConfigError where it does not take them."""
        self._topic = topic
        self._store = store
        self._settings = settings
        # Not the consumer: its get_watermark_offsets() waits for ever once the group gave it up (librdkafka 2.16).
        self._admin = admin_client(topic, settings)

    def look(self, number: int) -> LookUp:
        """What is known of a partition now. Raises StorageError where the store or Kafka does not tell."""
        place = look_up(self._store, self._topic.name, number)
        return LookUp(place, self._offset(number, EARLIEST), self._offset(number, LATEST))

    def _offset(self, number: int, spec: Any) -> int:
        admin = self._admin
        try:
            return self._ask(admin, number, spec)
        except StorageError:
            # It goes on with the leaders' epochs that it has seen first, and refuses itself for ever once they have
            # changed (librdkafka 2.16): another one asks anew.
            if self._admin is admin:
                self._admin = admin_client(self._topic, self._settings)
        return self._ask(self._admin, number, spec)

    def _ask(self, admin: AdminClient, number: int, spec: Any) -> int:
        partition = TopicPartition(self._topic.name, number)
        try:
            asked = admin.list_offsets({partition: spec}, request_timeout=OFFSET_TIMEOUT)
            offset = int(asked[partition].result(2 * OFFSET_TIMEOUT).offset)
        except KafkaException as error:
            raise StorageError(f"Kafka does not say where it begins and ends: {error.args[0].str()}") from error
        except TimeoutError:
            raise StorageError("Kafka does not say where it begins and ends: no answer") from None
        if offset < 0:  # as while a partition's leader is away: an answer, without an error, that is none
            raise StorageError("Kafka does not say where it begins and ends: it has no leader now")
        return offset
