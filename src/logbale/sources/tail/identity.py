"""What a file is, whatever it is called now: device, inode and the hash of its first bytes; no I/O.

The inode finds a renamed file again, the hash tells a recycled inode and a file that was written anew. A file under
HEAD_BYTES is known by as many bytes as it has; its name grows with it, and is settled once it has that many.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import NamedTuple

HEAD_BYTES = 1024
"""Bytes from the start of a file that tell it from others."""

MAX_PATH_BYTES = 400
"""Bytes of a path in a name; of a longer one its end is kept. With the rest a name stays below 512."""

_SCHEME = "file"


class Identity(NamedTuple):
    """Where the system keeps a file. Unique among the files that exist, and used again for later ones."""

    device: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The identity of the file with this status."""
        return cls(status.st_dev, status.st_ino)


class FileName(NamedTuple):
    """A file as a cursor names it: `file:DEVICE:INODE:BYTES:HASH:PATH`, numbers in hexadecimal."""

    identity: Identity
    head_bytes: int
    """How many bytes were hashed."""
    digest: str
    path: str
    """Where it was seen first: for messages, and to know its successor by."""

    @classmethod
    def of(cls, identity: Identity, head: bytes, path: str) -> FileName:
        """The name of a file that begins with `head`."""
        return cls(identity, len(head), _digest(head), printable(path))

    @classmethod
    def parse(cls, name: str) -> FileName | None:
        """The parts of a cursor's name; None where it is no file's."""
        try:
            scheme, device, inode, size, digest, path = name.split(":", 5)
            found = cls(Identity(int(device, 16), int(inode, 16)), int(size, 16), digest, path)
        except ValueError:
            return None
        return found if scheme == _SCHEME else None

    def __str__(self) -> str:
        device, inode = self.identity
        return f"{_SCHEME}:{device:x}:{inode:x}:{self.head_bytes:x}:{self.digest}:{self.path}"

    def fits(self, head: bytes) -> bool:
        """Whether a file that begins with `head` (HEAD_BYTES of it, if it has them) can be this one."""
        return len(head) >= self.head_bytes and _digest(head[: self.head_bytes]) == self.digest


class Cursors:
    """The cursors that a spool kept of files, to be claimed one by one by the files that they belong to."""

    def __init__(self, resume: Iterable[tuple[str, object]]) -> None:
        """Takes what is about files from (source, offset) pairs."""
        self._known: dict[Identity, list[tuple[FileName, int]]] = {}
        self._by_inode: dict[int, list[Identity]] = {}
        for name, offset in resume:
            if (parsed := FileName.parse(name)) is not None and isinstance(offset, int):
                self._known.setdefault(parsed.identity, []).append((parsed, offset))
        for identity in self._known:
            self._by_inode.setdefault(identity.inode, []).append(identity)

    def __bool__(self) -> bool:
        return any(self._known.values())

    @property
    def inodes(self) -> frozenset[int]:
        """Where files that are not claimed yet may be."""
        return frozenset(identity.inode for identity, entries in self._known.items() if entries)

    def claim(self, identity: Identity, head: bytes) -> tuple[FileName, int] | None:
        """The cursor of the file with this identity and beginning, which is handed out once."""
        # A device may have another number after a reboot; the inode and a whole KiB of content are then enough.
        others = [other for other in self._by_inode.get(identity.inode, ()) if other != identity]
        for place in (identity, *others):
            for entry in self._known.get(place, ()):
                name, _ = entry
                if name.fits(head) and (place == identity or name.head_bytes == HEAD_BYTES):
                    self._known[place].remove(entry)
                    return entry
        return None

    def drop(self, is_gone: Callable[[FileName], bool]) -> list[tuple[FileName, int]]:
        """Forgets those whose files are gone; which they were."""
        gone = [entry for entries in self._known.values() for entry in entries if is_gone(entry[0])]
        for entry in gone:
            self._known[entry[0].identity].remove(entry)
        return gone


def printable(path: str) -> str:
    """A path as it stands in a name: as text, its end where it is too long."""
    encoded = os.fsencode(path).decode("utf-8", "backslashreplace").encode()
    return encoded[-MAX_PATH_BYTES:].decode("utf-8", "ignore")


def _digest(head: bytes) -> str:
    return blake2b(head, digest_size=16).hexdigest()
