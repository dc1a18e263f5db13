"""Joins the lines of one entry, such as a stack trace: whole lines in, whole entries out; no I/O, no clock.

An entry begins at a line that the start pattern matches and goes on to the next such line. It is given out when that
has come, when nothing has come for a while, or when the next line would take it over the limit.
"""

from __future__ import annotations

import re

from logbale.errors import ConfigError
from logbale.lines import MAX_LINE_BYTES

TIMEOUT = 1.0
"""Seconds without a further line after which an entry is given out."""

PATTERN_BYTES = 256
"""What a pattern sees of a line: an entry shows at its start, and a slow pattern has that much less to be slow on."""

MAX_PATTERN = 1000
"""Characters of a pattern."""

# A start is any line that plainly continues nothing: formats of time stamps are many, the forms of traces are few.
PRESETS = {
    "python": (
        r"(?!\s|$|Traceback \(most recent call last\):|During handling of the above|The above exception was"
        r"|\w[\w.]*(?:Error|Exception|Warning|Exit|Interrupt|Iteration|Group)(?::|$)|(?:\w+\.)+[A-Z]\w*(?::|$))"
    ),
    "java": (
        r"(?!\s|$|Caused by: |Suppressed: |\.\.\. \d+ |(?:[\w$]+\.)+[A-Z][\w$]*(?:Exception|Error|Throwable)(?::|\s|$))"
    ),
}
"""The start patterns that have a name."""

_LINES = re.compile(rb"[^\n]*\n|[^\n]+")


def start_pattern(text: str) -> re.Pattern[bytes]:
    """The pattern of a preset's name or a regular expression, for the start of a line. Raises ConfigError."""
    if len(text) > MAX_PATTERN:
        raise ConfigError(f"a multi-line pattern of {len(text)} characters: the limit is {MAX_PATTERN}")
    try:
        pattern = re.compile(PRESETS.get(text, text).encode())
    except (re.error, OverflowError) as error:
        raise ConfigError(f"{text!r}: neither {' nor '.join(PRESETS)} nor a regular expression: {error}") from error
    if pattern.match(b"") is not None:
        # Every line would be an entry, which is what happens without a pattern.
        raise ConfigError(f"{text!r}: matches an empty line; expected what only the first line of an entry begins with")
    return pattern


class LineJoiner:
    """Groups the lines of one origin into entries."""

    def __init__(self, start: re.Pattern[bytes], *, timeout: float = TIMEOUT, max_bytes: int = MAX_LINE_BYTES) -> None:
        """`timeout` in seconds of the caller's clock; `max_bytes` of an entry, a longer single line aside."""
        self.split_entries = 0
        """Entries that were given out in parts because of their size."""
        self._match = start.match
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._held = bytearray()
        self._since = 0.0

    @property
    def held_bytes(self) -> int:
        """Bytes of the entry that may go on."""
        return len(self._held)

    @property
    def deadline(self) -> float | None:
        """When the entry that is held is given out; None while there is none."""
        return self._since + self._timeout if self._held else None

    def feed(self, lines: bytes, now: float) -> list[bytes]:
        """The entries that are complete by now, each with all its bytes. Lines have their ends, or were cut."""
        entries = []
        for line in _LINES.findall(lines):
            is_cut = bool(self._held) and not self._held.endswith(b"\n")
            begins = not is_cut and self._match(line[:PATTERN_BYTES].rstrip(b"\r\n")) is not None
            too_long = len(self._held) + len(line) > self._max_bytes
            if self._held and (begins or too_long):
                self.split_entries += not begins
                entries.append(bytes(self._held))
                self._held.clear()
            self._held += line
        if lines:
            self._since = now
        return entries

    def take_due(self, now: float) -> bytes:
        """The entry that was held long enough; empty where there is none."""
        return self.finish() if self.deadline is not None and self.deadline <= now else b""

    def finish(self) -> bytes:
        """What is held."""
        held = bytes(self._held)
        self._held.clear()
        return held
