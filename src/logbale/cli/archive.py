"""logbale archive: read batches from a Kafka topic, and store each once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from logbale.cli.options import Command, config_option, log_options, setting_options, start
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
from logbale.config import Loaded, Settings
from logbale.errors import ConfigError
from logbale.reloading import Reloading

if TYPE_CHECKING:
    from logbale.kafka.archiver import Archiver
    from logbale.kafka.partition import Limits
    from logbale.tls.files import TLSFiles
    from logbale.tls.material import ReceiverTLS

log = logging.getLogger("logbale.archiver")

EXAMPLES = """
logbale archive kafka://b1:9092,b2:9092/logs --to s3://bucket/prefix
logbale archive kafka://b1:9092/logs --to file:///srv/archive      a directory, which others may share
logbale cat /srv/archive/logs                                      its entries; verify checks them
"""


@click.command(
    cls=Command,
    short_help="Store what receivers published to Kafka",
    examples=EXAMPLES,
    params=[
        click.Argument(["topic"], required=False, metavar="[kafka://BROKER[:PORT],…/TOPIC]"),
        *setting_options("archive"),
        config_option(),
        *log_options(),
    ],
)
def archive(config: Path | None, topic: str | None, **given: Any) -> int:
    """Reads the batches that receivers published (--sink kafka://…) and stores each once, until SIGTERM or Ctrl-C.

    Any number of archivers with one --group share the partitions. Each partition has a series of segments in the
    store, TOPIC/PARTITION/OFFSET.ndjson.zst; until one is there, Kafka holds what will be in it. Credentials of the
    store come from the environment (AWS_ACCESS_KEY_ID and so on), those of the brokers from KAFKA_CONFIG_FILE.
    """
    if topic is not None:
        given["archive_topic"] = topic
    load = start(given, config)
    return serve(load)


def serve(load: Callable[[], Loaded]) -> int:
    """An archiver until a signal stops it; SIGHUP loads its settings again. Raises LogbaleError."""
    settings = load().settings
    missing = [name for name in ("archive_topic", "archive_to") if not getattr(settings, name)]
    if missing:
        raise ConfigError("\n".join(_WANTED[name] for name in missing))
    set_log_level(settings.message_level)
    return run_loop(_archive(settings, _tls(settings), lambda: load().settings))


_WANTED = {
    "archive_topic": "no topic is given: logbale archive kafka://BROKER:PORT/TOPIC --to STORE (or ARCHIVE_TOPIC)",
    "archive_to": "no store is given: --to (ARCHIVE_TO) is file:///directory, s3://bucket/prefix, gs://… or az://…",
}


class _End:
    """The archiver and its settings, for what runs every end."""

    def __init__(self, settings: Settings) -> None:
        self.reloading = Reloading(settings)
        self.started = asyncio.Event()
        self.archiver: Archiver | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Also before there is an archiver."""
        self._is_stopped = True
        if self.archiver is not None:
            self.archiver.stop()

    async def run(self, archiver: Archiver) -> None:
        """Until stop(), or an error that ends it."""
        self.archiver = archiver
        self.reloading.add(lambda settings: lambda: _limit(archiver, settings))
        if self._is_stopped:
            archiver.stop()
        self.started.set()
        await asyncio.to_thread(archiver.run)


def _tls(settings: Settings) -> TLSFiles[ReceiverTLS] | None:
    """For METRICS_PORT, the only one that an archiver listens at. Raises ConfigError."""
    from logbale.tls.files import for_receiver
    from logbale.tls.material import metrics_are_encrypted

    return for_receiver(settings) if settings.metrics_port and metrics_are_encrypted(settings) else None


def _limits(settings: Settings) -> Limits:
    from logbale.kafka.partition import Limits

    return Limits(settings.archive_segment_bytes, settings.archive_segment_seconds, settings.marks_days)


def _limit(archiver: Archiver, settings: Settings) -> None:
    archiver.limit(_limits(settings))
    archiver.drain_timeout = settings.drain_timeout


def _open(settings: Settings) -> Archiver:
    """Looks at the store and at the topic, and joins neither yet. Blocks. Raises LogbaleError."""
    from logbale.kafka.library import require_kafka

    require_kafka("logbale archive")
    from logbale.kafka.address import kafka_topic
    from logbale.kafka.archiver import Archiver
    from logbale.kafka.client_settings import client_settings
    from logbale.kafka.consumer_settings import CONSUMER_OWN
    from logbale.kafka.topic import look_at
    from logbale.segment_store.opening import open_store
    from logbale.terminal import size

    topic = kafka_topic(settings.archive_topic)
    theirs = client_settings(settings.kafka_config_file, CONSUMER_OWN)
    store = open_store(settings.archive_to)
    facts = look_at(topic, theirs)
    log.info(
        "archiving topic %s, %d partitions, to %s as group %s; a segment is put at %s, after %g s, or at a stop",
        topic.name,
        facts.partitions,
        settings.archive_to,
        settings.archive_group,
        size(settings.archive_segment_bytes),
        settings.archive_segment_seconds,
    )
    return Archiver(
        topic, store, theirs, _limits(settings), group=settings.archive_group, drain_timeout=settings.drain_timeout
    )


async def _archive(settings: Settings, tls: TLSFiles[ReceiverTLS] | None, load: Callable[[], Settings]) -> int:
    from logbale.status import print_table

    end = _End(settings)
    if tls is not None:
        end.reloading.add(tls.prepare)
    manager = ServiceManager()
    terminal = contextlib.ExitStack()

    def stop() -> None:
        manager.stopping()
        end.stop()

    def last_words() -> int:
        terminal.close()
        return 0  # whatever is in no segment yet, Kafka holds

    with stopped_by_signals(stop, last_words):
        async with reloaded_by_sighup(end, load, manager, stop=stop):
            archiver = await asyncio.to_thread(_open, settings)

            async with _metrics(archiver, settings, tls):
                manager.ready(f"archiving to {settings.archive_to}")
                async with background(manager.keep_alive()), face(archiver.snapshot, terminal):
                    await end.run(archiver)
    if logging.getLogger("logbale").isEnabledFor(logging.INFO):
        print_table(archiver.snapshot())
    return 0


@contextlib.asynccontextmanager
async def _metrics(archiver: Archiver, settings: Settings, tls: TLSFiles[ReceiverTLS] | None) -> AsyncIterator[None]:
    if not settings.metrics_port:
        yield
        return
    from logbale.metrics_server import MetricsServer
    from logbale.tls.server import Failures, Listening, http_answer

    errors = archiver.metrics.errors
    server = MetricsServer(
        archiver.snapshot,
        archiver.ready,
        host=settings.dashboard_host,
        port=settings.metrics_port,
        tls=Listening(lambda: tls.current.web, Failures(errors), plain_answer=http_answer) if tls is not None else None,
        max_connections=settings.dashboard_max_connections,
        errors=errors,
    )
    with explained_addresses({settings.metrics_port: METRICS_FLAG}):
        await server.start()
    try:
        async with background(tls.watch()) if tls is not None else contextlib.nullcontext():
            yield
    finally:
        await server.stop()
