"""Which zstd window each session may have, so that all their contexts together fit into CONTEXT_MEMORY.

Pure: sessions come, go and obey, `now` is passed in, and moves() says whom to ask for another window. A session is
charged for what the costliest peer can make its decoder hold (ContextBytes.most), from its welcome on and whether or
not it uses a context; one that was asked for less is charged for the more until it has obeyed. So the sum never
exceeds the budget: where nothing fits, a session gets NO_CONTEXT.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from logbale.context import ZSTD_CONTEXT_BYTES
from logbale.messages import NO_CONTEXT

WINDOW_LOGS = (17, 16, 15, 14, 13, 12)
"""The windows on offer, the largest first.

Above, one source gains nothing (decision 0006). Below 12 a context of batches of 50 entries is larger on the wire than
each batch alone.
"""

GROW_SHARE = 0.75
"""Windows grow a step when all sessions with that step would take no more of the budget: room to the next shrink."""

GROW_INTERVAL = 60.0
"""Seconds between two steps up, and after a step down: a new window costs each shipper a new context."""

OBEY_SECONDS = 600.0
"""In which a session has to obey: its answer waits behind what it has sent, 4 MiB over 64 kbit/s at worst."""

_S = TypeVar("_S", bound=Hashable)


def charge(window_log: int) -> int:
    """Bytes of the budget that a session with this window takes."""
    return ZSTD_CONTEXT_BYTES[window_log].most if window_log else 0


class ContextBudget(Generic[_S]):
    """The windows of all open sessions. A session is anything that can be a key."""

    def __init__(self, memory: int) -> None:
        """`memory` is CONTEXT_MEMORY, in bytes."""
        self.memory = memory
        self.reserved_bytes = 0
        """What all sessions are charged; never more than `memory`."""
        self._window_logs = [window_log for window_log in WINDOW_LOGS if charge(window_log) <= memory] or [NO_CONTEXT]
        self._step = 0
        self._changed = float("-inf")
        self._has: dict[_S, int] = {}
        """What each session was told last."""
        self._with: dict[int, dict[_S, None]] = {window_log: {} for window_log in (*WINDOW_LOGS, NO_CONTEXT)}
        """The sessions with each window that are asked for no other; in the order of their coming."""
        self._asked: dict[_S, tuple[int, float]] = {}
        """The window before, and when they were asked; in that order."""

    @property
    def window_log(self) -> int:
        """What a session is offered as long as there is room."""
        return self._window_logs[self._step]

    @property
    def is_used_up(self) -> bool:
        """Whether not even the smallest windows of all sessions fit, so that some stay without."""
        return self.sessions * charge(WINDOW_LOGS[-1]) > self.memory

    @property
    def sessions(self) -> int:
        """Open now."""
        return len(self._has)

    def came(self, session: _S, now: float) -> int:
        """A new session's window: the one on offer, or the largest that fits while others have not obeyed yet."""
        self._look(now, self.sessions + 1)
        fitting = (one for one in self._window_logs[self._step :] if self._fits(charge(one)))
        window_log = next(fitting, NO_CONTEXT)
        self._has[session] = window_log
        self._with[window_log][session] = None
        self.reserved_bytes += charge(window_log)
        return window_log

    def left(self, session: _S) -> None:
        """A session is over. One that never came changes nothing."""
        window_log = self._has.pop(session, None)
        if window_log is None:
            return
        before, _ = self._asked.pop(session, (window_log, 0.0))
        self._with[window_log].pop(session, None)
        self.reserved_bytes -= max(charge(before), charge(window_log))

    def obeyed(self, session: _S) -> int:
        """A session has ended its old context; returns the window that holds from now on."""
        window_log = self._has[session]
        if (asked := self._asked.pop(session, None)) is not None:
            self.reserved_bytes -= max(0, charge(asked[0]) - charge(window_log))
            self._with[window_log][session] = None
        return window_log

    def moves(self, now: float, most: int) -> list[tuple[_S, int]]:
        """Whom to ask for which window now, at most so many: first those with too large a window, then the others."""
        self._look(now, self.sessions)
        target = self.window_log
        found: list[tuple[_S, int]] = []
        for session in self._candidates(target):
            if len(found) == most:
                break
            more = charge(target) - charge(self._has[session])
            if more > 0:
                if not self._fits(more):
                    break
                self.reserved_bytes += more
            found.append((session, target))
            before = self._has[session]
            self._has[session] = target
            self._asked[session] = before, now
        for session, _ in found:
            self._with[self._asked[session][0]].pop(session)
        return found

    def disobedient(self, now: float) -> list[_S]:
        """The sessions that have not obeyed within OBEY_SECONDS."""
        late: list[_S] = []
        for session, (_, asked) in self._asked.items():
            if now - asked < OBEY_SECONDS:
                break
            late.append(session)
        return late

    def forgive(self, now: float) -> None:
        """Nobody was heard for a while, by our own will: the time to obey begins anew."""
        self._asked = {session: (before, now) for session, (before, _) in self._asked.items()}

    def _candidates(self, target: int) -> Iterator[_S]:
        for window_log in WINDOW_LOGS:
            if window_log > target:
                yield from self._with[window_log]
        for window_log in (NO_CONTEXT, *reversed(WINDOW_LOGS)):
            if window_log < target:
                yield from self._with[window_log]

    def _fits(self, more: int) -> bool:
        return self.reserved_bytes + more <= self.memory

    def _look(self, now: float, sessions: int) -> None:
        """Down as far as so many sessions ask for, at once; up by one step at a time."""
        before = self._step
        while self._step + 1 < len(self._window_logs) and sessions * charge(self.window_log) > self.memory:
            self._step += 1
        if self._step == before and self._step and now - self._changed >= GROW_INTERVAL:
            larger = self._window_logs[self._step - 1]
            self._step -= sessions * charge(larger) <= self.memory * GROW_SHARE
        if self._step != before:
            self._changed = now
