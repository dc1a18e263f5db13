"""Which summary lines are worth saying; no clock."""

from __future__ import annotations

from msgspec.structs import replace

from logbale.floods import Silence
from logbale.kafka.metrics import AnySnapshot
from logbale.metrics import ReceiverSnapshot
from logbale.status import summary


class SummaryLines:
    """An end that does nothing is quiet; one where entries wait says so again, ever more rarely."""

    def __init__(self) -> None:
        self._last = ""
        self._silence = Silence()

    def due(self, snapshot: AnySnapshot, *, now: float) -> str:
        """The line that is to be said now, or none; `now` in seconds."""
        if (news := summary(_ageless(snapshot))) != self._last:
            self._last, self._silence = news, Silence()
        elif not _waiting(snapshot):
            return ""
        return summary(snapshot) if self._silence.is_over(now) else ""


def _ageless(snapshot: AnySnapshot) -> AnySnapshot:
    """Without how long something waits, which changes with every look and is no news."""
    if not isinstance(snapshot, ReceiverSnapshot) or snapshot.relay is None:
        return snapshot
    return replace(snapshot, relay=replace(snapshot.relay, oldest_waiting=0.0))


def _waiting(snapshot: AnySnapshot) -> int:
    relay = snapshot.relay if isinstance(snapshot, ReceiverSnapshot) else None
    return snapshot.waiting_entries + (relay.waiting_entries if relay is not None else 0)
