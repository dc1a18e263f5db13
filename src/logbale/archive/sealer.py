"""Seals closed segments in order, one at a time, on a thread of its own, so that no commit waits for it.

All else happens on the caller's thread, and nothing here raises: a segment that cannot be sealed now is whole and
readable as it is, and is tried again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from logbale.archive.layout import SegmentPath
from logbale.archive.sealing import Sealed, seal
from logbale.archive.statistics import Statistics
from logbale.errors import StorageError
from logbale.sinks import Mark

RETRY_SECONDS = 30.0
"""After a failure, the time until the next attempt."""

logger = logging.getLogger(__name__)


class Closed(msgspec.Struct, frozen=True):
    """A segment that takes no more blocks."""

    place: SegmentPath
    size: int
    marks: dict[str, Mark]
    """Every stream's mark at its end."""
    damaged: int = 0
    """Places in it that are known to be damaged."""


class Sealer:
    """The queue of segments to seal, and the thread that seals them."""

    def __init__(self, statistics: Statistics, *, level: int, now: Callable[[], float]) -> None:
        self._statistics = statistics
        self._level = level
        self._now = now
        self._waiting: deque[Closed] = deque()
        self._running: Future[Sealed] | None = None
        self._failed_at: float | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="logbale-seal")

    def add(self, closed: Closed) -> None:
        """Seals this one too, after those before it."""
        self._waiting.append(closed)
        self.advance()

    def advance(self, *, wait: bool = False) -> None:
        """Takes the result of the sealing that runs, where it is ready (or waits for it), and starts the next one."""
        if self._running is not None and (wait or self._running.done()):
            self._finish(self._running)
            self._running = None
        if self._failed_at is not None and abs(self._now() - self._failed_at) < RETRY_SECONDS:
            return
        if self._waiting and self._running is None:
            self._failed_at = None
            closed = self._waiting[0]
            self._running = self._thread.submit(seal, closed.place, marks=closed.marks, level=self._level)

    def close(self) -> None:
        """Seals what waits, up to the first that cannot be sealed, and ends the thread."""
        self._failed_at = None
        self.advance()
        while self._running is not None:
            self.advance(wait=True)
        self._thread.shutdown()
        for left in self._waiting:
            logger.warning("%s: not sealed; the next start does it", left.place.path)

    def _finish(self, future: Future[Sealed]) -> None:
        closed = self._waiting[0]
        error = future.exception()
        if error is None:
            sealed = future.result()
            self._statistics.sealed += 1
            self._statistics.merged += sealed.merged
            self._statistics.disk_bytes += sealed.size - closed.size
            self._statistics.damaged_blocks += max(0, sealed.damaged - closed.damaged)
        elif isinstance(error, FileNotFoundError) and not closed.place.path.exists():
            logger.error("%s: somebody deleted this segment before it was sealed", closed.place.path)
            self._statistics.segments -= 1
            self._statistics.disk_bytes -= closed.size
        else:
            expected = isinstance(error, OSError | StorageError)
            logger.warning(
                "%s: cannot be sealed now: %s; nothing is lost, the next attempt is in %.0f s",
                closed.place.path,
                error,
                RETRY_SECONDS,
                exc_info=None if expected else error,
            )
            self._failed_at = self._now()
            return
        self._waiting.popleft()
