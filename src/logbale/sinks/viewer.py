"""One who looks at the live tail: a bounded queue of what they have not taken yet, and the count of what they miss.

Entries are numbered in the order in which they were stored. What a viewer misses is the difference between numbers, so
that nothing has to be counted for an entry that nobody looks at.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from logbale.entry_filter import EntryFilter

MAX_QUEUED_BYTES = 512 * 1024
"""Of entries that wait for one viewer to take them."""

EVENT_BYTES = 256
"""What an event takes beside its entries."""

SKIP_DELAY = 1.0
"""Seconds that the number of skipped entries waits for an entry to go with."""


class Found(msgspec.Struct, frozen=True):
    """Entries that were looked at, and those of them that a filter lets pass."""

    first: int
    end: int
    """The number of the first entry that was not looked at."""
    count: int
    """Entries in `data`; may be 0."""
    data: bytes
    """A JSON array of strings, each the JSON of one entry."""
    skipped: int = 0
    """Entries among them that were not looked at after all."""


class Shown(msgspec.Struct, frozen=True):
    """What a viewer gets to see next."""

    skipped: int
    """Entries before these that may have fitted and were not shown."""
    last: int
    """The number of the last entry that was looked at, or skipped."""
    data: bytes
    """As in Found; empty where there is only something skipped."""
    restarted: bool = False
    """The numbers that the viewer knew are those of an earlier run: what it missed of that one nobody knows."""


class Viewer:
    """Owned by the event loop. The hub offers, the viewer's connection takes."""

    def __init__(self, wanted: EntryFilter, *, next: int, restarted: bool = False) -> None:
        self.wanted = wanted
        self.next = next
        """The number of the first entry of which it has not heard."""
        self._restarted = restarted
        self._queue: deque[Shown] = deque()
        self.queued_bytes = 0
        """Of what it has not taken."""
        self._skipped = 0
        self._skipped_since = asyncio.get_running_loop().time() if restarted else None
        self._ended = False
        self._news = asyncio.Event()

    def offer(self, found: Found) -> bool:
        """Queues what was found, or counts it as skipped; whether it was queued. What it has heard of is no news."""
        if found.end <= self.next:
            return False
        self.skip_to(found.first)
        self.next = found.end
        if found.skipped:
            self._skip(found.skipped)
        if not found.count:
            return False
        weight = EVENT_BYTES + len(found.data)
        if self.queued_bytes + weight > MAX_QUEUED_BYTES:
            self._skip(found.count)
            return False
        self._queue.append(Shown(self._skipped, found.end - 1, found.data, self._restarted))
        self.queued_bytes += weight
        self._skipped, self._skipped_since, self._restarted = 0, None, False
        self._news.set()
        return True

    def skip_to(self, number: int) -> None:
        """Nothing below this number will be offered any more."""
        if number > self.next:
            self._skip(number - self.next)
            self.next = number

    def _skip(self, entries: int) -> None:
        self._skipped += entries
        if self._skipped_since is None:
            self._skipped_since = asyncio.get_running_loop().time()
            self._news.set()

    def end(self) -> None:
        """Nothing comes any more."""
        self._ended = True
        self._news.set()

    async def take(self) -> Shown | None:
        """What comes next; None where nothing will. Safe to cancel."""
        while not self._queue:
            if self._ended:
                return None
            # Without an entry to go with, the number of those that were skipped leaves by itself.
            due = None if self._skipped_since is None else self._skipped_since + SKIP_DELAY
            self._news.clear()
            try:
                async with asyncio.timeout_at(due):
                    await self._news.wait()
            except TimeoutError:
                return self._take_note()
        shown = self._queue.popleft()
        self.queued_bytes -= EVENT_BYTES + len(shown.data)
        return shown

    def _take_note(self) -> Shown:
        note = Shown(self._skipped, self.next - 1, b"", self._restarted)
        self._skipped, self._skipped_since, self._restarted = 0, None, False
        return note
