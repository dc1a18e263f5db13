"""Which receiver to try next, and when: each has its own delays, and those before the one in use are looked at again.

No clock: the caller passes `now` (seconds of a clock that never goes back).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf

from logbale.backoff import delays

FIRST_DELAY = 1.0
LONGEST_DELAY = 30.0

TOGETHER = 0.5
"""Of its delay, at most so many seconds: a receiver is tried so long before it is due where another one is tried, so
that several that are away make one round."""

PAUSES_GROW = 16
"""Times the return interval that a receiver is left alone at most, however often it lost us soon after we came back."""

REMEMBERED = 64
"""Receivers that are not offered now and whose delays still hold when they are: a resolver may name a few of many."""

STOOD = 5
"""Return intervals after which a session counts as having stood."""


class _Known:
    """What is known of one receiver."""

    def __init__(self, waits: Iterator[float]) -> None:
        self.waits = waits
        self.refused: Iterator[float] | None = None
        """The delays while it refuses us: they grow at once, so that it need not lock our address out."""
        self.due = -inf
        self.soonest = -inf
        """When it may be tried with others."""
        self.look_due = -inf
        """When it may be looked at while another one is in use."""
        self.pause = 0.0
        """How long it was left alone after it lost us; 0 as long as it has not."""
        self.opened: float | None = None
        """When the session there began that has not ended yet."""


class Failover:
    """The choice among the receivers of one stream, best first."""

    def __init__(self, *, chance: Callable[[], float], steady: float = 0.0, return_interval: float = inf) -> None:
        """`steady`: so long a lost receiver is tried every second; after that the delays grow.

        `return_interval` is between two looks at what is better than the one in use.
        """
        self.return_interval = return_interval
        self.receivers: Sequence[str] = ()
        """In the order in which they are wanted."""
        self._chance = chance
        self._steady = steady
        self._known: dict[str, _Known] = {}
        self._held: str | None = None
        self._failed: set[str] = set()
        """Those that failed in this round: nobody is tried twice before each other one that is due was tried once."""

    def offer(self, receivers: Sequence[str]) -> None:
        """These there are now, best first; what was learnt of the others is forgotten, but for the last of them."""
        self.receivers = receivers
        others = [name for name in self._known if name not in receivers][-REMEMBERED:]
        present = {name: self._known.get(name) or _Known(self._delays(self._steady)) for name in receivers}
        self._known = {name: self._known[name] for name in others} | present
        self._failed &= set(receivers)
        if self._held not in receivers:
            self._held = None

    def next(self, now: float) -> tuple[str, float]:
        """The receiver to try, and in how many seconds; 0 where one is due."""
        if self._held is not None:
            return self._held, max(0.0, self._known[self._held].due - now)
        for name in self.receivers:
            if name not in self._failed and self._known[name].soonest <= now:
                return name, 0.0
        self._failed.clear()
        name = min(self.receivers, key=lambda one: self._known[one].due)
        return name, max(0.0, self._known[name].due - now)

    def opened(self, name: str, now: float) -> None:
        """A session with it is open."""
        self._held = None
        self._failed.clear()
        if (known := self._known.get(name)) is not None:
            known.opened = now

    def failed(self, name: str, now: float, *, refused: bool = False, stay: bool = False) -> None:
        """It could not be had, or no longer. `refused`: it does not take us. `stay`: no other would do better."""
        if (known := self._known.get(name)) is None:
            return
        interval = self.return_interval
        known.look_due = max(known.look_due, now + interval)
        if known.opened is not None:
            known.waits = self._delays(self._steady)
            has_stood = now - known.opened >= STOOD * interval
            known.pause = interval if has_stood else min(max(interval, 2 * known.pause), PAUSES_GROW * interval)
            known.look_due = now + known.pause
            known.opened = None
        self._failed.add(name)
        if refused:
            known.waits = known.refused = known.refused or self._delays(0.0)
        else:
            known.refused = None
        wait = next(known.waits)
        known.due, known.soonest = now + wait, now + wait - min(TOGETHER, wait / 2)
        self._held = name if stay else None

    def left(self, name: str) -> None:
        """We go from it to a better one: it may be had again at once."""
        if (known := self._known.get(name)) is not None:
            known.opened = None

    def is_back(self, name: str) -> None:
        """A look has shown that it can be had: it is tried at once."""
        if (known := self._known.get(name)) is not None:
            known.due = known.soonest = -inf
            self._failed.discard(name)

    def choice(self, name: str) -> int:
        """1 for the first choice; what is no longer offered comes after all others."""
        return 1 + (self.receivers.index(name) if name in self.receivers else len(self.receivers))

    def better(self, name: str, now: float) -> list[str]:
        """Those that are wanted more than this one and may be looked at now."""
        before = self.receivers[: self.choice(name) - 1]
        return [one for one in before if self._known[one].look_due <= now]

    def _delays(self, steady: float) -> Iterator[float]:
        return delays(first=FIRST_DELAY, longest=LONGEST_DELAY, chance=self._chance, steady=steady)
