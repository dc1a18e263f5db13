"""confluent-kafka, where it is installed; imported by nobody who does not use Kafka."""

from __future__ import annotations

import logging
import sys
from typing import Any

from logbale.errors import ConfigError

log = logging.getLogger("logbale.kafka")

INSTALL = f"{sys.executable} -m pip install 'logbale[kafka]'"
"""What adds the extra where this logbale is: another pip would look for logbale in another place."""


def require_kafka(user: str) -> None:
    """Raises ConfigError where the extra is missing; `user` is the setting or command that needs it."""
    try:
        import confluent_kafka  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{user} needs confluent-kafka ({error}): {INSTALL}") from None


class LibraryLog:
    """Takes librdkafka's own messages, which are about connections as they come and go.

    What matters of them is in our errors: here they are for who looks closer (--log-level debug).
    """

    def log(self, level: int, text: str, *arguments: Any) -> None:
        """One message."""
        log.debug(text, *arguments)
