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

from logbale.durable import DirectoryLock, make_directory, storage_error
from logbale.errors import StorageError
from logbale.session import batch_crc
from logbale.spool import dead_letters, format, identity
from logbale.spool.catalogue import Catalogue
from logbale.spool.format import BATCH, NOTE, SNAPSHOT, Delta, Header, MiB, NotARecord, Skip
from logbale.spool.recovery import recover, set_aside
from logbale.spool.segment import Segment, SegmentWriter
from logbale.spool.state import DROPPED, REJECTED, UNNUMBERED, State

SETTING = "--spool-dir (SPOOL_DIR) or --name"
SEGMENT_BYTES = 8 * MiB
SEGMENT_BATCHES = 16_384
"""Batches a segment: reading the newest one at a start costs 6 µs each."""
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
        self._state = State.new("")
        self._catalogue = Catalogue([])
        self._next_serial = 1
        self._note_bytes = 0
        self._writer: SegmentWriter | None = None
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
            self._adopt()
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                path = Path(error.filename or self.directory)
                raise storage_error(path, "open the spool", error, setting=SETTING) from error
            raise

    def _adopt(self) -> None:
        named = identity.read_stream(self.directory)
        found = recover(self.directory, identity.new_stream)
        if found is None:
            self._state = State.new(named or identity.new_stream())
            self._catalogue, self._next_serial = Catalogue([]), 1
        else:
            self._state, self._next_serial = found.state, found.next_serial
            self._catalogue = Catalogue(found.segments)
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
        for _, letter in dead_letters.letters(self.directory):
            self._adopt_letter(letter)
        self._consume_rejected()
        self._delete_finished()

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
                    self._note()
                self._delete_finished()
            except StorageError as error:
                logger.warning("%s; acknowledged batches may be sent once more, and be discarded there", error)
        self._release()

    def _release(self) -> None:
        self._close_writer()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # Batches in and out.

    def append(self, batches: Sequence[tuple[bytes, int, Mapping[str, Any]]]) -> list[Record]:
        """Adds batches (raw JSON, entries, cursors after it): one write, one sync; all are durable on return.

        A cursor of None is taken away. Raises StorageError where they cannot be stored now: then none of them is, and a
        later call can succeed.
        """
        if not batches:
            return []
        state = self._state
        writer = self._ready_writer()
        position, before, delta = state.next, state.before, state.pending()
        headers: list[Header] = []
        records: list[bytes] = []
        for raw, count, cursors in batches:
            delta.cursors |= state.changed(cursors)
            header, record = format.encode_record(
                BATCH,
                delta,
                position=position,
                before=before,
                first=state.first,
                synced=writer.synced,
                entries=count,
                raw_bytes=len(raw),
                crc=batch_crc(position - state.base, raw),
                body=format.compress(raw),
            )
            headers.append(header)
            records.append(record)
            position, before, delta = position + 1, before + count, Delta()
        offset = writer.synced
        self._write(writer, b"".join(records))
        segment = writer.segment
        assert segment.index is not None
        for header, (_, _, cursors) in zip(headers, batches, strict=True):
            segment.index.add(offset, header)
            offset += header.size
            state.move_cursors(cursors, written=True)
        state.next, state.before = segment.end, segment.end_before = position, before
        state.settle()
        return [
            Record(header.position - state.base, header.entries, header.raw_bytes, header.crc, header.size)
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
        before = self._catalogue.before(position + 1)
        if (skip := state.skip_at(position)) is not None and skip.last > position:
            before = self._shorten(skip, position, before)
        state.consume(position, entries=before - state.consumed, crc=self._crc(position))
        self._consume_rejected()
        self._delete_finished()
        if state.first == state.next and self.is_full:
            with suppress(StorageError):  # the next append() tells
                self._rotate()
                self._delete_finished()

    def _shorten(self, skip: Skip, position: int, before: int) -> int:
        """The receiver has batches of a skip, up to `position`: they were sent before they were lost here.

        `before` is the number of entries before the position after that; returned as far as the skip explains it.
        """
        state = self._state
        start = state.consumed if skip.first <= state.first else self._catalogue.before(skip.first)
        part = max(0, min(skip.entries, before - start))
        state.count(DROPPED + skip.reason, -part)
        rest = Skip(position + 1, skip.last, skip.entries - part, skip.reason)
        state.skips = [rest if one is skip else one for one in state.skips]
        return start + part

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
        while (count := state.rejects.get(state.first)) is not None:
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
        unsent = max(state.first, sent_up_to + state.base + 1)
        newest = self._catalogue.segments[-1] if self._catalogue.segments else None
        if newest is not None and newest.start >= unsent and newest.end > newest.start and self._only_newest(unsent):
            self._rotate()
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
        entries = self._catalogue.before(last + 1) - self._catalogue.before(first)
        skip = Skip(first, last, entries, DROPPED_OLDEST)
        saved = list(state.skips), dict(state.counts)
        state.count(DROPPED + skip.reason, entries - state.skipped(first, last))
        state.skips = sorted(
            [*(one for one in state.skips if not first <= one.first <= last), skip], key=lambda one: one.first
        )
        try:
            self._note()
        except StorageError:
            state.skips, state.counts = saved
            raise
        self._delete_finished()
        logger.error("%s: full: dropped the oldest %d entries that were not sent", self.directory, entries)
        return self._in_stream(skip)

    def _only_newest(self, unsent: int) -> bool:
        return not any(one.start >= unsent and one.end > one.start for one in self._catalogue.segments[:-1])

    def note_dropped(self, count: int, reason: str, cursors: Mapping[str, Any]) -> None:
        """Entries were dropped before they were numbered; the sources go on behind them.

        Raises StorageError where that is not durable yet: it is counted all the same, and the next write tells it.
        """
        self._state.count(UNNUMBERED, count)
        self._state.count(DROPPED + reason, count)
        self._state.move_cursors(self._state.changed(cursors), written=False)
        self._note()

    # A new identity.

    def new_stream(self) -> None:
        """Takes a new stream id, in which the lowest batch that is not consumed is 1. Raises StorageError; then nothing
        has changed.

        It happens with the name of a segment that starts with the new state: no batch is written again.
        """
        state = self._state
        saved = state.stream, state.base, state.epoch, state.consumed_crc, state.rejects, state.skips
        # To the new stream, a rejected batch is a hole that has to be announced; it stays counted as rejected.
        holes = [Skip(position, position, count, REJECTED) for position, count in state.rejects.items()]
        state.renumber(identity.new_stream())
        state.skips, state.rejects = sorted([*state.skips, *holes], key=lambda skip: skip.first), {}
        try:
            self._rotate()
        except StorageError:
            state.stream, state.base, state.epoch, state.consumed_crc, state.rejects, state.skips = saved
            raise
        with suppress(OSError):  # the snapshot decides; open() mends the file
            identity.write_stream(self.directory, state.stream)
        self._delete_finished()

    # The files.

    def _ready_writer(self) -> SegmentWriter:
        """A segment that takes records. Raises StorageError."""
        if self._lock is None:
            raise StorageError(f"{self.directory}: the spool is not open")
        if self._lock.is_lost:
            raise StorageError(
                f"{self._lock.path}: deleted while in use, so another process could write here too; restart this one"
            )
        if self._writer is not None and self._writer.is_lost:
            logger.error("%s: somebody deleted this segment while it was in use", self._writer.segment.path)
            self._close_writer()
        writer = self._writer
        if writer is None or not writer.is_usable or self._is_long_enough(writer.segment):
            return self._rotate()
        return writer

    def _is_long_enough(self, segment: Segment) -> bool:
        return segment.size >= self._segment_bytes or segment.end - segment.start >= SEGMENT_BATCHES

    def _rotate(self) -> SegmentWriter:
        """Begins a segment with a snapshot. Raises StorageError."""
        # Should its name come back after a power cut though it could not be synced, the old one must have ended here.
        self._close_writer()
        state, serial = self._state, self._next_serial
        self._next_serial += 1
        header, record = format.encode_record(
            SNAPSHOT, state.snapshot(serial), position=state.next, before=state.before, first=state.first, synced=0
        )
        try:
            self._writer = SegmentWriter.create(self.directory, header, record, serial)
        except OSError as error:
            raise storage_error(self.directory, "begin a segment", error, setting=SETTING) from error
        state.settle()
        self._note_bytes = 0
        self._catalogue.add(self._writer.segment)
        return self._writer

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _note(self) -> None:
        """Makes the state durable. Raises StorageError."""
        writer = self._ready_writer()
        state = self._state
        if state.is_settled:
            return  # a new segment's snapshot said it all
        if self._note_bytes > self._reserve // 3:
            self._rotate()
            self._delete_finished()
            return
        header, record = format.encode_record(
            NOTE, state.pending(), position=state.next, before=state.before, first=state.first, synced=writer.synced
        )
        self._write(writer, record)
        self._note_bytes += header.size
        state.settle()

    def _write(self, writer: SegmentWriter, records: bytes) -> None:
        try:
            writer.append(records)
        except OSError as error:
            raise storage_error(writer.segment.path, "write", error, setting=SETTING) from error

    def _delete_finished(self) -> None:
        """Deletes the segments, but for the newest, in which nothing waits."""
        finished = self._finished()
        if finished and not self._state.is_settled:
            # A restart must know that these were consumed, and not lost. On a full disk that cannot be said, and
            # deleting is what makes room: the restart then counts them as damaged, though they have arrived.
            with suppress(StorageError):
                self._note()
            finished = self._finished()  # the note may have begun a segment
        for segment in finished:
            with suppress(OSError):
                segment.path.unlink(missing_ok=True)
                self._catalogue.remove(segment)

    def _finished(self) -> list[Segment]:
        return [one for one in self._catalogue.segments[:-1] if self._is_finished(one.start, one.end)]

    def _is_finished(self, start: int, end: int) -> bool:
        position = max(start, self._state.first)
        while position < end:
            skip = self._state.skip_at(position)
            if skip is None:
                return False
            position = skip.last + 1
        return True

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
