"""Where a topic is: `kafka://BROKER[:PORT],BROKER/TOPIC`, as people write it."""

from __future__ import annotations

import re

import msgspec

SCHEME = "kafka://"
EXPECTED = "kafka://BROKER[:PORT],BROKER…/TOPIC"

_BROKER = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


class KafkaTopic(msgspec.Struct, frozen=True):
    """A topic and the brokers that are asked for it first."""

    brokers: str
    """With commas, as librdkafka's `bootstrap.servers`."""
    name: str


def kafka_topic(text: str) -> KafkaTopic:
    """What an address names. Raises ValueError, saying what was expected."""
    brokers, _, name = text.removeprefix(SCHEME).partition("/")
    if "@" in brokers:
        raise ValueError(f"{EXPECTED}, without a name or password: those stand in KAFKA_CONFIG_FILE")
    known = [broker.strip() for broker in brokers.split(",")]
    if not text.startswith(SCHEME) or not all(map(_BROKER.fullmatch, known)):
        raise ValueError(EXPECTED)
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        raise ValueError(f"{EXPECTED}; a topic's name has letters, digits, '.', '_' and '-', at most 249")
    return KafkaTopic(",".join(known), name)
