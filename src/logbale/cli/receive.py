"""logbale receive: listen, and store what comes."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from logbale.cli.options import (
    AddressOption,
    Command,
    config_option,
    load_settings,
    log_level,
    log_options,
    setting_options,
)
from logbale.cli.output import start_log
from logbale.cli.running import (
    METRICS_FLAG,
    explained_addresses,
    face,
    reloaded_by_hangup,
    run_loop,
    stopped_by_signals,
)
from logbale.config import Settings, sink_names
from logbale.descriptors import allow_connections
from logbale.errors import StorageError
from logbale.terminal import count

EXAMPLES = """
logbale receive                                          on port 5000, into ./archive
logbale receive --listen [::1]:5000 --archive /var/lib/logbale
logbale receive --sink archive,console                   prints the entries too
logbale receive --dashboard                              and http://127.0.0.1:8080/
logbale receive --tls-cert-file certs/receiver.pem --tls-key-file certs/receiver.key
"""


@click.command(
    cls=Command,
    short_help="Listen, and store the batches that come",
    examples=EXAMPLES,
    params=[
        AddressOption("--listen", "Where to listen"),
        *setting_options("receive"),
        config_option(),
        *log_options(),
    ],
)
def receive(config: Path | None, **given: Any) -> int:
    """Receives batches of entries and stores them, until SIGTERM or Ctrl-C; then stores what has come, and ends.

    Entries for the console go to standard output, messages to standard error.
    """
    start_log(log_level(given))
    return serve(load_settings(given, config).settings)


def serve(settings: Settings) -> int:
    """A receiver until a signal stops it. Raises LogbaleError."""
    allowed = allow_connections(settings.max_connections)
    return run_loop(_serve(msgspec.structs.replace(settings, max_connections=allowed)))


async def _serve(settings: Settings) -> int:
    from logbale.log_receiver import LogReceiver
    from logbale.status import print_table

    receiver = LogReceiver(settings, out=sys.stdout)
    flags = {
        settings.metrics_port: METRICS_FLAG,
        settings.dashboard_port: "--dashboard-port (DASHBOARD_PORT) and --dashboard-host (DASHBOARD_HOST)",
        settings.server_port: "--listen (SERVER_HOST, SERVER_PORT)",
    }
    terminal = contextlib.ExitStack()

    def last_words() -> int:
        terminal.close()
        return _conclude(receiver.snapshot().waiting_entries)

    # A terminal that gets the entries is no place for a line that stays.
    is_free = "console" not in sink_names(settings.sink)
    with stopped_by_signals(receiver.stop, last_words), reloaded_by_hangup(receiver.reload, settings):
        with explained_addresses(flags):
            await receiver.start()
        async with face(receiver.snapshot, terminal, is_free=is_free):
            left = await receiver.run()
    if logging.getLogger("logbale").isEnabledFor(logging.INFO):
        print_table(receiver.snapshot())
    return _conclude(left, f"; DRAIN_TIMEOUT is {settings.drain_timeout:g} s")


def _conclude(left: int, why: str = "") -> int:
    """0, or StorageError with the number of entries that are left unstored, and why where that is not plain."""
    if left:
        raise StorageError(f"{count(left, 'entry was', 'entries were')} received and not stored{why}")
    return 0
