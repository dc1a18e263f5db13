"""Where a shipper may connect to: the receivers that its settings name, each address of a name that has several."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import msgspec

from logbale.config import connect_host, format_address
from logbale.failover import Failover
from logbale.metrics import ShipperMetrics
from logbale.rendezvous import preference
from logbale.terminal import duration

RESOLVE_TIMEOUT = 5.0
"""Seconds that the resolver may take, after which what it said before still holds."""


class Receiver(msgspec.Struct, frozen=True):
    """One place to connect to."""

    name: str
    """What it is called, in messages and when streams are shared out: HOST:PORT in lower case."""
    host: str
    """As it was given: what its certificate has to be for."""
    port: int
    address: str = ""
    """The one of the host's addresses that this is; empty where any of them will do."""

    @property
    def target(self) -> str:
        """What to connect to."""
        return self.address or self.host

    def holder(self, peer: object) -> str:
        """Who has what it was sent, where `peer` is what a connection to it came to: a name with one address may stand
        for another machine, with another archive, the next time.
        """
        return self.name if self.address or _is_address(self.host) else f"{self.name} at {peer}"


class Receivers:
    """The receivers there are, the one that a stream should go to, and the one to try next."""

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        *,
        chance: Callable[[], float] = random.random,
        steady: float = 0.0,
    ) -> None:
        """`addresses` are hosts and ports; the rest is as for Failover."""
        self.failover = Failover(chance=chance, steady=steady)
        self._addresses = [(connect_host(host), port) for host, port in addresses]
        self._resolved: dict[str, list[str]] = {}
        self._by_name: dict[str, Receiver] = {}
        self.errors: dict[str, str] = {}
        """Why each could not be had, the last time that it couldn't."""
        self.asked_since: float | None = None
        """When one was asked last, by the clock of who asks."""

    @property
    def configured(self) -> str:
        """All of them, for a message."""
        return " or ".join(format_address(*address) for address in self._addresses)

    @property
    def are_several(self) -> bool:
        """Whether there is a choice, as far as is known."""
        return len(self._by_name) > 1

    @property
    def may_change(self) -> bool:
        """Whether another one may come without a word from us: where a name stands for it."""
        return any(not _is_address(host) for host, _ in self._addresses)

    def why_at(self, now: float) -> str:
        """Why none could be had, the last time that none could."""
        if not self.errors:
            return "not tried yet" if self.asked_since is None else f"no answer for {duration(now - self.asked_since)}"
        return next(iter(self.errors.values())) if not self.are_several else self.troubles()

    def trouble(self, name: str) -> str:
        """One of them, with why it could not be had."""
        return f"{name} ({self.errors.get(name, 'not tried yet')})"

    def troubles(self) -> str:
        """All of them so."""
        return ", ".join(self.trouble(name) for name in self.failover.receivers)

    async def look_up(self, stream: str) -> None:
        """Asks the resolver again, and puts what there is in the stream's order."""
        found = [receiver for host, port in self._addresses for receiver in await self._all_of(host, port)]
        self._by_name = {receiver.name: receiver for receiver in found}
        self.errors = {name: why for name, why in self.errors.items() if name in self._by_name}
        self.failover.offer(preference(stream, self._by_name))

    def count(self, metrics: ShipperMetrics, receiver: Receiver, lost: Receiver | None) -> None:
        """Says in the metrics which one is in use now, and that it took the place of one that was `lost`."""
        metrics.receivers = len(self._by_name)
        metrics.receiver, metrics.receiver_choice = receiver.name, self.failover.choice(receiver.name)
        metrics.failovers += lost is not None and lost.name != receiver.name

    def named(self, name: str) -> Receiver:
        """The receiver of that name."""
        return self._by_name[name]

    def called_now(self, receiver: Receiver, peer: str) -> str:
        """The name of the one at this address: what was the only one of its name may be one of several by now."""
        by_address = format_address(peer, receiver.port)
        return by_address if receiver.name not in self._by_name and by_address in self._by_name else receiver.name

    async def _all_of(self, host: str, port: int) -> list[Receiver]:
        if not _is_address(host):
            await self._resolve(host, port)
        addresses = self._resolved.get(host, [])
        if not addresses:
            return [Receiver(format_address(host, port).lower(), host, port)]
        return [Receiver(format_address(one, port), host, port, one) for one in addresses]

    async def _resolve(self, host: str, port: int) -> None:
        """Keeps what was known where the resolver does not answer: then nothing has changed, as far as we know."""
        with contextlib.suppress(OSError, UnicodeError, TimeoutError):
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                self._resolved[host] = several(await resolve(host, port))


async def resolve(host: str, port: int) -> list[tuple[int, str]]:
    """The families and addresses of a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, str(where[0])) for family, _, _, _, where in found]


def several(found: Sequence[tuple[int, str]]) -> list[str]:
    """Of families and addresses the addresses, where they are of several machines; none where they are of one.

    One of each family is one machine that can be reached in two ways, as `localhost` is.
    """
    unique = list(dict.fromkeys(found))
    families = [family for family, _ in unique]
    return [address for _, address in unique] if len(families) > len(set(families)) else []


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
