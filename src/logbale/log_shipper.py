"""LogShipper: one source, buffer, queue and link put together, and taken down in the order that data flows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import msgspec

from logbale.batch_buffer import BatchBuffer
from logbale.carried import Carried
from logbale.compressing import Compressing
from logbale.compression import CompressionHandler
from logbale.config import Settings
from logbale.leftovers import reread_and_lost
from logbale.level_choice import RELOAD_INTERVAL, LevelChoice, first_level, policy_of
from logbale.link import Link
from logbale.load_meter import LoadMeter
from logbale.metrics import ShipperMetrics, ShipperSnapshot
from logbale.models import Chunk
from logbale.protocol import Algorithm
from logbale.receivers import Receivers
from logbale.reloading import Reloading
from logbale.reports import Report, report_of
from logbale.session_link import SessionLink
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

NOTE_INTERVAL = 1.0
"""Seconds after which cursors that moved without an entry are noted; a batch takes them along before."""

BACKLOG_BATCHES = 4
"""Batches that are not acknowledged from which on the next ones grow. Fewer are always on their way."""

GROWN_BYTES = 16 * 1024
"""Wire bytes that a batch grows to under backlog before it is known what the link carries: 2 s at 64 kbit/s."""

USUAL_RATIO = 8.0
"""Of log entries, until it is known: it is more with most logs."""

FIRST_TRY = 1.0
"""Seconds that reading waits for the first word of the receiver, which says how far batches may grow."""

STORE_SECONDS = 2.0
"""So long the end waits for the spool to take what was read, beyond DRAIN_TIMEOUT."""

LOOK_INTERVAL = 0.005
"""Seconds at least between looks at whether the ack has come that lets a partial batch leave."""


class ShipReport(msgspec.Struct, frozen=True):
    """How a run ended."""

    delivered: bool
    """Everything that was read is with the receiver, as far as the protocol can tell."""
    source_ended: bool
    """The source came to its own end: it was neither stopped before nor failed."""
    left_batches: int
    left_entries: int
    """Entries that were read and are not delivered: they wait in a spool on disk, will be read again, or are lost."""
    why: str
    """The last that is known of why not everything is delivered; empty where it is."""
    snapshot: ShipperSnapshot
    """Of the end: what is lost does not wait any more, but is dropped as `lost`."""
    reread_entries: int = 0
    """Those of left_entries that are in no spool, and that the next run finds where this one did."""
    lost_entries: int = 0
    """Those of left_entries that are in no spool, and that nobody gives again."""
    why_unstored: str = ""
    """Why the spool could not take them, where it is that."""
    why_rejected: str = ""
    """Why the receiver would not have a batch, the last one of those; the snapshot's `dropped` has how many entries."""


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
        self._buffer = BatchBuffer(
            size=settings.batch_size, interval=settings.batch_interval, max_bytes=settings.batch_max_bytes
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
        self._load = LoadMeter(
            self._queue,
            self._metrics,
            self._compressing,
            link_seconds=self._link.link_seconds,
            now=monotonic(),
        )
        self._levels = LevelChoice(settings, policy, handler, self._metrics, self._load)
        self._carried = Carried()
        self._source_ended = False
        self.started = asyncio.Event()
        """Set once everything that run() needs is open."""
        self._stop_requested = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._buffered = asyncio.Event()

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
        self._buffer.size = settings.batch_size
        self._buffer.interval = settings.batch_interval
        self._buffer.max_bytes = settings.batch_max_bytes
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
        metrics, counts = self._metrics, self._queue.counts
        metrics.waiting_batches = self._queue.waiting_batches + bool(self._buffer)
        metrics.waiting_entries = counts.pop("spooled") + len(self._buffer)
        metrics.delivered_entries = counts.pop("acknowledged")
        metrics.read_entries = counts.pop("read") + len(self._buffer)
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
        # A stop may come before the first chunk: where followed files begin is noted all the same, or the next run
        # would begin at their ends again, and what came in between would be nobody's.
        self._buffer.add(Chunk([], begun=getattr(self._source, "begun", {})), monotonic())
        reader = asyncio.create_task(self._read())
        ticker = asyncio.create_task(self._pass_on_due_batches())
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
                if (batch := self._buffer.flush()) is not None:
                    self._queue.append(batch)
                self._queue.move_cursors(self._buffer.take_cursors())
                self._queue.close_input()
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
        left = snapshot.waiting_entries
        reread, lost = self._homeless(left)
        batches = snapshot.waiting_batches
        if reread or lost:
            snapshot = msgspec.structs.replace(
                snapshot,
                waiting_batches=self._queue.spooled_batches,
                waiting_entries=left - lost,
                dropped=snapshot.dropped | ({"lost": lost} if lost else {}),
            )
        return ShipReport(
            delivered,
            self._source_ended,
            batches,
            left,
            "" if delivered else why or self._link.last_error,
            snapshot,
            reread,
            lost,
            self._queue.why_unstored,
            self._queue.why_rejected,
        )

    def _homeless(self, left: int) -> tuple[int, int]:
        """Of so many entries that are not delivered, those in no spool on disk: that come again, and that are lost."""
        if isinstance(self._queue.store, MemoryStore):
            return (left, 0) if getattr(self._source, "begins_anew", False) else (0, left)
        batches = [*self._queue.unstored, self._buffer.look()]
        comes_again = getattr(self._source, "comes_again", _never)  # what has no cursors cannot be had again
        if getattr(self._source, "needs_cursors", False) and not self._queue.store.has_cursors:
            comes_again = _never
        return reread_and_lost(batches, comes_again)

    async def _read(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TRY):
                await self._link.tried.wait()
        async with contextlib.aclosing(self._source.chunks()) as chunks:
            async for chunk in chunks:
                for batch in self._buffer.add(chunk, monotonic(), grown_bytes=self._grown_bytes()):
                    self._queue.append(batch)
                self._buffered.set()
                await self._queue.wait_for_room()
                # A source that never has to wait would otherwise keep the loop to itself.
                await asyncio.sleep(0)

    def _grown_bytes(self) -> int:
        """Raw bytes that a batch may have beyond BATCH_SIZE: in a session, while batches wait, what passes in seconds.

        A slow link must not be busy with one batch for so long that its silence looks like its end, and what the
        receiver would refuse as too large must not become so here.
        """
        if self._queue.waiting_batches < BACKLOG_BATCHES:
            return 0
        carried = max(GROWN_BYTES, self._carried.lately(self._metrics.arrived_bytes, monotonic()))
        carried_raw = int(carried * (self._compressing.handler.stats.ratio or USUAL_RATIO))
        return min(carried_raw, self.settings.buffer_max_bytes // 8, self._link.growth_limit)

    async def _pass_on_due_batches(self) -> None:
        """A partial batch leaves after BATCH_INTERVAL; in a session that has nothing else to do, after BATCH_LINGER."""
        while True:
            settings = self.settings
            linger = settings.batch_linger if settings.session_mode == "on" else settings.batch_interval
            if self._buffer.deadline is None:
                await self._pass_on_due_cursors()
                continue
            is_idle = self._queue.is_drained and self._metrics.connected
            self._buffer.interval = min(linger, settings.batch_interval) if is_idle else settings.batch_interval
            wait = self._buffer.deadline - monotonic()
            if wait > 0:
                # While something is unacknowledged, its ack may shorten the wait, and a reload may at any time.
                await asyncio.sleep(min(wait, RELOAD_INTERVAL if is_idle else max(linger, LOOK_INTERVAL)))
            elif (batch := self._buffer.take_due(monotonic())) is not None:
                self._queue.append(batch)

    async def _pass_on_due_cursors(self) -> None:
        """Waits for the first entry; where only cursors have moved, they are noted after NOTE_INTERVAL."""
        self._buffered.clear()
        due = self._buffer.note_due(NOTE_INTERVAL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0.0, due - monotonic())):
                await self._buffered.wait()
        if (due := self._buffer.note_due(NOTE_INTERVAL)) is not None and due <= monotonic():
            self._queue.move_cursors(self._buffer.take_cursors())

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


def _never(name: str, cursor: int) -> bool:
    return False
