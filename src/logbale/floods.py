"""How often a message of something that may come in floods is worth a line. No clock, no I/O."""

from __future__ import annotations


def is_worth_saying(count: int) -> bool:
    """Of the 1st, 2nd, 4th, 8th …: a flood stays readable, and how far it has come is known within a factor of two."""
    return count & (count - 1) == 0
