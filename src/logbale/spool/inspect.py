"""Looks at a spool without changing it, also beside the shipper that uses it: what waits, what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from logbale.durable import LOCK_NAME, storage_error
from logbale.errors import StorageError
from logbale.models import entry_lines
from logbale.spool import dead_letters, format
from logbale.spool.catalogue import Catalogue
from logbale.spool.format import BATCH, Damage, Found, NotARecord
from logbale.spool.recovery import Recovered, recover
from logbale.spool.segment import segment_files

SETTING = "--spool-dir (SPOOL_DIR)"


class SpoolInfo(msgspec.Struct, frozen=True):
    """A spool at a glance."""

    name: str
    directory: Path
    stream: str
    first: int
    """Lowest sequence that waits."""
    next_sequence: int
    entries: int
    """Entries that wait."""
    disk_bytes: int
    dead_letters: int
    counts: dict[str, int]


class Damaged(msgspec.Struct, frozen=True):
    """A place in a spool that is not what it should be."""

    path: Path
    offset: int
    size: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: damaged at byte {self.offset} ({self.size} bytes): {self.reason}"


def is_spool(directory: Path) -> bool:
    """Whether a shipper has used this directory. Raises StorageError."""
    try:
        return (directory / LOCK_NAME).exists()
    except OSError as error:
        raise storage_error(directory, "look for a spool", error, setting=SETTING, to_read=True) from error


def is_of_relay(directory: Path) -> bool:
    """Whether this spool is one of a relay's, which has a lock on all of them beside its own."""
    return (directory.parent / LOCK_NAME).exists()


def spool_directories(root: Path) -> list[Path]:
    """The spools below a directory, by name; none where there is no such directory. Raises StorageError."""
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and is_spool(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(root, "list the spools", error, setting=SETTING, to_read=True) from error


def list_spools(root: Path) -> list[SpoolInfo]:
    """What is in each of spool_directories(). Raises StorageError."""
    return [_info(directory) for directory in spool_directories(root)]


def _info(directory: Path) -> SpoolInfo:
    found = _look(directory)
    letters = len(dead_letters.letter_paths(directory))
    if found is None:
        return SpoolInfo(directory.name, directory, "", 1, 1, 0, 0, letters, {})
    state = found.state
    return SpoolInfo(
        directory.name,
        directory,
        state.stream,
        state.first - state.base,
        state.next - state.base,
        state.spooled,
        Catalogue(found.segments).size,
        letters,
        state.counts,
    )


def _look(directory: Path) -> Recovered | None:
    try:
        return recover(directory, lambda: "", repair=False)
    except FileNotFoundError:
        raise StorageError(f"{directory}: there is no spool here; `logbale spool ls` lists them") from None
    except OSError as error:
        raise storage_error(directory, "read the spool", error, setting=SETTING, to_read=True) from error


def verify(directory: Path) -> Iterator[Damaged]:
    """Reads every byte; what is damaged, and which batches are missing. Nothing is written. Raises StorageError.

    An unfinished write at the end of the newest segment is no damage: nobody was told that it is stored.
    """
    found = _look(directory)
    if found is None:
        return
    newest = found.segments[-1] if found.segments else None
    paths = {segment.path for segment in found.segments}
    for _, path in segment_files(directory):
        if path not in paths:
            yield Damaged(path, 0, path.stat().st_size, "it fits nowhere in the order of segments")
    for segment in found.segments:
        try:
            data = segment.path.read_bytes()
        except OSError as error:
            raise storage_error(segment.path, "read", error, setting=SETTING, to_read=True) from error
        if segment is newest:
            data = data[: segment.size]
        yield from _damaged(segment.path, data)
        index = segment.load()
        # Damaged places are named above; this is for what is missing altogether.
        held = {one.header.position for one in format.walk(data, bodies=False) if isinstance(one, Found)}
        base = found.state.base
        for first, last in index.gaps(max(segment.start, found.state.first), segment.end):
            if not held.issuperset(range(first, last + 1)):
                reason = f"batches {first - base} to {last - base} are missing"
                yield Damaged(segment.path, len(data), 0, reason)


def _damaged(path: Path, data: bytes) -> Iterator[Damaged]:
    for record in format.walk(data, bodies=True):
        if isinstance(record, Damage):
            yield Damaged(path, record.offset, record.end - record.offset, record.reason)
        elif not record.is_sound:
            yield Damaged(path, record.offset, record.header.size, "the batch's CRC differs")
        elif record.header.kind == BATCH:
            try:
                format.decompress(data[record.end - record.header.body_bytes : record.end], record.header.raw_bytes)
            except NotARecord as error:
                yield Damaged(path, record.offset, record.header.size, str(error))


def export(directory: Path, *, on_damage: Callable[[int, str], None] | None = None) -> Iterator[bytes]:
    """The entries that wait, one JSON line each with its newline, in order; nothing is consumed. Raises StorageError.

    A batch that is lost is passed over; `on_damage` gets its sequence and the reason.
    """
    found = _look(directory)
    if found is None:
        return
    catalogue, state = Catalogue(found.segments), found.state
    for position in range(state.first, state.next):
        skip = state.skip_at(position)
        if position in state.rejects or (skip is not None and skip.reason != "damaged"):
            continue
        try:
            raw = catalogue.read(position)
        except NotARecord as error:
            if on_damage is not None:
                on_damage(position - state.base, str(error))
            continue
        except OSError as error:
            raise storage_error(directory, "read the spool", error, setting=SETTING, to_read=True) from error
        yield from entry_lines(raw)
