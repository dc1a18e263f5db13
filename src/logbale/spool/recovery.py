"""Makes of what a crash or a bad disk left a state that holds together, and makes it durable before it is used.

Only the newest segment is read whole; of the others the snapshots, so the time does not grow with the backlog. In the
newest, damage behind everything that is known to have been synced is a torn write: nobody was told of it, and it is
cut. Damage before that cost a batch that may have been sent: its sequence is never used again, and is skipped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import msgspec

from logbale.durable import sync_directory
from logbale.spool import format
from logbale.spool.catalogue import DAMAGED, Catalogue
from logbale.spool.format import SNAPSHOT, Damage, Found, NotARecord, Skip, Snapshot
from logbale.spool.segment import Index, Segment, read_snapshot, segment_files, unfinished_files
from logbale.spool.state import ACKNOWLEDGED, State

DAMAGED_DIRECTORY = "damaged"
logger = logging.getLogger(__name__)


class Recovered(msgspec.Struct):
    """What recovery found."""

    state: State
    segments: list[Segment]
    next_serial: int
    torn_bytes: int = 0
    """Unfinished writes, cut."""
    damaged: int = 0
    """Places that were not what they should be."""
    history_lost: bool = False
    """No snapshot is left: the numbers begin anew, so the stream must too."""


class _Part(msgspec.Struct):
    """A segment's file before it is known which positions are its own."""

    serial: int
    path: Path
    snapshot: Snapshot | None
    records: list[Found | Damage] | None = None

    def read(self) -> list[Found | Damage]:
        if self.records is None:
            self.records = list(format.walk(self.path.read_bytes(), bodies=True))
        return self.records


def recover(directory: Path, new_stream: Callable[[], str], *, repair: bool = True) -> Recovered | None:
    """The spool in `directory`; None where there is none yet. Without `repair` nothing on disk is touched.

    Raises StorageError and OSError; it can be tried again, also after a crash in the middle.
    """
    if repair:
        for leftover in unfinished_files(directory):
            leftover.unlink()
    parts = [_part(serial, path) for serial, path in segment_files(directory)]
    if not parts:
        return None
    next_serial = max(max(part.serial, _named(part.path)) for part in parts) + 1
    parts.sort(key=lambda part: part.serial)
    torn_bytes = _drop_torn_tail(parts[-1])
    if repair:
        _make_durable(parts[-1], torn_bytes, directory)
    # The last snapshot that can be read, and every record after it.
    base = max((number for number, part in enumerate(parts) if part.snapshot is not None), default=0)
    snapshot = parts[base].snapshot
    state = State(snapshot) if snapshot is not None else _fresh(parts, new_stream)
    segments = _older(parts[:base])
    strays = {part.path for part in parts[:base]} - {segment.path for segment in segments}
    if repair:
        for path in strays:
            logger.error("%s: no sound record in it, or a copy of an older file: it is moved to %s/", path, DAMAGED)
            move_aside(directory, path)
    segments += [_replay(part, state) for part in parts[base:]]
    _settle_ends(segments, state)
    if snapshot is None:
        state.first = min(max(state.first, segments[0].start), state.next)
        state.counts = {ACKNOWLEDGED: Catalogue(segments).before(state.first)}
    damaged = len(strays) + sum(map(_is_bad, (one for part in parts[base:] for one in part.read())))
    damaged += _skip_what_is_missing(state, segments, replayed=len(parts) - base)
    if state.sent is None or damaged:  # what was damaged may have held the bound
        state.sent = state.next - 1
    state.settle()
    return Recovered(state, segments, next_serial, torn_bytes, damaged, history_lost=snapshot is None)


def set_aside(directory: Path, name: str, data: bytes) -> None:
    """Keeps damaged bytes for whoever wants to look; the spool never reads them again. Best effort."""
    with suppress(OSError):
        place = directory / DAMAGED_DIRECTORY
        place.mkdir(0o700, exist_ok=True)
        fd = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)


def move_aside(directory: Path, path: Path) -> None:
    """Moves a file that is of no use to where set_aside() writes. Raises OSError."""
    place = directory / DAMAGED_DIRECTORY
    place.mkdir(0o700, exist_ok=True)
    path.rename(place / path.name)


def _named(path: Path) -> int:
    return int(path.name.split(".")[0])


def _part(serial: int, path: Path) -> _Part:
    """The serial in the snapshot counts, not the one in the name: files may have been swapped."""
    try:
        _, snapshot = read_snapshot(path)
    except NotARecord as error:
        logger.error("%s: its snapshot is damaged: %s", path, error)
        return _Part(serial, path, None)
    return _Part(snapshot.serial, path, snapshot)


def _drop_torn_tail(part: _Part) -> int:
    """Takes unfinished writes out of what was read; their bytes."""
    records = part.read()
    # What a record says of the file before it was true when it was written. The file got its name after its snapshot
    # was durable: where not even that can be read, it is damage.
    known = [one.header.synced for one in records if isinstance(one, Found)]
    if records and isinstance(records[0], Found):
        known.append(records[0].end)
    synced = max(known, default=records[-1].end if records else 0)
    for number, one in enumerate(records):
        if _is_bad(one) and one.offset >= synced:
            torn_bytes = records[-1].end - one.offset
            del records[number:]
            return torn_bytes
    return 0


def _make_durable(part: _Part, torn_bytes: int, directory: Path) -> None:
    """Cuts the torn tail, keeps other damage aside, and syncs what kill -9 may have left in the page cache."""
    fd = os.open(part.path, os.O_RDWR)
    try:
        if torn_bytes:
            size = os.fstat(fd).st_size
            os.ftruncate(fd, size - torn_bytes)
            logger.warning("%s: cut %d bytes of an unfinished write", part.path, torn_bytes)
        os.fsync(fd)
        for one in part.read():
            if _is_bad(one):
                logger.error("%s: damaged at byte %d (%d bytes)", part.path, one.offset, one.end - one.offset)
                set_aside(directory, f"{part.path.name}-{one.offset}", os.pread(fd, one.end - one.offset, one.offset))
    finally:
        os.close(fd)
    sync_directory(directory)


def _is_bad(record: Found | Damage) -> bool:
    return isinstance(record, Damage) or not record.is_sound


def _fresh(parts: list[_Part], new_stream: Callable[[], str]) -> State:
    """The state where no snapshot is left: batches are numbered anew, in a new stream."""
    headers = [one.header for part in parts for one in part.read() if isinstance(one, Found)]
    if not headers:
        return State.new(new_stream())
    lowest = min(headers, key=lambda header: header.position)
    return State.new(new_stream(), position=lowest.position, before=lowest.before)


def _older(parts: list[_Part]) -> list[Segment]:
    """The segments before the last snapshot, of which only the place in the order matters now."""
    segments: list[Segment] = []
    for part in parts:
        if part.snapshot is not None:
            start, before = part.snapshot.next, part.snapshot.before
        else:
            found = [one.header for one in part.read() if isinstance(one, Found)]
            if not found:
                continue
            start, before = found[0].position, found[0].before
        if segments and start < segments[-1].start:
            continue  # a copy of an older file: what it holds is not ours any more
        segments.append(Segment(part.path, part.serial, part.path.stat().st_size, start=start, before=before))
    return segments


def _replay(part: _Part, state: State) -> Segment:
    """Moves the state on over a segment's records; the segment, with its index."""
    records = part.read()
    size = records[-1].end if records else 0
    if part.snapshot is not None:
        start, before = part.snapshot.next, part.snapshot.before
    else:
        found = [one.header for one in records if isinstance(one, Found)]
        start, before = (found[0].position, found[0].before) if found else (state.next, state.before)
    segment = Segment(part.path, part.serial, size, start=start, before=before)
    for one in records:
        if isinstance(one, Found) and one.header.kind != SNAPSHOT and one.header.position >= state.next:
            with suppress(NotARecord):
                state.replay(one.header, format.decode_delta(one.meta))
    segment.index = Index.of(records, start, state.next)
    return segment


def _settle_ends(segments: list[Segment], state: State) -> None:
    """A segment's positions end where the next one's start."""
    for segment, following in pairwise(segments):
        segment.end, segment.end_before = following.start, following.before
    if segments:
        segments[-1].end, segments[-1].end_before = state.next, state.before


def _skip_what_is_missing(state: State, segments: list[Segment], *, replayed: int) -> int:
    """Skips what is not there: before the first segment, and in the last `replayed` ones. The number of places."""
    skipped = 0
    catalogue = Catalogue(segments)
    if segments and state.first < segments[0].start:
        first, last = state.first, segments[0].start - 1
        entries = segments[0].before - state.consumed - state.skipped(first, last) - state.rejected(first, last)
        while first <= last and (skip := state.skip_at(first)) is not None:
            first = skip.last + 1
        if first <= last:
            last = min([last, *(skip.first - 1 for skip in state.skips if skip.first > first)])
            state.skip(Skip(first, last, max(0, entries), DAMAGED))
            skipped += 1
    for segment in segments[len(segments) - replayed :]:
        assert segment.index is not None
        for first, last in segment.index.gaps(max(segment.start, state.first), segment.end):
            position = first
            while position <= last:
                skip = state.skip_at(position)
                if skip is None and position in state.rejects:  # its dead letter has it
                    position += 1
                    continue
                if skip is None:
                    skip = catalogue.missing(position, state)
                    state.skip(skip)
                position = skip.last + 1
    return skipped
