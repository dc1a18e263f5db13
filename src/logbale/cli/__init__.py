"""The command line: logbale receive | ship | bench | cat | verify | spool | dead-letters | config.

Exit codes: 0, 1 (an error without a code of its own), 2 (usage), 69 (unavailable), 74 (input, output), 78 (a setting).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from logbale import __version__
from logbale.cli.bench import bench
from logbale.cli.cat import cat
from logbale.cli.config import config
from logbale.cli.output import start_messages
from logbale.cli.receive import receive
from logbale.cli.running import INTERRUPTED
from logbale.cli.ship import ship
from logbale.cli.spool import dead_letters, spool
from logbale.cli.verify import verify


@click.group(
    commands=[receive, ship, bench, cat, verify, spool, dead_letters, config],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="`logbale COMMAND --help` has the flags and examples. Settings are described in docs/settings.md.",
)
@click.version_option(__version__, prog_name="logbale", message="%(prog)s %(version)s")
def app() -> None:
    """Presses log entries into compressed batches, ships them over one TCP connection, and stores them."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line, that of the process by default, and exits."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no × is no reason to fail
    start_messages()
    try:
        app.main(arguments, prog_name="logbale")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
