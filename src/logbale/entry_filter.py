"""Which entries somebody wants to see: by text, by level, by service. No regular expressions, no I/O.

A filter from a stranger costs microseconds an entry at most, whatever it is: a regular expression can cost seconds.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from logbale.entry_fields import origin_of
from logbale.levels import canonical_level

NONE = "-"
"""In a filter's levels or services: entries that have none."""

MAX_TEXT = 256
"""Characters of a text that the dashboard takes."""

MAX_NAMES = 64
"""Levels, and services, that it takes."""

Predicate = Callable[[bytes], bool]
"""Whether an entry's JSON is wanted."""


class EntryFilter(msgspec.Struct, frozen=True):
    """All of it must fit; what is empty fits every entry."""

    text: str = ""
    """In the entry's JSON as written, or inside one of its strings, however its writer escaped it."""
    levels: frozenset[str] = frozenset()
    """As canonical_level() has them, or NONE."""
    services: frozenset[str] = frozenset()

    def predicate(self) -> Predicate | None:
        """A function for filter(); None, which lets every line pass there, where every entry fits."""
        conditions: list[Predicate] = []
        if self.text:
            conditions.append(_contains(self.text))
        if self.levels or self.services:
            conditions.append(_belongs(self.levels, self.services))
        if len(conditions) == 2:
            has_text, belongs = conditions
            return lambda line: has_text(line) and belongs(line)
        return conditions[0] if conditions else None


def level_names(names: list[str]) -> frozenset[str]:
    """The levels of a filter, by whatever names."""
    return frozenset(canonical_level(name) for name in names)


def _belongs(levels: frozenset[str], services: frozenset[str]) -> Predicate:
    def belongs(line: bytes) -> bool:
        if (origin := origin_of(line)) is None:
            return False
        level, service = origin
        return (not levels or canonical_level(level or NONE) in levels) and (
            not services or (service or NONE) in services
        )

    return belongs


def _contains(text: str) -> Predicate:
    plain = text.encode("utf-8", "backslashreplace")  # half a surrogate pair, from a command line
    escaped = msgspec.json.encode(plain.decode())[1:-1]

    def contains(line: bytes) -> bool:
        if plain in line or escaped in line:
            return True
        # Only a needless escape (é as \u00e9, / as \/) can still hide it; encoded anew, it has none.
        if b"\\" not in line:
            return False
        try:
            return escaped in msgspec.json.encode(msgspec.json.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False

    return contains
