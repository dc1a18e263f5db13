"""The level that a line names: chunks of lines in, names out; no I/O, no clock.

A level is a word of a table, among the first words of its line. Splitting those off is the dearest thing that is done
for a line, so what the beginning of one line has told is remembered for the others that begin alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from operator import itemgetter

from logbale.models import DIGITS_ALIKE

LEVEL_WORDS = 6
"""A level is looked for among this many words from the start of a line, and in the one after them if it is the last.
ASCII spaces part them, no others."""

_NAMES = {
    "TRACE": "TRACE",
    "DEBUG": "DEBUG",
    "INFO": "INFO",
    "INFORMATION": "INFO",
    "NOTICE": "NOTICE",
    "WARN": "WARNING",
    "WARNING": "WARNING",
    "ERR": "ERROR",
    "ERROR": "ERROR",
    "SEVERE": "ERROR",
    "CRIT": "CRITICAL",
    "CRITICAL": "CRITICAL",
    "ALERT": "ALERT",
    "EMERG": "EMERGENCY",
    "EMERGENCY": "EMERGENCY",
    "FATAL": "FATAL",
    "PANIC": "FATAL",
}
LEVEL_NAMES = tuple(dict.fromkeys(_NAMES.values()))
"""What a line's level can be."""

_IN_CAPITALS = ("{}", "{},", "{}|", "[{}", "{}]")
_IN_ANY_CASE = (
    *("[{}]", "[{}]:", "<{}>", "({})", "|{}|", "{}:", '"{}"'),
    *("level={}", 'level="{}"', "lvl={}", "severity={}", "loglevel={}"),
    # Apache writes the module before it.
    *(f"[{module}:{{}}]" for module in ("core", "mpm_event", "mpm_prefork", "ssl", "proxy", "authz_core", "php")),
)
LEVELS: dict[str, str] = {
    decoration.format(written): level
    for name, level in _NAMES.items()
    for decorations, spellings in (
        (_IN_CAPITALS, (name,)),
        (_IN_ANY_CASE, (name, name.lower(), name.capitalize())),
    )
    for decoration in decorations
    for written in spellings
}
"""Words that plainly name a level. With no or half a decoration only in capitals: "error," and "Info" are prose."""

_NAME_OF = {name.encode(): level for name, level in _NAMES.items()}
"""Of NAME:logger:text, which is what Python's logging writes by itself."""
_FIRST_THREE = {name[:3] for name in _NAME_OF}
_first_three, _name_and_colon = itemgetter(slice(0, 3)), itemgetter(slice(0, 1 + max(map(len, _NAME_OF))))

BEGINNINGS = (80, 40)
"""Bytes of a line that are compared with what is known: eight words are seldom longer than the first, and the second
are often enough where a level stands early and lines soon go on in all kinds of ways."""

MAX_KNOWN = 4096
"""Beginnings of one length that are remembered, some 150 bytes each."""

SAMPLE_LINES = 512
"""Lines at first, of which all that tells is remembered before the others are compared with it."""

LEARNED = 128
"""Beginnings that are remembered of each chunk after that: one costs as much as three searches."""

ENOUGH_LINES = 64
"""In a chunk, to judge by it whether its lines begin alike."""

REST = 16
"""Times a chunk's lines that are only searched after those in which lines began like few others."""


class LineLevels:
    """Finds the levels of lines by one table of words. What it remembers changes how long it takes, never a level."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._known = [_Known(self._search, length) for length in BEGINNINGS]
        self._at = 0
        """Which of them is in use."""
        self._is_first = True
        """Nothing was learned yet since it is."""
        self._resting = 0
        """Lines to come that are not compared with what is known."""

    def of(self, lines: list[bytes]) -> list[str]:
        """The level of each line; an empty text where it names none."""
        if self._resting > 0:
            self._resting -= len(lines)
            return self._search.of(lines)
        if self._is_first and len(lines) > 2 * SAMPLE_LINES:
            return self.of(lines[:SAMPLE_LINES]) + self.of(lines[SAMPLE_LINES:])
        is_first, self._is_first = self._is_first, False
        known = self._known[self._at]
        levels = list(map(known.levels.get, known.beginnings(lines)))
        if missing := _positions_of_none(levels):
            unknown = [lines[position] for position in missing]
            for position, level in zip(missing, self._search.of(unknown), strict=True):
                levels[position] = level
            self._learn(list(known.beginnings(unknown)), len(lines), all_of_them=is_first)
        return levels  # type: ignore[return-value]  # each None was replaced

    def _learn(self, missing: list[bytes], lines: int, *, all_of_them: bool) -> None:
        """These beginnings of so many lines were not known."""
        levels = self._known[self._at].levels
        new = list(dict.fromkeys(missing))
        if lines < ENOUGH_LINES or len(new) <= lines // 2:
            step = 1 if all_of_them else 1 + len(new) // LEARNED
            self._known[self._at].learn(new[::step])
        if lines >= ENOUGH_LINES and len(missing) - sum(map(levels.__contains__, missing)) > lines // 2:
            levels.clear()
            self._at = (self._at + 1) % len(self._known)
            self._is_first = True
            self._resting = 0 if self._at else REST * lines


def _positions_of_none(levels: list[str | None]) -> list[int]:
    """They are few where this matters."""
    positions: list[int] = []
    with contextlib.suppress(ValueError):
        position = -1
        while True:
            positions.append(position := levels.index(None, position + 1))
    return positions


class Search:
    """Looks at the words of lines: nothing of Python's own runs for a line that names no level.

    It remembers nothing, and is made once for all files that are followed: the set of its words takes 65 KB.
    """

    def __init__(self, words: Mapping[bytes, str]) -> None:
        self._words = words
        self.is_none_of = frozenset(words).isdisjoint

    def of(self, lines: Sequence[bytes]) -> list[str]:
        """The level of each line."""
        words = map(bytes.split, lines, repeat(None), repeat(LEVEL_WORDS))
        levels = ["" if is_none else None for is_none in map(self.is_none_of, words)]
        if None in levels:
            naming = [line for line, level in zip(lines, levels, strict=True) if level is None]
            words = map(bytes.split, naming, repeat(None), repeat(LEVEL_WORDS))
            firsts = map(next, map(filter, repeat(self._words.__contains__), words))
            found = map(self._words.__getitem__, firsts)
            levels = [next(found) if level is None else level for level in levels]
        if not _FIRST_THREE.isdisjoint(map(_first_three, lines)):
            heads = map(bytes.partition, map(_name_and_colon, lines), repeat(b":"))
            names = map(_NAME_OF.get, map(itemgetter(0), heads), repeat(""))
            levels = [level or name for level, name in zip(levels, names, strict=True)]
        return levels  # type: ignore[return-value]  # each None was replaced


class _Known:
    """The level of all lines that begin so, where that can tell."""

    def __init__(self, search: Search, length: int) -> None:
        self.levels: dict[bytes, str] = {}
        self._search = search
        self._length = length
        self._beginning = itemgetter(slice(0, length))

    def beginnings(self, lines: list[bytes]) -> Iterator[bytes]:
        """What is compared of each line: no word of the table has a digit, so where only those differ the level is one.
        One at a time, so that it stays in the processor's nearest cache."""
        return map(bytes.translate, map(self._beginning, lines), repeat(DIGITS_ALIKE))

    def learn(self, beginnings: Sequence[bytes]) -> None:
        """Remembers those of them that tell."""
        telling = list(filter(self._tells, beginnings))
        if len(self.levels) + len(telling) > MAX_KNOWN:
            self.levels.clear()
            del telling[MAX_KNOWN:]
        self.levels.update(zip(telling, self._search.of(telling), strict=True))

    def _tells(self, beginning: bytes) -> bool:
        """Whether no line that begins so can name another level."""
        if len(beginning) < self._length:
            return True
        # The last word may go on behind the beginning, and the one after the sixth counts where it is the last.
        words = beginning.split(None, LEVEL_WORDS + 1)
        return len(words) == LEVEL_WORDS + 2 or not self._search.is_none_of(words[:-1])
