"""A batch as the archive keeps it: one checked JSON object a line (NDJSON), no I/O.

A raw batch comes as a JSON array of objects or, in a session, as those lines already. Entries are kept as the bytes
that came. Only what would spoil the archive for its readers is written anew: DuckDB refuses a whole file for one line
of invalid UTF-8 or too deep nesting, and a newline between tokens would split a line.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from operator import attrgetter, itemgetter
from typing import Any

import msgspec

from logbale.errors import EntryError
from logbale.levels import count_levels

MAX_DEPTH = 64
"""Levels of objects and arrays in one entry."""

MAX_DIGITS = 4000
"""Of an integer that is looked at; Python's own limit is 4,300 (sys.set_int_max_str_digits)."""

_CANONICAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class _Timed(msgspec.Struct, gc=False):
    """An entry of which only the time is of interest; decoding it also proves that it is an object."""

    timestamp: Any = None


class _TimedWithLevel(_Timed, gc=False):
    level: Any = None


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
    levels: dict[str, int] = {}
    """Entries by canonical level, where that was asked for; "" has none."""


_split = msgspec.json.Decoder(list[msgspec.Raw])
_timed = msgspec.json.Decoder(list[_Timed])
_timed_lines = msgspec.json.Decoder(_Timed)
_leveled = msgspec.json.Decoder(list[_TimedWithLevel])
_leveled_lines = msgspec.json.Decoder(_TimedWithLevel)
"""With the level: to find it takes 11 ns an entry and to count it 54 more, of 400 for all that is done here."""
_first_byte, _last_byte = itemgetter(0), itemgetter(-1)
_level = attrgetter("level")


def to_ndjson(raw: bytes, *, max_entries: int, in_session: bool = False, with_levels: bool = False) -> Lines:
    """The lines of a raw batch: an array of objects or, `in_session` only, lines of one object each.

    Raises EntryError where it is neither, or empty, too long or too deep. The fast path keeps every entry's bytes. What
    a standard-library client may send and strict parsers refuse (NaN, Infinity, half a surrogate pair, stray bytes)
    takes the slow path.
    """
    has_lines = in_session and raw.startswith(b"{")
    try:
        ndjson, times, rewritten = (
            _from_lines(raw, max_entries, _leveled_lines if with_levels else _timed_lines)
            if has_lines
            else _from_array(raw, _leveled if with_levels else _timed)
        )
        if not raw.isascii():
            raw.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # A nesting that the parsers do not follow raises RecursionError; the slow path says which it was.
        return _to_ndjson_slowly(raw, max_entries, has_lines=has_lines, with_levels=with_levels)
    _check_count(len(times), max_entries)
    _check_depth(ndjson)
    levels = count_levels(map(_level, times)) if with_levels else {}
    return Lines(ndjson, len(times), *_span(times), rewritten, levels)


def _from_lines(raw: bytes, max_entries: int, decoder: msgspec.json.Decoder[Any]) -> tuple[bytes, list[_Timed], int]:
    """Raises msgspec.DecodeError where not each line is one object as it stands, and EntryError for too many."""
    # Before they are decoded, and no further than to the limit: a batch of empty objects takes 25 times its size.
    lines = raw.split(b"\n", max_entries + 1)
    _check_count(max(1, len(lines) - 1), max_entries)
    times = decoder.decode_lines(raw)
    # The parser takes any space between and inside objects. Each newline must end one: it does if "}" stands before it
    # and "{" or the end behind it, because between those two JSON has a comma everywhere but between two whole texts.
    is_whole = not lines.pop() and len(lines) == len(times) and b"\r" not in raw
    try:
        if is_whole and {*map(_first_byte, lines)} == {ord("{")} and {*map(_last_byte, lines)} == {ord("}")}:
            return raw, times, 0
    except IndexError:  # a blank line has no bytes
        pass
    raise msgspec.DecodeError("not one object a line")


def _from_array(raw: bytes, decoder: msgspec.json.Decoder[Any]) -> tuple[bytes, list[_Timed], int]:
    entries = _split.decode(raw)
    times = decoder.decode(raw)
    if b"\n" in raw or b"\r" in raw:
        ndjson, rewritten = _on_one_line_each(entries)
        return ndjson, times, rewritten
    return b"\n".join([*entries, b""]), times, 0


def _check_count(count: int, max_entries: int) -> None:
    if not count:
        raise EntryError("the batch is an empty array: expected at least one entry")
    if count > max_entries:
        raise EntryError(f"a batch of {count} entries: the limit is {max_entries} (MAX_BATCH_ENTRIES)", reason="limit")


def _on_one_line_each(entries: list[msgspec.Raw]) -> tuple[bytes, int]:
    """Entries with newlines between their tokens, written anew: inside a JSON string there can be none."""
    lines, rewritten = [], 0
    for entry in entries:
        line = bytes(entry).replace(b"\n", b" ").replace(b"\r", b" ")
        rewritten += line != entry
        lines.append(line + b"\n")
    return b"".join(lines), rewritten


_NO_OPENERS = bytes(set(range(256)) - set(b"{[\n"))


def _check_depth(ndjson: bytes) -> None:
    """Raises EntryError where an entry nests too deep. Only one with that many brackets can, and few have."""
    openers = ndjson.translate(None, _NO_OPENERS).split(b"\n")
    if max(map(len, openers)) <= MAX_DEPTH:
        return
    for line in ndjson.split(b"\n"):
        if nests_too_deep(line):
            raise EntryError(f"an entry nests more than {MAX_DEPTH} levels deep", reason="limit")


def nests_too_deep(line: bytes) -> bool:
    """Whether a valid JSON text goes deeper than MAX_DEPTH. Counting brackets first spares nearly all the walk."""
    return line.count(b"{") + line.count(b"[") > MAX_DEPTH and _depth(line) > MAX_DEPTH


_NO_BRACKETS = bytes(set(range(256)) - set(b"{[]}"))


def _depth(line: bytes) -> int:
    """How deep valid JSON nests."""
    # Not a regular expression for strings: Python's takes 140 bytes for each of theirs, 4.5 GB for a batch of 32 MiB.
    outside_strings = line.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(outside_strings).translate(None, _NO_BRACKETS)
    return max(accumulate(1 if bracket in b"{[" else -1 for bracket in brackets), default=0)


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


def _to_ndjson_slowly(raw: bytes, max_entries: int, *, has_lines: bool, with_levels: bool) -> Lines:
    """The same through the standard library, which takes more: every odd entry is written anew as plain ASCII."""
    expected = "not one JSON object a line" if has_lines else "not a JSON array of objects"
    try:
        # surrogateescape keeps a stray byte apart from any character until _clean writes it out.
        text = raw.decode("utf-8", "surrogateescape")
        entries = [_loads(line) for line in text.split("\n") if line] if has_lines else _loads(text)
    except RecursionError:
        raise EntryError(f"an entry nests more than {MAX_DEPTH} levels deep", reason="limit") from None
    except ValueError as error:
        raise EntryError(f"{expected}: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise EntryError(expected)
    _check_count(len(entries), max_entries)
    cleaned = [_clean(entry, MAX_DEPTH) for entry in entries]
    plain = json.dumps(cleaned, separators=(",", ":"), allow_nan=False).encode()
    lines = to_ndjson(plain, max_entries=max_entries, with_levels=with_levels)
    rewritten = sum(before != after for before, after in zip(entries, cleaned, strict=True))
    return msgspec.structs.replace(lines, rewritten=rewritten)


def _integer(digits: str) -> int | str:
    """What Python makes no integer of stays text: one such line must not cost the others of its batch."""
    return int(digits) if len(digits) <= MAX_DIGITS else digits


_loads = partial(json.loads, parse_int=_integer)


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
