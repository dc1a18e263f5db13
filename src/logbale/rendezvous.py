"""Which of several receivers a stream goes to: rendezvous hashing, so that every shipper comes to the same order.

Each receiver has a score for the stream; the highest is its first choice, and where that is away, the next. A receiver
that is added takes its share of the streams from all others, and one that is removed leaves its own to all others: no
other stream moves. The scores are part of what docs/protocol.md promises: another hash would move every stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256


def score(stream: str, receiver: str) -> int:
    """The first 8 bytes, big-endian, of the SHA-256 of stream, NUL and receiver in UTF-8.

    `receiver` is its HOST:PORT in lower case; neither name can hold a NUL.
    """
    return int.from_bytes(sha256(f"{stream}\0{receiver}".encode()).digest()[:8], "big")


def preference(stream: str, receivers: Iterable[str]) -> list[str]:
    """The receivers, the stream's first choice first, whatever order they come in."""
    return sorted(set(receivers), key=lambda receiver: (-score(stream, receiver), receiver))
