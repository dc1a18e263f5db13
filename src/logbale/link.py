"""What the shipper knows of its way to a receiver: SessionLink with answers, BaseLink without."""

from __future__ import annotations

import asyncio
from typing import Protocol

from logbale.config import Settings


class Link(Protocol):
    """The way to a receiver."""

    @property
    def unreachable_since(self) -> float:
        """Since when, by time.monotonic, the receiver cannot be had; infinity while it can."""
        ...

    @property
    def tried(self) -> asyncio.Event:
        """Set once the receiver could be had, or could not."""
        ...

    @property
    def growth_limit(self) -> int:
        """Raw bytes that the receiver takes of a batch beyond BATCH_SIZE; 0 where it has not said so."""
        ...

    @property
    def last_error(self) -> str:
        """The last that is known of why not everything is with the receiver."""
        ...

    async def run(self) -> None:
        """Ships what the queue holds until its input is closed and nothing waits any more."""
        ...

    async def finish(self, timeout: float) -> bool:
        """After run(): whether the receiver has everything, as far as the protocol can tell."""
        ...

    async def close(self) -> None:
        """Ends what is open."""
        ...

    def link_seconds(self) -> float | None:
        """How long the connection that is open was held up by the network; None where the system does not tell."""
        ...

    def follow(self, settings: Settings) -> None:
        """Other settings from now on; what a connection has agreed on stays until the next one."""
        ...

    def status(self) -> tuple[bool, str]:
        """Whether the receiver can be had, and if not, why."""
        ...
