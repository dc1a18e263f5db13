"""logbale cat: the archive's entries, as JSON lines or for reading."""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from logbale.cli.archives import archives, paths_argument
from logbale.cli.options import Command, config_option
from logbale.cli.output import complain, flush, wants_color, write
from logbale.entry_fields import level_of
from logbale.entry_filter import NONE, EntryFilter, Predicate, level_names
from logbale.levels import canonical_level
from logbale.models import rfc3339
from logbale.terminal import USUAL_LEVELS, count, escape_json, format_entry, is_level

if TYPE_CHECKING:
    from logbale.archive.walk import Damage

POLL_INTERVAL = 0.2
"""Seconds between two looks for new entries."""

LINES_AT_ONCE = 500
"""Entries a write."""

EXAMPLES = """
logbale cat | jq -r .message                             all entries of ./archive, as JSON lines
logbale cat /var/lib/logbale --pretty --since 10m        for reading, of the last ten minutes
logbale cat --since 2026-11-20 --time-field ts           by a time of the lines' own
logbale cat --level error,critical -n 20                 the last 20 of these levels
logbale cat --pretty -f -n 0                             what comes from now on
logbale cat mnt/a/archive mnt/b/archive mnt/c/archive    the archives of three receivers as one
"""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])")


class Time(click.ParamType[str]):
    """A point in time, by date or by how long ago it was; converted to the form of models.rfc3339."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Takes RFC 3339 (UTC where no offset is given), a date, or `1h30m`."""
        try:
            if re.fullmatch(f"({_AGO.pattern})+", value):
                return rfc3339(time.time() - sum(float(number) * _UNITS[unit] for number, unit in _AGO.findall(value)))
            point = datetime.fromisoformat(value)
            return rfc3339((point if point.tzinfo else point.replace(tzinfo=UTC)).timestamp())
        except (ValueError, OverflowError):
            self.fail(f"{value!r}: expected a time such as 2026-11-24T08:30:00Z, 2026-11-24, 10m or 1h30m", param, ctx)


@click.command(
    cls=Command,
    short_help="Print the archive's entries",
    examples=EXAMPLES,
    params=[
        paths_argument(),
        click.Option(["--pretty"], is_flag=True, help="One readable line an entry, coloured on a terminal"),
        click.Option(["--since"], type=Time(), help="Entries since a time, a date, or how long ago: 10m, 1h30m"),
        click.Option(["--until"], type=Time(), help="Entries before then"),
        click.Option(
            ["--time-field"],
            metavar="NAME",
            help="What --since and --until go by, where an entry has it; else by timestamp, which is when the line was "
            "read if it had none",
        ),
        click.Option(
            ["--level", "levels"], multiple=True, metavar="NAME", help="Entries of this level; several with commas"
        ),
        click.Option(["--grep"], metavar="TEXT", help="Entries whose JSON has this text in it, as written"),
        click.Option(["-n", "last"], type=click.IntRange(min=0), metavar="N", help="The last N of them only"),
        click.Option(["-f", "--follow"], is_flag=True, help="Go on with what comes, until Ctrl-C"),
        config_option(),
    ],
)
def cat(
    paths: tuple[Path, ...],
    pretty: bool,
    since: str | None,
    until: str | None,
    time_field: str | None,
    levels: tuple[str, ...],
    grep: str | None,
    last: int | None,
    follow: bool,
    config: Path | None,
) -> int:
    """Prints the entries of an archive, a day or a file of it (default: ARCHIVE_DIR), in the order they were stored.

    Of several archives, whose receivers took over from each other, it prints each batch once, by time and each
    shipper's entries in their order. Works beside a running receiver. Damaged blocks are passed over, named on standard
    error, and make the exit code 1. An entry's level is its level, severity, levelname or lvl.
    """
    from logbale.archive import reader, together

    if time_field is not None and since is None and until is None:
        raise click.UsageError("--time-field is for --since and --until.")
    found = archives(paths, config)
    if follow and len(found) > 1:
        raise click.UsageError("--follow is for one archive.")
    damaged = untimed = without_field = 0

    def on_damage(damage: Damage) -> None:
        nonlocal damaged
        damaged += 1
        complain(f"{damage}; what these bytes held cannot be read, the rest can")

    def on_untimed(went_by: str) -> None:
        nonlocal untimed, without_field
        without_field += bool(went_by)
        untimed += not went_by

    span = {"since": since, "until": until, "time_field": time_field}
    names = [name for given in levels for name in given.split(",")]
    unusual = {canonical_level(name): name for name in names if name != NONE and not is_level(name)}
    wanted = _noting(EntryFilter(grep or "", level_names(names)).predicate(), unusual)
    show = _formatter(pretty)
    if follow:
        follower = reader.ArchiveFollower(found[0], **span, from_end=last == 0, on_damage=on_damage)
        with follower:
            _print(_last(_present(follower, wanted), last), show)
            while True:
                flush()
                time.sleep(POLL_INTERVAL)
                _print(_present(follower, wanted), show)
    read = partial(reader.lines, found[0]) if len(found) == 1 else partial(together.lines, found)
    _print(_last(filter(wanted, read(**span, on_damage=on_damage, on_untimed=on_untimed)), last), show)
    if without_field:
        entries = count(without_field, f"entry has no {time_field}", f"entries have no {time_field}")
        complain(f"{entries} that is a time, and went by timestamp")
    if untimed:
        complain(
            f"{count(untimed, 'entry has', 'entries have')} no time that can be read, and passed --since and --until"
        )
    for level in unusual.values():  # it may be a level of somebody's own: only one that nothing has is a mistake
        complain(f"--level {level!r}: no entry has it; the usual ones are {USUAL_LEVELS}")
    return 1 if damaged or unusual else 0


def _noting(wanted: Predicate | None, levels: dict[str, str]) -> Predicate | None:
    """The same predicate; it takes those of `levels` away that it meets."""
    if not levels or wanted is None:
        return wanted

    def notes(line: bytes) -> bool:
        if is_wanted := wanted(line):
            levels.pop(canonical_level(level_of(line)), None)
        return is_wanted

    return notes


def _present(follower: Any, wanted: Predicate | None) -> Iterator[bytes]:
    """What there is by now."""
    while lines := follower.poll():
        yield from filter(wanted, lines)


def _last(lines: Iterable[bytes], last: int | None) -> Iterable[bytes]:
    return lines if last is None else deque(lines, maxlen=last)


def _print(lines: Iterable[bytes], show: Callable[[bytes], bytes]) -> None:
    remaining = iter(lines)
    while some := list(islice(remaining, LINES_AT_ONCE)):
        write(b"".join([show(line) + b"\n" for line in some]))


def _formatter(pretty: bool) -> Callable[[bytes], bytes]:
    """An entry's JSON to what is printed. The JSON stays as stored, but for what a terminal would obey."""
    if pretty:
        color = wants_color(sys.stdout)
        encoding = sys.stdout.encoding
        return lambda line: format_entry(line, color=color).encode(encoding, "backslashreplace")
    if sys.stdout.isatty():
        return lambda line: escape_json(line.decode("utf-8", "backslashreplace")).encode()
    return lambda line: line
