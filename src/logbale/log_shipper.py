"""LogShipper: one source, queue and link put together, and taken down in the order that data flows."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from math import inf
from time import monotonic
from typing import Any

from logbale.compressing import Compressing
from logbale.compression import CompressionHandler
from logbale.config import Settings
from logbale.level_choice import LevelChoice, first_level, policy_of
from logbale.link import Link
from logbale.load_meter import LoadMeter
from logbale.metrics import ShipperMetrics, ShipperSnapshot
from logbale.protocol import Algorithm
from logbale.reading import Reading
from logbale.receivers import Receivers
from logbale.reloading import Reloading
from logbale.reports import Report, report_of
from logbale.session_link import SessionLink
from logbale.ship_report import ShipReport, report_of_run
from logbale.shipper_metrics import serving_metrics
from logbale.sources import Source
from logbale.spool import MemoryStore
from logbale.spool.identity import new_stream
from logbale.spool.store import Store
from logbale.spool_queue import SpoolQueue
from logbale.terminal import count
from logbale.tls.files import TLSFiles, for_shipper
from logbale.tls.material import ShipperTLS, own_name

log = logging.getLogger("logbale.shipper")

STORE_SECONDS = 2.0
"""So long the end waits for the spool to take what was read, beyond DRAIN_TIMEOUT."""


class LogShipper:
    """Reads, presses and ships until the source ends or stop() is called.

    After the source's own end it goes on for as long as the receiver can be reached, and gives up DRAIN_TIMEOUT
    seconds after it could be reached last. After stop(), or an error of the source, it has DRAIN_TIMEOUT in all.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        *,
        store: Store | None = None,
        tls: TLSFiles[ShipperTLS] | None = None,
        name: str = "",
    ) -> None:
        """`store` is where batches wait for the receiver; in memory by default. The shipper closes it.

        `tls` is for_shipper(settings), for who has it already. `name` is what people call this shipper, where the
        receiver lists it. Raises ConfigError where for_shipper() does.
        """
        self.settings = settings
        self._tls = tls if tls is not None else for_shipper(settings)
        self.reloading = Reloading(settings)
        """What follows a change of settings."""
        self.reloading.add(lambda settings: partial(self._apply, settings))
        if self._tls is not None:
            self.reloading.add(self._tls.prepare)
        self._source = source
        self._name = name
        policy = policy_of(settings)
        handler = CompressionHandler(
            Algorithm.named(settings.compression_algorithm),
            first_level(settings, policy),
            enabled=settings.compression_enabled,
            bypass_threshold=settings.bypass_threshold,
        )
        self._compressing = Compressing(handler)
        self._metrics = ShipperMetrics(
            now=monotonic(), algorithm=handler.algorithm.label, level=handler.level, compression=handler.stats
        )
        owner = own_name(self._tls.current) if self._tls is not None else ""
        sends_zstd = settings.session_mode == "on" and handler.algorithm is Algorithm.ZSTD
        self._queue = SpoolQueue(
            store or MemoryStore(new_stream(owner), owner=owner),
            max_memory=settings.buffer_max_bytes,
            policy=settings.spool_policy,
            press=self._compressing.press if sends_zstd else None,
            durations=self._metrics.ack_durations,
        )
        self._link = self._make_link()
        self._reading = Reading(settings, source, self._queue, self._link, handler, self._metrics)
        self._load = LoadMeter(
            self._queue,
            self._metrics,
            self._compressing,
            link_seconds=self._link.link_seconds,
            now=monotonic(),
        )
        self._levels = LevelChoice(settings, policy, handler, self._metrics, self._load)
        self._source_ended = False
        self.started = asyncio.Event()
        """Set once everything that run() needs is open."""
        self._stop_requested = asyncio.Event()
        self._stop_now = asyncio.Event()

    def _make_link(self) -> Link:
        settings = self.settings
        if settings.session_mode == "on":
            return SessionLink(
                self._queue,
                settings,
                self._compressing,
                self._metrics,
                report=self._report,
                name=self._name,
                tls=self._current_tls,
            )
        from logbale.base_link import BaseLink
        from logbale.tcp_client import TCPClient

        client = TCPClient(
            Receivers(settings.receiver_addresses),
            stream=self._queue.store.stream,
            send_timeout=settings.send_timeout,
            metrics=self._metrics,
            tls=self._current_tls,
        )
        return BaseLink(self._queue, client, self._compressing, self._metrics)

    def _apply(self, settings: Settings) -> None:
        self.settings = settings
        self._reading.follow(settings)
        self._queue.limit(
            max_memory=settings.buffer_max_bytes, max_stored=settings.spool_max_bytes, policy=settings.spool_policy
        )
        self._link.follow(settings)
        self._compressing.handler.bypass_threshold = settings.bypass_threshold
        self._levels.follow(settings)

    def stop(self) -> None:
        """Stops reading and delivers what was read within DRAIN_TIMEOUT; called again, ends at once."""
        if self._stop_requested.is_set():
            self._stop_now.set()
        self._stop_requested.set()

    def _current_tls(self) -> ShipperTLS | None:
        return self._tls.current if self._tls is not None else None

    def snapshot(self) -> ShipperSnapshot:
        """Everything counted, at this moment."""
        metrics, counts, held = self._metrics, self._queue.counts, len(self._reading.buffer)
        metrics.waiting_batches = self._queue.waiting_batches + bool(held)
        metrics.waiting_entries = counts.pop("spooled") + held
        metrics.delivered_entries = counts.pop("acknowledged")
        metrics.read_entries = counts.pop("read") + held
        metrics.dropped = counts
        metrics.backlog_bytes = self._load.backlog_bytes
        metrics.errors |= self._source.counts()
        if self._tls is not None:
            certificate = self._tls.current.certificate
            metrics.certificate_expires = certificate.ends if certificate is not None else None
            metrics.errors |= {"tls_files": self._tls.refused}
        now = monotonic()
        metrics.spool_bytes = self._queue.spool_bytes
        metrics.oldest_waiting = self._queue.oldest_waiting(now)
        metrics.cpu_percent = self._load.cpu_percent
        return metrics.snapshot(now)

    def _report(self, ended: bool) -> Report:
        """What the receiver is told of this end."""
        return report_of(self.snapshot(), self._levels.changes, ended=ended)

    async def run(self) -> ShipReport:
        """Ships until the end. Raises what the source raises, after DRAIN_TIMEOUT at most for what it gave before."""
        reader = asyncio.create_task(self._reading.run())
        ticker = asyncio.create_task(self._reading.pass_on())
        spooler = asyncio.create_task(self._queue.run())
        sender = asyncio.create_task(self._link.run())
        adapter = asyncio.create_task(self._levels.run(look=self.snapshot))
        tasks = [reader, ticker, spooler, sender, adapter]
        if self._tls is not None:
            tasks.append(asyncio.create_task(self._tls.watch()))
        stop = asyncio.create_task(self._stop_requested.wait())
        delivered, why = False, ""
        try:
            async with serving_metrics(self.settings, self._metrics, self.snapshot, self._link.status, self._tls):
                self.started.set()
                await asyncio.wait({*tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
                self._source_ended = reader.done() and not reader.cancelled() and reader.exception() is None
                await _cancel(reader, ticker)
                self._reading.end()
                delivered = await self._drain(spooler, sender)
                why = self._link.last_error  # what is cancelled knows it no more
                await self._store_rest(spooler)
        finally:
            await _cancel(*tasks, stop)
            await self._link.close()
            self._compressing.close()
            await self._queue.close()
        report = self.report(delivered, why)
        if report.lost_entries:
            why = f" ({report.why_unstored})" if report.why_unstored else ""
            lost = count(report.lost_entries, "entry is", "entries are")
            log.error("%s lost: not delivered, in no spool%s, and no more where it was read", lost, why)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        return report

    def report(self, delivered: bool | None = None, why: str = "") -> ShipReport:
        """How the run would end if it ended now; without the receiver's last word it goes by the acknowledgements."""
        snapshot = self.snapshot()
        if delivered is None:
            delivered = self.settings.session_mode == "on" and not snapshot.waiting_entries
        return report_of_run(
            self._source,
            self._queue,
            self._reading.buffer.look(),
            snapshot,
            delivered=delivered,
            source_ended=self._source_ended,
            why=why or self._link.last_error,
        )

    async def _drain(self, spooler: asyncio.Task[None], sender: asyncio.Task[None]) -> bool:
        """Waits for the queue to empty and for the receiver's word; False where that took too long."""
        ended = monotonic()
        # Where something failed, its error should not wait for a receiver that is there and takes nothing.
        stopped = None if self._source_ended else ended
        while not sender.done():
            if self._stop_requested.is_set() and stopped is None:
                stopped = monotonic()
            # A stop never lengthens the wait that a receiver out of reach has begun.
            since = min(inf if stopped is None else stopped, max(ended, self._link.unreachable_since))
            if self._stop_now.is_set() or monotonic() - since >= self.settings.drain_timeout:
                return False
            await asyncio.wait({sender}, timeout=0.05)
            if spooler.done() and spooler.exception() is not None:
                return False
        if sender.exception() is not None:
            return False
        left = self.settings.drain_timeout - (monotonic() - stopped if stopped is not None else 0.0)
        return await self._link.finish(max(0.0, left))

    async def _store_rest(self, spooler: asyncio.Task[None]) -> None:
        """A receiver that is away is no reason to lose what the spool has room for."""
        deadline = monotonic() + STORE_SECONDS
        while not (spooler.done() or self._queue.why_unstored or self._stop_now.is_set() or monotonic() >= deadline):
            await asyncio.wait({spooler}, timeout=0.05)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancels what still runs and waits until it has ended; errors stay in the tasks."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
