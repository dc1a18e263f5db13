"""KnownStore: what a store holds, as the loop that owns it knows it.

Calls that touch a disk run on one thread, in order, and the counts come back with each result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from logbale.spool import MemoryStore
from logbale.spool.fresh import FreshBatches
from logbale.spool.store import Store
from logbale.waiting_times import WaitingTimes

_T = TypeVar("_T")


class KnownStore:
    """Who puts batches into the store and who takes them out share it."""

    def __init__(self, store: Store, fresh: FreshBatches, thread: Executor | None = None) -> None:
        """`thread` runs one job at a time, in order: by default a thread of its own."""
        self.store = store
        self.fresh = fresh
        """Those that need not be read back."""
        self.times = WaitingTimes()
        self.sent_up_to = store.sent_up_to
        """The highest sequence that the receiver may have or get: such a batch is never dropped to make room."""
        self.elsewhere = 0
        """The highest that other receivers may have: neither is that one."""
        self.changed = asyncio.Event()
        """Set at each step forward: something became durable or was consumed, or there will be no more."""
        self._opening = self._counts = dict(store.counts)
        self.span = store.first, store.next_sequence
        """The lowest sequence that is not consumed, and the next one; as of the counts."""
        self.disk_bytes = store.disk_bytes
        """What the store takes, consumed or not; likewise."""
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix="logbale-spool")

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Runs one of the store's functions on its thread, after those before it."""
        if isinstance(self.store, MemoryStore):
            result = function(*arguments)
            self._counts, self.span, self.disk_bytes = self._counted()
            return result

        def counted() -> tuple[_T, tuple[dict[str, int], tuple[int, int], int]]:
            return function(*arguments), self._counted()

        # The counts come back with the result, so that what they say and what still waits for the store always add up.
        result, told = await asyncio.get_running_loop().run_in_executor(self._thread, counted)
        self._counts, self.span, self.disk_bytes = told
        return result

    def _counted(self) -> tuple[dict[str, int], tuple[int, int], int]:
        return dict(self.store.counts), (self.store.first, self.store.next_sequence), self.store.disk_bytes

    async def wait_for_change(self) -> None:
        """Returns at the next step forward."""
        self.changed.clear()
        await self.changed.wait()

    @property
    def is_empty(self) -> bool:
        """All that came is consumed."""
        return self.store.first == self.store.next_sequence

    @property
    def counts(self) -> dict[str, int]:
        """Entries since this start and what was left then: read = acknowledged + rejected + dropped_* + spooled."""
        now, then = self._counts, self._opening
        counts = {name: count - then.get(name, 0) for name, count in now.items()}
        counts["read"] += then["spooled"]
        counts["spooled"] = now["spooled"]
        return counts

    @property
    def taken_entries(self) -> int:
        """Since this start, without what was left then."""
        return self._counts["read"] - self._opening["read"]

    @property
    def waiting_batches(self) -> int:
        """Not consumed; not those that were dropped, of which the receiver has not heard yet."""
        first, following = self.span
        return max(0, following - first - self.store.skipped)

    @property
    def unsent_batches(self) -> int:
        """Of which, those that were never given to a connection."""
        first, following = self.span
        return following - max(first, self.sent_up_to + 1)

    async def close(self) -> None:
        """Frees the store and its thread."""
        await self.call(self.store.close)
        self.fresh.forget_above(0)
        self._thread.shutdown(wait=False)
