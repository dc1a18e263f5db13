"""Query parameters of the API: a known one with a wrong value is an error, an unknown one is nobody's business."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.datastructures import QueryParams

_UNIX = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")

SHOWN = 40
"""Characters of a wrong value that its error repeats."""


class ParameterError(Exception):
    """The question makes no sense: 400, with this line."""


def single(query: QueryParams, name: str) -> str | None:
    """The parameter's value, None where it is not given. Raises ParameterError where it is given twice."""
    values = query.getlist(name)
    if len(values) > 1:
        raise ParameterError(f"{name}: given {len(values)} times, expected once")
    return values[0] if values else None


def choice(query: QueryParams, name: str, choices: Collection[str]) -> str:
    """One of the choices, the first where none is given. Raises ParameterError."""
    value = single(query, name)
    if value is None:
        return next(iter(choices))
    if value not in choices:
        raise ParameterError(f"{name}={shown(value)}: expected {' or '.join(choices)}")
    return value


def unix_time(query: QueryParams, name: str) -> float:
    """Unix seconds, 0 where none are given. Raises ParameterError."""
    value = single(query, name)
    if value is None:
        return 0.0
    if not _UNIX.fullmatch(value):
        raise ParameterError(f"{name}={shown(value)}: expected Unix seconds, such as 1764144000 or 1764144000.5")
    return float(value)


def shown(value: str) -> str:
    """A stranger's value as plain ASCII, and not much of it."""
    return ascii(value) if len(value) <= SHOWN else f"{value[:SHOWN]!a}... ({len(value)} characters)"
