"""What is wrong with a partition, and when it is tried again. No clock: the caller passes `now`, by a monotonic one."""

from __future__ import annotations

import random
from collections.abc import Iterator

from logbale.backoff import delays

FIRST_DELAY = 0.5
LONGEST_DELAY = 60.0
"""Seconds between two attempts at what fails."""
REFUSED_RETRY = 60.0
"""Seconds after which a partition that does not go with its chain is looked at again."""


class Trouble:
    """Of one partition."""

    def __init__(self) -> None:
        self.problem = ""
        """Why it is not archived; empty where it is."""
        self.is_refused = False
        """Only a person can solve that."""
        self.retry_at = 0.0
        self._delays = self._new_delays()

    @staticmethod
    def _new_delays() -> Iterator[float]:
        return delays(first=FIRST_DELAY, longest=LONGEST_DELAY, chance=random.random)

    def failed(self, problem: str, now: float) -> None:
        """Something is tried again later."""
        self.problem, self.is_refused = problem, False
        self.retry_at = now + next(self._delays)

    def refused(self, problem: str) -> None:
        """It stops here."""
        self.problem, self.is_refused = f"refused: {problem}", True

    def goes_on(self) -> None:
        """It is tried again, and has not failed yet."""
        self.problem, self.is_refused = "", False
        self.retry_at = 0.0

    def worked(self) -> None:
        """Should anything fail now, it is the first time. What was refused stays so."""
        if not self.is_refused:
            self.goes_on()
            self._delays = self._new_delays()
