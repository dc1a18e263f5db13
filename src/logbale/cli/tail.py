"""logbale tail: entries as a receiver stores them."""

from __future__ import annotations

import contextlib
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from logbale.backoff import delays
from logbale.cli.options import Command, config_option, dashboard_at, named_setting_options
from logbale.cli.output import complain, flush, wants_color, write
from logbale.entry_filter import MAX_NAMES, MAX_TEXT, NONE
from logbale.errors import NoAnswerError, UnavailableError
from logbale.sse import Event, EventDecoder
from logbale.terminal import USUAL_LEVELS, count, escape_json, format_entry, is_level

if TYPE_CHECKING:
    from logbale.dashboard_client import DashboardClient

SAY_INTERVAL = 1.0
"""Seconds at least between two words about skipped entries."""

EXAMPLES = """
logbale tail                                             what goes by at the receiver on this host
logbale tail logs.example.org:8080 --level error,warning
logbale tail --service web --grep '/api/v2' -n 50        from the last 50 of them on
logbale tail --json | jq -r .message
"""


@click.command(
    cls=Command,
    short_help="Show entries as a receiver stores them",
    examples=EXAMPLES,
    params=[
        click.Argument(["address"], required=False, metavar="[URL|HOST:PORT]"),
        click.Option(
            ["--level", "levels"], multiple=True, metavar="NAME", help="Entries of this level; several with commas"
        ),
        click.Option(
            ["--service", "services"], multiple=True, metavar="NAME", help="Entries of this service; several likewise"
        ),
        click.Option(["--grep"], metavar="TEXT", help="Entries whose JSON has this text in it, as written"),
        click.Option(
            ["--regex"], metavar="REGEX", help="Of what came, lines in which this is found, as they are shown"
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Entries as they are stored, one JSON object a line"),
        click.Option(
            ["-n", "last"],
            type=click.IntRange(0, 1000),
            default=10,
            metavar="N",
            help="Begins with the last N that the receiver remembers; default 10",
        ),
        *named_setting_options("tls_ca_file", "dashboard_password_file"),
        config_option(),
    ],
)
def tail(
    address: str | None,
    levels: tuple[str, ...],
    services: tuple[str, ...],
    grep: str | None,
    regex: str | None,
    as_json: bool,
    last: int,
    config: Path | None,
    **given: str | None,
) -> int:
    """Shows what a receiver stores, as it stores it, until Ctrl-C; the receiver's dashboard must be on.

    More entries than can be shown are skipped, and how many is said on standard error: the archive has them all. A
    broken connection is taken up again where it was.
    """
    query = {"level": ",".join(levels), "service": ",".join(services), "q": grep or "", "last": str(last)}
    for name in ("level", "service"):
        if query[name].count(",") >= MAX_NAMES:
            raise click.BadParameter(f"expected at most {MAX_NAMES} names", param_hint=f"--{name}")
    if len(query["q"]) > MAX_TEXT:
        raise click.BadParameter(f"expected at most {MAX_TEXT} characters", param_hint="--grep")
    for name in query["level"].split(","):
        if name not in ("", NONE) and not is_level(name):
            complain(f"--level {name!r} is unusual, and may never come; the usual ones are {USUAL_LEVELS}")
    show = _Show(_formatter(as_json), _pattern(regex))
    client = dashboard_at(address, config, **given)
    with contextlib.closing(show):
        for event in _events(client, {name: value for name, value in query.items() if value}):
            show.take(event)
    return 0


def _pattern(regex: str | None) -> re.Pattern[str] | None:
    try:
        return None if regex is None else re.compile(regex)
    except re.error as error:
        raise click.BadParameter(f"{regex!r}: {error}", param_hint="--regex") from None


def _formatter(as_json: bool) -> Callable[[str, bool], str]:
    """An entry's JSON, and whether with colours, to the line that is shown."""
    if not as_json:
        return lambda text, color: format_entry(text.encode("utf-8", "replace"), color=color)
    if sys.stdout.isatty():
        return lambda text, color: escape_json(text)
    return lambda text, color: text


def _events(client: DashboardClient, query: dict[str, str]) -> Iterator[Event]:
    """Events without end. Raises UnavailableError where there is no first connection; after that it tries again."""
    decoder = EventDecoder()
    was_there = False
    waits, told = _waits(), ""
    while True:
        headers = {"Last-Event-ID": decoder.last_id} if decoder.last_id.isdigit() else {}
        try:
            with client.stream("tail", query, headers) as pieces:
                if told:
                    complain(f"connected to {client.name} again")
                was_there, waits, told = True, _waits(), ""
                for piece in pieces:
                    yield from decoder.feed(piece)
            why = f"{client.name} has ended the live tail"
        except UnavailableError as error:
            if not was_there:
                raise
            # That it is lost was said, and how to have a dashboard is no advice where there just was one.
            why = told if told and isinstance(error, NoAnswerError) else str(error)
        if why != told:
            complain(f"{why}; trying again")
            told = why
        decoder = EventDecoder(decoder.last_id)
        time.sleep(next(waits))


def _waits() -> Iterator[float]:
    return delays(first=0.5, longest=10.0, chance=random.random)


class _Show:
    """Prints entries, and says how many were skipped: now and then, and at the end."""

    def __init__(self, line: Callable[[str, bool], str], pattern: re.Pattern[str] | None) -> None:
        self._line = line
        self._pattern = pattern
        self._color = wants_color(sys.stdout)
        self._skipped = 0
        self._said: float | None = None

    def take(self, event: Event) -> None:
        """Whatever an event says. Raises UnavailableError where that is nothing that a logbale says."""
        try:
            if event.name == "entries":
                self._print(msgspec.json.decode(event.data, type=list[str]))
            elif event.name == "skipped":
                note = msgspec.json.decode(event.data, type=_Skipped)
                if note.restarted:
                    complain("the receiver was restarted: entries may be missing here, the archive has them")
                self._skipped += note.entries
                self._say()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnavailableError(f"an event that no logbale of this version sends: {error}") from None

    def _print(self, entries: list[str]) -> None:
        self._say()
        for entry in entries:
            if self._pattern is None or self._pattern.search(self._line(entry, False)):
                write(self._line(entry, self._color).encode(sys.stdout.encoding, "backslashreplace") + b"\n")
        flush()

    def _say(self, *, now: bool = False) -> None:
        if not self._skipped:
            return
        if self._said is None:
            complain(f"{count(self._skipped, 'entry', 'entries')} skipped: more come than are shown; all are stored")
        elif now or time.monotonic() - self._said >= SAY_INTERVAL:
            complain(f"{count(self._skipped, 'entry', 'entries')} skipped")
        else:
            return
        self._skipped, self._said = 0, time.monotonic()

    def close(self) -> None:
        """Says what is not said yet."""
        self._say(now=True)


class _Skipped(msgspec.Struct):
    entries: int
    restarted: bool = False
