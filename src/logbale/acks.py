"""Acks: the word on what is delivered, on its way to the queue."""

from __future__ import annotations

import asyncio

from logbale.spool_queue import SpoolQueue


class Acks:
    """Those of one session, or of a link without answers.

    The queue hears the last of them when it has time: it may be busy for longer than the receiver is with a batch, and
    neither the receiver's next word nor the window waits for that.
    """

    def __init__(self, queue: SpoolQueue) -> None:
        self._queue = queue
        self._last = 0
        """0 before the first."""
        self._came = asyncio.Event()

    def heard(self, last: int) -> None:
        """Everything up to and including `last` is delivered, and so is what was before."""
        self._last = max(self._last, last)
        self._came.set()

    async def run(self) -> None:
        """Tells the queue, for ever."""
        while True:
            await self._came.wait()
            self._came.clear()
            await self.pass_on()

    async def pass_on(self) -> None:
        """Returns once the queue knows all that was heard."""
        if self._last >= self._queue.first:
            await self._queue.acknowledge(self._last)

    async def end(self) -> None:
        """As pass_on(), and what waits has other numbers from then on: nothing that was heard is about them."""
        await self.pass_on()
        self._last = 0
