"""Batches: what there is of each batch by its position, and what becomes of it: consumed, rejected, dropped or lost.

Each entry is counted once, whatever happens to its batch, and in whatever order. It refuses to delete what may still be
needed: a file goes when the journal finds nothing waiting in it.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from logbale.durable import storage_error, sync_directory
from logbale.errors import StorageError
from logbale.session import batch_crc
from logbale.spool import dead_letters
from logbale.spool.catalogue import Catalogue
from logbale.spool.format import NotARecord, Skip
from logbale.spool.journal import SETTING, Journal
from logbale.spool.recovery import set_aside
from logbale.spool.state import DROPPED, REJECTED, State

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


class Batches:
    """The batches of an open spool. All that it takes and gives counts in positions, but for Records and told Skips."""

    def __init__(self, directory: Path, state: State, catalogue: Catalogue, journal: Journal) -> None:
        self.damaged = 0
        """Places on disk that turned out not to be what they should be."""
        self._directory = directory
        self._state = state
        self._catalogue = catalogue
        self._journal = journal

    # What there is.

    def item(self, position: int) -> Record | Skip:
        """What there is of one that is not consumed."""
        if (skip := self._state.skip_at(position)) is not None:
            return self._state.in_stream(skip)
        sequence = position - self._state.base
        if (count := self._state.rejects.get(position)) is not None:
            return Skip(sequence, sequence, count, REJECTED)
        if (found := self._catalogue.find(position)) is None:
            return self._lost(position, "no sound record of it is left").skip
        header = found[2]
        crc = self.crc(position)
        if crc is None:
            return self._lost(position, "it cannot be read").skip
        return Record(sequence, header.entries, header.raw_bytes, crc, header.size)

    def read(self, position: int) -> bytes:
        """The raw batch. Raises DamagedError where it is lost, and StorageError."""
        sequence = position - self._state.base
        if (skip := self._state.skip_at(position)) is not None:
            told = self._state.in_stream(skip)
            raise DamagedError(f"{self._directory}: batch {sequence} is skipped: {skip.reason}", told)
        try:
            return self._catalogue.read(position)
        except NotARecord as error:
            reason = str(error)
        except OSError as error:
            if error.errno != errno.EIO:
                raise storage_error(self._directory, f"read batch {sequence}", error, setting=SETTING) from error
            reason = "the disk cannot read it"
        raise self._lost(position, reason)

    def crc(self, position: int) -> int | None:
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

    def _lost(self, position: int, reason: str) -> DamagedError:
        self._keep_aside(position)
        skip = self._catalogue.missing(position, self._state)
        self._state.skip(skip)
        self.damaged += 1
        told = self._state.in_stream(skip)
        message = f"{self._directory}: batches {told.first} to {told.last}, {told.entries} entries, are lost: {reason}"
        logger.error("%s", message)
        return DamagedError(message, told)

    def _keep_aside(self, position: int) -> None:
        if (found := self._catalogue.spoilt(position)) is not None:
            segment, offset, header = found
            with suppress(OSError), open(segment.path, "rb") as file:
                file.seek(offset)
                set_aside(self._directory, f"{segment.path.name}-{offset}", file.read(header.size))

    # What the receiver settles.

    def acknowledge(self, position: int) -> None:
        """Everything up to and including `position` is settled at the receiver."""
        state = self._state
        before = self._before(position + 1)
        if (skip := state.skip_at(position)) is not None and skip.last > position:
            before = self._shorten(skip, position, before)
        state.consume(position, entries=before - state.consumed, crc=self.crc(position))
        self.consume_rejected()
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

    def reject(self, position: int, reason: str, *, now: float) -> None:
        """The receiver will never store this batch: it becomes a dead letter, and is consumed in its turn.

        The letter is durable on return. Raises DamagedError where there is nothing left to keep, and StorageError.
        """
        raw = self.read(position)
        found = self._catalogue.find(position)
        assert found is not None
        count = found[2].entries
        state = self._state
        try:
            dead_letters.write_letter(
                self._directory,
                raw,
                stream=state.stream,
                sequence=position - state.base,
                count=count,
                reason=reason,
                now=now,
            )
        except OSError as error:
            raise storage_error(self._directory, "keep a dead letter", error, setting=SETTING) from error
        state.reject(position, count)
        self.consume_rejected()

    def adopt_letters(self) -> None:
        """A crash may have come between a dead letter and the note of it. Raises StorageError and OSError."""
        state = self._state
        dead_letters.settle_retries(self._directory, state.next)
        kept = [letter for _, letter in dead_letters.letters(self._directory)]
        if kept:
            # What kill -9 left in the page cache is not durable yet, and its batch is about to be consumed.
            sync_directory(self._directory / dead_letters.DIRECTORY)
        for letter in kept:
            position = letter.sequence + state.base
            is_open = state.first <= position < state.next and position not in state.rejects
            if letter.stream == state.stream and is_open:
                state.reject(position, letter.count)
        self.consume_rejected()

    def consume_rejected(self) -> None:
        """The lowest ones, as far as they are rejected."""
        state = self._state
        # One that was dropped since is a part of its skip, and goes with it.
        while (count := state.rejects.get(state.first)) is not None and state.skip_at(state.first) is None:
            state.consume(state.first, entries=count, crc=self.crc(state.first))

    # Room.

    def drop_oldest(self, bytes_needed: int, unsent: int) -> Skip | None:
        """Drops the oldest segments that begin at `unsent` or later; the skip, or None where there is nothing to drop.

        The skip is durable before anything is deleted. Raises StorageError; then nothing was dropped.
        """
        state = self._state
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
        logger.error("%s: full: dropped the oldest %d entries that were not sent", self._directory, entries)
        return state.in_stream(skip)

    def _only_newest(self, unsent: int) -> bool:
        return not any(one.start >= unsent and one.end > one.start for one in self._catalogue.segments[:-1])


class Crcs(Mapping[int, int]):
    """The CRCs by sequence of the batches that are not consumed and of the last one that is; looked up when asked."""

    def __init__(self, crc: Callable[[int], int | None], state: State) -> None:
        self._crc = crc
        self._state = state

    def __getitem__(self, sequence: int) -> int:
        position = sequence + self._state.base
        if not self._state.first - 1 <= position < self._state.next:
            raise KeyError(sequence)
        if (crc := self._crc(position)) is None:
            raise KeyError(sequence)
        return crc

    def __iter__(self) -> Iterator[int]:
        base = self._state.base
        sequences = range(self._state.first - 1 - base, self._state.next - base)
        return (sequence for sequence in sequences if sequence in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
