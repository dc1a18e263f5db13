"""BaseLink: ships what the queue holds to a receiver that knows only the base protocol; best effort."""

from __future__ import annotations

import asyncio

from logbale.acks import Acks
from logbale.compressing import Compressing
from logbale.config import Settings
from logbale.metrics import ShipperMetrics
from logbale.models import json_array
from logbale.protocol import base_flags, encode_header
from logbale.spool import DamagedError, Skip
from logbale.spool_queue import SpoolQueue
from logbale.tcp_client import TCPClient


class BaseLink:
    """A batch is consumed as soon as it has left: nothing ever comes back."""

    growth_limit = 0

    def __init__(self, queue: SpoolQueue, client: TCPClient, compressing: Compressing, metrics: ShipperMetrics) -> None:
        self.tried = asyncio.Event()
        self.tried.set()  # a receiver of the base protocol says nothing
        self._queue = queue
        self._client = client
        self._compressing = compressing
        self._metrics = metrics

    @property
    def unreachable_since(self) -> float:
        """Since when, by time.monotonic, there is no connection; infinity while there is one."""
        return self._client.unreachable_since

    @property
    def last_error(self) -> str:
        """The last that is known of why not all has left."""
        if self._metrics.connected:
            return "it is connected, and takes nothing more"
        return self._client.last_error

    async def run(self) -> None:
        """Sends until the queue is closed and empty."""
        acks = Acks(self._queue)
        parts = [asyncio.create_task(part) for part in (self._send(acks), acks.run())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in parts:
                task.cancel()
            await asyncio.wait(parts)
            await acks.pass_on()

    async def _send(self, acks: Acks) -> None:
        sequence = self._queue.store.first
        await self._queue.begin_sending(sequence)  # for good: nobody ever says what is on its way
        while (item := await self._queue.next_item(sequence)) is not None:
            if isinstance(item, Skip):  # nobody to tell: the base protocol has no sequences
                acks.heard(item.last)
                sequence = item.last + 1
                continue
            try:
                raw = json_array(await self._queue.read(item))
            except DamagedError:
                continue  # now it is a Skip
            compressed = await self._compressing.alone(raw)
            header = encode_header(len(compressed.payload), base_flags(compressed.algorithm))
            await self._client.send(header, compressed.payload)
            self._metrics.batch_sent(
                entries=item.count,
                raw_bytes=compressed.raw_bytes,
                wire_bytes=len(header) + len(compressed.payload),
            )
            acks.heard(item.sequence)  # by nobody: what the kernel has counts as delivered
            sequence = item.sequence + 1

    async def finish(self, timeout: float) -> bool:
        """Whether the receiver said, within `timeout` seconds, that it has everything."""
        return await self._client.finish(timeout)

    async def close(self) -> None:
        """Ends the connection."""
        await self._client.close()

    def link_seconds(self) -> float | None:
        """How long this connection was held up by the network."""
        return self._client.link_seconds()

    def follow(self, settings: Settings) -> None:
        """The next frame goes by them."""
        self._client.send_timeout = settings.send_timeout

    def status(self) -> tuple[bool, str]:
        """Whether there is a connection, and if not, why."""
        if self._metrics.connected:
            return True, f"connected to {self._client.address}"
        return False, f"no connection to {self._client.address}: {self._client.last_error}"
