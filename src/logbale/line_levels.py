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
        self._known = _Known(words)
        self._search = self._known.search
        self._resting = 0
        """Lines to come that are not compared with what is known."""

    def of(self, lines: list[bytes]) -> list[str]:
        """The level of each line; an empty text where it names none."""
        if self._resting > 0:
            self._resting -= len(lines)
            return list(map(self._search, lines))
        known = self._known
        known.searched = known.untold = 0
        # One before it in this chunk may have told: what is missing is found, and remembered, as its turn comes.
        beginnings = map(bytes.translate, map(_beginning, lines), repeat(_DIGITS_ALIKE))
        levels = list(map(known.__getitem__, beginnings))
        if known.untold:
            levels = [self._search(line) if level is None else level for line, level in zip(lines, levels, strict=True)]
        if len(lines) >= ENOUGH_LINES and known.searched > len(lines) // 2:
            self._resting = REST * len(lines)
        return levels  # type: ignore[return-value]  # each None was replaced


class _Known(dict[bytes, str | None]):
    """The level of all lines that begin so; None where that cannot tell. Looking one up finds what is missing."""

    def __init__(self, words: Mapping[bytes, str]) -> None:
        self.searched = 0
        """Times that it lacked one."""
        self.untold = 0
        """Times that it gave None."""
        self._words = words
        self._untold: set[bytes] = set()
        """Beginnings that do not tell; not in the dict, so that each such line is counted."""

    def __missing__(self, beginning: bytes) -> str | None:
        if beginning in self._untold:
            self.untold += 1
            return None
        self.searched += 1
        if len(self) + len(self._untold) >= MAX_KNOWN:
            self.clear()
            self._untold.clear()
        if not self._tells(beginning):
            self._untold.add(beginning)
            self.untold += 1
            return None
        level = self[beginning] = self.search(beginning)
        return level

    def search(self, line: bytes) -> str:
        """The level of a line; of its beginning, where that tells."""
        words = line.split(None, LEVEL_WORDS)
        for word in words:
            if word in self._words:
                return self._words[word]
        # NAME:logger:text is what Python's logging writes by itself.
        name = words[0].partition(b":")[0] if words and b":" in words[0] else b""
        return _NAME_OF.get(name, "")

    def _tells(self, beginning: bytes) -> bool:
        """Whether no line that begins so can name another level."""
        if len(beginning) < BEGINNING:
            return True
        # The last word may go on behind the beginning, and the one after the sixth counts where it is the last.
        words = beginning.split(None, LEVEL_WORDS + 1)
        return len(words) == LEVEL_WORDS + 2 or not self._words.keys().isdisjoint(words[:-1])
