"""The level that a line names: chunks of lines in, names out; no I/O, no clock.

A level is a word of a table, among the first words of its line. Splitting those off is the dearest thing that is done
for a line, so what the beginning of one line has told is remembered for the others that begin alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from operator import itemgetter

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

BEGINNING = 80
"""Bytes of a line that are compared with what is known: eight words are seldom longer."""

MAX_KNOWN = 4096
"""Beginnings that are remembered, some 150 bytes each."""

ENOUGH_LINES = 64
"""In a chunk, to judge by it whether its lines begin alike."""

REST = 16
"""Times a chunk's lines that are looked at one by one after one in which most began like none before."""

_beginning = itemgetter(slice(0, BEGINNING))
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
"""No word of the table has a digit: where only digits differ, two lines name the same level."""


class LineLevels:
    """Finds the levels of lines by one table of words. What it remembers changes how long it takes, never a level."""

    def __init__(self, words: Mapping[bytes, str]) -> None:
        self._words = words
        self._known: dict[bytes, str] = {}
        self._resting = 0
        """Lines to come that are not compared with what is known."""

    def of(self, lines: list[bytes]) -> list[str]:
        """The level of each line; an empty text where it names none."""
        if self._resting > 0:
            self._resting -= len(lines)
            return list(map(self._search, lines))
        beginnings = list(map(bytes.translate, map(_beginning, lines), repeat(_DIGITS_ALIKE)))
        levels = list(map(self._known.get, beginnings))
        searched = 0
        if None in levels:
            for index, level in enumerate(levels):
                # One before it in this chunk may have told.
                if level is None and (level := self._known.get(beginnings[index])) is None:
                    level = self._search(lines[index])
                    self._remember(beginnings[index], level)
                    searched += 1
                levels[index] = level
            if len(lines) >= ENOUGH_LINES and searched > len(lines) // 2:
                self._resting = REST * len(lines)
        return levels  # type: ignore[return-value]  # each None was replaced

    def _search(self, line: bytes) -> str:
        words = line.split(None, LEVEL_WORDS)
        for word in words:
            if word in self._words:
                return self._words[word]
        # NAME:logger:text is what Python's logging writes by itself.
        name = words[0].partition(b":")[0] if words and b":" in words[0] else b""
        return _NAME_OF.get(name, "")

    def _remember(self, beginning: bytes, level: str) -> None:
        """Where no line that begins so can name another level."""
        words = beginning.split(None, LEVEL_WORDS + 1)
        if len(beginning) == BEGINNING:
            # The last word may go on behind the beginning, and the one after the sixth counts where it is the last.
            is_told = len(words) == LEVEL_WORDS + 2 or not self._words.keys().isdisjoint(words[:-1])
            if not is_told:
                return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[beginning] = level
