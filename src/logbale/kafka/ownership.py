"""What an archiver has to do for one partition while the group says that it is its own; see archiver.py."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future

from logbale.backoff import delays
from logbale.kafka.looking import LookUp
from logbale.kafka.partition import PartitionArchive
from logbale.kafka.segment import Finished

FIRST_DELAY = 0.5
LONGEST_DELAY = 60.0
"""Seconds between two attempts at a store that fails."""


class Ownership:
    """One partition: being looked up, or read, or being put, or neither because of something that was said."""

    def __init__(self) -> None:
        self.archive: PartitionArchive | None = None
        """Once it was looked up."""
        self.looking: Future[LookUp] | None = None
        self.finished: Finished | None = None
        """A segment that is to be put."""
        self.putting: Future[bool] | None = None
        self.retry_at = 0.0
        """When, by the monotonic clock, what failed is tried again."""
        self.is_reading = False
        """Whether Kafka was told from where on to deliver."""
        self.has_ended = False
        """Whether an error has ended the reading, so that a seek is not enough."""
        self.doubted: int | None = None
        """An offset that came where a lower one was expected; it is believed when it comes again."""
        self.problem = ""
        """Why it is not read; empty where it is."""
        self.ends_with_put = False
        """Whether it is looked up anew after the segment that is to be put."""
        self._delays = self._new_delays()

    @property
    def stored_to(self) -> int | None:
        """The offset that the chain in the store has come to, where that is known."""
        if self.finished is not None:
            return self.finished.chain.start
        return self.archive.start if self.archive is not None else None

    @property
    def waiting_entries(self) -> int:
        """Entries that are in no segment of the store."""
        waiting = self.archive.waiting_entries if self.archive is not None else 0
        return waiting + (self.finished.footer.count if self.finished is not None else 0)

    @staticmethod
    def _new_delays() -> Iterator[float]:
        return delays(first=FIRST_DELAY, longest=LONGEST_DELAY, chance=random.random)

    def failed(self, problem: str, now: float) -> None:
        """Something is tried again later."""
        self.problem = problem
        self.retry_at = now + next(self._delays)

    def goes_on(self) -> None:
        """It is tried again, and has not failed yet."""
        self.problem = ""
        self.retry_at = 0.0

    def worked(self) -> None:
        """A segment is where it belongs: should anything fail now, it is the first time."""
        self.goes_on()
        self._delays = self._new_delays()

    def close(self) -> None:
        """Forgets what is in no segment. Kafka holds it."""
        if self.archive is not None:
            self.archive.discard()
            self.archive = None
        if self.finished is not None:
            # A put that runs has the file in its hands; its end is seen by nobody, and what it stored is right.
            if self.putting is None or self.putting.cancel() or self.putting.done():
                self.finished.body.close()
            self.finished = None
        self.putting = self.looking = None
        self.is_reading = False
        self.doubted = None
        self.ends_with_put = False
