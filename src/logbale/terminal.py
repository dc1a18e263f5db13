"""Entries and numbers as text for people. Nothing that an entry holds may move the cursor, colour, hide or reorder.

No I/O; an entry is one line, whatever is in it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from logbale.entry_fields import LEVEL_FIELDS
from logbale.levels import canonical_level

_HOSTILE = re.compile(
    "["
    "\x00-\x08\n-\x1f\x7f-\x9f"  # C0 without the tab, DEL, C1: ESC, CSI and whatever else steers a terminal
    "\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # zero width, line ends, bidi
    "\ud800-\udfff"  # halves of surrogate pairs: no encoding takes them
    "\U000e0000-\U000e007f"  # tags: invisible letters
    "]"
)

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_SERVICE = "\x1b[36m"
_COLOURS = {"CRITICAL": "\x1b[1;31m", "ERROR": "\x1b[31m", "WARNING": "\x1b[33m", "INFO": "\x1b[32m", "DEBUG": _DIM}

_OUR_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})\d{3}Z")
_BARE = re.compile(r'[^\s"=]+')


def escape(text: str) -> str:
    r"""The text with everything invisible or obeyed by a terminal shown as Python writes it: \x1b, \n, \u202e.

    Tabs stay.
    """
    if text.isprintable():
        return text
    return _HOSTILE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def escape_json(text: str) -> str:
    r"""The same for one line of JSON, which stays the same JSON: \u009b, \u202e."""
    if text.isprintable():
        return text
    return _HOSTILE.sub(_json_escape, text)


def _json_escape(match: re.Match[str]) -> str:
    utf16 = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{utf16[index : index + 2].hex()}" for index in range(0, len(utf16), 2))


USUAL_LEVELS = "debug, info, warning, error and critical"


def is_level(level: str) -> bool:
    """Whether it is one of the usual names."""
    return canonical_level(level) in _COLOURS


def format_entry(line: bytes | dict[str, Any], *, color: bool = False) -> str:
    """An entry on one readable line: time, level, service, message, then attributes as key=value.

    Takes the entry's JSON or its fields; bytes that are no JSON object are shown escaped.
    """
    if isinstance(line, dict):
        fields = dict(line)
    else:
        try:
            fields = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return escape(line.decode("utf-8", "backslashreplace"))
    level_field = next((name for name in LEVEL_FIELDS if fields.get(name) is not None), "level")
    timestamp, level, service, message = (
        _text(fields.pop(name, "")) for name in ("timestamp", level_field, "service", "message")
    )
    if match := _OUR_TIME.fullmatch(timestamp):
        timestamp = f"{match[1]}Z"
    parts = [
        (_DIM, timestamp or "-"),
        (_COLOURS.get(canonical_level(level), ""), f"{level or '-':<8}"),
        (_SERVICE, service),
        ("", message),
        (_DIM, " ".join(f"{_word(escape(name))}={_word(_text(value))}" for name, value in fields.items())),
    ]
    if color:
        return " ".join(f"{colour}{text}{_RESET}" if colour else text for colour, text in parts if text)
    return " ".join(text for _, text in parts if text)


def _text(value: object) -> str:
    """A field's value, escaped: text as it is, whatever else as JSON."""
    if value is None:
        return ""
    return escape(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _word(text: str) -> str:
    """Quoted where a reader could not tell where it ends."""
    return text if _BARE.fullmatch(text) else f'"{text}"'


# Numbers


def count(number: int, one: str, many: str) -> str:
    """1 entry, 4,800 entries."""
    return f"{number:,} {one if number == 1 else many}"


def size(number: float) -> str:
    """Bytes in decimal units: 999 B, 1.2 kB, 34.5 MB."""
    if number < 1000:
        return f"{number:.0f} B"
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 999.95:
            return f"{number:.1f} {unit}"
    return f"{number / 1000:,.1f} TB"


def rate(per_second: float) -> str:
    """4,800/s; below ten with a decimal: 0.5/s."""
    return f"{per_second:,.1f}/s" if 0 < per_second < 9.95 else f"{per_second:,.0f}/s"


def ratio(value: float) -> str:
    """7.9×; – where nothing was sent."""
    return f"{value:.1f}×" if value else "–"


def duration(seconds: float) -> str:
    """12 ms, 3.2 s, 2 min 5 s, 3 h 25 min."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
