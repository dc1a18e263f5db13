"""FanoutSink: one durable sink that decides, and views that get to see what it stored."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from logbale.sinks import Item, Mark, NotNow, Outcome, ReceivedBatch, Sink, Stored

log = logging.getLogger("logbale.receiver")


class View(Protocol):
    """Shows entries, best effort: what it cannot keep up with it skips and counts."""

    def show(self, batches: list[ReceivedBatch]) -> None:
        """Takes batches that are stored. Never waits."""
        ...

    async def close(self) -> None:
        """Shows what it still can, within a time limit of its own."""
        ...


class FanoutSink:
    """A sink made of `durable` and `views`: outcomes and errors are those of `durable` alone."""

    def __init__(self, durable: Sink, views: Iterable[View]) -> None:
        self._durable = durable
        self._failures = {view: 0 for view in views}

    @property
    def view_failures(self) -> int:
        """Times that a view raised an exception. The first of each view is in the log."""
        return sum(self._failures.values())

    async def commit(self, items: list[Item]) -> Sequence[Outcome | NotNow]:
        """As the durable sink does it; the batches that it stored are shown afterwards."""
        outcomes = await self._durable.commit(items)
        stored = [
            item
            for item, outcome in zip(items, outcomes, strict=False)
            if isinstance(item, ReceivedBatch) and isinstance(outcome, Stored)
        ]
        if stored:
            for view in self._failures:
                try:
                    view.show(stored)
                except Exception as error:
                    self._failed(view, error)
        return outcomes

    def mark(self, stream: str) -> Mark | None:
        """As the durable sink has it."""
        return self._durable.mark(stream)

    def can_admit(self, stream: str) -> bool:
        """As the durable sink has it."""
        return self._durable.can_admit(stream)

    def forget_rejects(self, stream: str, *, before: int) -> None:
        """As the durable sink does it."""
        self._durable.forget_rejects(stream, before=before)

    async def close(self) -> None:
        """Closes the durable sink, then the views, whatever fails."""
        try:
            await self._durable.close()
        finally:
            for view in self._failures:
                try:
                    await view.close()
                except Exception as error:
                    self._failed(view, error)

    def _failed(self, view: View, error: Exception) -> None:
        self._failures[view] += 1
        if self._failures[view] == 1:
            log.error("%s failed; storing goes on without it", type(view).__name__, exc_info=error)
