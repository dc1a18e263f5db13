"""Since when batches wait, by sequence, until they are acknowledged; bounded, no I/O, no clock."""

from __future__ import annotations

from collections import deque
from itertools import islice

MAX_MARKS = 10_000
"""Batches whose time is kept. With more, every second one of them is let go: then some stand for all."""


class WaitingTimes:
    """Sequences only rise; what is below the first one that waits is forgotten."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque()

    def add(self, sequence: int, since: float) -> None:
        """The batch's first entry was read then."""
        self._marks.append((sequence, since))
        if len(self._marks) > MAX_MARKS:
            self._marks = deque(islice(self._marks, 0, None, 2))

    def take(self, first: int, last: int) -> list[float]:
        """Since when the batches from `first` to `last` waited, of those that are known; they wait no longer."""
        self._forget(first)
        taken = []
        while self._marks and self._marks[0][0] <= last:
            taken.append(self._marks.popleft()[1])
        return taken

    def oldest(self, first: int) -> float | None:
        """Since when the oldest batch from `first` on waits; None where none is known."""
        self._forget(first)
        return self._marks[0][1] if self._marks else None

    def clear(self) -> None:
        """The sequences begin anew."""
        self._marks.clear()

    def _forget(self, first: int) -> None:
        while self._marks and self._marks[0][0] < first:
            self._marks.popleft()
