"""The open segment's file: appended to, synced, and cut back to what is synced when a write or a sync fails.

It keeps apart what is written and what is durable. After a failed sync nothing of that write may ever come back, be it
after a power cut: its senders will send it again, so it would be there twice.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from logbale.archive.layout import REPLACEMENT, SUSPECT, SegmentPath
from logbale.durable import make_directory, sync_directory, write_whole

_COPY_BYTES = 1 << 20


class OpenSegment:
    """A segment that blocks are appended to. Every method raises OSError as the system does."""

    def __init__(self, place: SegmentPath, fd: int, size: int, created: float) -> None:
        """For create() and reopen()."""
        self.place = place
        self.created = created
        """When it was begun, in Unix seconds, by the clock that then was."""
        self.size = size
        """Bytes written."""
        self.synced = size
        """Bytes durable: always whole blocks."""
        self._fd = fd
        self._name_is_durable = size > 0

    @classmethod
    def create(cls, place: SegmentPath, now: float) -> OpenSegment:
        """A new, empty one. Its name becomes durable with its first sync()."""
        make_directory(place.path.parent)
        return cls(place, os.open(place.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), 0, now)

    @classmethod
    def reopen(cls, place: SegmentPath, size: int) -> OpenSegment:
        """One that holds `size` bytes of whole, durable blocks and nothing else."""
        return cls(place, os.open(place.path, os.O_RDWR), size, place.created)

    @property
    def is_lost(self) -> bool:
        """Whether somebody deleted the file: what is appended now would be gone with it."""
        return os.fstat(self._fd).st_nlink == 0

    def append(self, block: bytes) -> None:
        """Writes a block behind the others; sync() makes it durable."""
        write_whole(self._fd, block, self.size)
        self.size += len(block)

    def sync(self) -> None:
        """Makes all that is written durable, and the file's name at the first time."""
        os.fdatasync(self._fd)
        if not self._name_is_durable:
            sync_directory(self.place.path.parent)
            self._name_is_durable = True
        self.synced = self.size

    def cut(self) -> None:
        """Takes back what is written and not synced, durably."""
        os.ftruncate(self._fd, self.synced)
        os.fsync(self._fd)
        self.size = self.synced

    def replace(self) -> None:
        """Puts a durable copy of the synced part in the file's place; the file itself is kept as `.suspect`.

        For a file that cannot be cut. The copy takes the old name in one step, so that no crash shows both or neither.
        """
        path = self.place.path
        copy = path.with_name(path.name + REPLACEMENT)
        fd = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            offset = 0
            while offset < self.synced:
                piece = os.pread(self._fd, min(_COPY_BYTES, self.synced - offset), offset)
                if not piece:
                    raise OSError(errno.EIO, f"the file ends at byte {offset} of {self.synced}")
                write_whole(fd, piece, offset)
                offset += len(piece)
            os.fdatasync(fd)
            with suppress(OSError):  # nothing acknowledged hangs on the suspect file: it is evidence
                os.link(path, self.place.sealed_path.with_name(self.place.sealed_path.name + SUSPECT))
            os.rename(copy, path)
            sync_directory(path.parent)
        except BaseException:
            os.close(fd)
            with suppress(OSError):
                os.unlink(copy)
            raise
        os.close(self._fd)
        self._fd = fd
        self.size = self.synced

    def remove(self) -> None:
        """Removes the file, durably, and closes it."""
        self.place.path.unlink(missing_ok=True)  # a first attempt may have come this far
        sync_directory(self.place.path.parent)
        self.close()

    def close(self) -> None:
        """Frees the file as it is. What is synced is safe, whatever the system says now."""
        with suppress(OSError):
            os.close(self._fd)
