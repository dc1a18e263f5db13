"""What librdkafka is told: the user's settings from KAFKA_CONFIG_FILE, without those that a promise rests on."""

from __future__ import annotations

from collections.abc import Mapping

from logbale.config.credentials import secret_lines
from logbale.errors import ConfigError

PRODUCER_OWN = {
    "bootstrap.servers": "the brokers stand in SINK",
    "metadata.broker.list": "the brokers stand in SINK",
    "acks": "an acknowledgement follows all in-sync replicas (acks=all), or it would promise what a broker can lose",
    "request.required.acks": "an acknowledgement follows all in-sync replicas (acks=all)",
    "enable.idempotence": "without it a retry can double or reorder batches",
    "transactional.id": "each message counts by itself",
    "partitioner": "a stream has to stay in the partition in which it began, whoever produces it",
    "compression.type": "batches are compressed already; compressing them again costs CPU and saves nothing",
    "compression.codec": "batches are compressed already; compressing them again costs CPU and saves nothing",
    "message.max.bytes": "it follows the topic's max.message.bytes",
    "batch.size": "it follows the topic's max.message.bytes",
    "enable.gapless.guarantee": "a batch that failed is sent again, with all that came after it",
    "delivery.report.only.error": "every batch's report is waited for",
    "message.timeout.ms": "five minutes: an archiver gives up the parts of a batch whose rest takes an hour",
    "delivery.timeout.ms": "five minutes: an archiver gives up the parts of a batch whose rest takes an hour",
}
"""librdkafka's names that a producer of ours sets itself, and why nobody else may."""


def client_settings(file: str, own: Mapping[str, str]) -> dict[str, str]:
    """The settings in KAFKA_CONFIG_FILE (`name=value` lines); none where it is empty. `own` are those that are refused.

    Raises ConfigError, which shows names and no values: passwords are among them.
    """
    if not file:
        return {}
    settings: dict[str, str] = {}
    problems = []
    for number, line in secret_lines(file, "KAFKA_CONFIG_FILE"):
        name, equals, value = (part.strip() for part in line.partition("="))
        where = f"KAFKA_CONFIG_FILE={file!r}, line {number}"
        if not equals or not name:
            problems.append(f"{where}: expected name=value, with librdkafka's names")
        elif name in own:
            problems.append(f"{where}: leave {name} out: {own[name]}")
        elif name in settings:
            problems.append(f"{where}: {name} is given twice")
        settings[name] = value
    if problems:
        raise ConfigError("\n".join(problems))
    return settings
