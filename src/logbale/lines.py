"""Lines of a log to entries: bytes in, Chunks out; no I/O, no clock.

A line that is a JSON object keeps its own bytes; any other line becomes the message. A chunk of lines is decoded,
escaped and split as a whole: at a million lines a second every statement in a loop over lines is visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import add, itemgetter, ne
from typing import Annotated, Any

import msgspec

from logbale.line_levels import LEVEL_NAMES, LEVELS, LineLevels, Search
from logbale.models import Chunk, EntryEncoder, JoinedLines, escaped, rfc3339
from logbale.ndjson import MAX_DEPTH, any_nests_too_deep, nests_too_deep

MAX_LINE_BYTES = 1024 * 1024
"""Longer lines are cut into pieces of this size, where nothing else is said (MAX_LINE_BYTES)."""

_AS_WRITTEN = Search({word.encode(): level for word, level in LEVELS.items()})
_AS_ESCAPED = Search({escaped(word): level for word, level in LEVELS.items()})
"""The words of a line as it was, and escaped for JSON. Apart: \\"ERROR\\" as written names no level."""

MAX_ALIKE = 256
"""Kinds of objects whose decoders are kept, for all files: one takes 4 KB, and 100 µs to make."""

_SEPARATOR = "\x7f"
"""Stands for the newlines of a chunk while it is escaped as a whole: JSON leaves a DEL as it is."""

_SPACES_ESCAPED = "\t\r\v\f"
"""They part words as a space does, unless they are escaped."""


class LineParser:
    """Makes Chunks of the lines of one origin; counts what it had to mend."""

    def __init__(
        self,
        service: str,
        attributes: Mapping[str, Any],
        *,
        max_line: int = MAX_LINE_BYTES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        """`attributes` go into every entry that has no field of that name itself."""
        self.invalid_utf8 = 0
        """Lines with bytes that are no UTF-8; they stand in the entry as \\xff."""
        self.split_lines = 0
        """Cuts made in lines that were too long for one entry."""
        # File names and arguments may be any bytes, which Python has as halves of surrogate pairs.
        self._service = _readable(service)
        self._attributes = {_readable(name): _readable(value) for name, value in attributes.items()}
        self._wanted = frozenset({"timestamp", "service", *self._attributes})
        self._max_line = max_line
        self._max_depth = max_depth
        self._encoder = EntryEncoder(self._service, self._attributes, LEVEL_NAMES)
        self._as_written = LineLevels(_AS_WRITTEN)
        self._as_escaped = LineLevels(_AS_ESCAPED)

    def parse(self, data: bytes, *, now: float, start: int, source: str) -> Chunk:
        """The entries of whole lines, each ended by a newline except perhaps the last; blank lines are none.

        `now` (Unix seconds) becomes the time of all, `start` is where `data` begins in `source`. The sizes add up to
        len(data), so that the end of any entry is a place to resume at. Blank lines alone leave nothing to add to: a
        resume meets them again.
        """
        text = self._decode(data)
        end, timestamp = start + len(data), rfc3339(now)
        entries = self._objects(text, timestamp) if data.startswith(b"{") else None
        if entries is None and (plain := self._plain_messages(data, text)) is not None:
            entries = self._join(*plain, timestamp)
        if entries is not None:
            return Chunk(entries, source, start, end, lambda: self._lines(data, text)[1])
        lines, sizes = self._lines(data, text)
        return Chunk(self._from_lines(lines, timestamp), source, start, end, sizes.copy)

    def parse_joined(self, records: Sequence[bytes], *, now: float, start: int, source: str) -> Chunk:
        """Like parse(), of whole entries that may have many lines each: joined by newlines, without one at the end."""
        texts = [self._decode(record).replace("\r\n", "\n").rstrip("\n") for record in records]
        sizes = [len(record) for record in records]
        end = start + sum(sizes)
        lines, sizes = _without_blanks(texts, sizes)
        return Chunk(self._from_lines(lines, rfc3339(now)), source, start, end, sizes.copy)

    def _decode(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            text = data.decode("utf-8", "backslashreplace")
            self.invalid_utf8 += sum(map(ne, map(str.encode, text.split("\n")), data.split(b"\n")))
            return text

    def _plain_messages(self, data: bytes, text: str) -> tuple[list[bytes], list[str]] | None:
        """The lines escaped for JSON, blank ones left out, and their levels; None where they need a closer look, one by
        one: where one may be a JSON object or is overlong.
        """
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        if _SEPARATOR in text:
            return None
        messages = _escaped_parts(text.replace("\n", _SEPARATOR))
        if not messages[-1]:
            del messages[-1]
        if len(data) > self._max_line and max(map(len, messages)) > self._max_line:
            return None
        if not all(messages):
            messages = list(filter(None, messages))
        if b"{" in data and b"{" in set(map(_first_byte, messages)):
            return None
        levels = self._as_escaped.of(messages)
        if any(space in text for space in _SPACES_ESCAPED):
            self._look_again(messages, levels)
        return messages, levels

    def _look_again(self, messages: list[bytes], levels: list[str]) -> None:
        """Lines with what is escaped, as a space between two words may be, get the level of the line as it was."""
        escaping = [position for position, message in enumerate(messages) if b"\\" in message]
        written = [_text.decode(b'"%b"' % messages[position]).encode() for position in escaping]
        for position, level in zip(escaping, self._as_written.of(written), strict=True):
            levels[position] = level

    def _objects(self, text: str, timestamp: str) -> Sequence[bytes] | None:
        """The entries of lines that are JSON objects all and lack the same; None where they need a closer look."""
        raw = text.encode()
        *lines, rest = raw.split(b"\n")
        if rest or {*map(_first_byte, lines)} != {b"{"} or not _OBJECTS_ENDS.issuperset(map(_last_bytes, lines)):
            return None
        if len(raw) > self._max_line and max(map(len, lines)) > self._max_line:
            return None
        try:
            present = self._wanted.intersection(_object.decode(lines[0]))
            # A newline between "}" and "{" parts two objects: anywhere else a comma would have to stand there.
            same = _alike(self._wanted, present).decode_lines(raw)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return None
        if len(same) != len(lines) or any_nests_too_deep(raw, self._max_depth):
            return None
        tail = self._lacking(present, timestamp)
        joined = raw.replace(b"}\n", b",%b\n" % tail) if tail != b"}" else raw
        return JoinedLines(joined, len(lines), lambda: (len(line) + 1 for line in joined.split(b"\n")[:-1]))

    def _lacking(self, present: frozenset[str], timestamp: str) -> bytes:
        """What an object with these of the wanted fields has too little, and its end."""
        wanted = {"timestamp": timestamp, "service": self._service, **self._attributes}
        return msgspec.json.encode({name: value for name, value in wanted.items() if name not in present})[1:]

    def _lines(self, data: bytes, text: str) -> tuple[list[str], list[int]]:
        """The lines as text without their ends, blank ones left out and overlong ones in pieces; the bytes of each."""
        *lines, rest = text.split("\n")
        sizes = [len(line) + 1 for line in data.split(b"\n")[:-1]]
        if "\r" in text:
            lines = [line.removesuffix("\r") for line in lines]
        if rest:
            lines.append(rest)
            sizes.append(len(data) - sum(sizes))
        if len(data) > self._max_line and max(sizes) > self._max_line:
            lines, sizes = self._in_pieces(data, lines, sizes)
        return _without_blanks(lines, sizes) if "" in lines else (lines, sizes)

    def _in_pieces(self, data: bytes, lines: list[str], sizes: list[int]) -> tuple[list[str], list[int]]:
        """The lines with the overlong ones cut, which is counted; the last piece has the size of the line's end."""
        pieces: list[str] = []
        weights: list[int] = []
        start = 0
        for line, size in zip(lines, sizes, strict=True):
            whole = data[start : start + size]
            start += size
            body = whole.removesuffix(b"\n").removesuffix(b"\r") if whole.endswith(b"\n") else whole
            if len(body) <= self._max_line:
                pieces.append(line)
                weights.append(size)
                continue
            cuts = _cuts(body, self._max_line, is_whole=whole.endswith(b"\n"))
            self.split_lines += len(cuts)
            pieces += [body[start:end].decode("utf-8", "backslashreplace") for start, end in pairwise([0, *cuts, None])]
            weights += [end - start for start, end in pairwise([0, *cuts, size])]
        return pieces, weights

    def _from_lines(self, lines: list[str], timestamp: str) -> Sequence[bytes]:
        """Entries of lines of which some may be JSON objects."""
        added: dict[frozenset[str], str] = {}
        # An object over several lines would be several lines in the archive: it travels as text.
        objects = [
            self._from_json(line, timestamp, added) if line.startswith("{") and "\n" not in line else None
            for line in lines
        ]
        texts = [line for line, found in zip(lines, objects, strict=True) if found is None]
        if not texts:
            return objects  # type: ignore[return-value]
        levels = self._as_written.of([text.encode() for text in texts])
        joined = self._join(list(map(escaped, texts)), levels, timestamp)
        if len(texts) == len(lines):
            return joined
        others = iter(joined)
        return [next(others) if found is None else found for found in objects]

    def _join(self, messages: list[bytes], levels: list[str], timestamp: str) -> Sequence[bytes]:
        """The entries of messages that are escaped. What stands between two of them is one piece: half the pieces."""
        if not messages:
            return []
        between, tail = self._encoder.between(timestamp), self._encoder.tail
        pieces = [tail] * (2 * len(messages) + 1)
        pieces[:-1:2] = map(between.__getitem__, levels)
        pieces[1::2] = messages
        pieces[0] = pieces[0][len(tail) :]
        return JoinedLines(
            b"".join(pieces),
            len(messages),
            # For who asks, who is rare.
            lambda: map(add, map(len, messages), map(len, map(between.__getitem__, levels))),
        )

    def _from_json(self, line: str, timestamp: str, added: dict[frozenset[str], str]) -> bytes | None:
        """The line's own bytes, with what it lacks of time, service and attributes added; None where it is no object.

        What nests too deep for the receiver is no object either: it travels as text rather than not at all. `added`
        remembers what is missing in one chunk's lines, which seldom differ in that.
        """
        try:
            fields = _object.decode(line)
        except (msgspec.MsgspecError, RecursionError):
            return None
        if nests_too_deep(line.encode(), self._max_depth):
            return None
        present = self._wanted.intersection(fields)
        if (tail := added.get(present)) is None:
            tail = added[present] = self._lacking(present, timestamp).decode()
        comma = "," if fields and tail != "}" else ""
        return f"{line.rstrip()[:-1]}{comma}{tail}\n".encode()


def _readable(value: Any) -> Any:
    r"""A text with what is no character as \xff; anything else as it is."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class LineCutter:
    """Whole lines from the pieces of a stream, however it was sliced.

    A line that has grown over the limit is given out in the pieces that LineParser would cut it into, so what is held
    of an unfinished line stays within the limit.
    """

    def __init__(self, max_line: int = MAX_LINE_BYTES) -> None:
        self.split_lines = 0
        """Cuts made in lines that were too long."""
        self._held = bytearray()
        self._max_line = max_line

    @property
    def held_bytes(self) -> int:
        """Bytes of the unfinished line."""
        return len(self._held)

    def feed(self, data: bytes) -> bytes:
        """What can be given out by now; empty where that is nothing."""
        end = data.rfind(b"\n") + 1
        whole = b"".join((self.finish(), memoryview(data)[:end])) if end else b""
        # Only new bytes are searched, and held ones are moved once: a stream of single bytes costs linear time.
        self._held += data[end:]
        cuts = _cuts(self._held, self._max_line) if len(self._held) > self._max_line else []
        if not cuts:
            return whole
        self.split_lines += 1
        piece = bytes(self._held[: cuts[-1]])
        del self._held[: cuts[-1]]
        return whole + piece

    def finish(self) -> bytes:
        """The last line, which has no end."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_first_byte, _last_bytes = itemgetter(slice(0, 1)), itemgetter(slice(-2, None))
_OBJECTS_ENDS = frozenset(b"%c}" % byte for byte in range(0x21, 0x100) if byte not in b"{,")
"""Of objects that are not empty, where no space stands before the brace."""
_Nothing = Annotated[str, msgspec.Meta(pattern="(?!)")]
"""A value that there is not."""


@lru_cache(MAX_ALIKE)
def _alike(wanted: frozenset[str], present: frozenset[str]) -> msgspec.json.Decoder[Any]:
    """Takes an object that has these of the wanted fields and no others of them. Raises ValueError where one has a name
    that no struct's field can have: with a backslash, a quote or a control character."""
    names = {f"field_{number}": name for number, name in enumerate(sorted(wanted))}
    fields = [(field, msgspec.Raw) if name in present else (field, _Nothing, None) for field, name in names.items()]
    return msgspec.json.Decoder(msgspec.defstruct("Alike", fields, rename=names, kw_only=True, gc=False))


def _escaped_parts(text: str) -> list[bytes]:
    """What escaped() gives, parted at the separators; the quotes are taken off last, so that less is copied."""
    parts = msgspec.json.encode(text).split(_SEPARATOR.encode())
    parts[0] = parts[0][1:]
    parts[-1] = parts[-1][:-1]
    return parts


def _without_blanks(lines: list[str], sizes: list[int]) -> tuple[list[str], list[int]]:
    """The lines that are not empty; the bytes of the others count with the next one, at the end with the last one."""
    kept: list[str] = []
    weights: list[int] = []
    waiting = 0
    for line, size in zip(lines, sizes, strict=True):
        waiting += size
        if line:
            kept.append(line)
            weights.append(waiting)
            waiting = 0
    if weights:
        weights[-1] += waiting
    return kept, weights


def _cuts(line: bytes | bytearray, limit: int, *, is_whole: bool = False) -> list[int]:
    """Where to cut a line so that no piece is longer than `limit`, nor a character cut through, if it is UTF-8."""
    cuts = []
    start = 0
    # A carriage return at the end of what has no end yet is most likely half of that.
    spare = not is_whole and line.endswith(b"\r")
    while len(line) - start > limit + spare:
        start += limit
        # The bytes after a character's first look like 10xxxxxx, and there are at most three.
        start -= next((back for back in range(min(4, limit)) if line[start - back] & 0xC0 != 0x80), 0)
        cuts.append(start)
    return cuts
