"""A frame's payload as checked lines, or why it has none. Pure functions: they run on the loop and in the pool."""

from __future__ import annotations

import msgspec

from logbale.compression import decompress
from logbale.config import Settings
from logbale.context import ContextDecompressor
from logbale.errors import DecompressionError, EntryError
from logbale.ndjson import Lines, to_ndjson
from logbale.protocol import Frame
from logbale.session import SequencedBatch, batch_crc

INLINE_BYTES = 64 * 1024
"""Payloads below this are decoded on the loop: a trip to the pool costs about 40 µs, more than it saves."""


class Decoded(msgspec.Struct, frozen=True):
    """A frame's entries."""

    lines: Lines
    raw_bytes: int


def decode_base(frame: Frame, settings: Settings) -> Decoded | DecompressionError | EntryError:
    """A base frame's entries, or why it has none."""
    try:
        raw = decompress(frame.algorithm, frame.payload, max_raw=settings.max_raw_bytes)
        return Decoded(to_ndjson(raw, max_entries=settings.max_batch_entries), len(raw))
    except (DecompressionError, EntryError) as error:
        return error


def decode_sequenced(
    batch: SequencedBatch, context: ContextDecompressor | None, settings: Settings
) -> Decoded | DecompressionError | EntryError:
    """A sequenced batch's entries; DecompressionError where it is not what was sent, EntryError where it is."""
    try:
        if context is not None:
            raw = context.decompress(batch.body, batch.raw_bytes)
        else:
            raw = decompress(batch.algorithm, batch.body, max_raw=batch.raw_bytes, max_ratio=None)
        if len(raw) != batch.raw_bytes or batch_crc(batch.sequence, raw) != batch.crc:
            raise DecompressionError("corrupt", "its length or CRC is not that of its prefix")
        return Decoded(to_ndjson(raw, max_entries=settings.max_batch_entries, in_session=True), len(raw))
    except (DecompressionError, EntryError) as error:
        return error
