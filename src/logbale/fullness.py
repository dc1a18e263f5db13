"""What is said of a spool that is full: at once, and while that goes on or comes again ever more rarely. No clock."""

from __future__ import annotations

import logging

from logbale import terminal
from logbale.floods import Silence

log = logging.getLogger("logbale.spool")


class Fullness:
    """Of one spool; `now` in seconds."""

    def __init__(self) -> None:
        self._waiting, self._is_wait_said = Silence(), False
        self._dropping, self._dropped_unsaid = Silence(), 0

    def waits(self, policy: str, max_bytes: int, now: float) -> None:
        """What comes has to wait."""
        if not self._is_wait_said and self._waiting.is_over(now):
            self._is_wait_said = True
            log.warning(
                "the spool is full (SPOOL_MAX_BYTES is %s), and SPOOL_POLICY=%s: reading waits until the receiver has "
                "taken some of it. More room is --spool-max-bytes; other policies drop entries instead",
                f"{max_bytes:,}",
                policy,
            )

    def has_ended(self) -> None:
        """Something was stored."""
        if self._is_wait_said:
            log.info("the spool has room again: reading goes on")
            self._is_wait_said = False

    def drops(self, entries: int, max_bytes: int, now: float) -> None:
        """So many that came are dropped."""
        self._dropped_unsaid += entries
        if self._dropping.is_over(now):
            log.error(
                "the spool is full (SPOOL_MAX_BYTES is %s): %s dropped, and so is what comes until the receiver has "
                "taken some of it (SPOOL_POLICY=drop_newest)",
                f"{max_bytes:,}",
                terminal.count(self._dropped_unsaid, "entry is", "entries are"),
            )
            self._dropped_unsaid = 0
