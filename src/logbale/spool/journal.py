"""The spool's records on their way to the disk: one write and one sync for a group, segments begun and deleted.

It keeps the state and the files in step: what is settled in the state is durable, and what could not be written has
not happened.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from logbale.durable import storage_error
from logbale.errors import StorageError
from logbale.session import batch_crc
from logbale.spool import format
from logbale.spool.catalogue import Catalogue
from logbale.spool.format import BATCH, NOTE, SNAPSHOT, Delta, Header, Skip
from logbale.spool.segment import Segment, SegmentWriter
from logbale.spool.state import State

SETTING = "--spool-dir (SPOOL_DIR) or --name"
SEGMENT_BATCHES = 16_384
"""Batches a segment: reading the newest one at a start costs 6 µs each."""

logger = logging.getLogger(__name__)


class Journal:
    """Appends to the newest segment of a spool."""

    def __init__(
        self,
        directory: Path,
        state: State,
        catalogue: Catalogue,
        *,
        next_serial: int,
        segment_bytes: int,
        note_bytes: int,
    ) -> None:
        """A segment ends at `segment_bytes`, or at `note_bytes` of notes."""
        self.state = state
        self.catalogue = catalogue
        self._directory = directory
        self._next_serial = next_serial
        self._segment_bytes = segment_bytes
        self._max_note_bytes = note_bytes
        self._note_bytes = 0
        self._writer: SegmentWriter | None = None

    def limit(self, *, segment_bytes: int, note_bytes: int) -> None:
        """Other limits from the next record on."""
        self._segment_bytes = segment_bytes
        self._max_note_bytes = note_bytes

    def append(
        self, batches: Sequence[tuple[bytes, int, Mapping[str, Any]]], bodies: Sequence[bytes | None] = ()
    ) -> list[Header]:
        """Makes batches durable, all or none; their headers. `bodies` are compressed already. Raises StorageError."""
        if not batches:
            return []
        state = self.state
        writer = self._ready()
        if state.is_sending:
            state.raise_bound(len(batches))
        position, before, delta = state.next, state.before, state.pending()
        headers: list[Header] = []
        records: list[bytes] = []
        moved: dict[str, Any] = {}
        for (raw, count, cursors), body in zip_longest(batches, bodies):
            # Against the batch before, not the state: within a group a cursor may go forth and back to where it was.
            changed = state.changed(cursors, moved)
            moved |= changed
            delta.cursors |= changed
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
                body=body or format.compress(raw),
            )
            headers.append(header)
            records.append(record)
            position, before, delta = position + 1, before + count, Delta()
        offset = writer.synced
        self._write(writer, b"".join(records))
        segment = writer.segment
        assert segment.index is not None
        for header in headers:
            segment.index.add(offset, header)
            offset += header.size
        state.move_cursors(moved, written=True)
        state.next, state.before = segment.end, segment.end_before = position, before
        state.settle()
        return headers

    def skip(
        self, skips: list[Skip], last: int, entries: int, counts: dict[str, int], cursors: Mapping[str, Any]
    ) -> None:
        """Makes durable that the positions up to `last` were taken without a batch; all or nothing of it.

        They stand for `entries`; `skips` and `counts` are the state's from then on. Raises StorageError.
        """
        state = self.state
        writer = self._ready()
        delta = state.pending()
        changed = state.changed(cursors)
        delta.cursors |= changed
        delta.skips, delta.counts = skips, counts
        header, record = format.encode_record(
            NOTE, delta, position=last + 1, before=state.before + entries, first=state.first, synced=writer.synced
        )
        self._write(writer, record)
        self._note_bytes += header.size
        state.move_cursors(changed, written=True)
        state.skips, state.counts = skips, counts
        state.next, state.before = writer.segment.end, writer.segment.end_before = last + 1, header.before
        state.settle()

    def _ready(self) -> SegmentWriter:
        """A segment that takes records. Raises StorageError."""
        if self._writer is not None and self._writer.is_lost:
            logger.error("%s: somebody deleted this segment while it was in use", self._writer.segment.path)
            self.close()
        writer = self._writer
        if writer is None or not writer.is_usable or self._is_long_enough(writer.segment):
            return self.rotate()
        return writer

    def _is_long_enough(self, segment: Segment) -> bool:
        return segment.size >= self._segment_bytes or segment.end - segment.start >= SEGMENT_BATCHES

    def rotate(self) -> SegmentWriter:
        """Begins a segment with a snapshot. Raises StorageError."""
        # Should its name come back after a power cut though it could not be synced, the old one must have ended here.
        self.close()
        state, serial = self.state, self._next_serial
        self._next_serial += 1
        header, record = format.encode_record(
            SNAPSHOT, state.snapshot(serial), position=state.next, before=state.before, first=state.first, synced=0
        )
        try:
            self._writer = SegmentWriter.create(self._directory, header, record, serial)
        except OSError as error:
            raise storage_error(self._directory, "begin a segment", error, setting=SETTING) from error
        state.settle()
        self._note_bytes = 0
        self.catalogue.add(self._writer.segment)
        return self._writer

    def close(self) -> None:
        """Frees the newest segment; the next write begins another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def note(self) -> None:
        """Makes the state durable. Raises StorageError."""
        writer = self._ready()
        state = self.state
        if state.is_settled:
            return  # a new segment's snapshot said it all
        if self._note_bytes > self._max_note_bytes:
            self.rotate()
            self.delete_finished()
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

    def delete_finished(self) -> None:
        """Deletes the segments, but for the newest, in which nothing waits."""
        finished = self._finished()
        if finished and not self.state.is_settled:
            # A restart must know that these were consumed, and not lost. On a full disk that cannot be said, and
            # deleting is what makes room: the restart then counts them as damaged, though they have arrived.
            with suppress(StorageError):
                self.note()
            finished = self._finished()  # the note may have begun a segment
        for segment in finished:
            with suppress(OSError):
                segment.path.unlink(missing_ok=True)
                self.catalogue.remove(segment)

    def _finished(self) -> list[Segment]:
        return [one for one in self.catalogue.segments[:-1] if self._is_finished(one.start, one.end)]

    def _is_finished(self, start: int, end: int) -> bool:
        position = max(start, self.state.first)
        while position < end:
            skip = self.state.skip_at(position)
            if skip is None:
                return False
            position = skip.last + 1
        return True
