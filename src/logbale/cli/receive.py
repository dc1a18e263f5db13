"""logbale receive: listen, and store what comes."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from logbale.cli.options import (
    AddressOption,
    Command,
    config_option,
    log_options,
    setting_options,
    start,
)
from logbale.cli.output import set_log_level
from logbale.cli.running import (
    METRICS_FLAG,
    background,
    explained_addresses,
    face,
    reloaded_by_sighup,
    run_loop,
    stopped_by_signals,
)
from logbale.cli.service import ServiceManager
from logbale.config import Loaded, Settings, format_address, sink_names
from logbale.descriptors import allow_connections, relay_descriptors
from logbale.errors import StorageError
from logbale.relay.upstream import relay_sink
from logbale.terminal import count

log = logging.getLogger("logbale")

EXAMPLES = """
logbale receive                                          on port 5000, into ./archive
logbale receive --listen [::1]:5000 --archive /var/lib/logbale
logbale receive --sink archive,console                   prints the entries too
logbale receive --dashboard                              and http://127.0.0.1:8080/
logbale receive --sink logbale://logs.example.org:5000   a relay: stores, acknowledges, forwards
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
    return serve(start(given, config))


def serve(load: Callable[[], Loaded]) -> int:
    """A receiver until a signal stops it; SIGHUP loads its settings again. Raises LogbaleError."""

    def load_settings() -> Settings:
        settings = load().settings
        # What the system allows of it is what counts.
        more = relay_descriptors(settings.relay_connections) if relay_sink(settings) is not None else 0
        allowed = allow_connections(settings.max_connections, more=more)
        return msgspec.structs.replace(settings, max_connections=allowed)

    settings = load_settings()
    set_log_level(settings.message_level)
    return run_loop(_serve(settings, load_settings))


async def _serve(settings: Settings, load: Callable[[], Settings]) -> int:
    from logbale.log_receiver import LogReceiver
    from logbale.status import print_table

    receiver = LogReceiver(settings, out=sys.stdout)
    manager = ServiceManager()

    def stop() -> None:
        manager.stopping()
        receiver.stop()

    flags = {
        settings.metrics_port: METRICS_FLAG,
        settings.dashboard_port: "--dashboard-port (DASHBOARD_PORT) and --dashboard-host (DASHBOARD_HOST)",
        settings.server_port: "--listen (SERVER_HOST, SERVER_PORT)",
    }
    terminal = contextlib.ExitStack()

    def last_words() -> int:
        terminal.close()
        snapshot = receiver.snapshot()
        if (relay := snapshot.relay) is not None and relay.waiting_entries:
            log.warning("%s wait for %s", count(relay.waiting_entries, "entry", "entries"), relay.upstream)
        return _conclude(snapshot.waiting_entries)

    # A terminal that gets the entries is no place for a line that stays.
    is_free = "console" not in sink_names(settings.sink)
    with stopped_by_signals(stop, last_words):
        async with reloaded_by_sighup(receiver, load, manager, stop=stop):
            with explained_addresses(flags):
                await receiver.start()
            manager.ready(f"listening on {format_address(*receiver.address)}")
            async with background(manager.keep_alive()), face(receiver.snapshot, terminal, is_free=is_free):
                left = await receiver.run()
    if logging.getLogger("logbale").isEnabledFor(logging.INFO):
        print_table(receiver.snapshot())
    return _conclude(left, f"; DRAIN_TIMEOUT is {receiver.settings.drain_timeout:g} s")


def _conclude(left: int, why: str = "") -> int:
    """0, or StorageError with the number of entries that are left unstored, and why where that is not plain."""
    if left:
        raise StorageError(f"{count(left, 'entry was', 'entries were')} received and not stored{why}")
    return 0
