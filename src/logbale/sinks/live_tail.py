"""LiveTail: a view for whoever wants to see entries go by, each through a filter of their own.

It never makes the pipeline wait. All viewers together take at most CPU_SHARE of a core: of what does not fit into that,
the newest is looked at and the rest is skipped and counted. Without viewers nothing is done for an entry, and next to
nothing for a batch: the newest few are remembered, for a viewer whose connection broke and who comes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator

from logbale.allowance import Allowance
from logbale.entry_filter import EntryFilter
from logbale.sinks import ReceivedBatch
from logbale.sinks.looking import Piece, Sieve, portions, replay
from logbale.sinks.viewer import Viewer

log = logging.getLogger("logbale.receiver")

MAX_VIEWERS = 20
"""At a time, where nothing else is said (DASHBOARD_MAX_VIEWERS)."""

RING_BYTES = 4 * 1024 * 1024
"""Raw bytes of the batches that are remembered; or one alone that takes no more memory than this."""

PIECE_BYTES = 1024
"""What a batch takes beside its entries."""

MAX_AGE = 1.0
"""Seconds after which a batch that waits to be looked at gives way to newer ones: the tail is live."""

CPU_SHARE = 0.008
"""Of one core, for all viewers together; with what is not charged, under two per cent (benchmarks/live_tail.py)."""

CPU_SAVED = 0.1
"""Seconds of CPU that quiet times save up: what a burst of some thousand entries needs."""

LOOK_SECONDS = 0.001
"""CPU that one look takes, about: the event loop does nothing else meanwhile."""

SEND_SECONDS = 60e-6
SEND_SECONDS_PER_BYTE = 0.5e-9
"""CPU that an event takes on its way to one viewer (benchmarks/live_tail.py)."""


class NoPlace(Exception):
    """As many as may look already do, or the end is near."""


class LiveTail:
    """Owned by the event loop."""

    def __init__(self, *, max_viewers: int = MAX_VIEWERS, errors: Counter[str] | None = None) -> None:
        """Who finds no place is counted in `errors`."""
        self.max_viewers = max_viewers
        self._errors = errors
        # Numbers rise across restarts too, so that a viewer's last one is recognised as that of an earlier run: no
        # receiver stores a million entries a second for all its life.
        self.base = self._next = self._position = time.time_ns() // 1000
        """The number of the first entry of this run."""
        self._ring: deque[Piece] = deque()
        self.remembered_bytes = 0
        """Raw bytes of the batches that are remembered."""
        self._pending: deque[Piece] = deque()
        self._reading: Piece | None = None
        self._portions: Iterator[list[bytes]] = iter(())
        self.viewers: set[Viewer] = set()
        self._sieves: dict[EntryFilter, Sieve] = {}
        self._joining = 0
        self._replaying = asyncio.Lock()
        self._allowance = Allowance(CPU_SHARE, CPU_SAVED, now=time.monotonic())
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # View

    def show(self, batches: list[ReceivedBatch]) -> None:
        """Remembers the batches, and has them looked at where there is somebody who wants to. Never waits."""
        now = asyncio.get_running_loop().time()
        for batch in batches:
            piece = Piece(self._next, batch, now)
            self._next = piece.end
            if len(batch.ndjson) + len(batch.frame) > RING_BYTES:
                continue
            self._ring.append(piece)
            self.remembered_bytes += PIECE_BYTES + batch.raw_bytes
            if self.viewers:
                self._pending.append(piece)
        while self.remembered_bytes > RING_BYTES and len(self._ring) > 1:
            forgotten = self._ring.popleft()
            self.remembered_bytes -= PIECE_BYTES + forgotten.batch.raw_bytes
            if self._pending and self._pending[0] is forgotten:
                self._pending.popleft()
        if self.viewers:
            self._news.set()

    async def close(self) -> None:
        """Nothing more is shown."""
        self.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def end(self) -> None:
        """Ends every viewer's stream, and lets no further one in."""
        self._closed = True
        for viewer in self.viewers:
            viewer.end()

    # viewers

    async def join(self, wanted: EntryFilter, *, after: int | None = None, last: int = 0) -> Viewer:
        """A viewer of what comes, until leave(). Raises NoPlace.

        It begins after the entry with the number `after`, as far as that is remembered, or else with the `last` ones.
        """
        if self._closed or len(self.viewers) + self._joining >= self.max_viewers:
            if self._errors is not None and not self._closed:
                self._errors["too_many_viewers"] += 1
            raise NoPlace
        self._joining += 1
        try:
            return await self._join(wanted, after, last)
        finally:
            self._joining -= 1

    async def _join(self, wanted: EntryFilter, after: int | None, last: int) -> Viewer:
        self._stand_at_end()
        if after is None:
            viewer = Viewer(wanted, next=self._next)
            if last:
                await self._replay(viewer, self.base, last)
        else:
            knows_us = self.base <= after + 1 <= self._next
            viewer = Viewer(wanted, next=after + 1 if knows_us else self.base, restarted=not knows_us)
        # What is looked at for the others meanwhile is replayed for this one.
        while self._stand_at_end() > viewer.next:
            await self._replay(viewer, viewer.next, None)
        self.viewers.add(viewer)
        self._sieves.setdefault(wanted, Sieve(wanted))
        if self._closed:
            viewer.end()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        self._news.set()
        return viewer

    def _stand_at_end(self) -> int:
        """Where the next look begins: without viewers, at what comes next."""
        if not self.viewers:
            self._position, self._reading = self._next, None
            self._pending.clear()
        return self._position

    async def _replay(self, viewer: Viewer, start: int, last: int | None) -> None:
        """Offers what is remembered from `start` to where the next look begins."""
        end = self._position
        pieces = [piece for piece in self._ring if piece.end > start and piece.first < end]
        async with self._replaying:  # one after the other: each must find something left
            await self._wait_for_cpu()
            events, cpu = await asyncio.to_thread(replay, pieces, viewer.wanted, start, end, last)
            self._allowance.spend(cpu, time.monotonic())
        if last is not None:
            viewer.next = events[0].first
        for found in events:
            viewer.offer(found)

    def leave(self, viewer: Viewer) -> None:
        """Nobody takes what is offered to it any more."""
        self.viewers.discard(viewer)
        viewer.end()
        wanted = {viewer.wanted for viewer in self.viewers}
        self._sieves = {each: sieve for each, sieve in self._sieves.items() if each in wanted}
        self._stand_at_end()

    # looking

    async def _run(self) -> None:
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self.viewers and self._goes_on():
                    self._look()
                    await self._wait_for_cpu()
        except Exception as error:
            log.error("the live tail has ended; storing goes on without it", exc_info=error)
            self.end()

    async def _wait_for_cpu(self) -> None:
        await asyncio.sleep(self._allowance.wait(time.monotonic()))

    def _goes_on(self) -> bool:
        """Whether there is something to look at; goes to where the next look begins."""
        stale = asyncio.get_running_loop().time() - MAX_AGE
        if self._pending and self._reading is not None and self._reading.arrived < stale:
            self._reading = None
        while len(self._pending) > 1 and self._pending[0].arrived < stale:
            self._pending.popleft()
        if self._reading is None and self._pending:
            self._read(self._pending.popleft())
        if self._reading is None:
            self._position = self._next
            for viewer in self.viewers:
                viewer.skip_to(self._next)
        return self._reading is not None

    def _read(self, piece: Piece) -> None:
        self._reading, self._portions, self._position = piece, portions(piece.batch), piece.first

    def _look(self) -> None:
        """Looks for LOOK_SECONDS, or until an event is full, and offers what was found."""
        began = time.thread_time()
        first = self._position
        took = 0.0
        while took < LOOK_SECONDS and (lines := self._next_lines()) is not None:
            for sieve in self._sieves.values():
                sieve.pour(lines)
            took = time.thread_time() - began
            if any(sieve.is_full for sieve in self._sieves.values()):
                break
        found = {wanted: sieve.empty(first, self._position) for wanted, sieve in self._sieves.items()}
        sent = [len(found[viewer.wanted].data) for viewer in self.viewers if viewer.offer(found[viewer.wanted])]
        took = time.thread_time() - began
        took += len(sent) * SEND_SECONDS + sum(sent) * SEND_SECONDS_PER_BYTE
        self._allowance.spend(took, time.monotonic())

    def _next_lines(self) -> list[bytes] | None:
        """The next lines without a gap before them; None where there are none now."""
        while self._reading is not None:
            if (lines := next(self._portions, None)) is not None:
                self._position += len(lines)
                return lines
            self._position, self._reading = self._reading.end, None
            if self._pending and self._pending[0].first == self._position:
                self._read(self._pending.popleft())
        return None
