"""DiskSpool: batches in order, durable before they are sent, kept until they are settled at the receiver.

It is used from one thread and waits for the disk; who needs more puts it on a thread of its own. It refuses to share
its directory, to use a sequence twice for different batches, and to believe a file whose sync failed.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from logbale.durable import DirectoryLock, make_directory, storage_error, sync_directory
from logbale.errors import StorageError
from logbale.session import batch_crc
from logbale.spool import dead_letters, format, identity
from logbale.spool.catalogue import Catalogue
from logbale.spool.format import MiB, NotARecord, Skip
from logbale.spool.journal import SETTING, Journal
from logbale.spool.recovery import recover, set_aside
from logbale.spool.segment import Segment
from logbale.spool.state import DROPPED, REJECTED, UNNUMBERED, State

SEGMENT_BYTES = 8 * MiB
DROPPED_OLDEST = "drop_oldest"
"""The reason of a skip that made room."""

logger = logging.getLogger(__name__)


class DamagedError(StorageError):
    """A batch is lost: `skip` tells the receiver so, and is among DiskSpool.skips until that is acknowledged."""

    def __init__(self, message: str, skip: Skip) -> None:
        super().__init__(message)
        self.skip = skip


class Record(msgspec.Struct, frozen=True):
    """A batch that is durable in the spool."""

    sequence: int
    count: int
    raw_bytes: int
    crc: int
    """session.batch_crc of sequence and raw batch."""
    stored_bytes: int


class DiskSpool:
    """The only user of a spool directory. Call open() first and close() at the end; sequences start at 1."""

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`max_bytes` bounds the segments on disk; a sixteenth of it, at most 1 MiB, is the reserve for notes."""
        self.directory = directory
        self.max_bytes = max_bytes
        self.torn_bytes = 0
        """Bytes of unfinished writes that open() cut."""
        self.damaged = 0
        """Places on disk that were not what they should be."""
        self._reserve = min(MiB, max_bytes // 16)
        # Room comes back a segment at a time.
        self._segment_bytes = min(segment_bytes, max(4 * format.KiB, max_bytes // 8))
        self._now = now
        self._adopt(State.new(""), [], 1)
        self._lock: DirectoryLock | None = None

    # What there is.

    @property
    def stream(self) -> str:
        """The identity of these sequences."""
        return self._state.stream

    @property
    def first(self) -> int:
        """The lowest sequence that is not consumed; next_sequence where all are."""
        return self._state.first - self._state.base

    @property
    def next_sequence(self) -> int:
        """What the next batch gets."""
        return self._state.next - self._state.base

    @property
    def cursors(self) -> dict[str, Any]:
        """How far each source was read when the last batch was appended."""
        return dict(self._state.cursors)

    @property
    def counts(self) -> dict[str, int]:
        """Entries since the spool began: read = acknowledged + rejected + spooled + every dropped_*."""
        counts = {"acknowledged": 0, REJECTED: 0} | self._state.counts
        unnumbered = counts.pop(UNNUMBERED, 0)
        return {"read": self._state.before + unnumbered, "spooled": self._state.spooled, **counts}

    @property
    def skips(self) -> list[Skip]:
        """Skips that the receiver has not acknowledged, in order, by sequence."""
        return [self._in_stream(skip) for skip in self._state.skips]

    @property
    def unconsumed_bytes(self) -> int:
        """Bytes on disk from the first batch that is not consumed on."""
        return self._catalogue.size - self._catalogue.offset(self._state.first)

    @property
    def disk_bytes(self) -> int:
        """Bytes of all segments."""
        return self._catalogue.size

    @property
    def free_bytes(self) -> int:
        """Bytes that batches may still take, as they are stored, which is hardly ever more than raw."""
        return max(0, self.max_bytes - self._reserve - self._catalogue.size)

    @property
    def is_full(self) -> bool:
        """Whether the quota is used up but for the reserve. append() does not refuse: the policy is the caller's."""
        return not self.free_bytes

    def known_crcs(self) -> Mapping[int, int]:
        """The CRCs of the batches that are not consumed and of the last one that is; each is looked up when asked."""
        return _Crcs(self)

    # Opening and closing.

    def open(self) -> None:
        """Takes the directory, making it where it is missing, and recovers what a crash left.

        Raises LockedError where another process has it, and StorageError. A full disk is no hindrance.
        """
        try:
            make_directory(self.directory)
            self._lock = DirectoryLock(self.directory, setting=SETTING)
            self._recover()
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                path = Path(error.filename or self.directory)
                raise storage_error(path, "open the spool", error, setting=SETTING) from error
            raise

    def _adopt(self, state: State, segments: list[Segment], next_serial: int) -> None:
        self._state = state
        self._catalogue = Catalogue(segments)
        self._journal = Journal(
            self.directory,
            state,
            self._catalogue,
            next_serial=next_serial,
            segment_bytes=self._segment_bytes,
            note_bytes=self._reserve // 3,
        )

    def _recover(self) -> None:
        named = identity.read_stream(self.directory)
        found = recover(self.directory, identity.new_stream)
        if found is None:
            self._adopt(State.new(named or identity.new_stream()), [], 1)
        else:
            self._adopt(found.state, found.segments, found.next_serial)
            self.torn_bytes += found.torn_bytes
            self.damaged += found.damaged
        if found is not None and found.history_lost:
            self._state.renumber(identity.new_stream())
            logger.error(
                "%s: no snapshot is left: new stream %s; sources may be read again and entries be doubled",
                self.directory,
                self.stream,
            )
        if self.stream != named:
            identity.write_stream(self.directory, self.stream)
        dead_letters.settle_retries(self.directory, self._state.next)
        kept = list(dead_letters.letters(self.directory))
        if kept:
            # What kill -9 left in the page cache is not durable yet, and its batch is about to be consumed.
            sync_directory(self.directory / dead_letters.DIRECTORY)
        for _, letter in kept:
            self._adopt_letter(letter)
        self._consume_rejected()
        self._journal.delete_finished()

    def _adopt_letter(self, letter: dead_letters.DeadLetter) -> None:
        """A crash may have come between a dead letter and the note of it."""
        position = letter.sequence + self._state.base
        open_batch = self._state.first <= position < self._state.next
        if letter.stream == self.stream and open_batch and position not in self._state.rejects:
            self._state.rejects[position] = letter.count
            self._state.count(REJECTED, letter.count)

    def close(self) -> None:
        """Notes what is settled, so that a restart resends nothing of it, and gives the directory up."""
        if self._lock is not None:
            try:
                if not self._state.is_settled:
                    self._journal.note()
                self._journal.delete_finished()
            except StorageError as error:
                logger.warning("%s; acknowledged batches may be sent once more, and be discarded there", error)
        self._release()

    def _release(self) -> None:
        self._journal.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # Batches in and out.

    def append(self, batches: Sequence[tuple[bytes, int, Mapping[str, Any]]]) -> list[Record]:
        """Adds batches (raw JSON, entries, cursors after it): one write, one sync; all are durable on return.

        A cursor of None is taken away; a value is kept as it is, so give a new one instead of changing it. Raises
        StorageError where they cannot be stored now: then none of them is, and a later call can succeed.
        """
        self._check_lock()
        headers = self._journal.append(batches)
        base = self._state.base
        return [
            Record(header.position - base, header.entries, header.raw_bytes, header.crc, header.size)
            for header in headers
        ]

    def item(self, sequence: int) -> Record | Skip:
        """What there is of a sequence that is not consumed: a batch, or why it will never come. Raises StorageError."""
        position = self._open_position(sequence)
        if (skip := self._state.skip_at(position)) is not None:
            return self._in_stream(skip)
        if (count := self._state.rejects.get(position)) is not None:
            return Skip(sequence, sequence, count, REJECTED)
        if (found := self._catalogue.find(position)) is None:
            return self._lost(position, "no sound record of it is left").skip
        header = found[2]
        crc = self._crc(position)
        if crc is None:
            return self._lost(position, "it cannot be read").skip
        return Record(sequence, header.entries, header.raw_bytes, crc, header.size)

    def read(self, sequence: int) -> bytes:
        """The raw batch. Raises DamagedError where it is lost, and StorageError."""
        position = self._open_position(sequence)
        if (skip := self._state.skip_at(position)) is not None:
            raise DamagedError(f"{self.directory}: batch {sequence} is skipped: {skip.reason}", self._in_stream(skip))
        try:
            return self._catalogue.read(position)
        except NotARecord as error:
            reason = str(error)
        except OSError as error:
            if error.errno != errno.EIO:
                raise storage_error(self.directory, f"read batch {sequence}", error, setting=SETTING) from error
            reason = "the disk cannot read it"
        raise self._lost(position, reason)

    def _lost(self, position: int, reason: str) -> DamagedError:
        self._keep_aside(position)
        skip = self._catalogue.missing(position, self._state)
        self._state.skip(skip)
        self.damaged += 1
        told = self._in_stream(skip)
        message = f"{self.directory}: batches {told.first} to {told.last}, {told.entries} entries, are lost: {reason}"
        logger.error("%s", message)
        return DamagedError(message, told)

    def _keep_aside(self, position: int) -> None:
        if (found := self._catalogue.spoilt(position)) is not None:
            segment, offset, header = found
            with suppress(OSError), open(segment.path, "rb") as file:
                file.seek(offset)
                set_aside(self.directory, f"{segment.path.name}-{offset}", file.read(header.size))

    def acknowledge(self, last: int) -> None:
        """Everything up to and including `last` is settled at the receiver.

        It is in memory at once and on disk with the next write; a crash before that only has batches sent once more.
        """
        state = self._state
        position = min(last + state.base, state.next - 1)
        if position < state.first:
            return
        before = self._before(position + 1)
        if (skip := state.skip_at(position)) is not None and skip.last > position:
            before = self._shorten(skip, position, before)
        state.consume(position, entries=before - state.consumed, crc=self._crc(position))
        self._consume_rejected()
        self._journal.delete_finished()
        if state.first == state.next and self.is_full:
            with suppress(StorageError):  # the next append() tells
                self._journal.rotate()
                self._journal.delete_finished()

    def _before(self, position: int) -> int:
        """Entries before a position not below `first`. Where segments are gone, the skips that stand for them tell."""
        state, dropped = self._state, 0
        while position > state.first and (skip := state.skip_at(position - 1)) is not None and skip.last < position:
            dropped += skip.entries + state.rejected(skip.first, position - 1)
            position = skip.first
        return dropped + (state.consumed if position <= state.first else self._catalogue.before(position))

    def _shorten(self, skip: Skip, position: int, before: int) -> int:
        """The receiver has batches of a skip, up to `position`: they were sent before they were lost here.

        `before` is the number of entries before the position after that; returned as far as the skip explains it.
        """
        state = self._state
        start = self._before(max(skip.first, state.first))
        # Where no record is left to tell how many they were, they stay counted as dropped: no loss must look delivered.
        is_known = any(self._catalogue.find(one) is not None for one in (position, position + 1))
        rejected = state.rejected(skip.first, position)
        part = max(0, min(skip.entries, before - start - rejected)) if is_known else 0
        state.count(DROPPED + skip.reason, -part)
        rest = Skip(position + 1, skip.last, skip.entries - part, skip.reason)
        state.skips = [rest if one is skip else one for one in state.skips]
        return start + part + rejected

    def reject(self, sequence: int, reason: str) -> None:
        """The receiver will never store this batch: it becomes a dead letter, and is consumed in its turn.

        The letter is durable on return. Raises DamagedError where there is nothing left to keep, and StorageError.
        """
        position = sequence + self._state.base
        if position < self._state.first or position in self._state.rejects:
            return
        raw = self.read(sequence)
        found = self._catalogue.find(position)
        assert found is not None
        count = found[2].entries
        try:
            dead_letters.write_letter(
                self.directory,
                raw,
                stream=self.stream,
                sequence=sequence,
                count=count,
                reason=reason,
                now=self._now(),
            )
        except OSError as error:
            raise storage_error(self.directory, "keep a dead letter", error, setting=SETTING) from error
        self._state.rejects[position] = count
        self._state.count(REJECTED, count)
        self._consume_rejected()

    def _consume_rejected(self) -> None:
        state = self._state
        # One that was dropped since is a part of its skip, and goes with it.
        while (count := state.rejects.get(state.first)) is not None and state.skip_at(state.first) is None:
            state.consume(state.first, entries=count, crc=self._crc(state.first))

    def retry(self, path: Path, letter: dead_letters.DeadLetter) -> Record:
        """Puts a dead letter back as a new batch, and removes it. Its entries count as read once more."""
        try:
            retrying = dead_letters.begin_retry(path, self._state.next)
            try:
                (record,) = self.append([(bytes(letter.batch), letter.count, {})])
            except StorageError:
                retrying.rename(path)
                raise
            retrying.unlink()
        except OSError as error:
            raise storage_error(path, "put back a dead letter", error, setting=SETTING) from error
        return record

    # Room.

    def drop_oldest(self, bytes_needed: int, sent_up_to: int) -> Skip | None:
        """Drops the oldest segments with nothing sent in them, until that many bytes are free; None where none is left.

        The skip is durable before anything is deleted. Raises StorageError; then nothing was dropped.
        """
        state = self._state
        self._check_lock()
        unsent = max(state.first, sent_up_to + state.base + 1)
        newest = self._catalogue.segments[-1] if self._catalogue.segments else None
        if newest is not None and newest.start >= unsent and newest.end > newest.start and self._only_newest(unsent):
            self._journal.rotate()
        dropped = []
        for segment in self._catalogue.segments[:-1]:
            if segment.start < unsent or segment.start == segment.end:
                continue
            dropped.append(segment)
            if sum(one.size for one in dropped) >= bytes_needed:
                break
        if not dropped:
            return None
        first, last = dropped[0].start, dropped[-1].end - 1
        entries = self._catalogue.before(last + 1) - self._catalogue.before(first) - state.rejected(first, last)
        skip = Skip(first, last, entries, DROPPED_OLDEST)
        saved = list(state.skips), dict(state.counts)
        state.count(DROPPED + skip.reason, entries - state.skipped(first, last))
        state.skips = sorted(
            [*(one for one in state.skips if not first <= one.first <= last), skip], key=lambda one: one.first
        )
        try:
            self._journal.note()
        except StorageError:
            state.skips, state.counts = saved
            raise
        self._journal.delete_finished()
        logger.error("%s: full: dropped the oldest %d entries that were not sent", self.directory, entries)
        return self._in_stream(skip)

    def _only_newest(self, unsent: int) -> bool:
        return not any(one.start >= unsent and one.end > one.start for one in self._catalogue.segments[:-1])

    def note_dropped(self, count: int, reason: str, cursors: Mapping[str, Any]) -> None:
        """Entries were dropped before they were numbered; the sources go on behind them.

        Raises StorageError where that is not durable yet: it is counted all the same, and the next write tells it.
        """
        self._check_lock()
        self._state.count(UNNUMBERED, count)
        self._state.count(DROPPED + reason, count)
        self._state.move_cursors(self._state.changed(cursors), written=False)
        self._journal.note()

    # A new identity.

    def new_stream(self) -> None:
        """Takes a new stream id, in which the lowest batch that is not consumed is 1. Raises StorageError; then nothing
        has changed.

        It happens with the name of a segment that starts with the new state: no batch is written again.
        """
        state = self._state
        self._check_lock()
        saved = state.stream, state.base, state.epoch, state.consumed_crc, state.rejects, state.skips
        # To the new stream, a rejected batch is a hole that has to be announced; it stays counted as rejected.
        rejects = {position: count for position, count in state.rejects.items() if state.skip_at(position) is None}
        holes = [Skip(position, position, count, REJECTED) for position, count in rejects.items()]
        state.renumber(identity.new_stream())
        state.skips = sorted([*state.skips, *holes], key=lambda skip: skip.first)
        state.rejects = {position: count for position, count in state.rejects.items() if position not in rejects}
        try:
            self._journal.rotate()
        except StorageError:
            state.stream, state.base, state.epoch, state.consumed_crc, state.rejects, state.skips = saved
            raise
        with suppress(OSError):  # the snapshot decides; open() mends the file
            identity.write_stream(self.directory, state.stream)
        self._journal.delete_finished()

    def _check_lock(self) -> None:
        if self._lock is None:
            raise StorageError(f"{self.directory}: the spool is not open")
        if self._lock.is_lost:
            raise StorageError(
                f"{self._lock.path}: deleted while in use, so another process could write here too; restart this one"
            )

    # Positions and sequences.

    def _in_stream(self, skip: Skip) -> Skip:
        base = self._state.base
        return Skip(skip.first - base, skip.last - base, skip.entries, skip.reason)

    def _open_position(self, sequence: int) -> int:
        if not self.first <= sequence < self.next_sequence:
            raise StorageError(
                f"{self.directory}: batch {sequence} is not in the spool: {self.first} to {self.next_sequence - 1} are"
            )
        return sequence + self._state.base

    def _crc(self, position: int) -> int | None:
        """The CRC of a batch under its present sequence; None where it cannot be told."""
        state = self._state
        if position == state.first - 1:
            return state.consumed_crc
        if state.skip_at(position) is not None or (found := self._catalogue.find(position)) is None:
            return None
        if position >= state.epoch:
            return found[2].crc
        with suppress(NotARecord, OSError):
            return batch_crc(position - state.base, self._catalogue.read(position))
        return None


class _Crcs(Mapping[int, int]):
    def __init__(self, spool: DiskSpool) -> None:
        self._spool = spool

    def __getitem__(self, sequence: int) -> int:
        if not self._spool.first - 1 <= sequence < self._spool.next_sequence:
            raise KeyError(sequence)
        if (crc := self._spool._crc(sequence + self._spool._state.base)) is None:
            raise KeyError(sequence)
        return crc

    def __iter__(self) -> Iterator[int]:
        sequences = range(self._spool.first - 1, self._spool.next_sequence)
        return (sequence for sequence in sequences if sequence in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
