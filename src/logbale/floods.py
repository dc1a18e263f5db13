"""How often a message of something that may come in floods, or goes on, is worth a line. No clock, no I/O."""

from __future__ import annotations

from math import inf


def is_worth_saying(count: int) -> bool:
    """Of the 1st, 2nd, 4th, 8th …: a flood stays readable, and how far it has come is known within a factor of two."""
    return count & (count - 1) == 0


FIRST_SILENCE = 60.0
"""Seconds after which what goes on is said again; then twice as many each time."""
LONGEST_SILENCE = 900.0


class Silence:
    """Of what goes on, or comes again and again: said at once, then ever more rarely."""

    def __init__(self) -> None:
        self._length = 0.0
        self._said = -inf

    def is_over(self, now: float) -> bool:
        """Whether it is to be said now (seconds), and then the next silence begins."""
        if now - self._said < self._length:
            return False
        # After a while without a reason to say it, it is news.
        is_news = now - self._said >= 2 * LONGEST_SILENCE
        self._length = FIRST_SILENCE if is_news else min(2 * self._length, LONGEST_SILENCE)
        self._said = now
        return True
