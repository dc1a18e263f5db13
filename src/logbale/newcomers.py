"""How many connections each address has whose client is not known yet: one address must not take every place.

No clock, no sockets. A client is known from its welcome on; one of the base protocol from its first sound batch on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from logbale.origins import NO_ADDRESS, address_key


class Newcomers:
    """Counts them by address, as origins.py has it. Loopback is not counted, nor who has no address."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._counts: Counter[str] = Counter()

    def came(self, host: str) -> bool:
        """A connection came from there; False where there are too many, and then it is not counted."""
        if (origin := address_key(host)) in (None, NO_ADDRESS):
            return True
        if self._counts[origin] >= self._limit():
            return False
        self._counts[origin] += 1
        return True

    def settled(self, host: str) -> None:
        """One of them is known now, or gone."""
        if (origin := address_key(host)) in (None, NO_ADDRESS):
            return
        self._counts[origin] -= 1
        if not self._counts[origin]:
            del self._counts[origin]

    def __len__(self) -> int:
        return len(self._counts)
