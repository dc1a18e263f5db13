"""Where the segments of a topic go: a place that takes each name once, whoever asks (SegmentStore).

directory: a file system. bucket: S3, Google Cloud Storage, Azure. opening: which of them a URL means.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import IO, Protocol

import msgspec

from logbale.archive.layout import is_name_in_chain

log = logging.getLogger("logbale.archiver")

MAX_STRAYS = 1000
"""So many are remembered, counted and said; of more nothing is said any more."""


class StoredSegment(msgspec.Struct, frozen=True):
    """A segment that is there."""

    name: str
    """Below the store's own place, folders separated by slashes."""
    size: int


class Strays:
    """What lies among the segments and, by its name, no archiver of ours put there. It is no reason to stop."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    def note(self, name: str) -> None:
        """Says it, the first time."""
        if name not in self._names and len(self._names) < MAX_STRAYS:
            self._names.add(name)
            log.warning("%s: no archiver of ours put that there; it is passed over", name)


class SegmentStore(Protocol):
    """Safe to use from several threads. Every method raises StorageError where it cannot do its work now."""

    strays: Strays

    def last(self, folder: str) -> StoredSegment | None:
        """The segment of the folder whose name is the highest; None where it has none, or does not exist.

        Whatever is not called as a segment of the folder is one of the strays.
        """
        ...

    def read(self, name: str, start: int, length: int) -> bytes:
        """These bytes of a segment, fewer where it ends before."""
        ...

    def put(self, name: str, body: IO[bytes]) -> bool:
        """Stores all of `body` under the name, durably on return; False where the name is taken, and then nothing."""
        ...


def last_of(folder: str, found: Iterable[StoredSegment], strays: Strays) -> StoredSegment | None:
    """Of what was found below a folder the segment with the highest name."""
    last = None
    for one in found:
        if not is_name_in_chain(one.name.removeprefix(f"{folder}/")):
            strays.note(one.name)
        elif last is None or one.name > last.name:
            last = one
    return last
