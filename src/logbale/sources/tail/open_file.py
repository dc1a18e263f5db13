"""OpenFile: a descriptor that may be closed at any time, because its file is found again by what it is."""

from __future__ import annotations

import os
import stat

from logbale.sources.tail.discovery import by_inode, search
from logbale.sources.tail.identity import HEAD_BYTES, FileName, Identity

NEVER = (-1, 0)
"""Size and time of change of a file that was not looked at."""


class OpenFile:
    """One file, wherever it is now, open or not."""

    def __init__(self, fd: int, path: str, identity: Identity) -> None:
        """Takes over `fd`."""
        self.identity = identity
        self._fd: int | None = fd
        self._known = NEVER
        self.move_to(path)

    def move_to(self, path: str) -> None:
        """It is here now."""
        self.location = path
        self.paths = {os.path.abspath(path), os.path.realpath(path)}
        """Where events about it come from."""

    @property
    def is_open(self) -> bool:
        """Whether it holds a descriptor."""
        return self._fd is not None

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._fd is not None:
            status = os.fstat(self._fd)
            self._known = status.st_size, status.st_mtime_ns
            os.close(self._fd)
            self._fd = None

    def find(self) -> bool:
        """Opens it where it is not; False where it is nowhere to be found. Raises OSError."""
        if self._fd is not None or self._open(self.location):
            return True
        near = search([os.path.dirname(os.path.abspath(self.location))], by_inode({self.identity.inode}))
        found = near.get(self.identity)
        if found is None or not self._open(found.path):
            return False
        self.move_to(found.path)
        return True

    def is_at(self, path: str, head: bytes) -> bool:
        """Whether the file at `path`, which has its identity, also begins with `head`: inodes are used again."""
        if self._fd is not None:
            return True
        try:
            return self._open(path) and os.pread(self._must_fd(), len(head), 0) == head
        except OSError:
            return False

    def _open(self, path: str) -> bool:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        if Identity.of(os.fstat(fd)) != self.identity:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def _must_fd(self) -> int:
        assert self._fd is not None, self.location
        return self._fd

    def size(self) -> int:
        """Its length now, or when it was looked at last."""
        return os.fstat(self._fd).st_size if self._fd is not None else self._known[0]

    @property
    def mtime_ns(self) -> int:
        """When it was written to last, as far as known."""
        return os.fstat(self._fd).st_mtime_ns if self._fd is not None else self._known[1]

    @property
    def is_deleted(self) -> bool:
        """No name leads to it any more, only its descriptor."""
        return self._fd is not None and not os.fstat(self._fd).st_nlink


def holds(name: FileName, path: str, cursor: int) -> bool:
    """Whether the file of this name is at `path`, with what is before the cursor still in it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or Identity.of(status) != name.identity:
            return False
        # The cursor of a gzip counts what it holds, of which its size says nothing.
        is_long_enough = path.endswith(".gz") or status.st_size >= cursor
        return is_long_enough and name.fits(os.pread(fd, HEAD_BYTES, 0))
    except OSError:
        return False
    finally:
        os.close(fd)
