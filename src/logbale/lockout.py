"""Lockout: an address that was wrong too often is not listened to for a while. No clock: the caller passes `now`.

What counts as one address, origins.py says; loopback is exempt.
"""

from __future__ import annotations

from collections import OrderedDict

from logbale.origins import address_key

FAILURES_WITHIN = 60.0
"""Seconds in which failures add up."""

MAX_ADDRESSES = 10_000
"""Remembered at a time; the one that failed longest ago is forgotten for the next."""


class Lockout:
    """Counts failures by address. `failures` within a minute close an address out for `seconds`; 0 is never."""

    def __init__(self, failures: int, seconds: float) -> None:
        self.failures = failures
        self.seconds = seconds
        self._known: OrderedDict[str, _Record] = OrderedDict()

    def failed(self, host: str, now: float) -> bool:
        """One more; True where this one closes the address out. One that is closed out already changes nothing."""
        key = address_key(host)
        if not self.failures or key is None or self.is_locked_out(host, now):
            return False
        record = self._known.get(key)
        if record is None or now - record.since >= FAILURES_WITHIN:
            record = self._known[key] = _Record(now)
        self._known.move_to_end(key)
        if len(self._known) > MAX_ADDRESSES:
            self._known.popitem(last=False)
        record.count += 1
        if record.count != self.failures:
            return False
        record.until = now + self.seconds
        return True

    def is_locked_out(self, host: str, now: float) -> bool:
        """Whether the address is not to be listened to now."""
        if not self._known or (key := address_key(host)) is None:
            return False
        record = self._known.get(key)
        if record is None or not record.until:
            return False
        if now < record.until:
            return True
        del self._known[key]
        return False


class _Record:
    __slots__ = ("count", "since", "until")

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0
        self.until = 0.0
        """0 while it is not closed out."""
