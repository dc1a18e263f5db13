"""A batch's JSON array as the archive keeps it: one checked object a line (NDJSON), no I/O.

Entries are kept as the bytes that came. Only what would spoil the archive for its readers is written anew: DuckDB
refuses a whole file for one line of invalid UTF-8 or too deep nesting, and a newline between tokens would split a line.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import msgspec

from logbale.errors import EntryError

MAX_DEPTH = 64
"""Levels of objects and arrays in one entry."""

_CANONICAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class _Timed(msgspec.Struct, gc=False):
    """An entry of which only the time is of interest; decoding it also proves that it is an object."""

    timestamp: Any = None


class Lines(msgspec.Struct, frozen=True):
    """The entries of one batch, ready for a sink."""

    ndjson: bytes
    """One object a line, each ended by a newline; valid UTF-8."""
    count: int
    first: str
    """The lowest timestamp in the form of models.rfc3339; empty where an entry has none that can be read."""
    last: str
    rewritten: int
    """Entries that could not stay as they came."""


_split = msgspec.json.Decoder(list[msgspec.Raw])
_timed = msgspec.json.Decoder(list[_Timed])


def to_ndjson(raw: bytes, *, max_entries: int) -> Lines:
    """The lines of a raw batch. Raises EntryError where it is no JSON array of objects, empty, too long or too deep.

    The fast path keeps every entry's bytes: one pass that splits, one that reads the times. What a standard-library
    client may send and strict parsers refuse (NaN, Infinity, half a surrogate pair, stray bytes) takes the slow path.
    """
    try:
        entries = _split.decode(raw)
        if not entries:
            raise EntryError("the batch is an empty array: expected at least one entry")
        if len(entries) > max_entries:
            raise EntryError(
                f"a batch of {len(entries)} entries: the limit is {max_entries} (MAX_BATCH_ENTRIES)", reason="limit"
            )
        times = _timed.decode(raw)
        if not raw.isascii():
            raw.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # A nesting that the parsers do not follow raises RecursionError; the slow path says which it was.
        return _to_ndjson_slowly(raw, max_entries)
    ndjson = b"\n".join([*entries, b""])
    rewritten = 0
    if ndjson.count(b"\n") != len(entries) or b"\r" in ndjson:
        ndjson, rewritten = _on_one_line_each(entries)
    _check_depth(raw, entries)
    return Lines(ndjson, len(entries), *_span(times), rewritten)


def _on_one_line_each(entries: list[msgspec.Raw]) -> tuple[bytes, int]:
    """Entries with newlines between their tokens, written anew: inside a JSON string there can be none."""
    lines, rewritten = [], 0
    for entry in entries:
        line = bytes(entry).replace(b"\n", b" ").replace(b"\r", b" ")
        rewritten += line != entry
        lines.append(line + b"\n")
    return b"".join(lines), rewritten


def _check_depth(raw: bytes, entries: list[msgspec.Raw]) -> None:
    """Raises EntryError where an entry nests too deep. Only one with that many brackets can, and few have."""
    if raw.count(b"{") + raw.count(b"[") <= len(entries) + MAX_DEPTH:
        return
    for entry in entries:
        if nests_too_deep(bytes(entry)):
            raise EntryError(f"an entry nests more than {MAX_DEPTH} levels deep", reason="limit")


def nests_too_deep(line: bytes) -> bool:
    """Whether a valid JSON text goes deeper than MAX_DEPTH. Counting brackets first spares nearly all the walk."""
    return line.count(b"{") + line.count(b"[") > MAX_DEPTH and _depth(line) > MAX_DEPTH


_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]')


def _depth(line: bytes) -> int:
    """How deep valid JSON nests."""
    depth = deepest = 0
    for token in _STRING_OR_BRACKET.finditer(line):
        character = line[token.start()]
        if character in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in b"}]":
            depth -= 1
    return deepest


def _span(entries: list[_Timed]) -> tuple[str, str]:
    """The lowest and the highest timestamp, as UTC; empty where one of them cannot be read."""
    try:
        times = set(map(attrgetter("timestamp"), entries))
        if not all(map(_CANONICAL.fullmatch, times)):
            times = set(map(_canonical, times))
    except (TypeError, ValueError, OverflowError):  # no string, no time, a time beyond the year 9999
        return "", ""
    return min(times), max(times)


def _canonical(timestamp: str) -> str:
    moment = datetime.fromisoformat(timestamp)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _to_ndjson_slowly(raw: bytes, max_entries: int) -> Lines:
    """The same through the standard library, which takes more: every odd entry is written anew as plain ASCII."""
    try:
        # surrogateescape keeps a stray byte apart from any character until _clean writes it out.
        entries = json.loads(raw.decode("utf-8", "surrogateescape"))
    except RecursionError:
        raise EntryError(f"an entry nests more than {MAX_DEPTH} levels deep", reason="limit") from None
    except ValueError as error:
        raise EntryError(f"not a JSON array of objects: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise EntryError("not a JSON array of objects")
    if len(entries) > max_entries:
        raise EntryError(
            f"a batch of {len(entries)} entries: the limit is {max_entries} (MAX_BATCH_ENTRIES)", reason="limit"
        )
    cleaned = [_clean(entry, MAX_DEPTH) for entry in entries]
    lines = to_ndjson(json.dumps(cleaned, separators=(",", ":"), allow_nan=False).encode(), max_entries=max_entries)
    rewritten = sum(before != after for before, after in zip(entries, cleaned, strict=True))
    return msgspec.structs.replace(lines, rewritten=rewritten)


def _clean(value: Any, depth: int) -> Any:
    """The value with what JSON has no form for spelled out: NaN as "NaN", a stray byte or half a pair as "\\xff"."""
    if isinstance(value, str):
        return _SURROGATE.sub(_spelled_out, value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict | list):
        if depth == 0:
            raise EntryError(f"an entry nests more than {MAX_DEPTH} levels deep", reason="limit")
        if isinstance(value, dict):
            return {_clean(key, 0): _clean(item, depth - 1) for key, item in value.items()}
        return [_clean(item, depth - 1) for item in value]
    return value


_SURROGATE = re.compile("[\ud800-\udfff]")


def _spelled_out(match: re.Match[str]) -> str:
    """A stray byte (which surrogateescape made U+DC80 to U+DCFF) as \\xff, any other surrogate as \\ud800."""
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
