"""LogReceiver: server, sinks and dashboard put together as the settings say, taken down as the data flows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

from logbale.archive.writer import ArchiveWriter
from logbale.config import Settings, format_address, is_loopback, sink_names
from logbale.config.credentials import dashboard_password
from logbale.config.exposure import refuse_unsafe_receiver, warn_of_open_receiver
from logbale.errors import UnavailableError
from logbale.kafka.address import SCHEME
from logbale.kafka.library import require_kafka
from logbale.lockout import Lockout
from logbale.metrics import ReceiverMetrics, ReceiverSnapshot
from logbale.monitor import Monitor
from logbale.relay.upstream import relay_sink
from logbale.reloading import Reloading
from logbale.sinks import Sink
from logbale.sinks.archive import ArchiveSink
from logbale.sinks.console import ConsoleSink
from logbale.sinks.fanout import FanoutSink, View
from logbale.sinks.live_tail import LiveTail
from logbale.sinks.null import NullSink
from logbale.tcp_server import TCPLogReceiver
from logbale.tls.files import TLSFiles, for_receiver
from logbale.tls.material import ReceiverTLS, metrics_are_encrypted, page_is_encrypted, receiver_files
from logbale.tls.server import Listening, http_answer

if TYPE_CHECKING:
    from logbale.dashboard.password import Password
    from logbale.http_server import HTTPServer
    from logbale.relay.end import RelayEnd
    from logbale.sinks.kafka import KafkaSink

log = logging.getLogger("logbale.receiver")

TICK_INTERVAL = 1.0
"""Seconds between looks at whether a segment's age asks for its sealing, and at everything else."""


class LogReceiver:
    """A receiver as the settings describe it. `start`, `run` until `stop`; entries for the console go to `out`."""

    def __init__(self, settings: Settings, *, out: TextIO, color: bool = False) -> None:
        self.settings = settings
        self.reloading = Reloading(settings)
        """What follows a change of settings."""
        self._out = out
        self._color = color
        self._metrics = ReceiverMetrics(now=monotonic())
        self.started = asyncio.Event()
        """Set once it listens."""
        self._stop_requested = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._open = contextlib.AsyncExitStack()
        self._archive: ArchiveSink | None = None
        self._relay: RelayEnd | None = None
        self._kafka: KafkaSink | None = None
        self._live = LiveTail(max_viewers=settings.dashboard_max_viewers, errors=self._metrics.errors)
        self._server: TCPLogReceiver | None = None
        self._tls: TLSFiles[ReceiverTLS] | None = None
        self._monitor: Monitor | None = None
        """While somebody may look."""

    async def start(self) -> None:
        """Opens the sinks (after a crash: recovers the archive), then listens.

        Raises ConfigError where the settings are not safe or TLS cannot be had, StorageError where the archive cannot,
        UnavailableError where no broker of Kafka answers, and OSError where an address cannot.
        """
        try:
            await self._start()
        except BaseException:
            await self._open.aclose()
            raise

    async def _start(self) -> None:
        settings = self.settings
        refuse_unsafe_receiver(settings)
        await _try_address(settings)
        warn_of_open_receiver(settings)
        tls = self._tls = for_receiver(settings)
        sink = await self._make_sink()
        self._open.push_async_callback(sink.close)
        self._server = TCPLogReceiver(
            settings, sink, self._metrics, (lambda: tls.current.shippers) if tls is not None else None
        )
        self.reloading.add(self._follow)
        self.reloading.add(self._server.access.prepare)
        if tls is not None:
            self.reloading.add(tls.prepare)
        await self._server.start()
        page_tls = metrics_tls = None
        if tls is not None:
            web = Listening(
                lambda: tls.current.web,
                self._server.tls_failures,
                plain_answer=http_answer,
                timeout=lambda: self.settings.hello_timeout,
            )
            page_tls = web if page_is_encrypted(settings) else None
            metrics_tls = web if metrics_are_encrypted(settings) else None
        if settings.is_observed:
            spools = self._relay.sink if self._relay is not None else None
            self._monitor = Monitor(self._server, self._archive.writer if self._archive is not None else spools)
        # The web servers are imported where they run: their modules take 35 ms and 12 MiB.
        if settings.metrics_port:
            from logbale.metrics_server import MetricsServer

            await self._serve(
                MetricsServer(
                    self.snapshot,
                    self._ready,
                    host=settings.dashboard_host,
                    port=settings.metrics_port,
                    tls=metrics_tls,
                    max_connections=settings.dashboard_max_connections,
                    errors=self._metrics.errors,
                    monitor=self._monitor,
                )
            )
        if settings.dashboard_enabled:
            from logbale.dashboard.server import DashboardServer

            dashboard = DashboardServer(
                self.snapshot,
                host=settings.dashboard_host,
                port=settings.dashboard_port,
                tls=page_tls,
                max_connections=settings.dashboard_max_connections,
                errors=self._metrics.errors,
                names=(lambda: tls.current.certificate.hosts) if tls is not None else tuple,
                info={"sink": settings.sink, "archive": settings.archive_dir},
                ready=self._ready,
                live=self._live,
                monitor=self._monitor,
                password=self._password(),
            )
            await self._serve(dashboard)
            self._open.callback(self._live.end)
            address = format_address(settings.dashboard_host, dashboard.port)
            log.info("dashboard on %s://%s/", "http" if page_tls is None else "https", address)
        log.info("listening on %s%s", format_address(*self.address), "" if tls is None else " with TLS")
        self.started.set()

    def _password(self) -> Password | None:
        from logbale.dashboard.password import Password

        settings = self.settings
        if (text := dashboard_password(settings)) is None:
            return None
        if not is_loopback(settings.dashboard_host) and not page_is_encrypted(settings):
            log.warning("the dashboard asks for its password over plain HTTP: whoever is on the way can read it")
        lockout = Lockout(settings.lockout_failures, settings.lockout_seconds)
        password = Password(text, lockout, self._metrics.errors)
        self.reloading.add(lambda settings: partial(password.change, dashboard_password(settings) or text))
        return password

    def _follow(self, settings: Settings) -> Callable[[], None]:
        receiver_files(settings)  # which refuses what only looks safe

        def commit() -> None:
            assert self._server is not None, "start() comes first"
            self.settings = self._server.settings = settings

        return commit

    async def _serve(self, server: HTTPServer) -> None:
        await server.start()
        self._open.push_async_callback(server.stop)

    async def _make_sink(self) -> Sink:
        names = sink_names(self.settings.sink)
        durable: Sink
        if relay_sink(self.settings) is not None:
            durable = await self._open_relay()
        elif topics := [name for name in names if name.startswith(SCHEME)]:
            durable = await self._open_kafka(topics[0])
        else:
            durable = self._make_null_sink() if "archive" not in names else await self._open_archive()
        views: list[View] = [ConsoleSink(self._out, color=self._color)] if "console" in names else []
        if self.settings.dashboard_enabled:
            views.append(self._live)
        return FanoutSink(durable, views) if views else durable

    async def _open_archive(self) -> ArchiveSink:
        writer = ArchiveWriter(Path(self.settings.archive_dir), **_archive_limits(self.settings))
        await asyncio.to_thread(writer.open)
        archive = self._archive = ArchiveSink(writer)
        self.reloading.add(lambda settings: partial(archive.limit, **_archive_limits(settings)))
        return archive

    async def _open_relay(self) -> Sink:
        # Here, not above: it brings the whole of a shipper along.
        from logbale.relay.end import RelayEnd

        self._relay = await RelayEnd.open(self.settings, self.reloading)
        return self._relay.sink

    async def _open_kafka(self, topic: str) -> Sink:
        require_kafka("SINK=kafka://…")
        from logbale.sinks.kafka import open_kafka  # imported where it is used: it brings librdkafka along

        opening = asyncio.ensure_future(open_kafka(topic, self.settings))
        stop = asyncio.ensure_future(self._stop_requested.wait())  # brokers may take half a minute not to answer
        await asyncio.wait({opening, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not opening.done():
            opening.cancel()
            raise UnavailableError(f"stopped before a broker of {topic} had answered")
        kafka = self._kafka = opening.result()
        self._metrics.published = kafka.published
        return kafka

    def _make_null_sink(self) -> NullSink:
        if "null" not in sink_names(self.settings.sink):
            log.warning(
                "SINK=%s stores nothing: shippers are told that what is shown here is stored, and forget it; "
                "SINK=archive,%s stores it",
                self.settings.sink,
                self.settings.sink,
            )
        sink = NullSink(max_streams=self.settings.max_streams)
        self.reloading.add(lambda settings: partial(sink.limit, max_streams=settings.max_streams))
        return sink

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the TCP listener as they were bound."""
        assert self._server is not None, "start() comes first"
        return self._server.address

    def stop(self) -> None:
        """Stops reading and stores what was received within DRAIN_TIMEOUT; called again, waits for no more of it.

        What the disk has begun is ended and the open segment sealed in any case: the command line does not wait for
        that at a second signal.
        """
        if self._stop_requested.is_set():
            self._stop_now.set()
        self._stop_requested.set()

    def snapshot(self) -> ReceiverSnapshot:
        """Everything counted, at this moment."""
        if self._tls is not None:
            self._metrics.certificate_expires = self._tls.current.certificate.ends
            self._metrics.errors |= {"tls_files": self._tls.refused}
        if self._relay is not None:
            self._metrics.relay = self._relay.sink.snapshot()
        return self._metrics.snapshot(monotonic())

    async def run(self) -> int:
        """Receives until stop(); starts first where start() was not called. Returns the entries left unstored."""
        if self._server is None:
            await self.start()
        assert self._server is not None
        stop = asyncio.create_task(self._stop_requested.wait())
        parts = [self._tick(), self._watch(), *([self._tls.watch()] if self._tls is not None else [])]
        ours = [asyncio.create_task(part) for part in parts]
        relaying = self._relay.tasks if self._relay is not None else []
        async with self._open:
            await asyncio.wait({stop, *ours, *relaying, *self._server.tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in (stop, *ours):
                task.cancel()
            ends = monotonic() + self.settings.drain_timeout
            left = await self._stop_server(self._server)
            if self._relay is not None:
                await self._relay.drain(ends, self._stop_now)
            await asyncio.wait({stop, *ours})
        for task in (*ours, *relaying, *self._server.tasks):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        return left

    async def _stop_server(self, server: TCPLogReceiver) -> int:
        stopping = asyncio.create_task(server.stop(asyncio.get_running_loop().time() + self.settings.drain_timeout))
        at_once = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait({stopping, at_once}, return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
        if not stopping.done():
            stopping.cancel()
            return await server.stop(deadline=0.0)
        return await stopping

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_INTERVAL)
            if self._archive is not None:
                await self._archive.tick()
            if self._kafka is not None:
                await self._kafka.tick()

    async def _watch(self) -> None:
        """Apart from _tick(), which waits for the disk."""
        assert self._server is not None, "start() comes first"
        failed = False
        while True:
            await asyncio.sleep(TICK_INTERVAL)
            self._server.access.refresh()
            snapshot = self.snapshot()  # keeps the windows of rates and latencies, whether or not anybody looks
            if self._monitor is not None:
                self._monitor.certificate_expires = snapshot.certificate_expires
                try:
                    self._monitor.tick(snapshot)
                except Exception as error:  # as of a view: storing goes on without it
                    if not failed:
                        log.error("the alarms and the history fail; receiving goes on", exc_info=error)
                    failed = True

    def _ready(self) -> tuple[bool, str]:
        if self._monitor is not None:
            return self._monitor.ready()
        error = self._server.committer.storage_error if self._server is not None else "starting"
        return (True, "listening, storing") if error is None else (False, error)


def _archive_limits(settings: Settings) -> dict[str, Any]:
    """What ArchiveWriter is told, at its start and when it changes."""
    return {
        "segment_bytes": settings.archive_segment_bytes,
        "segment_seconds": settings.archive_segment_seconds,
        "marks_days": settings.marks_days,
        "max_streams": settings.max_streams,
        "retention_seconds": settings.archive_retention_seconds,
        "retention_bytes": settings.archive_retention_bytes,
    }


async def _try_address(settings: Settings) -> None:
    """Raises OSError where it cannot be had: before anything is made on disk, and before there is more to say."""
    loop = asyncio.get_running_loop()
    tried = await loop.create_server(asyncio.Protocol, settings.server_host, settings.server_port, start_serving=False)
    tried.close()
    await tried.wait_closed()
