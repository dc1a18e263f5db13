"""Where the segments of a topic go: a place that takes each name once, whoever asks (SegmentStore).

directory: a file system. bucket: S3, Google Cloud Storage, Azure. opening: which of them a URL means.
"""

from __future__ import annotations

from typing import IO, Protocol

import msgspec


class StoredSegment(msgspec.Struct, frozen=True):
    """A segment that is there."""

    name: str
    """Below the store's own place, folders separated by slashes."""
    size: int


class SegmentStore(Protocol):
    """Safe to use from several threads. Every method raises StorageError where it cannot do its work now."""

    def last(self, folder: str) -> StoredSegment | None:
        """The segment of the folder whose name is the highest; None where it has none, or does not exist."""
        ...

    def read(self, name: str, start: int, length: int) -> bytes:
        """These bytes of a segment, fewer where it ends before."""
        ...

    def put(self, name: str, body: IO[bytes]) -> bool:
        """Stores all of `body` under the name, durably on return; False where the name is taken, and then nothing."""
        ...
