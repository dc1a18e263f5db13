"""Deletes the oldest sealed segments, by age and by size; never an open one, and never the marks.

The newest segment with a sound footer stays, with all after it: a start needs its marks. Age is counted by the names,
back from the newest sealed segment, so an archive that nothing is added to keeps what it has; a segment goes when all
that follows it is old enough as well. By a clock that jumped nothing is deleted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from logbale.archive import layout
from logbale.archive.format import Footer
from logbale.archive.layout import SegmentPath
from logbale.archive.statistics import Statistics
from logbale.archive.walk import SegmentReader
from logbale.durable import sync_directory
from logbale.errors import StorageError

MAX_STEP_SECONDS = 86_400.0
"""What a clock may go on at once; more is a jump."""
RETRY_SECONDS = 60.0
"""After a failure, the time until the next attempt."""

logger = logging.getLogger(__name__)


class Retention:
    """Keeps an archive within `seconds` of age and `max_bytes` on disk, sealed and open together; 0 is no limit."""

    def __init__(
        self, directory: Path, statistics: Statistics, *, seconds: float, max_bytes: int, now: Callable[[], float]
    ) -> None:
        """`statistics` are the writer's: read for what there is, and kept right when something goes."""
        self._directory = directory
        self._statistics = statistics
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._now = now
        self._clock_at: float | None = None
        self._jumped = 0.0
        """Seconds by which the clock has jumped since the start, together."""
        self._is_suspended = False
        self._sealed_then = -1
        """Segments that had been sealed at the last look: until another one is, nothing can have become too much."""
        self._failed_at: float | None = None

    def limit(self, *, seconds: float, max_bytes: int) -> None:
        """Other limits from the next look on."""
        if (seconds, max_bytes) != (self._seconds, self._max_bytes):
            self._seconds, self._max_bytes = seconds, max_bytes
            self._sealed_then = -1

    def tick(self) -> None:
        """Deletes what is too much. What cannot be deleted now is said, and tried again."""
        if not self._seconds and not self._max_bytes:
            return
        now = self._now()
        jumped_back = self._follow_clock(now)
        if self._failed_at is not None:
            if abs(now - self._failed_at) < RETRY_SECONDS:
                return
        elif self._statistics.sealed == self._sealed_then and not jumped_back:
            return
        self._failed_at = None
        try:
            self._apply(now)
        except (OSError, StorageError) as error:
            self._failed_at = now
            logger.warning("retention cannot delete now: %s; the next attempt is in %.0f s", error, RETRY_SECONDS)
        else:
            self._sealed_then = self._statistics.sealed

    def _follow_clock(self, now: float) -> bool:
        """Adds up the clock's jumps; whether it has just come back from one."""
        step = now - self._clock_at if self._clock_at is not None else 0.0
        self._clock_at = now
        if abs(step) <= MAX_STEP_SECONDS:
            return False
        was_wrong = self._has_jumped
        self._jumped += step
        return was_wrong and not self._has_jumped

    @property
    def _has_jumped(self) -> bool:
        return abs(self._jumped) > MAX_STEP_SECONDS

    def _apply(self, now: float) -> None:
        sealed = [segment for segment in layout.segments(self._directory) if not segment.is_open]
        deletable = sealed[: _newest_sound(sealed)]
        old = 0
        if self._seconds and not self._suspend(sealed, now):
            newest = sealed[-1].created if sealed else 0.0
            while old < len(deletable) and newest - sealed[old + 1].created > self._seconds:
                old += 1
        for number, segment in enumerate(deletable):
            if number < old:
                self._delete(segment, f"older than {self._seconds:g} s (ARCHIVE_RETENTION_SECONDS)")
            elif self._max_bytes and self._statistics.disk_bytes > self._max_bytes:
                self._delete(segment, f"over {self._max_bytes} bytes (ARCHIVE_RETENTION_BYTES)")
            else:
                break

    def _suspend(self, sealed: list[SegmentPath], now: float) -> bool:
        """Whether no age can be trusted, said once."""
        reason = self._distrust(sealed, now)
        if reason and not self._is_suspended:
            logger.error("retention by age is suspended: %s; by size it goes on", reason)
        elif self._is_suspended and not reason:
            logger.warning("retention by age goes on: the clock makes sense again")
        self._is_suspended = bool(reason)
        return self._is_suspended

    def _distrust(self, sealed: list[SegmentPath], now: float) -> str:
        if self._has_jumped:
            return f"the clock jumped by {self._jumped / 86_400:+.1f} days; if it is right now, restart this process"
        for before, after in pairwise(sealed):
            if before.created - after.created > MAX_STEP_SECONDS:
                return f"by its name, {after.path.name} is older than the one before it; delete by hand up to that"
        if sealed and sealed[-1].created - now > MAX_STEP_SECONDS:
            return f"by its name, {sealed[-1].path.name} is from the future; set the clock, or delete by hand"
        return ""

    def _delete(self, segment: SegmentPath, why: str) -> None:
        size = segment.path.stat().st_size
        what = _described(segment)
        segment.path.unlink()
        # Each before the next one: after a power cut the oldest that is left has all the later ones behind it.
        sync_directory(segment.path.parent)
        self._statistics.segments -= 1
        self._statistics.disk_bytes -= size
        logger.info("%s: deleted (%d bytes, %s): %s", segment.path, size, what, why)
        with suppress(OSError):  # it still holds something
            os.rmdir(segment.path.parent)
            sync_directory(self._directory)


def _newest_sound(sealed: list[SegmentPath]) -> int:
    """The index of the newest segment whose footer, and so the marks in it, can be read; 0 where there is none."""
    for index in range(len(sealed) - 1, 0, -1):
        if _footer(sealed[index]) is not None:
            return index
    return 0


def _footer(segment: SegmentPath) -> Footer | None:
    with SegmentReader(segment.path) as reader:
        return reader.footer()


def _described(segment: SegmentPath) -> str:
    footer = _footer(segment)
    if footer is None:
        return "its footer cannot be read"
    times = f"{footer.first} to {footer.last}" if footer.first else "times unknown"
    return f"{footer.count} entries, {times}"
