"""Which of librdkafka's settings an archiver makes itself."""

from __future__ import annotations

_CHAIN = "where to read on says the last segment in the store, and nothing else"

CONSUMER_OWN = {
    "bootstrap.servers": "the brokers stand in ARCHIVE_TOPIC",
    "metadata.broker.list": "the brokers stand in ARCHIVE_TOPIC",
    "group.id": "ARCHIVE_GROUP (--group) has it",
    "group.protocol": "partitions are handed over by the protocol that all brokers know",
    "enable.auto.commit": _CHAIN,
    "enable.auto.offset.store": _CHAIN,
    "auto.offset.reset": _CHAIN,
    "partition.assignment.strategy": "partitions change hands one by one, or every change would cut every segment",
    "check.crcs": "what was damaged on the way must not be archived",
    "allow.auto.create.topics": "topics are made by people: their partitions are for ever",
    "enable.partition.eof": "nothing is done at the end of a partition",
}
"""librdkafka's names, and why nobody else may set them."""
