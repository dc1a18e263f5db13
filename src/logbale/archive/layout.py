"""Where segments lie and what they are called.

    2026-11-23/00000042-20261123T195600Z.ndjson.zst.part     open: blocks are appended to it
    2026-11-23/00000042-20261123T195600Z.ndjson.zst          sealed: it never changes again

The serial orders segments; day and time are for people, and a clock that jumps does no harm. Whatever has another name
is passed over, and no symbolic link is followed.

An archiver's segments are sealed from the start. Each partition has its own, ordered by the offset in their names:

    logs/00003/00000000000000001200.ndjson.zst               topic, partition, where in it the segment starts
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from logbale.durable import storage_error
from logbale.errors import StorageError

OPEN = ".part"
SEALING = ".sealing"
"""Added to a sealed name: the file that is about to get it. Worth nothing after a crash."""
REPLACEMENT = ".new"
"""Added to an open name: the copy that is about to replace it. Worth nothing after a crash."""
SUSPECT = ".suspect"
"""Added to a sealed name: a segment whose file could not be written nor cut; what was acknowledged of it was copied."""

CHECK_PATH = "check the path; ARCHIVE_DIR names it where none is given"

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_NAME = re.compile(r"(\d{8,})-(\d{8}T\d{6}Z)\.ndjson\.zst(\.part)?")
_IN_CHAIN = re.compile(r"(\d{20})\.ndjson\.zst")
_PARTITION = re.compile(r"\d{5,10}")
_LEFTOVER = re.compile(rf"{_NAME.pattern}({re.escape(SEALING)}|{re.escape(REPLACEMENT)})")
_TIME = "%Y%m%dT%H%M%SZ"


class SegmentPath(msgspec.Struct, frozen=True):
    """A segment's place in the order, and its file."""

    serial: int
    """In a chain, the offset that it starts at."""
    path: Path
    chain: str = ""
    """What names its order: `topic/partition` as far as the archive's path does not say it; "" is a receiver's."""

    @property
    def is_open(self) -> bool:
        """Whether blocks may still be appended to it."""
        return self.path.suffix == OPEN

    @property
    def sealed_path(self) -> Path:
        """The path it has, or will have, when sealed."""
        return self.path.with_suffix("") if self.is_open else self.path

    @property
    def created(self) -> float:
        """When it was begun, in Unix seconds, by its name; 0 where that is no time."""
        match = _NAME.fullmatch(self.path.name)
        try:
            return datetime.strptime(match[2], _TIME).replace(tzinfo=UTC).timestamp() if match else 0.0
        except ValueError:
            return 0.0


def new_segment(directory: Path, serial: int, now: float) -> SegmentPath:
    """The open segment that begins at `now` (Unix seconds)."""
    begun = datetime.fromtimestamp(now, UTC)
    return SegmentPath(serial, directory / f"{begun:%Y-%m-%d}" / f"{serial:08}-{begun:{_TIME}}.ndjson.zst{OPEN}")


def name_in_chain(topic: str, partition: int, start: int) -> str:
    """What an archiver calls the segment that starts at this offset."""
    return f"{chain_folder(topic, partition)}/{start:020}.ndjson.zst"


def chain_folder(topic: str, partition: int) -> str:
    """Where the segments of a partition are."""
    return f"{topic}/{partition:05}"


def is_name_in_chain(name: str) -> bool:
    """Whether a file is called as the segments of archivers are."""
    return _IN_CHAIN.fullmatch(name) is not None


def has_segment_name(path: Path) -> bool:
    """Whether a file is called as a segment is."""
    return (_NAME.fullmatch(path.name) or _IN_CHAIN.fullmatch(path.name)) is not None


def segment_at(path: Path) -> SegmentPath:
    """The segment in a file of any name; one that is not ours has the serial 0."""
    match = _NAME.fullmatch(path.name) or _IN_CHAIN.fullmatch(path.name)
    return SegmentPath(int(match[1]) if match else 0, path)


def chains(directory: Path) -> list[SegmentPath]:
    """The segments that archivers put below a directory, be it their own, a topic's or a partition's; chain by chain.

    Raises StorageError.
    """
    found = _chain(directory, ".")
    for name in _folders(directory):
        if _PARTITION.fullmatch(name):
            found += _chain(directory / name, name)
        elif not _DAY.fullmatch(name):
            for partition in filter(_PARTITION.fullmatch, _folders(directory / name)):
                found += _chain(directory / name / partition, f"{name}/{partition}")
    return sorted(found, key=lambda segment: (segment.chain, segment.serial))


def _chain(folder: Path, name: str) -> list[SegmentPath]:
    paths = [Path(entry.path) for entry in _scan(folder) if entry.is_file(follow_symlinks=False)]
    return [
        SegmentPath(int(match[1]), path, name)
        for path in paths
        if (match := _IN_CHAIN.fullmatch(path.name)) is not None
    ]


def _folders(directory: Path) -> list[str]:
    return [entry.name for entry in _scan(directory) if entry.is_dir(follow_symlinks=False)]


def _scan(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(Path(directory), "list the archive", error, to_read=True) from error


def all_segments(directory: Path) -> list[SegmentPath]:
    """Every segment file in serial order; one that a crash left open beside its sealed twin comes right before that."""
    return _in_order(_files(directory))


def segments(directory: Path) -> list[SegmentPath]:
    """The segments of an archive in serial order, each once. Raises StorageError where there is no such directory."""
    return _each_once(all_segments(directory))


def segments_of_day(directory: Path) -> list[SegmentPath]:
    """The same of one day's directory, for a reader that was pointed at that."""
    return _each_once(_in_order(_files_in(directory)))


def _in_order(files: Iterable[Path]) -> list[SegmentPath]:
    found = [segment_at(path) for path in files if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda segment: (segment.serial, segment.sealed_path.name, not segment.is_open))


def _each_once(found: list[SegmentPath]) -> list[SegmentPath]:
    return list({segment.sealed_path: segment for segment in found}.values())


def leftovers(directory: Path) -> list[Path]:
    """Files that a crash left half made; nothing depends on them."""
    return [path for path in _files(directory) if _LEFTOVER.fullmatch(path.name)]


def _files(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as days:
            names = [day.path for day in days if _DAY.fullmatch(day.name) and day.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        raise StorageError(f"{directory}: there is no archive here; {CHECK_PATH}") from None
    except OSError as error:
        raise storage_error(Path(directory), "list the archive", error, to_read=True) from error
    return [file for name in names for file in _files_in(name)]


def _files_in(day: str | Path) -> list[Path]:
    try:
        with os.scandir(day) as entries:
            return [Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []  # removed meanwhile
    except OSError as error:
        raise storage_error(Path(day), "list the archive", error, to_read=True) from error
