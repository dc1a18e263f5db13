"""Lines of a log to entries: bytes in, Chunks out; no I/O, no clock.

A line that is a JSON object keeps its own bytes; any other line becomes the message. One struct an entry and as little
other per-entry Python as can be: at a million lines a second every statement in a loop over lines is visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from logbale.models import Chunk, entry_type, rfc3339
from logbale.ndjson import nests_too_deep

MAX_LINE_BYTES = 1024 * 1024
"""Longer lines are split into pieces of this size."""

LEVEL_WORDS = 6
"""A level is looked for among this many words from the start of a line."""

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
_DECORATIONS = (
    *("[{}]", "[{}]:", "[{}", "{}]", "<{}>", "({})", "|{}|", "{}:", "{},", "{}|", '"{}"', "{}:root:"),
    *("level={}", 'level="{}"', "lvl={}", "severity={}", "loglevel={}"),
)
LEVELS: dict[str, str] = {name: level for name, level in _NAMES.items()} | {
    decoration.format(written): level
    for name, level in _NAMES.items()
    for written in (name, name.lower(), name.capitalize())
    for decoration in _DECORATIONS
}
"""Words that plainly name a level. Undecorated only in capitals: a bare "error" or "Info" is prose."""


class LineParser:
    """Makes Chunks of the lines of one origin; counts what it had to mend."""

    def __init__(self, service: str, attributes: Mapping[str, Any], *, max_line: int = MAX_LINE_BYTES) -> None:
        """`attributes` go into every entry that has no field of that name itself."""
        self.invalid_utf8 = 0
        """Lines with bytes that are no UTF-8; they stand in the entry as \\xff."""
        self.split_lines = 0
        """Lines that were too long for one entry."""
        self._service = service
        self._attributes = dict(attributes)
        self._max_line = max_line
        self._entry = entry_type(self._attributes)
        self._overhead = len(msgspec.json.encode(self._entry(rfc3339(0), "WARNING", service, ""))) + 1

    def parse(self, data: bytes, *, now: float, start: int, source: str) -> Chunk:
        """The entries of whole lines, each ended by a newline except perhaps the last; blank lines are none.

        `now` (Unix seconds) becomes the time of all, `start` is where `data` begins in `source`. The sizes add up to
        len(data), so that the end of any entry is a place to resume at.
        """
        lines, sizes = self._lines(data)
        timestamp, service, entry = rfc3339(now), self._service, self._entry
        if b"{" in data and "{" in {line[:1] for line in lines}:
            entries = [self._from_json(line, timestamp) or self._from_text(line, timestamp) for line in lines]
        else:
            level = LEVELS.get
            entries = [
                entry(
                    timestamp,
                    next(filter(None, map(level, line.split(None, LEVEL_WORDS)[:LEVEL_WORDS])), UNSET),
                    service,
                    line,
                )
                for line in lines
            ]
        return Chunk(entries=entries, sizes=sizes, overhead=self._overhead, source=source, start=start)

    def _lines(self, data: bytes) -> tuple[list[str], list[int]]:
        """The lines as text without their ends, and the bytes that each took."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return self._lines_one_by_one(data)
        lines = text.split("\n")
        sizes = [len(line) + 1 for line in (lines if len(text) == len(data) else data.split(b"\n"))]
        if lines[-1]:
            sizes[-1] -= 1
        else:
            del lines[-1], sizes[-1]
        if b"\r" in data:
            lines = [line.removesuffix("\r") for line in lines]
        if "" in lines or max(sizes, default=0) > self._max_line:
            return self._lines_one_by_one(data)
        return lines, sizes

    def _lines_one_by_one(self, data: bytes) -> tuple[list[str], list[int]]:
        """The same for data with blank or overlong lines or bytes that are no UTF-8."""
        lines: list[str] = []
        sizes: list[int] = []
        skipped = 0
        for line in _split(data):
            body = line.removesuffix(b"\n").removesuffix(b"\r")
            if not body:
                skipped += len(line)
                continue
            pieces = self._pieces(body)
            for piece in pieces:
                lines.append(self._text(piece))
                sizes.append(len(piece) + skipped)
                skipped = 0
            sizes[-1] += len(line) - len(body)
        if skipped and sizes:
            sizes[-1] += skipped
        return lines, sizes

    def _pieces(self, line: bytes) -> list[bytes]:
        """The line, cut where it is too long, but never inside a character."""
        if len(line) <= self._max_line:
            return [line]
        self.split_lines += 1
        pieces = []
        start = 0
        while start < len(line):
            end = start + self._max_line
            if end < len(line):
                # A UTF-8 character is a byte and up to three that follow it, which all look like 10xxxxxx.
                end = next((cut for cut in range(end, max(start, end - 4), -1) if line[cut] & 0xC0 != 0x80), end)
            pieces.append(line[start:end])
            start = end
        return pieces

    def _text(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.invalid_utf8 += 1
            return line.decode("utf-8", "backslashreplace")

    def _from_text(self, line: str, timestamp: str) -> Any:
        level = next(filter(None, map(LEVELS.get, line.split(None, LEVEL_WORDS)[:LEVEL_WORDS])), UNSET)
        return self._entry(timestamp, level, self._service, line)

    def _from_json(self, line: str, timestamp: str) -> msgspec.Raw | None:
        """The line's own bytes, with what it lacks of time, service and attributes added; None where it is no object.

        What nests too deep for the receiver is no object either: it travels as text rather than not at all.
        """
        if not line.startswith("{"):
            return None
        data = line.encode().rstrip()
        try:
            present = _object.decode(data)
        except (msgspec.MsgspecError, RecursionError):
            return None
        if nests_too_deep(data):
            return None
        wanted = {"timestamp": timestamp, "service": self._service, **self._attributes}
        if missing := {name: value for name, value in wanted.items() if name not in present}:
            added = msgspec.json.encode(missing)
            data = data[:-1].rstrip() + (b"," if present else b"") + added[1:]
        return msgspec.Raw(data)


class LineCutter:
    """Whole lines from pieces of a stream. What is held back of an unfinished line stays under two pieces or so."""

    def __init__(self, max_line: int = MAX_LINE_BYTES) -> None:
        self.held_bytes = 0
        self._held: list[bytes] = []
        self._max_line = max_line

    def feed(self, data: bytes) -> bytes:
        """The lines that are whole by now; a line that grows over the limit is given out unfinished."""
        end = data.rfind(b"\n") + 1
        if not end and self.held_bytes + len(data) < self._max_line:
            self._hold(data)
            return b""
        lines = b"".join((*self._held, data[: end or None]))
        self._held, self.held_bytes = [], 0
        if end:
            self._hold(data[end:])
        return lines

    def finish(self) -> bytes:
        """The last line, which has no end."""
        rest = b"".join(self._held)
        self._held, self.held_bytes = [], 0
        return rest

    def _hold(self, data: bytes) -> None:
        if data:
            self._held.append(data)
            self.held_bytes += len(data)


_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _split(data: bytes) -> list[bytes]:
    """Lines with their ends, split at newlines only: splitlines() also splits at a lone carriage return."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]
