"""Forwarding: which of a relay's streams have a session upstream now, and when another's turn comes.

Each stream that waits gets a session of its own, at most so many at a time. One that has nothing more to send gives
its place up, at once where another waits for it; one that has much, after a while. While upstream cannot be had, one of
them tries and the others wait for its word, so that an outage is one line a try and not one for each stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic

from logbale.compressing import Compressing
from logbale.compression import CompressionHandler
from logbale.config import Settings, format_address
from logbale.errors import StorageError
from logbale.metrics import ShipperMetrics, Totals
from logbale.protocol import Algorithm
from logbale.relay.origin import Origin
from logbale.relay.queue import RelayQueue
from logbale.reports import REJECTED, Report
from logbale.session_link import SessionLink
from logbale.tls.material import ShipperTLS

log = logging.getLogger("logbale.relay")

LOOK_INTERVAL = 0.25
LINK_IDLE = 60.0
"""Seconds that a session stays open with nothing to send and nobody waiting for its place."""

TURN = 10.0
"""Seconds that a stream keeps its place while others wait for one and it always has more."""

GRACE = 5.0
"""Seconds that a session has to see settled what it has sent, once it is to end."""

RETRY = 1.0
"""Seconds after which a stream is tried again whose spool cannot be opened, or which failed in a way not foreseen."""

OWN = ("unauthorized", "wrong_stream", "limit", "decode", "superseded", "other_history", "storage", "protocol")
"""Why a session ends that says nothing of the others'."""


class Link:
    """One stream's way upstream, while it has a place."""

    def __init__(self, origin: Origin, now: float) -> None:
        self.origin = origin
        self.queue: RelayQueue | None = None
        self.metrics = ShipperMetrics(now=now)
        self.session: SessionLink | None = None
        self.task: asyncio.Task[None] | None = None
        self.since = now
        self.idle_since: float | None = None
        self.ending: float | None = None
        self.own_ends = 0
        self._is_cancelled = False

    def end(self, now: float) -> None:
        """It takes nothing more."""
        self.ending = self.ending or now
        if self.queue is not None and self.metrics.connected:
            self.queue.end_link()
        else:
            self.cancel()

    def cancel(self) -> None:
        """Ends it at once. Only the first time: a second one would hit it while it tidies up."""
        if self.task is not None and not self._is_cancelled:
            self._is_cancelled = True
            self.task.cancel()


class Forwarding:
    """`run` for ever; notice() whenever something of a stream became durable."""

    def __init__(
        self, settings: Settings, *, connections: int, tls: Callable[[], ShipperTLS | None] = lambda: None
    ) -> None:
        """`settings` are a shipper's, whose receiver is the one upstream."""
        self.address = format_address(settings.server_host, settings.server_port)
        self.sent = Totals()
        self.errors: Counter[str] = Counter()
        """Both of sessions that are over."""
        self.last_error = ""
        self._settings = settings
        self._connections = connections
        self._tls = tls
        self._compressing = Compressing(
            CompressionHandler(
                Algorithm.named(settings.compression_algorithm),
                settings.compression_level,
                enabled=settings.compression_enabled,
                bypass_threshold=settings.bypass_threshold,
            )
        )
        self._line: dict[Origin, None] = {}
        self._links: dict[Origin, Link] = {}
        self.looked = asyncio.Event()
        """Set at each look, about four times a second."""
        self._wake = asyncio.Event()
        self._prober: Link | None = None
        """Who tries, while upstream cannot be had."""
        self._word = asyncio.Event()
        """Set while nobody tries for the others."""
        self._word.set()
        self._is_ending = False
        self._failing: set[Origin] = set()
        """Whose spool failed the last time: that was said."""

    # what is known

    @property
    def links(self) -> list[Link]:
        """Those that have a place."""
        return list(self._links.values())

    @property
    def sessions(self) -> int:
        """Open now."""
        return sum(link.metrics.connected for link in self._links.values())

    @property
    def is_unreachable(self) -> bool:
        """Upstream cannot be had, as far as is known."""
        return self._prober is not None

    # what happens

    def notice(self, origin: Origin) -> None:
        """Something of it waits."""
        if origin not in self._links and origin not in self._line and not self._is_ending:
            self._line[origin] = None
            self._wake.set()

    def follow(self, settings: Settings, *, connections: int) -> None:
        """Other settings from now on, for the sessions that are open from their next connection on."""
        self._settings, self._connections = settings, connections
        handler = self._compressing.handler
        handler.level, handler.bypass_threshold = settings.compression_level, settings.bypass_threshold
        for link in self._links.values():
            if link.session is not None:
                link.session.follow(settings)

    async def run(self) -> None:
        """Gives places and takes them back."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self._wake.wait()
            self._wake.clear()
            self._look(monotonic())

    def _look(self, now: float) -> None:
        self.looked.set()
        if self._prober is not None and (self._prober.metrics.connected or self._prober.origin not in self._links):
            self._pass_on()
        free = self._connections - len(self._links) + sum(link.ending is not None for link in self._links.values())
        for link in list(self._links.values()):
            if self._is_over(link, now, is_wanted=len(self._line) > free):
                link.end(now)
                free += 1
            elif link.ending is not None and now - link.ending > GRACE:
                link.cancel()
        while self._line and len(self._links) < self._connections and (self._prober is None or not self._links):
            origin = next(iter(self._line))
            del self._line[origin]
            link = self._links[origin] = Link(origin, now)
            link.task = asyncio.create_task(self._forward(link))

    def _is_over(self, link: Link, now: float, *, is_wanted: bool) -> bool:
        """Whether its place, which another may be waiting for, is to be given up now."""
        if link.ending is not None or link.queue is None:
            return False
        if link.queue.has_waiting:
            link.idle_since = None
            return is_wanted and self._prober is None and now - link.since > TURN
        if link.idle_since is None:
            link.idle_since = now
        return is_wanted or now - link.idle_since > LINK_IDLE

    async def _forward(self, link: Link) -> None:
        """One stream's session, connection after connection, until its place is given up."""
        origin = link.origin
        wait = 0.0
        try:
            async with origin.used() as queue:
                link.queue = queue
                queue.begin_link(self._place_may_be_free)
                link.session = SessionLink(
                    queue,
                    self._settings,
                    self._compressing,
                    link.metrics,
                    report=lambda ended: self._report(link, ended),
                    tls=self._tls,
                    sleep=lambda delay: self._pause(link, delay),
                    knows_ways=False,
                )
                try:
                    await link.session.run()
                finally:
                    queue.end_link()
                    await queue.end_sending()
            self._failing.discard(origin)
        except StorageError as error:
            wait = RETRY
            if origin not in self._failing:
                self._failing.add(origin)
                log.error("stream %s cannot be forwarded now: %s", origin.stream or "(base clients)", error)
        except Exception:
            wait = RETRY
            self.errors["unforeseen"] += 1
            log.exception("stream %s: an error that nobody foresaw", origin.stream or "(base clients)")
        finally:
            self._ended(link, wait)

    def _place_may_be_free(self) -> None:
        if self._line:
            self._wake.set()

    def _ended(self, link: Link, wait: float) -> None:
        self.errors.update(link.metrics.errors)
        for name in ("batches", "entries", "raw_bytes", "wire_bytes"):
            setattr(self.sent, name, getattr(self.sent, name) + getattr(link.metrics.sent, name))
        self._links.pop(link.origin, None)
        if link is self._prober:
            self._pass_on()
        if link.origin.has_waiting and not self._is_ending:
            asyncio.get_running_loop().call_later(wait, self.notice, link.origin)
        self._wake.set()

    async def _pause(self, link: Link, delay: float) -> None:
        """Before a link tries again."""
        assert link.session is not None, "it calls this"
        self.last_error = link.session.last_error
        own_ends = sum(link.metrics.errors[reason] for reason in OWN)
        is_own, link.own_ends = own_ends > link.own_ends, own_ends
        if is_own or self._prober in (None, link):
            if is_own and self._prober is link:  # upstream answered
                self._pass_on()
            elif not is_own and not self.sessions:
                self._prober = link
                self._word.clear()
            await asyncio.sleep(delay)
        else:
            await self._word.wait()

    def _pass_on(self) -> None:
        """Nobody tries for the others any more: each for itself."""
        self._prober = None
        self._word.set()

    def _report(self, link: Link, ended: bool) -> Report:
        """What upstream is told of this stream; the relay stands in for the origin."""
        queue = link.queue
        assert queue is not None, "a session has one"
        counts = queue.counts
        read, waiting, delivered = (counts.pop(name) for name in ("read", "spooled", "acknowledged"))
        handler = self._compressing.handler
        return Report(
            read=read,
            delivered=delivered,
            rejected=counts.pop(REJECTED),
            dropped={name[:64]: number for name, number in counts.items() if number},
            waiting_entries=waiting,
            waiting_batches=queue.waiting_batches,
            spool_bytes=queue.spool_bytes,
            oldest_waiting=round(queue.oldest_waiting(monotonic()), 3),
            algorithm=handler.algorithm.label,
            level=handler.level,
            level_reason="fixed",
            ended=ended and not queue.has_waiting,
        )

    async def end(self) -> None:
        """Ends all sessions: what they have sent is waited for as long as is left, here a moment."""
        self._is_ending = True
        self._line.clear()
        links = self.links
        for link in links:
            link.end(monotonic())
        tasks = [link.task for link in links if link.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_ACKS)
            for link in links:
                link.cancel()
            await asyncio.wait(tasks)
        self._compressing.close()


LAST_ACKS = 1.0
"""Seconds that the sessions have at the end to hear of what they have sent."""
