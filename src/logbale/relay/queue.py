"""RelayQueue: what a session upstream asks of its queue, over one origin's spool.

Batches come into the spool by the sink's hand, not through the queue's input; and a session may end while batches wait,
because another stream's turn has come.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from logbale.compressing import Pressed
from logbale.durations import Durations
from logbale.errors import StorageError
from logbale.relay.spool import Kept, OriginSpool
from logbale.relay.strand import Strand
from logbale.spool import Record, Skip
from logbale.spool.fresh import FreshBatches, FreshRoom
from logbale.spool_queue import SpoolQueue
from logbale.storing import LARGE_BYTES

log = logging.getLogger("logbale.relay")


class RelayQueue(SpoolQueue):
    """The queue of one origin's stream, on the threads of a pool that all share."""

    def __init__(
        self, spool: OriginSpool, pool: Executor, *, room: FreshRoom, durations: Durations, now: float
    ) -> None:
        """`room` is for what stays in memory, of all streams, so as not to be read back.

        `durations` gets how long each batch took from being durable here to its acknowledgement upstream.
        """
        super().__init__(spool, max_memory=0, durations=durations, fresh=FreshBatches(room), thread=Strand(pool))
        self.spool = spool
        self._when_drained: Callable[[], None] = lambda: None
        self.is_unsettled = False
        """Something was settled upstream that the disk need not know yet."""
        if self.has_waiting:  # since when, nobody knows any more
            self._stored.times.add(spool.next_sequence - 1, now)

    # the sink's side

    def kept(self, batches: list[Kept], now: float) -> None:
        """These are durable now; those for which there is room stay in memory, too."""
        for record, item in batches:
            self._stored.times.add(record.sequence, now)
            pressed = None
            if item.frame and item.raw_bytes >= LARGE_BYTES:
                pressed = Pressed(item.frame, 0, item.raw_bytes, 0.0, 0.0)
            self._stored.fresh.keep(record, item.ndjson or (b"" if pressed else item.lines()), pressed)
        self._stored.changed.set()

    @property
    def taken_entries(self) -> int:
        """Since it was made, without what waited then."""
        return self._stored.taken_entries

    @property
    def disk_bytes(self) -> int:
        """What the spool takes, consumed or not."""
        return self._stored.disk_bytes

    @property
    def has_waiting(self) -> bool:
        """Whether anything is not settled upstream, whatever becomes of the session: as the counts have it."""
        first, following = self._stored.span
        return first < following

    # the session's side

    def begin_link(self, when_drained: Callable[[], None]) -> None:
        """A session takes the queue's output from now on; `when_drained` hears when it has settled all there is."""
        self.is_closed = False
        self._when_drained = when_drained

    def end_link(self) -> None:
        """The session takes nothing more, and ends once what it has taken is settled."""
        self.is_closed = True
        self._stored.changed.set()

    @property
    def is_drained(self) -> bool:
        """Nothing waits; where the session is to end, nothing that it has taken."""
        return self.store.first > self._stored.sent_up_to if self.is_closed else super().is_drained

    async def next_item(self, sequence: int) -> Record | Skip | None:
        """As SpoolQueue; None, too, once the session is to end."""
        while not self.is_closed and sequence >= self.store.next_sequence:
            await self.wait_for_change()
        return None if self.is_closed else await super().next_item(sequence)

    async def acknowledge(self, last: int) -> None:
        """As SpoolQueue."""
        await super().acknowledge(last)
        if not self.has_waiting:
            self._when_drained()

    async def reject(self, sequence: int, reason: str) -> None:
        """As SpoolQueue: the origin has its acknowledgement, so the dead letter stays here."""
        log.error("stream %s: upstream rejects what was acknowledged here", self.spool.origin or self.store.stream)
        await super().reject(sequence, reason)

    def _settle_later(self) -> None:
        """The sink does it, for all."""
        self.is_unsettled = True

    async def settle_quietly(self) -> None:
        """Lets the disk know what is settled upstream, where nothing waits: nothing else would tell it for long."""
        if self.is_unsettled and not self.has_waiting:
            self.is_unsettled = False
            with contextlib.suppress(StorageError):  # nothing is lost by it, and the next write tells it
                await self.call(self.store.settle)
