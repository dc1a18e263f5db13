"""What becomes of entries that were read, are not delivered, and are in no spool; no I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from logbale.models import Batch

ComesAgain = Callable[[str, int], bool]
"""Whether a later run reads once more what this one read of a source, up to that cursor."""


def reread_and_lost(batches: Sequence[Batch], comes_again: ComesAgain) -> tuple[int, int]:
    """Of the entries of these batches, in the order in which they were read: how many come again, how many never."""
    known: dict[str, bool] = {}
    reread = 0
    # The newest first: what is there up to its last cursor is there up to the earlier ones, too.
    for batch in reversed(batches):
        for name, entries in batch.sources.items():
            known[name] = known.get(name, False) or comes_again(name, batch.cursors.get(name) or 0)
            reread += entries if known[name] else 0
    return reread, sum(batch.count for batch in batches) - reread
