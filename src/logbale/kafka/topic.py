"""A look at a topic before it is used: whether it is there, what it takes, and whether it keeps what it is given."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # it is there

from logbale.errors import ConfigError, UnavailableError
from logbale.kafka.address import KafkaTopic
from logbale.kafka.library import LibraryLog
from logbale.kafka.message import SMALLEST_LIMIT

log = logging.getLogger("logbale.kafka")

START_TIMEOUT = 30.0
"""Seconds in which a broker has to answer at the start."""

DESCRIBE_TIMEOUT = 5.0
"""Seconds that the question for a topic's settings may take."""

DEFAULT_LIMIT = 1_048_588
"""Kafka's own max.message.bytes, where a topic's cannot be read."""

LARGEST_LIMIT = 128 * 1024 * 1024
"""More is not used where a topic takes more: librdkafka does not, and a batch has 32 MiB as a rule."""

SAFE_REPLICAS = 3
SAFE_IN_SYNC = 2


class TopicFacts(msgspec.Struct, frozen=True):
    """What is known of a topic."""

    partitions: int
    replicas: int
    """Of the partition that has the fewest."""
    settings: dict[str, str]
    """By Kafka's names; empty where they cannot be read."""

    @property
    def limit(self) -> int:
        """Bytes of one message."""
        return min(LARGEST_LIMIT, int(self.settings.get("max.message.bytes", DEFAULT_LIMIT)))

    @property
    def dangers(self) -> list[str]:
        """What can lose batches that were acknowledged, as sentences for people."""
        dangers = []
        if self.replicas < SAFE_REPLICAS:
            dangers.append(f"its partitions have {self.replicas} replicas: expected {SAFE_REPLICAS}")
        in_sync = int(self.settings.get("min.insync.replicas", SAFE_IN_SYNC))
        if in_sync < SAFE_IN_SYNC:
            dangers.append(f"min.insync.replicas={in_sync}: one broker's loss can lose what it acknowledged alone")
        if self.settings.get("unclean.leader.election.enable") == "true":
            dangers.append("unclean.leader.election.enable=true: a broker that lags behind may throw batches away")
        return dangers


def look_at(topic: KafkaTopic, settings: Mapping[str, Any]) -> TopicFacts:
    """The topic as the brokers have it; it is never created. Blocks, START_TIMEOUT or a little more at most.

    Raises ConfigError where it is missing or cannot keep batches, UnavailableError where no broker answers.
    """
    log.info("asking %s for topic %s, for up to %g s", topic.brokers, topic.name, START_TIMEOUT)
    errors: list[str] = []
    admin = admin_client(topic, {**settings, "error_cb": lambda error: errors.append(error.str())})
    partitions = _partitions(admin, topic, START_TIMEOUT, errors)
    facts = TopicFacts(
        len(partitions), min(len(partition.replicas) for partition in partitions), topic_settings(admin, topic.name)
    )
    if "compact" in facts.settings.get("cleanup.policy", ""):
        policy = facts.settings["cleanup.policy"]
        raise ConfigError(
            f"topic {topic.name} has cleanup.policy={policy}: expected delete, or Kafka would keep only the last batch "
            "of each stream"
        )
    if facts.limit < SMALLEST_LIMIT:
        raise ConfigError(f"topic {topic.name} has max.message.bytes={facts.limit}: expected {SMALLEST_LIMIT} or more")
    return facts


def admin_client(topic: KafkaTopic, settings: Mapping[str, Any]) -> AdminClient:
    """Raises ConfigError where librdkafka does not take the settings."""
    try:
        return AdminClient({**settings, "bootstrap.servers": topic.brokers}, logger=LibraryLog())
    except KafkaException as error:
        raise refused_settings(error) from None


def refused_settings(error: KafkaException) -> ConfigError:
    """librdkafka's word on a setting that it does not take, as ours."""
    return ConfigError(f"KAFKA_CONFIG_FILE: librdkafka says: {error.args[0].str()}")


def _partitions(admin: AdminClient, topic: KafkaTopic, timeout: float, errors: list[str]) -> list[Any]:
    deadline = time.monotonic() + timeout
    while True:
        try:
            # All topics: to ask for one by name makes it where auto.create.topics.enable is on.
            known = admin.list_topics(timeout=max(0.1, deadline - time.monotonic())).topics.get(topic.name)
        except KafkaException as error:
            admin.poll(0)  # which tells errors
            why = errors[0] if errors else error.args[0].str()
            raise UnavailableError(
                f"no broker of {topic.brokers} answered within {timeout:g} s: {why}; look at their addresses, and at "
                "KAFKA_CONFIG_FILE where they want TLS or a password"
            ) from None
        if known is None:
            raise _missing(topic)
        if known.error is None and known.partitions:
            return list(known.partitions.values())
        if time.monotonic() > deadline:
            raise UnavailableError(f"topic {topic.name} has no leaders after {timeout:g} s: {known.error}")
        time.sleep(0.1)


def _missing(topic: KafkaTopic) -> ConfigError:
    return ConfigError(
        f"the brokers have no topic {topic.name} that we may see; check its name, or create it, with as many "
        f"partitions as it will ever need: kafka-topics.sh --bootstrap-server {topic.brokers} --create "
        f"--topic {topic.name} --partitions 12 --replication-factor 3 --config min.insync.replicas=2"
    )


def topic_settings(admin: AdminClient, name: str) -> dict[str, str]:
    """The topic's settings by Kafka's names; empty, which is said, where the brokers do not tell them."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    try:
        answer = admin.describe_configs([resource], request_timeout=DESCRIBE_TIMEOUT)[resource].result(DESCRIBE_TIMEOUT)
    except (KafkaException, TimeoutError) as error:
        log.warning(
            "topic %s: cannot read its settings (%s): takes messages up to Kafka's default of %d bytes",
            name,
            error.args[0].str() if isinstance(error, KafkaException) else "no answer",
            DEFAULT_LIMIT,
        )
        return {}
    return {setting: entry.value for setting, entry in answer.items()}
