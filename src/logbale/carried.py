"""How much a link carried lately: totals in, the difference over a few seconds out; no clock."""

from __future__ import annotations

from collections import deque

SECONDS = 2.0
"""How far back lately goes."""

_STEP = 0.1
"""Seconds between the totals that are kept."""


class Carried:
    """Of a total that only grows."""

    def __init__(self) -> None:
        self._totals: deque[tuple[float, int]] = deque()

    def lately(self, total: int, now: float) -> int:
        """What it grew by in the last SECONDS, `total` being what it is now."""
        totals = self._totals
        if not totals or now - totals[-1][0] >= _STEP:
            totals.append((now, total))
        while len(totals) > 1 and totals[1][0] <= now - SECONDS:
            totals.popleft()
        return total - totals[0][1]
