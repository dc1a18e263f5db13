"""Rejected batches, kept for people: one JSON file each, durable before the shipper forgets the batch.

    {"v":1,"stream":…,"sequence":…,"count":…,"reason":…,"time":…,"batch":[the entries as they were]}

A letter that is put back into the spool is first renamed to carry the position it will get: so a crash in between
neither loses nor doubles it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from logbale.durable import make_directory, sync_directory, write_whole
from logbale.errors import StorageError
from logbale.models import json_array, rfc3339

DIRECTORY = "dead-letters"
VERSION = 1
_NAME = re.compile(r"\d{12,}-[0-9a-f]{8}\.json")
_RETRYING = re.compile(rf"({_NAME.pattern})\.retry-(\d+)")


class DeadLetter(msgspec.Struct, frozen=True):
    """A batch that the receiver will never store."""

    v: int
    stream: str
    sequence: int
    count: int
    """Entries."""
    reason: str
    time: str
    """When the reject arrived; RFC 3339."""
    batch: msgspec.Raw
    """The entries: a JSON array, each byte for byte as it was sent."""


def write_letter(spool: Path, raw: bytes, *, stream: str, sequence: int, count: int, reason: str, now: float) -> Path:
    """Keeps a batch, durably, in a file named by its sequence; written again, it is the same file. Raises OSError."""
    directory = spool / DIRECTORY
    make_directory(directory)
    path = directory / f"{sequence:012}-{sha256(stream.encode()).hexdigest()[:8]}.json"
    letter = DeadLetter(VERSION, stream, sequence, count, reason, rfc3339(now), msgspec.Raw(json_array(raw)))
    unfinished = path.with_suffix(".new")
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_whole(fd, msgspec.json.encode(letter) + b"\n", 0)
        os.fdatasync(fd)
        os.rename(unfinished, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise
    finally:
        os.close(fd)
    sync_directory(directory)
    return path


def letters(spool: Path) -> Iterator[tuple[Path, DeadLetter]]:
    """The dead letters of a spool, by sequence. Raises StorageError where one cannot be read."""
    for path in letter_paths(spool):
        try:
            yield path, msgspec.json.decode(path.read_bytes(), type=DeadLetter)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StorageError(f"{path}: cannot read this dead letter: {error}; move it away to go on") from error


def letter_paths(spool: Path) -> list[Path]:
    """The files of the dead letters, by sequence. Raises OSError."""
    return _paths(spool, _NAME)


def begin_retry(path: Path, position: int) -> Path:
    """Notes that a letter is about to become the batch at this position; its path from now on. Raises OSError."""
    retrying = path.with_name(f"{path.name}.retry-{position}")
    os.rename(path, retrying)
    sync_directory(path.parent)
    return retrying


def settle_retries(spool: Path, next_position: int) -> None:
    """Ends what a crash cut short: a letter whose batch is in the spool goes, another gets its name back."""
    for path in _paths(spool, _RETRYING):
        match = _RETRYING.fullmatch(path.name)
        assert match is not None
        if int(match[2]) < next_position:
            path.unlink()
        else:
            path.rename(path.with_name(match[1]))
        sync_directory(path.parent)


def _paths(spool: Path, name: re.Pattern[str]) -> list[Path]:
    try:
        with os.scandir(spool / DIRECTORY) as entries:
            return sorted(Path(entry.path) for entry in entries if name.fullmatch(entry.name))
    except FileNotFoundError:
        return []
