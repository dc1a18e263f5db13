"""Log entries, and the chunks and batches that carry them; JSON in and out, no I/O.

A LogEntry is one flat JSON object: the four standard fields and whatever attributes its maker added. The pipeline
itself never builds one: from the source to the archive an entry is its line, one JSON object and a newline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, overload

import msgspec

from logbale.errors import EntryError

_STANDARD = ("timestamp", "level", "service", "message")


DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
"""For bytes.translate: what is left of two texts that differ in digits only is the same."""


def rfc3339(unix_seconds: float) -> str:
    """A Unix time as RFC 3339, UTC, with microseconds: `2026-11-24T08:30:00.000000Z`."""
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="microseconds")[:-6] + "Z"


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One log entry. In JSON its attributes stand beside the standard fields, not below them."""

    timestamp: str
    """RFC 3339, UTC, microseconds."""
    level: str | None = None
    """Upper case by convention; None where the origin names none."""
    service: str = ""
    message: str = ""
    attributes: dict[str, Any] = {}

    @classmethod
    def create(
        cls, message: str, *, now: float, level: str | None = "INFO", service: str = "", **attributes: Any
    ) -> LogEntry:
        """An entry that happened at `now` (Unix seconds)."""
        return cls(timestamp=rfc3339(now), level=level, service=service, message=message, attributes=attributes)

    def to_json(self) -> bytes:
        """The entry as one JSON object on one line, without a newline; a level of None is left out.

        An attribute never overrides a standard field: a name that is one raises EntryError.
        """
        clash = self.attributes.keys() & set(_STANDARD)
        if clash:
            raise EntryError(f"attributes {sorted(clash)}: these names are the entry's own fields")
        fields: dict[str, Any] = {"timestamp": self.timestamp}
        if self.level is not None:
            fields["level"] = self.level
        fields |= {"service": self.service, "message": self.message, **self.attributes}
        return msgspec.json.encode(fields)

    @classmethod
    def from_json(cls, data: bytes | str) -> LogEntry:
        """The entry in one JSON object. Raises EntryError where it is none, or a standard field is not a string."""
        try:
            fields = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EntryError(f"not a JSON object: {error}") from error
        standard = {name: fields.pop(name) for name in _STANDARD if fields.get(name) is not None}
        for name, value in standard.items():
            if not isinstance(value, str):
                raise EntryError(f"{name}={value!r}: expected a string")
        return cls(timestamp=standard.pop("timestamp", ""), attributes=fields, **standard)


class EntryEncoder:
    """Makes the lines of many entries of one origin, which differ in time, level and message only.

    An entry's line is its JSON object and a newline. What does not change is encoded once: at a million entries a
    second even a struct an entry would be visible (150 ns, and 90 more to encode it), and a call (60 ns; 45 so).
    """

    def __init__(self, service: str, constants: Mapping[str, Any], levels: Iterable[str]) -> None:
        """`constants` are attributes that every entry has, `levels` those that one may have; it may have none ("").
        Raises EntryError where a constant is a standard field.
        """
        clash = constants.keys() & set(_STANDARD)
        if clash:
            raise EntryError(f"constants {sorted(clash)}: these names are the entry's own fields")
        more = msgspec.json.encode(dict(constants))[1:-1]
        self.tail = b'"' + (b"," + more if more else b"") + b"}\n"
        """What follows an escaped message."""
        self._heads: dict[str, bytes] = {}
        for level in ("", *levels):
            fields = {"level": level, "service": service} if level else {"service": service}
            self._heads[level] = b'",' + msgspec.json.encode(fields)[1:-1] + b',"message":"'

    def between(self, timestamp: str) -> dict[str, bytes]:
        """What stands between the escaped messages of two entries, by the level of the second: the tail of the first
        and the second's head, with its time in the form of rfc3339().
        """
        begin = b'%b{"timestamp":"%b' % (self.tail, timestamp.encode())
        return {level: begin + head for level, head in self._heads.items()}


def escaped(text: str) -> bytes:
    """The text as it stands between the quotes of a JSON string. A lone surrogate raises UnicodeEncodeError."""
    return msgspec.json.encode(text)[1:-1]


class JoinedLines(Sequence[bytes]):
    """Lines that were made as one piece, and are parted only for who looks at one."""

    def __init__(self, joined: bytes, count: int, sizes: Callable[[], Iterator[int]]) -> None:
        """`joined` has a newline at the end of each of `count` lines; `sizes` gives each one's bytes, that included."""
        self.joined = joined
        self.sizes = sizes
        self._count = count
        self._lines: list[bytes] | None = None

    @property
    def lines(self) -> list[bytes]:
        """Each by itself, with its newline."""
        if self._lines is None:
            self._lines = [line + b"\n" for line in self.joined.split(b"\n")[:-1]]
        return self._lines

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        return self.lines[index]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.lines)


def joined(lines: Sequence[bytes]) -> bytes:
    """Lines as one piece."""
    return lines.joined if isinstance(lines, JoinedLines) else b"".join(lines)


def sizes_of(lines: Sequence[bytes]) -> Iterator[int]:
    """The bytes of each line."""
    return lines.sizes() if isinstance(lines, JoinedLines) else map(len, lines)


class Chunk(msgspec.Struct, frozen=True):
    """Many entries at once, as a source read them."""

    entries: Sequence[bytes]
    """One line each: a JSON object and a newline."""
    source: str = ""
    """What the cursor counts in; empty where nothing can be resumed."""
    start: int = 0
    """The cursor before the first entry; without entries, where blank lines are."""
    end: int = 0
    """The cursor after the last entry."""
    measure: Callable[[], list[int]] | None = None
    """The source bytes that each entry took, newline included, which add up to end - start. It takes a while, and is
    asked only where a batch ends inside the chunk. None where there is no source to resume."""
    forgotten: tuple[str, ...] = ()
    """Sources whose cursors are of no use from here on."""
    begun: dict[str, int] = {}
    """Cursors of sources that are begun here, before any entry of theirs."""


class Batch(msgspec.Struct, frozen=True):
    """Entries that travel together in one frame."""

    raw: bytes
    """The lines of its entries (NDJSON): a session's raw batch, and what the spool and the archive keep."""
    count: int
    """Entries."""
    cursors: dict[str, int | None]
    """How far the sources that moved are read when this batch is stored; None takes a cursor away."""
    since: float | None = None
    """When its first entry was read, by the clock of whoever filled it."""
    sources: dict[str, int] = {}
    """Entries of each source that has a cursor; the others' are nobody's to give again."""


def json_array(lines: bytes) -> bytes:
    """The entries of a raw batch as a base frame has them: a JSON array of the same objects, byte for byte."""
    return lines if lines.startswith(b"[") else b"[" + lines[:-1].replace(b"\n", b",") + b"]"


def entry_lines(raw: bytes) -> list[bytes]:
    """The line of each entry of a raw batch, which is NDJSON or, from an older version's spool, a JSON array."""
    if raw.startswith(b"["):
        return [bytes(entry) + b"\n" for entry in msgspec.json.decode(raw, type=list[msgspec.Raw])]
    # Not splitlines(): a JSON line may have a carriage return between its tokens.
    return [line + b"\n" for line in raw.removesuffix(b"\n").split(b"\n")]
