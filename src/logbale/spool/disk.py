"""DiskSpool: batches in order, durable before they are sent, kept until they are settled at the receiver.

It is used from one thread and waits for the disk; who needs more puts it on a thread of its own. It refuses to share
its directory, to use a sequence twice for different batches, and to believe a file whose sync failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from logbale.durable import DirectoryLock, make_directory, storage_error
from logbale.errors import StorageError
from logbale.sent_to import Noted
from logbale.spool import dead_letters, format, identity
from logbale.spool.batches import Batches, Crcs, Record
from logbale.spool.catalogue import Catalogue
from logbale.spool.format import MiB, Skip
from logbale.spool.journal import SETTING, Journal
from logbale.spool.recovery import recover
from logbale.spool.segment import Segment
from logbale.spool.state import ACKNOWLEDGED, DROPPED, REJECTED, UNNUMBERED, State

SEGMENT_BYTES = 8 * MiB
COMPACT_BYTES = 4 * format.KiB
"""Bytes of consumed batches that compact() leaves: to give them back would cost more writing."""
MAX_REASONS = 24
"""Counts after which a reason of somebody else's skip has no count of its own."""
OTHER = "other"

logger = logging.getLogger(__name__)


class DiskSpool:
    """The only user of a spool directory. Call open() first and close() at the end; sequences start at 1."""

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        owner: str = "",
        now: Callable[[], float] = time.time,
        begin: tuple[str, int] | None = None,
    ) -> None:
        """`max_bytes` bounds the segments on disk; a sixteenth of it, at most 1 MiB, is the reserve for notes.

        `owner` is whose name new streams get, in place of this host's. A spool that is not there yet takes the stream
        and the first sequence of `begin`; without, a new stream, from 1 on.
        """
        self.directory = directory
        self.owner = owner
        self._begin = begin
        self._sent_to: Noted | None = None
        self.torn_bytes = 0
        """Bytes of unfinished writes that open() cut."""
        self._damaged = 0
        self._longest_segment_bytes = segment_bytes
        self._bound(max_bytes)
        self._now = now
        self._adopt(State.new(""), [], 1)
        self.lock: DirectoryLock | None = None
        """Held while it is open."""

    def limit(self, max_bytes: int) -> None:
        """Another bound from now on; what is over it stays until it is consumed."""
        self._bound(max_bytes)
        self._journal.limit(segment_bytes=self._segment_bytes, note_bytes=self._reserve // 3)

    def _bound(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._reserve = min(MiB, max_bytes // 16)
        # Room comes back a segment at a time.
        self._segment_bytes = min(self._longest_segment_bytes, max(4 * format.KiB, max_bytes // 8))

    # What there is.

    @property
    def damaged(self) -> int:
        """Places on disk that were not what they should be."""
        return self._damaged + self._batches.damaged

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
        """How far each source is read, as the last batch or note has it."""
        return dict(self._state.cursors)

    @property
    def has_cursors(self) -> bool:
        """Whether the next process finds any."""
        return self._state.has_cursors

    @property
    def counts(self) -> dict[str, int]:
        """Entries since the spool began: read = acknowledged + rejected + spooled + every dropped_*."""
        counts = {ACKNOWLEDGED: 0, REJECTED: 0} | self._state.counts
        unnumbered = counts.pop(UNNUMBERED, 0)
        return {"read": self._state.before + unnumbered, "spooled": self._state.spooled, **counts}

    @property
    def skips(self) -> list[Skip]:
        """Skips that the receiver has not acknowledged, in order, by sequence."""
        return [self._state.in_stream(skip) for skip in self._state.skips]

    @property
    def skipped(self) -> int:
        """Of the sequences that are not consumed, those that will never come."""
        first = self._state.first
        return sum(skip.last + 1 - max(skip.first, first) for skip in self._state.skips if skip.last >= first)

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
        return Crcs(self._batches.crc, self._state)

    # Opening and closing.

    def open(self) -> None:
        """Takes the directory, making it where it is missing, and recovers what a crash left.

        Raises LockedError where another process has it, and StorageError. A full disk is no hindrance.
        """
        try:
            make_directory(self.directory)
            self.lock = DirectoryLock(self.directory, setting=SETTING)
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
        self._batches = Batches(self.directory, state, self._catalogue, self._journal)

    def _recover(self) -> None:
        named = identity.read_stream(self.directory)
        found = recover(self.directory, self._stream_name)
        if found is None and self._begin is not None:
            self._adopt(State.beginning(*self._begin), [], 1)
        elif found is None:
            self._adopt(State.new(named or self._stream_name()), [], 1)
        else:
            self._adopt(found.state, found.segments, found.next_serial)
            self.torn_bytes += found.torn_bytes
            self._damaged += found.damaged
        if found is not None and found.history_lost:
            self._state.renumber(self._stream_name())
            logger.error(
                "%s: no snapshot is left: new stream %s; sources may be read again and entries be doubled",
                self.directory,
                self.stream,
            )
        if self.stream != named:
            identity.write_stream(self.directory, self.stream)
        self._sent_to = identity.read_receiver(self.directory)
        self._batches.adopt_letters()
        self._journal.delete_finished()

    def close(self) -> None:
        """Notes what is settled, so that a restart resends nothing of it, and gives the directory up."""
        if self.lock is not None:
            try:
                if not self._state.is_settled:
                    self._journal.note()
                self._journal.delete_finished()
            except StorageError as error:
                logger.warning("%s; acknowledged batches may be sent once more, and be discarded there", error)
        self._release()

    def _release(self) -> None:
        self._journal.close()
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    # Batches in and out.

    def append(
        self, batches: Sequence[tuple[bytes, int, Mapping[str, Any]]], bodies: Sequence[bytes | None] = ()
    ) -> list[Record]:
        """Adds batches (raw JSON, entries, cursors after it): one write, one sync; all are durable on return.

        `bodies` are zstd frames of the batches, None or nothing where the spool shall compress one itself. A cursor of
        None is taken away; a value is kept as it is, so give a new one instead of changing it. Raises StorageError
        where they cannot be stored now: then none of them is, and a later call can succeed.
        """
        self._check_lock()
        headers = self._journal.append(batches, bodies)
        base = self._state.base
        return [
            Record(header.position - base, header.entries, header.raw_bytes, header.crc, header.size)
            for header in headers
        ]

    def skip(self, last: int, entries: int, reason: str, cursors: Mapping[str, Any]) -> None:
        """The sequences from the next one to `last` will never come, and stand for so many entries; durable on return.

        Their entries count as read, and as dropped by the reason. Raises StorageError: then nothing was skipped.
        """
        self._check_lock()
        state = self._state
        if DROPPED + reason not in state.counts and len(state.counts) >= MAX_REASONS:
            reason = OTHER
        skip = Skip(state.next, last + state.base, entries, reason)
        skips, counts = list(state.skips), dict(state.counts)
        if entries:
            counts[DROPPED + reason] = counts.get(DROPPED + reason, 0) + entries
        # Whoever skips much and loses nothing by it must not make every later record longer.
        if not entries and skips and skips[-1] == Skip(skips[-1].first, skip.first - 1, 0, reason):
            skip = Skip(skips.pop().first, skip.last, 0, reason)
        self._journal.skip([*skips, skip], skip.last, entries, counts, cursors)

    def compact(self) -> None:
        """Where nothing waits, gives back what is consumed: a snapshot is left. Raises StorageError."""
        self._check_lock()
        if self._state.first == self._state.next and self._catalogue.size > COMPACT_BYTES:
            self._journal.rotate()
            self._journal.delete_finished()

    def item(self, sequence: int) -> Record | Skip:
        """What there is of a sequence that is not consumed: a batch, or why it will never come. Raises StorageError."""
        return self._batches.item(self._open_position(sequence))

    def read(self, sequence: int) -> bytes:
        """The raw batch. Raises DamagedError where it is lost, and StorageError."""
        return self._batches.read(self._open_position(sequence))

    def _open_position(self, sequence: int) -> int:
        if not self.first <= sequence < self.next_sequence:
            raise StorageError(
                f"{self.directory}: batch {sequence} is not in the spool: {self.first} to {self.next_sequence - 1} are"
            )
        return sequence + self._state.base

    def acknowledge(self, last: int) -> None:
        """Everything up to and including `last` is settled at the receiver.

        It is in memory at once and on disk with the next write; a crash before that only has batches sent once more.
        """
        state = self._state
        position = min(last + state.base, state.next - 1)
        if position < state.first:
            return
        self._batches.acknowledge(position)
        if state.first == state.next and self.is_full:
            with suppress(StorageError):  # the next append() tells
                self._journal.rotate()
                self._journal.delete_finished()

    def reject(self, sequence: int, reason: str) -> None:
        """The receiver will never store this batch: it becomes a dead letter, and is consumed in its turn.

        The letter is durable on return. Raises DamagedError where there is nothing left to keep, and StorageError.
        """
        position = sequence + self._state.base
        if position >= self._state.first and position not in self._state.rejects:
            self._batches.reject(self._open_position(sequence), reason, now=self._now())

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

    def note_cursors(self, cursors: Mapping[str, Any]) -> None:
        """The sources are read so far, though no batch came of it. Costs nothing where the disk knows it.

        Raises StorageError where that is not durable yet: the next write tells it.
        """
        self._check_lock()
        self._state.move_cursors(self._state.changed(cursors), written=False)
        if self._state.are_cursors_unsettled:
            self._journal.note()

    def settle(self) -> None:
        """What was acknowledged is on disk, too. Costs nothing where the disk knows it.

        Raises StorageError where that is not durable yet: the next write tells it.
        """
        self._check_lock()
        if not self._state.is_settled:
            self._journal.note()

    # Room.

    @property
    def sent_up_to(self) -> int:
        """The highest sequence that may have been sent, by this process or one before it: durable before it is sent."""
        return self._state.sent_up_to - self._state.base

    def begin_sending(self) -> None:
        """From now on any batch may be sent at once, those that wait as well as those to come.

        Raises StorageError where that is not durable yet: the next write tells it.
        """
        self._check_lock()
        self._state.is_sending = True
        self._state.raise_bound()
        # What was acknowledged or rejected meanwhile needs no write of its own.
        if self._state.is_bound_unsettled:
            self._journal.note()

    def end_sending(self) -> None:
        """What is appended from now on waits for the next begin_sending()."""
        self._state.is_sending = False

    @property
    def sent_to(self) -> Noted | None:
        """To whom, as far as that is known."""
        return self._sent_to

    def note_receiver(self, noted: Noted) -> None:
        """What is sent from now on goes to it. Raises StorageError: then, after a crash, it is not known to whom."""
        self._check_lock()
        self._sent_to = noted
        try:
            identity.write_receiver(self.directory, noted)
        except OSError as error:
            raise storage_error(self.directory, "note the receiver", error, setting=SETTING) from error

    def drop_oldest(self, bytes_needed: int, sent_up_to: int) -> Skip | None:
        """Drops the oldest segments with nothing sent in them, until that many bytes are free; None where none is left.

        The skip is durable before anything is deleted. Raises StorageError; then nothing was dropped.
        """
        self._check_lock()
        return self._batches.drop_oldest(bytes_needed, max(self._state.first, sent_up_to + self._state.base + 1))

    def note_dropped(self, count: int, reason: str, cursors: Mapping[str, Any]) -> None:
        """Entries were dropped before they were numbered; the sources go on behind them.

        Raises StorageError where that is not durable yet: it is counted all the same, and the next write tells it.
        """
        self._state.count(UNNUMBERED, count)
        self._state.count(DROPPED + reason, count)
        self._state.move_cursors(self._state.changed(cursors), written=False)
        self._check_lock()
        self._journal.note()

    # A new identity.

    def new_stream(self) -> None:
        """Takes a new stream id, in which the lowest batch that is not consumed is 1. Raises StorageError; then nothing
        has changed.

        It happens with the name of a segment that starts with the new state: no batch is written again.
        """
        state = self._state
        self._check_lock()
        undo = state.renumber(self._stream_name())
        try:
            self._journal.rotate()
        except StorageError:
            undo()
            raise
        with suppress(OSError):  # the snapshot decides; open() mends the file
            identity.write_stream(self.directory, state.stream)
        self._journal.delete_finished()

    def _stream_name(self) -> str:
        return identity.new_stream(self.owner)

    def _check_lock(self) -> None:
        if self.lock is None:
            raise StorageError(f"{self.directory}: the spool is not open")
        if self.lock.is_lost:
            raise StorageError(
                f"{self.lock.path}: deleted while in use, so another process could write here too; restart this one"
            )
