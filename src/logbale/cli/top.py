"""logbale top: a receiver's numbers and its clients, in a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click.core import ParameterSource

from logbale.cli.options import Command, config_option, dashboard_at, named_setting_options

EXAMPLES = """
logbale top                                              the receiver on this host
logbale top logs.example.org:8080
logbale top --once                                       prints it once, for a script or a pipe
"""


@click.command(
    cls=Command,
    short_help="Watch a receiver's numbers and clients",
    examples=EXAMPLES,
    params=[
        click.Argument(["address"], required=False, metavar="[URL|HOST:PORT]"),
        click.Option(["--once"], is_flag=True, help="Prints all of it once, every client, and ends"),
        click.Option(
            ["--interval"],
            type=click.FloatRange(0.2, 3600.0),
            default=1.0,
            metavar="SECONDS",
            help="Between two looks; default 1",
        ),
        *named_setting_options("tls_ca_file", "dashboard_password_file"),
        config_option(),
    ],
)
def top(address: str | None, once: bool, interval: float, config: Path | None, **given: str | None) -> int:
    """Shows what a receiver does and who ships to it, until q or Ctrl-C; the receiver's dashboard must be on.

    Keys sort the clients, the same key again the other way round. Where the output is no terminal, it is printed once.
    """
    from logbale.top.watch import Watch, ask, print_once

    if once and click.get_current_context().get_parameter_source("interval") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--interval is between two looks, and --once looks once: leave out one of them.")
    client = dashboard_at(address, config, **given)
    answer = ask(client)
    if once or not sys.stdout.isatty():
        print_once(client.name, *answer)
    else:
        Watch(client, interval, answer).run()
    return 0
