"""LogShipper: one source, buffer, compression and client put together, and taken down in the order that data flows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, perf_counter
from typing import Any

import msgspec

from logbale.adaptive import AdaptiveCompression, Sample
from logbale.batch_buffer import BatchBuffer
from logbale.compression import Compressed, CompressionHandler
from logbale.config import Settings, connect_host
from logbale.cpu import CpuMeter
from logbale.metrics import ShipperMetrics, ShipperSnapshot
from logbale.metrics_server import MetricsServer
from logbale.models import Batch
from logbale.protocol import Algorithm, base_flags, encode_header
from logbale.sources import Source
from logbale.spool import MemorySpool
from logbale.tcp_client import TCPClient

log = logging.getLogger("logbale.shipper")

INLINE_BYTES = 64 * 1024
"""Batches below this are compressed on the loop: a trip to the pool costs about 40 µs, more than it saves."""


class ShipReport(msgspec.Struct, frozen=True):
    """How a run ended."""

    delivered: bool
    """Everything that was read left, and the receiver said that it has it."""
    left_batches: int
    left_entries: int
    """Entries that were read and did not leave."""
    snapshot: ShipperSnapshot


class LogShipper:
    """Reads, presses and ships until the source ends or stop() is called.

    After the source's own end it goes on for as long as the receiver can be reached, and gives up DRAIN_TIMEOUT
    seconds after it could be reached last. After stop() it has DRAIN_TIMEOUT in all.
    """

    def __init__(self, settings: Settings, source: Source) -> None:
        self.settings = settings
        self._source = source
        self._adaptive = AdaptiveCompression(
            settings.adaptive_min_level, settings.adaptive_max_level, level=settings.compression_level
        )
        self._compression = CompressionHandler(
            Algorithm.named(settings.compression_algorithm),
            self._adaptive.level if settings.adaptive_enabled else settings.compression_level,
            enabled=settings.compression_enabled,
            bypass_threshold=settings.bypass_threshold,
        )
        self._metrics = ShipperMetrics(
            now=monotonic(),
            algorithm=self._compression.algorithm.label,
            level=self._compression.level,
            compression=self._compression.stats,
        )
        self._buffer = BatchBuffer(
            size=settings.batch_size, interval=settings.batch_interval, max_bytes=settings.batch_max_bytes
        )
        self._spool = MemorySpool(settings.buffer_max_bytes)
        self._client = TCPClient(
            connect_host(settings.server_host),
            settings.server_port,
            send_timeout=settings.send_timeout,
            metrics=self._metrics,
        )
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="logbale-compress")
        self._stop_requested = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._buffered = asyncio.Event()

    def stop(self) -> None:
        """Stops reading and delivers what was read within DRAIN_TIMEOUT; called again, ends at once."""
        if self._stop_requested.is_set():
            self._stop_now.set()
        self._stop_requested.set()

    def snapshot(self) -> ShipperSnapshot:
        """Everything counted, at this moment."""
        self._metrics.waiting_batches = len(self._spool) + bool(self._buffer)
        self._metrics.errors |= self._source.counts()
        return self._metrics.snapshot(monotonic())

    async def run(self) -> ShipReport:
        """Ships until the end. Raises what the source raises, after delivering what it gave before."""
        ticker = asyncio.create_task(self._send_due_batches())
        adapter = asyncio.create_task(self._adapt()) if self.settings.adaptive_enabled else None
        reader = asyncio.create_task(self._read())
        sender = asyncio.create_task(self._send())
        stop = asyncio.create_task(self._stop_requested.wait())
        try:
            async with self._metrics_server():
                await asyncio.wait({reader, ticker, sender, stop}, return_when=asyncio.FIRST_COMPLETED)
                await _cancel(reader, ticker)
                if (batch := self._buffer.flush()) is not None:
                    self._spool.append(batch)
                self._spool.close()
                delivered = await self._drain(sender)
        finally:
            await _cancel(reader, ticker, sender, stop, *([adapter] if adapter else []))
            await self._client.close()
            self._pool.shutdown(wait=False, cancel_futures=True)
        for task in (reader, ticker, sender):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        snapshot = self.snapshot()
        return ShipReport(delivered, len(self._spool), snapshot.waiting_entries, snapshot)

    async def _read(self) -> None:
        async with contextlib.aclosing(self._source.chunks()) as chunks:
            async for chunk in chunks:
                self._metrics.read_entries += len(chunk.entries)
                for batch in self._buffer.add(chunk, monotonic()):
                    self._spool.append(batch)
                self._buffered.set()
                await self._spool.wait_for_room()
                # A source that never has to wait would otherwise keep the loop to itself.
                await asyncio.sleep(0)

    async def _send_due_batches(self) -> None:
        while True:
            if (deadline := self._buffer.deadline) is None:
                self._buffered.clear()
                await self._buffered.wait()
                continue
            await asyncio.sleep(deadline - monotonic())
            if (batch := self._buffer.take_due(monotonic())) is not None:
                self._spool.append(batch)

    async def _send(self) -> None:
        while (batch := await self._spool.first()) is not None:
            compressed = await self._compress(batch)
            header = encode_header(len(compressed.payload), base_flags(compressed.algorithm))
            await self._client.send(header, compressed.payload)
            self._spool.remove_first()
            self._metrics.batch_sent(
                entries=len(batch.entries),
                raw_bytes=compressed.raw_bytes,
                wire_bytes=len(header) + len(compressed.payload),
            )

    async def _compress(self, batch: Batch) -> Compressed:
        raw = batch.encode()
        if len(raw) < INLINE_BYTES:
            compressed, seconds = _timed_compress(self._compression, raw)
        else:
            loop = asyncio.get_running_loop()
            compressed, seconds = await loop.run_in_executor(self._pool, _timed_compress, self._compression, raw)
        self._compression.record(compressed, seconds)
        return compressed

    async def _drain(self, sender: asyncio.Task[None]) -> bool:
        """Waits for the spool to empty and for the receiver's word; False where that took too long."""
        ended = monotonic()
        stopped: float | None = None
        while not sender.done():
            if self._stop_requested.is_set() and stopped is None:
                stopped = monotonic()
            since = stopped if stopped is not None else max(ended, self._client.unreachable_since)
            if self._stop_now.is_set() or monotonic() - since >= self.settings.drain_timeout:
                return False
            await asyncio.wait({sender}, timeout=0.05)
        if sender.exception() is not None:
            return False
        left = self.settings.drain_timeout - (monotonic() - stopped if stopped is not None else 0.0)
        return await self._client.finish(max(0.0, left))

    async def _adapt(self) -> None:
        meter = CpuMeter()
        while True:
            if (percent := meter.read()) is not None:
                self._adaptive.observe(Sample(cpu_percent=percent))
                decision = self._adaptive.decide()
                if decision.changed:
                    log.info("compression level %d: %s", decision.level, decision.reason)
                self._compression.level = self._metrics.level = decision.level
                self._metrics.level_reason = decision.reason
            await asyncio.sleep(self.settings.adaptive_check_interval)

    @contextlib.asynccontextmanager
    async def _metrics_server(self) -> AsyncIterator[None]:
        """/metrics, /healthz and /readyz while the run lasts, where METRICS_PORT asks for them."""
        if not self.settings.metrics_port:
            yield
            return
        server = MetricsServer(
            self.snapshot, self._ready, host=self.settings.dashboard_host, port=self.settings.metrics_port
        )
        await server.start()
        try:
            yield
        finally:
            await server.stop()

    def _ready(self) -> tuple[bool, str]:
        if self._metrics.connected:
            return True, f"connected to {self._client.address}"
        return False, f"no connection to {self._client.address}: {self._client.last_error}"


def _timed_compress(handler: CompressionHandler, raw: bytes) -> tuple[Compressed, float]:
    start = perf_counter()
    return handler.compress(raw), perf_counter() - start


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancels what still runs and waits until it has ended; errors stay in the tasks."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
