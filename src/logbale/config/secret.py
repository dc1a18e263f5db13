"""Secret: a text that shows itself only when it is asked to."""

from __future__ import annotations

HIDDEN = "(hidden)"


class Secret(str):
    """Prints, formats and repeats itself as `(hidden)`; reveal() gives the text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN if self else "''"

    def __str__(self) -> str:
        return HIDDEN if self else ""

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def reveal(secret: str) -> str:
    """The text itself."""
    return "".join(secret)
