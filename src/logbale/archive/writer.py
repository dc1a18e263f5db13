"""Appends batches to an archive: they are durable when commit() returns, or none of them is.

It commits on the caller's thread, always the same one; only sealing runs beside it. It refuses to be the second writer
of a directory, to acknowledge anything after a failed sync, and to go on behind bytes that it could not take back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from logbale.archive import blocks, layout, recovery
from logbale.archive.format import BlockEncoder
from logbale.archive.retention import Retention
from logbale.archive.sealer import Closed, Sealer
from logbale.archive.segment import OpenSegment
from logbale.archive.statistics import Statistics
from logbale.durable import DirectoryLock, make_directory, storage_error
from logbale.errors import StorageError
from logbale.sinks import Item, Outcome, Stored
from logbale.sinks.marks import Marks

logger = logging.getLogger(__name__)


class ArchiveWriter:
    """The only writer of an archive directory. Call open() first, tick() every second or so, close() at the end."""

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int,
        segment_seconds: float,
        marks_days: float = 30,
        max_streams: int = 100_000,
        retention_seconds: float = 0,
        retention_bytes: int = 0,
        level: int = 1,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Segments are sealed at `segment_bytes` on disk or `segment_seconds` of age; `level` is zstd's.

        Streams are forgotten after `marks_days` of silence; retention.py has the meaning of the two limits, 0 for none.
        """
        self.directory = directory
        self.marks = Marks()
        """How far each stream is durable, as the archive itself tells."""
        self.statistics = Statistics()
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._marks_days = marks_days
        self._max_streams = max_streams
        self._level = level
        self._now = now
        self._retention = Retention(
            directory, self.statistics, seconds=retention_seconds, max_bytes=retention_bytes, now=now
        )
        self._encoder = BlockEncoder(level)
        self._lock: DirectoryLock | None = None
        self._sealer: Sealer | None = None
        self._next_serial = 1
        self._open: OpenSegment | None = None
        self._spoilt: OpenSegment | None = None
        """A segment with bytes behind its synced part that could not be taken back yet."""
        self._spoilt_why: OSError | None = None

    def limit(
        self,
        *,
        segment_bytes: int,
        segment_seconds: float,
        marks_days: float,
        max_streams: int,
        retention_seconds: float,
        retention_bytes: int,
    ) -> None:
        """Other limits from now on."""
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._marks_days = marks_days
        self._max_streams = max_streams
        self._retention.limit(seconds=retention_seconds, max_bytes=retention_bytes)

    def open(self) -> None:
        """Takes the directory, making it where it is missing, and recovers what a crash left.

        Raises LockedError where another process has it, and StorageError.
        """
        try:
            make_directory(self.directory)
            self._lock = DirectoryLock(self.directory)
            self._adopt(recovery.recover(self.directory))
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise storage_error(Path(error.filename or self.directory), "open the archive", error) from error
            raise

    def can_admit(self, stream: str) -> bool:
        """Whether the stream is known here, or there is room for a new one."""
        return self.marks.has_room_for(stream, self._max_streams)

    def commit(self, items: list[Item]) -> list[Outcome]:
        """Stores the items, in order: all are durable on return.

        Raises StorageError where they cannot be stored now: then none of them is, and a later commit can succeed.
        """
        self._check_lock()
        self._settle()
        if not items:
            return []
        segment = self._segment()
        written_blocks = 0
        try:
            for group in blocks.group(items, self.marks):
                segment.append(blocks.encode(self._encoder, group))
                written_blocks += 1
        except BaseException as error:
            self._take_back(segment, reusable=True)
            if isinstance(error, OSError):
                raise storage_error(segment.place.path, "write", error) from error
            raise
        written = segment.size - segment.synced
        try:
            segment.sync()
        except OSError as error:
            # The system may have dropped the pages and call the next sync a success: this one is never retried.
            self._take_back(segment, reusable=False)
            raise storage_error(segment.place.path, "sync", error) from error
        self.statistics.blocks += written_blocks
        self.statistics.disk_bytes += written
        for item in items:
            self.marks.add(item)
        if segment.size >= self._segment_bytes:
            self._retire(segment)
        return [Stored()] * len(items)

    def tick(self) -> None:
        """Seals by age, deletes by age and size, and goes on with what could not be done before.

        What still cannot be done, the next commit tells.
        """
        with suppress(StorageError):
            self._check_lock()
            self._settle()
            if (segment := self._open) is not None:
                # A clock that went back starts the age anew; one that jumped ahead costs one early rotation.
                segment.created = min(segment.created, self._now())
                if self._now() - segment.created >= self._segment_seconds:
                    self._retire(segment)
            if self._sealer is not None:
                self._sealer.advance()
            self._retention.tick()

    def close(self) -> None:
        """Seals what is open, so that an archive at rest is sealed files only, and gives the directory up.

        A segment that cannot be sealed now stays open, whole and readable, and is sealed after the next open().
        """
        if self._open is not None:
            self._retire(self._open)
        self._release()

    def _adopt(self, found: recovery.Recovered) -> None:
        """Goes on from what recovery found: the newest open segment is appended to, the others are sealed."""
        self.marks = found.marks
        statistics = self.statistics
        statistics.segments = found.segments
        statistics.disk_bytes = found.disk_bytes
        statistics.recovered_torn_bytes = found.torn_bytes
        statistics.damaged_blocks = found.damaged
        self._next_serial = found.next_serial
        self._sealer = Sealer(self.statistics, level=self._level, now=self._now)
        for part in found.parts:
            # Behind damage nothing is appended: plain tools read no further than that, until it is sealed.
            if part is found.parts[-1] and not part.damaged:
                self._open = OpenSegment.reopen(part.place, part.size)
            else:
                self._sealer.add(Closed(part.place, part.size, part.marks, part.damaged))

    def _release(self) -> None:
        for segment in (self._open, self._spoilt):
            if segment is not None:
                segment.close()
        self._open = self._spoilt = None
        if self._sealer is not None:
            self._sealer.close()
            self._sealer = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _check_lock(self) -> None:
        if self._lock is None:
            raise StorageError(f"{self.directory}: the archive is not open")
        if self._lock.is_lost:
            raise StorageError(
                f"{self._lock.path}: deleted while in use, so another process could write here too; restart this one"
            )

    def _segment(self) -> OpenSegment:
        """The open segment, or a new one. Raises StorageError."""
        if self._open is not None and self._open.is_lost:
            logger.error("%s: somebody deleted this segment while it was open", self._open.place.path)
            self.statistics.disk_bytes -= self._open.synced
            self.statistics.segments -= 1
            self._open.close()
            self._open = None
        if self._open is None:
            now = self._now()
            place = layout.new_segment(self.directory, self._next_serial, now)
            try:
                self._open = OpenSegment.create(place, now)
            except OSError as error:
                raise storage_error(place.path, "create", error) from error
            self.marks.begin(place.created)
            self._next_serial += 1
            self.statistics.segments += 1
        return self._open

    def _retire(self, segment: OpenSegment) -> None:
        """Ends the open segment; the next commit begins another."""
        self._open = None
        segment.close()
        if expired := self.marks.expire(self._marks_days):
            logger.info("%d streams are forgotten: silent for %g days (MARKS_DAYS)", expired, self._marks_days)
        if self._sealer is not None:
            self._sealer.add(Closed(segment.place, segment.size, dict(self.marks.known)))

    def _take_back(self, segment: OpenSegment, *, reusable: bool) -> None:
        """Undoes what is written and not synced; the segment goes on only where that is `reusable`.

        Where even this fails, nothing more is written before _settle() has done it.
        """
        self._open, self._spoilt = None, segment
        try:
            if segment.synced:
                try:
                    segment.cut()
                except OSError:
                    segment.replace()
                    reusable = False
            else:
                segment.remove()
                self._next_serial = segment.place.serial
                self.statistics.segments -= 1
            self._spoilt = None
        except OSError as error:
            self._spoilt_why = error
        if self._spoilt is None and segment.synced:
            if reusable:
                self._open = segment
            else:
                self._retire(segment)

    def _settle(self) -> None:
        """Finishes what _take_back() could not. Raises StorageError while it still cannot be done."""
        if (segment := self._spoilt) is None:
            return
        self._take_back(segment, reusable=False)
        if self._spoilt is not None and self._spoilt_why is not None:
            raise storage_error(segment.place.path, "take back an unfinished write", self._spoilt_why)
