"""Steps on disk that have happened when they return, and the lock on a directory.

A file's bytes are durable after fdatasync; its name is so only after an fsync of the directory that holds it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logbale.errors import LockedError, StorageError

LOCK_NAME = "lock"
"""The file in a directory whose lock says that somebody uses it."""

_WAYS_OUT = {
    errno.ENOSPC: "free some space; it goes on by itself once there is room",
    errno.EDQUOT: "raise the quota or free some space; it goes on by itself once there is room",
    errno.ENOENT: "somebody deleted it, or what it lies in, while it was in use; restart this process",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "the file system is read-only: remount it writable; it goes on by itself",
    errno.EACCES: "give this user the right to write there",
    errno.EPERM: "give this user the right to write there",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
_MAY_NOT = {errno.EACCES, errno.EPERM}
_NO_DIRECTORY = {errno.ENOTDIR, errno.EEXIST}


def storage_error(
    path: Path, what: str, error: OSError, *, setting: str = "--archive (ARCHIVE_DIR)", to_read: bool = False
) -> StorageError:
    """The error with the path, the system's reason and the way out.

    `setting` is what names the directory; who wants `to_read` alone is asked for no more.
    """
    way_out = _WAYS_OUT.get(error.errno or 0, "check the disk and the system's log")
    if to_read and error.errno in _MAY_NOT:
        way_out = "give this user the right to read it, or be one who has it"
    if error.errno in _NO_DIRECTORY:
        way_out = f"set {setting} to a directory"
    if error.errno == errno.ENOSPC and _has_no_inode(path.parent):
        # The system has one word for both, and `df` shows room.
        way_out = "no inode is left (df -i): delete some files; it goes on by itself once there are some"
    return StorageError(f"{path}: cannot {what}: {error.strerror or error}; {way_out}")


def _has_no_inode(directory: Path) -> bool:
    """Whether the file system has room for no more files. One that makes them as it needs them says 0 of 0."""
    while not directory.is_dir() and directory != directory.parent:
        directory = directory.parent
    try:
        system = os.statvfs(directory)
    except OSError:
        return False
    return system.f_files > 0 and system.f_favail == 0


def write_whole(fd: int, data: bytes, offset: int) -> None:
    """Writes all of `data` at `offset`, however many calls that takes. Raises OSError; then a part may be there."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest = rest[written:]
        offset += written


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def delete_locked(directory: Path) -> None:
    """Deletes a directory that this process has locked, as far as it can: the lock's file last.

    Whoever takes the directory after that finds it empty, and it stays.
    """
    from shutil import rmtree  # not above: a start takes long enough

    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            rmtree(path, ignore_errors=True)
        elif path.name != LOCK_NAME:
            path.unlink(missing_ok=True)
    (directory / LOCK_NAME).unlink(missing_ok=True)
    directory.rmdir()


def make_directory(path: Path) -> None:
    """Makes the directory and the missing ones above it, mode 0700, each durable in its parent."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    # A crash may have come between the making of this one and its sync. Whose parent we cannot read, we did not make.
    with suppress(PermissionError):
        sync_directory(path.parent)
    for directory in reversed(missing):
        directory.mkdir(0o700, exist_ok=True)
        sync_directory(directory.parent)


class DirectoryLock:
    """A directory held by this process, until release() or its end, however it ends."""

    def __init__(self, directory: Path, *, setting: str = "--archive (ARCHIVE_DIR)") -> None:
        """Takes the lock. Raises LockedError where another process has it, and OSError.

        `setting` is what gives another process a directory of its own.
        """
        self.path = directory / LOCK_NAME
        while True:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self._take(directory, setting)
            except BaseException:
                os.close(self._fd)
                raise
            if not self.is_lost:
                return
            os.close(self._fd)  # its last owner deleted the directory between our two calls: this locks nothing

    def _take(self, directory: Path, setting: str) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 20, 0).decode("ascii", "replace").strip()
            raise LockedError(
                f"{directory}: in use by process {owner or '(unknown)'}; stop that one, "
                f"or give this one a directory of its own with {setting}"
            ) from None
        with suppress(OSError):  # on a full disk only the name of the owner is missing
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    @property
    def is_lost(self) -> bool:
        """Whether the lock's file was deleted, so that another process could take the directory."""
        return os.fstat(self._fd).st_nlink == 0

    @contextmanager
    def held(self) -> Iterator[Callable[[], bool]]:
        """The directory stays locked until the end of this, also where release() comes before; tells `is_lost`."""
        fd = os.dup(self._fd)  # a lock belongs to the open file, however many descriptors that has
        try:
            yield lambda: os.fstat(fd).st_nlink == 0
        finally:
            os.close(fd)

    def release(self) -> None:
        """Gives the directory up. The file stays: deleting it would let two processes hold two locks."""
        os.close(self._fd)
