"""Segments in a directory that archivers may share: a name is made by link(), which fails where it is taken.

rename() would not: it replaces what is there. The bytes are synced before they get the name, and the directory after,
so a name that anybody sees has all of its bytes.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from shutil import copyfileobj
from tempfile import mkstemp
from typing import IO

from logbale.durable import make_directory, storage_error, sync_directory
from logbale.errors import StorageError
from logbale.segment_store import StoredSegment, Strays, last_of

TEMPORARY = ".unfinished"
"""Ends the name of a file that is being written: no reader takes it for a segment."""
LEFT_BEHIND = 86_400.0
"""Seconds after which such a file was left by a crash. A put takes minutes."""
_COPY_BYTES = 1 << 20
_SETTING = "--to (ARCHIVE_TO)"


class DirectoryStore:
    """Segments below one directory."""

    def __init__(self, directory: Path) -> None:
        self.strays = Strays()
        self._directory = directory

    def last(self, folder: str) -> StoredSegment | None:
        """The highest name, by listing the folder; what a crash left half written there is deleted."""
        place = self._directory / folder
        try:
            with os.scandir(place) as entries:
                files = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
            found = []
            for entry in files:
                if entry.name.endswith(TEMPORARY):
                    _delete_if_left(entry)
                else:
                    found.append(StoredSegment(f"{folder}/{entry.name}", 0))
            last = last_of(folder, found, self.strays)
            return last and StoredSegment(last.name, (self._directory / last.name).stat().st_size)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(place, "list the segments", error, setting=_SETTING) from error

    def read(self, name: str, start: int, length: int) -> bytes:
        """These bytes of the file."""
        path = self._directory / name
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise storage_error(path, "read", error, setting=_SETTING) from error

    def put(self, name: str, body: IO[bytes]) -> bool:
        """Writes a file of another name, syncs it, and links it to its own."""
        path = self._directory / name
        try:
            make_directory(path.parent)
            return _link_anew(path, body)
        except OSError as error:
            raise storage_error(path, "store the segment", error, setting=_SETTING) from error


def _link_anew(path: Path, body: IO[bytes]) -> bool:
    descriptor, temporary = mkstemp(TEMPORARY, f".{path.name}.", path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            copyfileobj(body, file, _COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
            is_new = True
        except FileExistsError:
            is_new = False
        # Where the name is taken, too: it may be our own, of a put whose sync failed, and the caller relies on it.
        sync_directory(path.parent)
        return is_new
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _delete_if_left(entry: os.DirEntry[str]) -> None:
    with suppress(OSError):
        if time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT_BEHIND:
            os.unlink(entry.path)


def check_directory(directory: Path) -> None:
    """Makes the directory where it is missing, and tries what a put needs. Raises StorageError."""
    probe = directory / f".{os.getpid()}-{time.monotonic_ns()}"
    try:
        make_directory(directory)
        descriptor, temporary = mkstemp(TEMPORARY, ".probe.", directory)
        os.close(descriptor)
        try:
            os.link(temporary, probe)
            os.unlink(probe)
        except OSError as error:
            raise StorageError(
                f"{directory}: no hard links here ({error.strerror}), and a store needs them to take a name once; "
                "use a file system that has them, or a bucket"
            ) from error
        finally:
            os.unlink(temporary)
    except OSError as error:
        raise storage_error(directory, "use the directory", error, setting=_SETTING) from error
