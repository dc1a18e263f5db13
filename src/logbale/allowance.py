"""An allowance of CPU time that comes in steadily and is saved up to a limit. No clock: the caller passes `now`."""

from __future__ import annotations


class Allowance:
    """`share` of one core, of which at most `most` seconds are saved; all of them are there at the beginning."""

    def __init__(self, share: float, most: float, *, now: float) -> None:
        self._share = share
        self._most = most
        self._left = most
        self._at = now

    def spend(self, seconds: float, now: float) -> None:
        """They were taken, whether or not they were there."""
        self._left = self._until(now) - seconds

    def wait(self, now: float) -> float:
        """Seconds until there is something again; 0 while there is."""
        return max(0.0, -self._until(now) / self._share)

    def _until(self, now: float) -> float:
        self._left, self._at = min(self._most, self._left + (now - self._at) * self._share), now
        return self._left
