"""Spools that go with their run: who ships a file to its end twice means to ship it twice; a failure leaves none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from logbale.durable import delete_locked
from logbale.spool.dead_letters import letter_paths
from logbale.spool.disk import DiskSpool

logger = logging.getLogger(__name__)


@contextmanager
def removed_when_finished(spool: DiskSpool, *, source_ended: Callable[[], bool]) -> Iterator[None]:
    """Deletes an open spool at the end of this, by when it is closed: unless something failed, waits, or was rejected.

    Nor where the source has not come to its end: the spool knows how far it was read, and the next run goes on there.
    No other process gets the directory before that: its first batches would be deleted.
    """
    assert spool.lock is not None, "it is open"
    with spool.lock.held():
        yield
        try:
            if source_ended() and not spool.counts["spooled"] and not letter_paths(spool.directory):
                delete_locked(spool.directory)
        except OSError as error:
            logger.warning("%s: cannot be removed, so the next run goes on after this one: %s", spool.directory, error)


@contextmanager
def removed_if_unused(spool: DiskSpool) -> Iterator[None]:
    """Closes an open spool at the end of this, if it still is, and deletes it where nothing was ever in it."""
    assert spool.lock is not None, "it is open"
    with spool.lock.held() as is_lost:
        try:
            yield
        finally:
            spool.close()
            if not (spool.counts["read"] or spool.cursors or is_lost()):
                with suppress(OSError):
                    delete_locked(spool.directory)
