"""logbale ship: read entries somewhere, and deliver them."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from logbale.cli.ending import failure, retry_command
from logbale.cli.options import (
    AddressOption,
    Command,
    config_option,
    log_options,
    setting_options,
    start,
)
from logbale.cli.output import set_log_level
from logbale.cli.progress import Progress, progress_of
from logbale.cli.running import (
    METRICS_FLAG,
    background,
    explained_addresses,
    reloaded_by_sighup,
    run_loop,
    stopped_by_signals,
)
from logbale.cli.service import ServiceManager
from logbale.cli.usage import attributes, check_usage
from logbale.config import Loaded, Settings
from logbale.config.credentials import shipper_token
from logbale.config.exposure import refuse_unsafe_shipper
from logbale.config.load import wrong
from logbale.errors import ConfigError, UnavailableError
from logbale.sources import Source
from logbale.terminal import count
from logbale.tls.files import TLSFiles, for_shipper
from logbale.tls.material import ShipperTLS, own_name

if TYPE_CHECKING:
    from logbale.ship_report import ShipReport
    from logbale.sources.stdin import StdinSource
    from logbale.sources.tail import TailSource
    from logbale.spool import DiskSpool

log = logging.getLogger("logbale")

EXAMPLES = """
logbale ship /var/log/syslog '/var/log/app/*.log'        follows them from their ends on
logbale ship --once --to logs.example.org:5000 app.log   from the start to the end, then exit 0 if all was delivered
journalctl -f | logbale ship - --field service=journal   standard input
logbale ship --demo --rate 1000 --run-time 60            generated entries
"""


@click.command(
    cls=Command,
    short_help="Deliver files, standard input or generated entries",
    examples=EXAMPLES,
    params=[
        click.Argument(["paths"], nargs=-1, metavar="[PATH|GLOB|-]..."),
        AddressOption("--to", "The receiver", several=True),
        click.Option(["--demo"], is_flag=True, help="Ship generated entries: LOG_RATE a second for RUN_TIME seconds"),
        click.Option(["--once"], is_flag=True, help="Read to the end, deliver, and end; without it files are followed"),
        click.Option(
            ["--from-start/--from-end"],
            default=None,
            help="Where to begin with the files that are there now: with --once at their start, else at their end",
        ),
        click.Option(
            ["--field", "fields"], multiple=True, metavar="KEY=VALUE", help="An attribute for every entry; repeatable"
        ),
        click.Option(
            ["--exclude"],
            multiple=True,
            metavar="GLOB",
            help="Leaves out what matches, by whole path or by name, of the files that a GLOB finds; repeatable",
        ),
        click.Option(
            ["--multiline"],
            metavar="python|java|REGEX",
            help="Joins lines to entries, such as stack traces; REGEX is what the first line of an entry begins with",
        ),
        click.Option(
            ["--poll"], is_flag=True, help="Looks at the files every 0.25 s instead of waiting for file events"
        ),
        click.Option(
            ["--name"],
            metavar="NAME",
            help="Name of the spool, which keeps how far was read and what is not delivered; by default from the PATHs",
        ),
        click.Option(["--seed"], type=int, metavar="N", help="Makes --demo reproducible"),
        *setting_options("ship"),
        config_option(),
        *log_options(),
    ],
)
def ship(
    config: Path | None,
    paths: tuple[str, ...],
    demo: bool,
    once: bool,
    from_start: bool | None,
    fields: tuple[str, ...],
    exclude: tuple[str, ...],
    multiline: str | None,
    poll: bool,
    name: str | None,
    seed: int | None,
    **given: Any,
) -> int:
    """Ships log lines: files by path or glob, standard input (-), or generated entries (--demo).

    A line that is a JSON object becomes an entry with its own fields; any other becomes the message of one. Ends with 0
    when everything that was read is delivered, otherwise with 69 and the number of what is left, rejected or dropped.
    With --once, with 69 also when it was stopped before the end.
    """
    load = start(given, config)
    check_usage(
        paths,
        demo=demo,
        once=once,
        from_start=from_start,
        fields=fields,
        exclude=exclude,
        multiline=multiline,
        poll=poll,
        name=name,
        seed=seed,
        given=given,
    )
    static = attributes(fields)
    if demo:
        return ship_generated(load, seed=seed)
    from logbale.spool import removed_if_unused, spool_name

    settings = _first(load)
    tls = for_shipper(settings)
    called = spool_name(name, paths)
    spool = open_spool(settings, called, owner=own_name(tls.current) if tls is not None else "")
    with contextlib.nullcontext() if spool is None else removed_if_unused(spool):
        source: StdinSource | TailSource
        limits = {"max_line": settings.max_line_bytes, "max_depth": settings.max_json_depth}
        if paths == ("-",):
            from logbale.sources.stdin import StdinSource

            source = StdinSource(fields=static, host=socket.gethostname(), **limits)
        else:
            from logbale.sources.tail import TailSource

            source = TailSource(
                paths,
                follow=not once,
                from_start=once if from_start is None else from_start,
                fields=static,
                host=socket.gethostname(),
                exclude=exclude,
                multiline=multiline,
                polling=poll,
                resume=spool.cursors if spool is not None else None,
                **limits,
            )
        is_finite = once or paths == ("-",)
        return run_loop(
            _run(
                settings,
                load,
                source,
                lambda _: (source.read_bytes, source.total_bytes()) if is_finite else None,
                spool,
                name=called,
                removes_spool=is_finite and not name,
                once=once,
                tls=tls,
            )
        )


def open_spool(settings: Settings, name: str, *, owner: str = "") -> DiskSpool | None:
    """The spool on disk, its streams called as `owner` is; None where SPOOL_DIR=off keeps batches in memory.

    Raises LogbaleError.
    """
    from logbale.spool import DiskSpool, spool_root
    from logbale.spool.dead_letters import letter_paths

    if settings.spool_dir == "off":
        return None
    directory = spool_root(settings.spool_dir) / name
    spool = DiskSpool(directory, max_bytes=settings.spool_max_bytes, owner=owner)
    spool.open()
    counts = spool.counts
    if counts["spooled"]:
        log.info("%s: left from an earlier run: %s", directory, count(counts["spooled"], "entry", "entries"))
    if letters := len(letter_paths(directory)):
        what = count(letters, "dead letter", "dead letters")
        log.warning("%s: %s from earlier runs; %s has them sent again", directory, what, retry_command(spool))
    return spool


def _first(load: Callable[[], Loaded]) -> Settings:
    """The settings to start with. Raises ConfigError."""
    settings = _checked(load)
    set_log_level(settings.message_level)
    return settings


def _checked(load: Callable[[], Loaded]) -> Settings:
    """The settings, where they name a receiver to connect to and are safe. Raises ConfigError."""
    loaded = load()
    if any(port == 0 for _, port in loaded.settings.receiver_addresses):
        raise ConfigError(wrong("SERVER_PORT", 0, "the port of a receiver, 1 to 65535", loaded.origins["server_port"]))
    refuse_unsafe_shipper(loaded.settings)
    shipper_token(loaded.settings)
    return loaded.settings


def ship_generated(load: Callable[[], Loaded], *, seed: int | None = None) -> int:
    """Ships generated entries, LOG_RATE a second for RUN_TIME seconds; the exit code. Raises LogbaleError."""
    from logbale.sources.generator import LogGenerator

    settings = _first(load)
    rate, run_time = settings.log_rate, settings.run_time
    total = round(rate * run_time)
    source = LogGenerator(rate, run_time, seed=seed)
    return run_loop(
        _run(
            settings,
            load,
            source,
            lambda snapshot: (snapshot.delivered_entries, total) if total else None,
            spool=None,
            name="demo",
        )
    )


async def _run(
    settings: Settings,
    load: Callable[[], Loaded],
    source: Source,
    progress: Progress,
    spool: DiskSpool | None,
    *,
    name: str,
    removes_spool: bool = False,
    once: bool = False,
    tls: TLSFiles[ShipperTLS] | None = None,
) -> int:
    from logbale.log_shipper import LogShipper
    from logbale.spool import removed_when_finished
    from logbale.status import print_table

    left_before = spool.counts["spooled"] if spool is not None else 0
    shipper = LogShipper(settings, source, store=spool, tls=tls, name=name)
    terminal = contextlib.ExitStack()
    manager = ServiceManager()

    def stop() -> None:
        manager.stopping()
        shipper.stop()

    async def announce() -> None:
        await shipper.started.wait()
        manager.ready("reading")
        await manager.keep_alive()

    def last_words() -> int:
        terminal.close()
        return conclude(shipper.report(), waited=False)

    def conclude(report: ShipReport, *, waited: bool = True) -> int:
        if failed := failure(shipper.settings, report, spool, source, once=once, waited=waited):
            raise UnavailableError(failed)
        return 0

    keeping = (
        removed_when_finished(spool, source_ended=lambda: shipper.report().source_ended)
        if spool is not None and removes_spool
        else contextlib.nullcontext()
    )
    with (
        keeping,
        stopped_by_signals(stop, last_words),
        explained_addresses({settings.metrics_port: METRICS_FLAG}),
    ):
        async with (
            reloaded_by_sighup(shipper, lambda: _checked(load), manager, stop=stop),
            background(announce()),
            progress_of(shipper.snapshot, progress, terminal),
        ):
            report = await shipper.run()
    if log.isEnabledFor(logging.INFO):
        print_table(report.snapshot, left_before=left_before, reread=report.reread_entries)
    return conclude(report)
