"""A batch as the archive keeps it: one checked JSON object a line (NDJSON), no I/O.

A raw batch comes as a JSON array of objects or, in a session, as those lines already. Entries are kept as the bytes
that came. Only what would spoil the archive for its readers is written anew: DuckDB refuses a whole file for one line
of invalid UTF-8 or too deep nesting, and a newline between tokens would split a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from operator import attrgetter
from typing import Any

import msgspec

from logbale.errors import EntryError
from logbale.levels import count_levels
from logbale.models import DIGITS_ALIKE

MAX_DEPTH = 64
"""Levels of objects and arrays in one entry, where nothing else is said (MAX_JSON_DEPTH)."""

MAX_DIGITS = 4000
"""Of an integer that is looked at; Python's own limit is 4,300 (sys.set_int_max_str_digits)."""

_CANONICAL = b"0000-00-00T00:00:00.000000Z\n"
"""All times of a batch are compared with the form at once: a tenth of what a regular expression takes for each."""
_HEAD = re.compile(rb'\{"timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"')

MAX_RUNS = 16
"""Of entries with one and the same time in a batch: what a shipper reads at once has one."""


class _Object(msgspec.Struct, gc=False):
    """An entry of which nothing is of interest but that it is an object."""


class _Timed(msgspec.Struct, gc=False):
    """An entry of which only the time is of interest; decoding it also proves that it is an object."""

    timestamp: Any = None


class _Leveled(msgspec.Struct, gc=False):
    """The same for the level."""

    level: Any = None


class _TimedLeveled(_Timed, gc=False):
    """And for both."""

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
_timed, _timed_leveled = msgspec.json.Decoder(list[_Timed]), msgspec.json.Decoder(list[_TimedLeveled])
_timed_lines, _timed_leveled_lines = msgspec.json.Decoder(_Timed), msgspec.json.Decoder(_TimedLeveled)
_object_lines, _leveled_lines = msgspec.json.Decoder(_Object), msgspec.json.Decoder(_Leveled)
_level = attrgetter("level")


def to_ndjson(
    raw: bytes, *, max_entries: int, max_depth: int = MAX_DEPTH, in_session: bool = False, with_levels: bool = False
) -> Lines:
    """The lines of a raw batch: an array of objects or, `in_session` only, lines of one object each.

    Raises EntryError where it is neither, or empty, too long or too deep. The fast path keeps every entry's bytes. What
    a standard-library client may send and strict parsers refuse (NaN, Infinity, half a surrogate pair, stray bytes)
    takes the slow path. `with_levels` counts the levels too, which takes about 70 ns an entry.
    """
    has_lines = in_session and raw.startswith(b"{")
    try:
        lines = (_from_lines if has_lines else _from_array)(raw, max_entries, max_depth, with_levels)
        if not raw.isascii():
            raw.decode()
        return lines
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # A nesting that the parsers do not follow raises RecursionError; the slow path says which it was.
        return _to_ndjson_slowly(raw, max_entries, max_depth, has_lines=has_lines, with_levels=with_levels)


def _from_lines(raw: bytes, max_entries: int, max_depth: int, with_levels: bool) -> Lines:
    """Raises msgspec.DecodeError where not each line is one object as it stands, EntryError for what is too much."""
    # Before they are decoded: a batch of empty objects takes 25 times its size.
    openers = _openers(raw)
    count = openers.count(b"\n")
    _check_count(max(1, count), max_entries)
    # The parser takes any space between and inside objects. Each newline must end one: it does if "}" stands before it
    # and "{" or the end behind it, because between those two JSON has a comma everywhere but between two whole texts.
    runs = _runs(raw, count)
    if b"\r" in raw or not raw.endswith(b"}\n") or not (runs or raw.count(b"}\n{") == count - 1):
        raise msgspec.DecodeError("not one object a line")
    entries: Sequence[Any]
    if runs:
        entries = (_leveled_lines if with_levels else _object_lines).decode_lines(raw)
        span = min(runs), max(runs)
    else:
        entries = (_timed_leveled_lines if with_levels else _timed_lines).decode_lines(raw)
        span = _span(entries)
    if len(entries) != count:
        raise msgspec.DecodeError("not one object a line")
    _check_depth(raw, openers, max_depth)
    return Lines(raw, count, *span, 0, count_levels(map(_level, entries)) if with_levels else {})


def _runs(raw: bytes, count: int) -> list[str] | None:
    """The times of `count` lines, where each begins with its own and they come in few runs of the same one.

    Then "}", a newline and "{" part them, and all of that is found without a look at each (46 ns an entry to 240).
    """
    times: list[str] = []
    begin = lines = 0
    while len(times) < MAX_RUNS and (head := _HEAD.match(raw, begin)):
        times.append(head[1].decode())
        parted = b"}\n" + head[0]
        end = _end_of_run(raw, parted, begin)
        lines += 1 + raw.count(parted, begin, end)
        if end == len(raw):
            return times if lines == count else None
        begin = end
    return None


def _end_of_run(raw: bytes, parted: bytes, begin: int) -> int:
    """Where the lines end that begin as the one at `begin` does, by bisection; somewhere else where they are no run."""
    end = len(raw)
    while begin < end:
        middle = (begin + end) // 2
        found = raw.find(b"}\n", middle, end)
        if found >= 0 and raw.startswith(parted, found):
            begin = found + 2
        else:
            end = middle if found < 0 else found
    return raw.find(b"}\n", begin) + 2


def _from_array(raw: bytes, max_entries: int, max_depth: int, with_levels: bool) -> Lines:
    """Raises msgspec.DecodeError where it is no array of objects, and EntryError for what is too much."""
    entries = _split.decode(raw)
    times = (_timed_leveled if with_levels else _timed).decode(raw)
    _check_count(len(times), max_entries)
    if b"\n" in raw or b"\r" in raw:
        ndjson, rewritten = _on_one_line_each(entries)
    else:
        ndjson, rewritten = b"\n".join([*entries, b""]), 0
    _check_depth(ndjson, _openers(ndjson), max_depth)
    levels = count_levels(map(_level, times)) if with_levels else {}
    return Lines(ndjson, len(times), *_span(times), rewritten, levels)


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
_ARRAYS_AS_OBJECTS = bytes.maketrans(b"[", b"{")


def _openers(ndjson: bytes) -> bytes:
    """A "{" for each thing that opens an object or an array, quoted or not, and the newlines between the lines."""
    return ndjson.translate(_ARRAYS_AS_OBJECTS, _NO_OPENERS)


def _check_depth(ndjson: bytes, openers: bytes, max_depth: int) -> None:
    """Raises EntryError where an entry nests too deep."""
    if any_nests_too_deep(ndjson, max_depth, openers):
        raise _too_deep(max_depth)


def any_nests_too_deep(ndjson: bytes, max_depth: int = MAX_DEPTH, openers: bytes | None = None) -> bool:
    """Whether a line of valid NDJSON goes deeper than that; `openers` are its own, for who has them already."""
    # Only a line with that many brackets can, and few have.
    openers = _openers(ndjson) if openers is None else openers
    return b"{" * (max_depth + 1) in openers and any(nests_too_deep(line, max_depth) for line in ndjson.split(b"\n"))


def _too_deep(max_depth: int) -> EntryError:
    return EntryError(f"an entry nests more than {max_depth} levels deep (MAX_JSON_DEPTH)", reason="limit")


def nests_too_deep(line: bytes, max_depth: int = MAX_DEPTH) -> bool:
    """Whether a valid JSON text goes deeper than that. Counting brackets first spares nearly all the walk."""
    return line.count(b"{") + line.count(b"[") > max_depth and _depth(line) > max_depth


_NO_BRACKETS = bytes(set(range(256)) - set(b"{[]}"))


def _depth(line: bytes) -> int:
    """How deep valid JSON nests."""
    # Not a regular expression for strings: Python's takes 140 bytes for each of theirs, 4.5 GB for a batch of 32 MiB.
    outside_strings = line.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(outside_strings).translate(None, _NO_BRACKETS)
    return max(accumulate(1 if bracket in b"{[" else -1 for bracket in brackets), default=0)


def _span(entries: Sequence[_Timed]) -> tuple[str, str]:
    """The lowest and the highest timestamp, as UTC; empty where one of them cannot be read."""
    try:
        times = set(map(attrgetter("timestamp"), entries))
        whole = "\n".join([*times, ""]).encode()
        if whole.translate(DIGITS_ALIKE) != _CANONICAL * len(times):
            times = set(map(_canonical, times))
    except (TypeError, ValueError, OverflowError):  # no string, no time, a time beyond the year 9999
        return "", ""
    return min(times), max(times)


def _canonical(timestamp: str) -> str:
    moment = datetime.fromisoformat(timestamp)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _to_ndjson_slowly(raw: bytes, max_entries: int, max_depth: int, *, has_lines: bool, with_levels: bool) -> Lines:
    """The same through the standard library, which takes more: every odd entry is written anew as plain ASCII."""
    import json  # not above: a start takes long enough, and hardly ever comes here

    loads = partial(json.loads, parse_int=_integer)
    expected = "not one JSON object a line" if has_lines else "not a JSON array of objects"
    try:
        # surrogateescape keeps a stray byte apart from any character until _clean writes it out.
        text = raw.decode("utf-8", "surrogateescape")
        entries = [loads(line) for line in text.split("\n") if line] if has_lines else loads(text)
    except RecursionError:
        raise _too_deep(max_depth) from None
    except ValueError as error:
        raise EntryError(f"{expected}: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise EntryError(expected)
    _check_count(len(entries), max_entries)
    cleaned = [_clean(entry, max_depth, max_depth) for entry in entries]
    plain = json.dumps(cleaned, separators=(",", ":"), allow_nan=False).encode()
    lines = to_ndjson(plain, max_entries=max_entries, max_depth=max_depth, with_levels=with_levels)
    rewritten = sum(before != after for before, after in zip(entries, cleaned, strict=True))
    return msgspec.structs.replace(lines, rewritten=rewritten)


def _integer(digits: str) -> int | str:
    """What Python makes no integer of stays text: one such line must not cost the others of its batch."""
    return int(digits) if len(digits) <= MAX_DIGITS else digits


def _clean(value: Any, depth: int, max_depth: int) -> Any:
    """The value with what JSON has no form for spelled out: NaN as "NaN", a stray byte or half a pair as "\\xff".

    `depth` of max_depth levels are left.
    """
    if isinstance(value, str):
        return _SURROGATE.sub(_spelled_out, value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict | list):
        if depth == 0:
            raise _too_deep(max_depth)
        if isinstance(value, dict):
            return {_clean(key, 0, max_depth): _clean(item, depth - 1, max_depth) for key, item in value.items()}
        return [_clean(item, depth - 1, max_depth) for item in value]
    return value


_SURROGATE = re.compile("[\ud800-\udfff]")


def _spelled_out(match: re.Match[str]) -> str:
    """A stray byte (which surrogateescape made U+DC80 to U+DCFF) as \\xff, any other surrogate as \\ud800."""
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
