"""How many connections each address has whose client is not known yet: one address must not take every place.

No clock, no sockets. A client is known from its welcome on; one of the base protocol from its first sound batch on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address


class Newcomers:
    """Counts them by address, an IPv6 address by its /64: that is what one customer has. Loopback is not counted."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._counts: Counter[IPv4Address | int] = Counter()

    def came(self, host: str) -> bool:
        """A connection came from there; False where there are too many, and then it is not counted."""
        if (origin := _origin(host)) is None:
            return True
        if self._counts[origin] >= self._limit():
            return False
        self._counts[origin] += 1
        return True

    def settled(self, host: str) -> None:
        """One of them is known now, or gone."""
        if (origin := _origin(host)) is None:
            return
        self._counts[origin] -= 1
        if not self._counts[origin]:
            del self._counts[origin]

    def __len__(self) -> int:
        return len(self._counts)


def _origin(host: str) -> IPv4Address | int | None:
    """What is counted as one; None where nothing is."""
    try:
        address = ip_address(host)
    except ValueError:  # a socket that has no address
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return None if address.is_loopback else int(address) >> 64
        address = address.ipv4_mapped
    return None if address.is_loopback else address
