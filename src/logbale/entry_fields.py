"""When an entry happened and how grave it is, whatever its maker calls the fields. For readers: it rewrites nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from logbale.models import rfc3339

LEVEL_FIELDS = ("level", "severity", "levelname", "lvl")
"""The first that an entry has is its level."""

_UNITS = ((1e9, 1e10, 1.0), (1e12, 1e13, 1e3), (1e15, 1e16, 1e6), (1e18, 1e19, 1e9))
"""Numbers that are Unix times of the years 2001 to 2286, by the unit they are in; others are durations, or anything."""


class _Timed(msgspec.Struct, gc=False):
    """What may be its time."""

    timestamp: Any = None
    at_timestamp: Any = msgspec.field(default=None, name="@timestamp")
    time: Any = None
    ts: Any = None


class _Origin(msgspec.Struct, gc=False):
    """What may be its level, and its service."""

    level: Any = None
    severity: Any = None
    levelname: Any = None
    lvl: Any = None
    service: Any = None


_decode_time = msgspec.json.Decoder(_Timed).decode
_decode_origin = msgspec.json.Decoder(_Origin).decode
_BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def origin_of(line: bytes) -> tuple[str, str] | None:
    """Level and service as they stand in the entry's JSON, empty where there is none; None where it is no object."""
    try:
        entry = _decode_origin(line)
    except _BAD_JSON:
        return None
    level = next((str(value) for name in LEVEL_FIELDS if (value := getattr(entry, name)) is not None), "")
    return level, "" if entry.service is None else str(entry.service)


def level_of(line: bytes) -> str:
    """The level as it stands in the entry's JSON; empty where there is none."""
    origin = origin_of(line)
    return origin[0] if origin else ""


def time_of(line: bytes) -> str:
    """The first of `timestamp`, `@timestamp`, `time` and `ts` that is a time, in the form of models.rfc3339; or empty.

    A time without a zone is taken as UTC, a number as Unix seconds, milli-, micro- or nanoseconds.
    """
    try:
        entry = _decode_time(line)
    except _BAD_JSON:
        return ""
    for value in (entry.timestamp, entry.at_timestamp, entry.time, entry.ts):
        if time := _as_time(value):
            return time
    return ""


def time_in(field: str) -> Callable[[bytes], str]:
    """Reads the time as time_of() does, but from this field; empty where the entry has no time there."""
    one = msgspec.defstruct("_Timed", [("time", Any, msgspec.field(default=None, name=field))])
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(one).decode

    def time_of_field(line: bytes) -> str:
        try:
            return _as_time(decode(line).time)
        except _BAD_JSON:
            return ""

    return time_of_field


def _as_time(value: object) -> str:
    try:
        if isinstance(value, str):
            point = datetime.fromisoformat(value)
            return rfc3339((point if point.tzinfo else point.replace(tzinfo=UTC)).timestamp())
        if isinstance(value, int | float):
            return next((rfc3339(value / unit) for low, high, unit in _UNITS if low <= value < high), "")
    except (ValueError, OverflowError):  # no time, or one that has no form here
        pass
    return ""
