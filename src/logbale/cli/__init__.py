"""The command line: logbale receive | ship | archive | tail | top | bench | cat | verify | spool | dead-letters | ….

Exit codes: 0, 1 (an error without a code of its own), 2 (usage), 69 (unavailable), 74 (input, output), 78 (a setting).
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from logbale import __version__
from logbale.cli.group import Group
from logbale.cli.output import INTERRUPTED, start_messages

_MODULES = {
    "receive": "receive",
    "ship": "ship",
    "archive": "archive",
    "tail": "tail",
    "top": "top",
    "bench": "bench",
    "cat": "cat",
    "verify": "verify",
    "spool": "spool",
    "dead-letters": "spool",
    "certs": "certs",
    "config": "config",
}
"""Where each command is, in the order of the help."""


class _Commands(Group):
    """Imports the command that runs, not those beside it: a short run is half imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"logbale.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(
    cls=_Commands,
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
