"""A frame's payload as checked lines, or why it has none. Pure functions: they run on the loop and in the pool."""

from __future__ import annotations

import msgspec

from logbale.compression import decompress, frame_of_size
from logbale.config import Settings
from logbale.context import ContextDecompressor
from logbale.errors import DecompressionError, EntryError
from logbale.ndjson import Lines, to_ndjson
from logbale.protocol import Algorithm, Frame
from logbale.session import SequencedBatch, batch_crc

INLINE_BYTES = 64 * 1024
"""Payloads below this are decoded on the loop: a trip to the pool costs about 40 µs, more than it saves."""

INLINE_RAW_BYTES = 1024 * 1024
"""And batches up to this: most of the work on their lines holds the interpreter's lock wherever it is done. A
millisecond and a half, for which the other connections wait."""

KEPT_FRAME_BYTES = 256 * 1024
"""Raw bytes from which on a batch's own frame goes into the archive: sealing merges blocks that are smaller."""


class Decoded(msgspec.Struct, frozen=True):
    """A frame's entries."""

    lines: Lines
    raw_bytes: int
    frame: bytes = b""
    """The body, where it is a zstd frame of exactly these lines that the archive can keep."""


def decode_base(frame: Frame, settings: Settings) -> Decoded | DecompressionError | EntryError:
    """A base frame's entries, or why it has none."""
    try:
        raw = decompress(
            frame.algorithm,
            frame.payload,
            max_raw=settings.max_raw_bytes,
            max_ratio=settings.max_ratio,
            max_members=settings.max_members,
            max_window=settings.max_window_bytes,
        )
        lines = to_ndjson(
            raw,
            max_entries=settings.max_batch_entries,
            max_depth=settings.max_json_depth,
            with_levels=settings.is_observed,
        )
        return Decoded(lines, len(raw))
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
            raw = decompress(
                batch.algorithm,
                batch.body,
                max_raw=batch.raw_bytes,
                max_ratio=None,
                max_members=settings.max_members,
                max_window=settings.max_window_bytes,
            )
        if len(raw) != batch.raw_bytes or batch_crc(batch.sequence, raw) != batch.crc:
            raise DecompressionError("corrupt", "its length or CRC is not that of its prefix")
        lines = to_ndjson(
            raw,
            max_entries=settings.max_batch_entries,
            max_depth=settings.max_json_depth,
            in_session=True,
            with_levels=settings.is_observed,
        )
        return Decoded(lines, len(raw), batch.body if _is_worth_keeping(batch, raw, lines) else b"")
    except (DecompressionError, EntryError) as error:
        return error


def _is_worth_keeping(batch: SequencedBatch, raw: bytes, lines: Lines) -> bool:
    return (
        batch.algorithm is Algorithm.ZSTD
        and not batch.continued
        and len(raw) >= KEPT_FRAME_BYTES
        and lines.ndjson is raw
        and frame_of_size(batch.body, len(raw))
    )
