"""What an adaptive policy is told: what arrives, waits, leaves and stalls, and how busy the CPU is.

Differences of what the queue, the link and the compressor count anyway, taken a few times a second at most: nothing
here is done per entry or per batch.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from logbale.adaptive import Sample
from logbale.compressing import Compressing
from logbale.cpu import CpuMeter
from logbale.metrics import ShipperMetrics
from logbale.spool_queue import SpoolQueue


class LoadMeter:
    """Samples from one call to the next. Owned by the event loop."""

    def __init__(
        self,
        queue: SpoolQueue,
        metrics: ShipperMetrics,
        compressing: Compressing,
        *,
        link_seconds: Callable[[], float | None],
        now: float,
    ) -> None:
        """`link_seconds` tells how long the connection that is open was held up by the network, None if it cannot."""
        self._link_seconds = link_seconds
        self._linked = 0.0
        self._queue = queue
        self._metrics = metrics
        self._compressing = compressing
        self.cpu_percent: float | None = None
        """As it was read last."""
        self._cpu = CpuMeter()
        self._batch_bytes = 0.0
        self._stats = 0, 0
        self._last = now, 0.0, 0.0, 0

    @property
    def backlog_bytes(self) -> int:
        """Raw bytes that wait to be sent for the first time: the batches, at the size of those sent lately."""
        stats = self._compressing.handler.stats
        batches, raw_bytes = stats.batches - self._stats[0], stats.raw_bytes - self._stats[1]
        if batches:
            self._batch_bytes = raw_bytes / batches
        return int(self._queue.unsent_batches * self._batch_bytes)

    def read_cpu(self) -> float | None:
        """How busy the CPU was since the last call, in percent; None at the first one."""
        percent = self._cpu.read()
        self.cpu_percent = percent if percent is not None else self.cpu_percent
        return percent

    def sample(self, now: float) -> Sample | None:
        """What was seen since the last sample; None at the first call, which has no CPU reading yet."""
        percent = self.read_cpu()
        then, stalled_before, backlog_before, arrived_before = self._last
        backlog, work = float(self.backlog_bytes), self._compressing.take_work()
        stats = self._compressing.handler.stats
        sent = stats.raw_bytes - self._stats[1]
        self._stats = stats.batches, stats.raw_bytes
        stalled, arrived = self._metrics.stalled_seconds(now), self._metrics.arrived_bytes
        self._last = now, stalled, backlog, arrived
        held_up = self._held_up()
        if percent is None:
            return None
        waited = stalled - stalled_before
        return Sample(
            cpu_percent=percent,
            seconds=now - then,
            read_bytes=max(0.0, sent + backlog - backlog_before),
            backlog_bytes=backlog,
            wire_bytes=arrived - arrived_before,
            stalled=min(waited, held_up),
            blocked=max(0.0, waited - held_up),
            work=work,
        )

    def _held_up(self) -> float:
        """Seconds by the network since the last call; stalls beyond them are the receiver's. Infinite if unknown."""
        linked = self._link_seconds()
        if linked is None:
            return inf
        before, self._linked = self._linked, linked
        return linked - before if linked >= before else linked  # less than before: it is another connection
