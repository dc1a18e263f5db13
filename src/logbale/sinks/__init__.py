"""Where batches go on the receiver: one file a sink.

Exactly one durable sink decides the acknowledgement. The others are views: best effort, what they skip is counted.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class ReceivedBatch(msgspec.Struct, frozen=True):
    """One batch, decoded and checked: every line of `ndjson` is one JSON object."""

    ndjson: bytes
    """One entry a line, each line ended by a newline, valid UTF-8."""
    count: int
    """Entries, at least 1."""
    first: str
    """The lowest timestamp of the entries as `models.rfc3339` writes it; empty where none could be read."""
    last: str
    """The highest one."""
    peer: str = ""
    """Host and port it came from."""
    stream: str = ""
    """The session's stream; empty for a base client."""
    sequence: int = 0
    """Its place in the stream; 0 for a base client."""
    crc: int = 0
    """CRC-32 as the session's prefix has it; 0 for a base client."""


class Stored(msgspec.Struct, frozen=True, tag=True):
    """The batch is durable in the sink."""


class Rejected(msgspec.Struct, frozen=True, tag=True):
    """The batch can never be stored."""

    reason: str


Outcome = Stored | Rejected


class Sink(Protocol):
    """Takes batches for good."""

    async def commit(self, batches: list[ReceivedBatch]) -> list[Outcome]:
        """Stores or rejects each, in order, durably on return. Raises StorageError where it can do neither now."""
        ...

    async def close(self) -> None:
        """Finishes what is open and frees it. No commit follows."""
        ...
