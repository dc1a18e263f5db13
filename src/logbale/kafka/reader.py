"""TopicReader: a consumer whose group says which partitions are ours, and which is told where to read each of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from operator import methodcaller
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from logbale.errors import UnavailableError
from logbale.kafka.address import KafkaTopic
from logbale.kafka.library import LibraryLog
from logbale.kafka.saying import Saying
from logbale.kafka.topic import refused_settings

log = logging.getLogger("logbale.archiver")

QUEUED_KIBIBYTES = 32 * 1024
"""Of messages that librdkafka fetches ahead, of all partitions together."""

Numbers = Callable[[list[int]], None]


class TopicReader:
    """One member of the group. For one thread; the callbacks come from within poll() and close()."""

    def __init__(self, topic: KafkaTopic, settings: Mapping[str, Any], *, group: str) -> None:
        """`settings` are librdkafka's. Raises ConfigError where it does not take them."""
        self.errors = 0
        """That librdkafka told."""
        self._topic = topic.name
        self._saying = Saying(log)
        own = {
            "bootstrap.servers": topic.brokers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            # Partitions change hands one by one: eager assignment would cut every segment at each change.
            "partition.assignment.strategy": "cooperative-sticky",
            "check.crcs": True,
            "allow.auto.create.topics": False,
            "error_cb": self.errored,
        }
        usual = {"client.id": "logbale", "queued.max.messages.kbytes": QUEUED_KIBIBYTES}
        try:
            self._consumer = Consumer(usual | dict(settings) | own, logger=LibraryLog())
        except KafkaException as error:
            raise refused_settings(error) from None

    def join(self, *, assigned: Numbers, revoked: Numbers, lost: Numbers) -> None:
        """Becomes a member. The callbacks get partitions: that are ours from now on and not read before read_from();

        that are ours until it returns; that have been another's for a while.
        """

        def on_assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            for each in partitions:
                each.offset = OFFSET_END
            consumer.incremental_assign(partitions)
            consumer.pause(partitions)
            if partitions:
                log.info("partitions %s are ours", _said(partitions))
                assigned([each.partition for each in partitions])

        def on_revoke(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            if partitions:
                log.info("partitions %s are given back to the group", _said(partitions))
                revoked([each.partition for each in partitions])

        def on_lost(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            log.warning(
                "partitions %s were given to others: this archiver was not heard of for long", _said(partitions)
            )
            lost([each.partition for each in partitions])

        self._consumer.subscribe([self._topic], on_assign=on_assign, on_revoke=on_revoke, on_lost=on_lost)

    def poll(self, seconds: float) -> Message | None:
        """The next message, or error; None where there is none in that time."""
        return self._consumer.poll(seconds)

    def read_from(self, number: int, offset: int, *, anew: bool = False) -> bool:
        """Messages of the partition come from this offset on; False where the consumer is not that far yet.

        `anew` is for a partition that an error has ended: librdkafka does not seek there any more.
        """
        place = TopicPartition(self._topic, number, offset)
        try:
            if anew:
                self._consumer.incremental_unassign([place])
                self._consumer.incremental_assign([place])
            else:
                self._consumer.seek(place)
            self._consumer.resume([place])
        except KafkaException as error:
            log.debug("partition %d cannot be read from offset %d on yet: %s", number, offset, error.args[0].str())
            return False
        log.debug("partition %d is read from offset %d on", number, offset)
        return True

    def pause(self, number: int) -> None:
        """No messages of the partition come until read_from()."""
        with suppress(KafkaException):
            self._consumer.pause([TopicPartition(self._topic, number)])

    def commit(self, offsets: Mapping[int, int], *, wait: bool = False) -> None:
        """Tells the group, for those who watch the lag; where that fails, the next one tells more."""
        places = [TopicPartition(self._topic, number, offset) for number, offset in offsets.items()]
        with suppress(KafkaException):
            if places and wait:
                self._consumer.commit(offsets=places, asynchronous=False)
            elif places:
                self._consumer.commit(offsets=places, asynchronous=True)

    def high(self, number: int) -> int | None:
        """The offset that the partition's next message will have, as far as is known without asking."""
        try:
            marks = self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), cached=True)
        except KafkaException:
            return None
        return marks[1] if marks is not None and marks[1] >= 0 else None

    def errored(self, error: KafkaError) -> None:
        """Says it once a while. Raises UnavailableError where this member can never go on."""
        self.errors += 1
        if error.fatal():
            raise UnavailableError(f"Kafka: {error.str()}")
        self._saying.warning(f"Kafka: {error.str()}")

    def close(self) -> None:
        """Leaves the group, when it has heard of the last commit. From any thread, once nobody polls any more."""
        with suppress(UnavailableError):  # it ends as it is
            self._consumer.close()


def _said(partitions: Iterable[TopicPartition]) -> str:
    return ", ".join(map(str, sorted(each.partition for each in partitions)))


# Not message.headers(): where the interpreter has specialized that call it does not look for an error, which then is
# raised anywhere, and what was returned has a hole.
_ask_headers = methodcaller("headers")


def headers_of(message: Message) -> Any:
    """A message's headers; none where the name of one is not UTF-8, which confluent-kafka answers with SystemError."""
    try:
        return _ask_headers(message)
    except (SystemError, UnicodeDecodeError):
        return None
