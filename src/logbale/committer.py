"""The committer: what all connections have decoded goes to the sink in groups, and each hears of its own.

A sink that cannot store now is asked again until it can; meanwhile nothing is dropped and nothing is acknowledged.
Where that is one stream's trouble alone, what comes of it is held back, in order, and the others go on; of too much
that is held back some is given up, unacknowledged, to be sent again.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from math import inf
from typing import Protocol

import msgspec

from logbale.errors import StorageError
from logbale.metrics import ReceiverMetrics
from logbale.sinks import Item, NotNow, Outcome, ReceivedBatch, Rejected, Sink

log = logging.getLogger("logbale.receiver")

COMMIT_BYTES = 8 * 1024 * 1024
"""Raw bytes that one group commit takes at most, so that no acknowledgement waits for a whole backlog."""

ITEM_BYTES = 512
"""What an item weighs beside its entries: a million rejects that wait for the sink are not nothing."""

STORAGE_RETRY = 1.0
"""Seconds between attempts while the sink cannot store."""

STEADY_SECONDS = 5.0
"""So long the sink must store before it is said that it does: a full one takes a little now and then."""

_NUMBER = re.compile(r"\d[\d.,]*")
"""In a reason: of a sink that is full they change with each attempt, and it is the same reason."""


class Submitter(Protocol):
    """Who handed an item in."""

    peer: str

    def settled(self, item: Item, outcome: Outcome) -> None:
        """The sink has said its word on an item; called in the order of submission."""

    def group_ended(self) -> None:
        """All of a group that was this submitter's is settled: one acknowledgement covers it."""

    def held(self, seconds: float, reason: str) -> None:
        """What it submits cannot be stored for so long at least, and need not come in until group_ended()."""

    def given_up(self, item: Item) -> None:
        """The item is not stored and takes too much memory: nothing more of its session may be submitted."""


class _Waiting(msgspec.Struct):
    item: Item
    submitter: Submitter


class Committer:
    """Owns the queue in front of the sink. `run` for ever; submit() from the same loop."""

    def __init__(self, sink: Sink, metrics: ReceiverMetrics, *, max_held: Callable[[], float] = lambda: inf) -> None:
        """`max_held` is how many bytes may be held back: what is read from others needs its part of the memory."""
        self.storage_error: str | None = None
        """Why the sink cannot store now; None while it can."""
        self._sink = sink
        self._metrics = metrics
        self._max_held = max_held
        self._waiting: deque[_Waiting] = deque()
        self._held: dict[str, list[_Waiting]] = {}
        """By stream, what the sink cannot store now, and what came after it."""
        self._unstored: set[str] = set()
        """Streams of which that was said."""
        self._arrived = asyncio.Event()
        self._said = ""
        """Why it cannot store, but for the numbers, until it is said that it can again."""
        self._steady: asyncio.TimerHandle | None = None
        """When that is to be said."""

    def submit(self, item: Item, submitter: Submitter) -> None:
        """Takes one item; its submitter hears of it once it is durable or rejected."""
        self._waiting.append(_Waiting(item, submitter))
        self._arrived.set()

    async def run(self) -> None:
        """Commits group after group. Ends only by an error that nobody foresaw."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                if group := self._take_group():
                    await self._commit(group)

    def _take_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._waiting and (not group or size + weight(self._waiting[0].item) <= COMMIT_BYTES):
            waiting = self._waiting.popleft()
            if self._held and (held := self._held.get(waiting.item.stream)) is not None:
                held.append(waiting)
                continue
            size += weight(waiting.item)
            group.append(waiting)
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        outcomes = await self._stored([waiting.item for waiting in group])
        self._waiting.extendleft(reversed(group[len(outcomes) :]))
        submitters: dict[Submitter, None] = {}
        held: dict[Submitter, str] = {}
        for waiting, outcome in zip(group, outcomes, strict=False):
            item = waiting.item
            if isinstance(outcome, NotNow):
                self._hold(waiting, outcome.reason)
                held[waiting.submitter] = outcome.reason
                continue
            if self._unstored and item.stream in self._unstored:
                self._unstored.discard(item.stream)
                log.warning("stream %s is stored again", item.stream or "(base clients)")
            if isinstance(item, ReceivedBatch):
                self._count(item, outcome)
            waiting.submitter.settled(item, outcome)
            submitters[waiting.submitter] = None
        for submitter in submitters:
            submitter.group_ended()
        for submitter, reason in held.items():
            submitter.held(STORAGE_RETRY, reason)
        if held:
            self._give_up_what_is_too_much()

    def _hold(self, waiting: _Waiting, reason: str) -> None:
        stream = waiting.item.stream
        if not self._held:
            asyncio.get_running_loop().call_later(STORAGE_RETRY, self._ask_again)
        if stream not in self._held:
            self._held[stream] = []
            self._metrics.errors["storage"] += 1
        if stream not in self._unstored:
            self._unstored.add(stream)
            log.error("stream %s cannot be stored now, whoever ships it waits: %s", stream or "(base clients)", reason)
        self._held[stream].append(waiting)

    def _give_up_what_is_too_much(self) -> None:
        """The stream that takes the most, then the next. Base clients do not send again: theirs stays."""
        sizes = {stream: sum(weight(one.item) for one in held) for stream, held in self._held.items()}
        too_much = sum(sizes.values()) - self._max_held()
        for stream in sorted(filter(None, sizes), key=sizes.__getitem__, reverse=True):
            if too_much <= 0:
                return
            too_much -= sizes[stream]
            # With all that came behind it, or that would be stored without what is missing before.
            given_up = self._held.pop(stream) + [one for one in self._waiting if one.item.stream == stream]
            self._waiting = deque(one for one in self._waiting if one.item.stream != stream)
            for waiting in given_up:
                waiting.submitter.given_up(waiting.item)

    def _ask_again(self) -> None:
        self._waiting.extendleft(reversed(list(chain.from_iterable(self._held.values()))))
        self._held.clear()
        self._arrived.set()

    async def _stored(self, items: list[Item]) -> Sequence[Outcome | NotNow]:
        while True:
            try:
                outcomes = await self._sink.commit(items)
            except StorageError as error:
                self._metrics.errors["storage"] += 1
                if self._steady is not None:
                    self._steady.cancel()
                self.storage_error = str(error)
                if (kind := _NUMBER.sub("", self.storage_error)) != self._said:
                    self._said = kind
                    log.error("cannot store now, the clients wait: %s", error)
                await asyncio.sleep(STORAGE_RETRY)
                continue
            if self.storage_error is not None:
                self.storage_error = None
                self._steady = asyncio.get_running_loop().call_later(STEADY_SECONDS, self._say_again)
            return outcomes

    def _say_again(self) -> None:
        self._said, self._steady = "", None
        log.warning("storing again")

    def _count(self, batch: ReceivedBatch, outcome: Outcome) -> None:
        if isinstance(outcome, Rejected):
            self._metrics.rejected_entries += batch.count
            self._metrics.errors["rejected"] += 1
            log.error("%s: %d entries rejected: %s", batch.peer, batch.count, outcome.reason)
        else:
            self._metrics.stored_entries += batch.count


def weight(item: Item) -> int:
    """Bytes that an item keeps in memory until it is settled."""
    return ITEM_BYTES + (len(item.ndjson) + len(item.frame) if isinstance(item, ReceivedBatch) else 0)
