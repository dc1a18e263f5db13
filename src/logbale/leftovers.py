"""What becomes of entries that were read, are not delivered, and are in no spool; no I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from logbale.models import Batch

ComesAgain = Callable[[str, int], bool]
"""Whether a later run reads once more what this one read of a source, up to that cursor."""


def reread_and_lost(batches: Sequence[Batch], comes_again: ComesAgain) -> tuple[int, int]:
    """Of the entries of these batches, in the order in which they were read: how many come again, how many never."""
    known: dict[str, int] = {}
    reread = 0
    # The newest first: what is there up to its last cursor is there up to lower ones, too. An earlier one is higher
    # where the file was truncated in between.
    for batch in reversed(batches):
        for name, entries in batch.sources.items():
            cursor = batch.cursors.get(name) or 0
            if cursor > known.get(name, -1) and comes_again(name, cursor):
                known[name] = cursor
            reread += entries if cursor <= known.get(name, -1) else 0
    return reread, sum(batch.count for batch in batches) - reread
