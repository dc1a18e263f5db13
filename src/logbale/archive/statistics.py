"""What the writer of an archive counts."""

from __future__ import annotations

import msgspec


class Statistics(msgspec.Struct):
    """The archive in numbers; all but the first two count from the writer's open() on."""

    segments: int = 0
    disk_bytes: int = 0
    """Bytes of all segments, sealed and open."""
    blocks: int = 0
    """Blocks committed."""
    sealed: int = 0
    """Segments sealed."""
    merged: int = 0
    """Blocks that sealing merged away."""
    recovered_torn_bytes: int = 0
    """Bytes of unfinished writes that recovery cut off."""
    damaged_blocks: int = 0
    """Places without a sound block that recovery and sealing met; the bytes were kept."""
