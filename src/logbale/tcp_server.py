"""TCPLogReceiver: connections in, durable batches out.

Refuses a connection whose framing is unsound (that connection only) and skips a frame whose payload is no batch. Reads
no faster than the sink stores: over MAX_IN_FLIGHT_BYTES every connection pauses, and a sink that cannot store now is
asked again until it can, while the clients wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import cast

import msgspec

from logbale.compression import decompress
from logbale.config import Settings, format_address
from logbale.errors import DecompressionError, EntryError, ProtocolError, StorageError
from logbale.metrics import ReceiverMetrics
from logbale.ndjson import Lines, to_ndjson
from logbale.protocol import Frame, FrameDecoder
from logbale.sinks import ReceivedBatch, Rejected, Sink

log = logging.getLogger("logbale.receiver")

INLINE_BYTES = 64 * 1024
"""Payloads below this are decoded on the loop: a trip to the pool costs about 40 µs, more than it saves."""

COMMIT_BYTES = 8 * 1024 * 1024
"""Raw bytes that one group commit takes at most, so that no acknowledgement waits for a whole backlog."""

STORAGE_RETRY = 1.0
"""Seconds between attempts while the sink cannot store."""


class _Waiting(msgspec.Struct):
    """A batch between its decoding and the sink's word on it."""

    batch: ReceivedBatch
    connection: _Connection


class TCPLogReceiver:
    """Listens, decodes each frame by its own flags, and commits the batches of all connections in groups.

    One event loop owns all of it. `start`, then `stop`; the sink stays the caller's to close.
    """

    def __init__(self, settings: Settings, sink: Sink, metrics: ReceiverMetrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="logbale-decode")
        self.storage_error: str | None = None
        """Why the sink cannot store now; None while it can."""
        self._sink = sink
        self._connections: set[_Connection] = set()
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._nothing_in_flight = asyncio.Event()
        self._nothing_in_flight.set()
        self._paused = False
        self._stopping = False
        self._server: asyncio.Server | None = None
        self.committer: asyncio.Task[None] | None = None
        """Ends only by an error that nobody foresaw: the owner should await it beside everything else."""

    async def start(self) -> None:
        """Listens on SERVER_HOST and SERVER_PORT. Raises OSError where that cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), self.settings.server_host, self.settings.server_port, backlog=1024
        )
        self.committer = asyncio.create_task(self._commit_for_ever())

    @property
    def address(self) -> tuple[str, int]:
        """Host and port as they were bound."""
        assert self._server is not None, "start() comes first"
        host, port, *_ = self._server.sockets[0].getsockname()
        return host, port

    async def stop(self, deadline: float) -> int:
        """Accepts and reads nothing more, stores what was received until `deadline` (the loop's time), closes.

        Returns the entries that were received and could not be stored.
        """
        assert self._server is not None, "start() comes first"
        self._stopping = True
        self._server.close()
        for connection in self._connections:
            connection.pause()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._nothing_in_flight.wait()
        if self.committer is not None:
            self.committer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.committer
        for connection in list(self._connections):
            connection.close()
        await self._server.wait_closed()
        self.pool.shutdown(wait=False, cancel_futures=True)
        return self.metrics.snapshot(monotonic()).waiting_entries

    # what connections call

    def opened(self, connection: _Connection) -> bool:
        """A connection came; False where there are too many."""
        self.metrics.connections += 1
        if len(self._connections) >= self.settings.max_connections:
            self.metrics.errors["too_many_connections"] += 1
            log.warning(
                "%s refused: %d connections are open, the limit (MAX_CONNECTIONS)",
                connection.peer,
                len(self._connections),
            )
            return False
        log.info("%s connected", connection.peer)
        self._connections.add(connection)
        self.metrics.clients = len(self._connections)
        if self._paused:
            connection.pause()
        return True

    def closed(self, connection: _Connection, error: Exception | None) -> None:
        """A connection is gone, by its own end or by an error."""
        if connection not in self._connections:
            return
        log.info("%s disconnected%s", connection.peer, f": {error}" if error else "")
        self._connections.discard(connection)
        self.metrics.clients = len(self._connections)

    def reserve(self, size: int) -> None:
        """Counts bytes as in flight; pauses every connection when they are too many."""
        self.metrics.in_flight_bytes += size
        self._nothing_in_flight.clear()
        if not self._paused and self.metrics.in_flight_bytes > self.settings.max_in_flight_bytes:
            self._paused = True
            for connection in self._connections:
                connection.pause()

    def release(self, size: int) -> None:
        """The reverse; reading resumes at three quarters of the limit."""
        self.metrics.in_flight_bytes -= size
        if not self.metrics.in_flight_bytes:
            self._nothing_in_flight.set()
        if (
            self._paused
            and not self._stopping
            and self.metrics.in_flight_bytes <= self.settings.max_in_flight_bytes * 3 // 4
        ):
            self._paused = False
            for connection in self._connections:
                connection.resume()

    def commit(self, waiting: _Waiting) -> None:
        """Hands a batch to the committer."""
        self._waiting.append(waiting)
        self._arrived.set()

    # the committer

    async def _commit_for_ever(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._commit_group(self._take_group())

    def _take_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._waiting and (not group or size + len(self._waiting[0].batch.ndjson) <= COMMIT_BYTES):
            waiting = self._waiting.popleft()
            size += len(waiting.batch.ndjson)
            group.append(waiting)
        return group

    async def _commit_group(self, group: list[_Waiting]) -> None:
        while True:
            try:
                outcomes = await self._sink.commit([waiting.batch for waiting in group])
                break
            except StorageError as error:
                self.metrics.errors["storage"] += 1
                if self.storage_error is None:
                    log.error("cannot store now, the clients wait: %s", error)
                self.storage_error = str(error)
                await asyncio.sleep(STORAGE_RETRY)
        if self.storage_error is not None:
            log.warning("storing again")
            self.storage_error = None
        for waiting, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                self.metrics.rejected_entries += waiting.batch.count
                self.metrics.errors["rejected"] += 1
                log.error("%s: %d entries rejected: %s", waiting.batch.peer, waiting.batch.count, outcome.reason)
            else:
                self.metrics.stored_entries += waiting.batch.count
            self.release(len(waiting.batch.ndjson))
            waiting.connection.settled()


class _Connection(asyncio.Protocol):
    """One client: bytes → frames → batches, in order."""

    def __init__(self, receiver: TCPLogReceiver) -> None:
        self.peer = "?"
        self._receiver = receiver
        self._decoder = FrameDecoder(receiver.settings.max_frame_bytes)
        self._transport: asyncio.Transport | None = None
        self._frames: deque[Frame] = deque()
        self._decoding: asyncio.Task[None] | None = None
        self._unsettled = 0
        self._bad_frames = 0
        self._at_end = False

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self.peer = format_address(*transport.get_extra_info("peername")[:2])
        # A base client may be silent for days; only the kernel can tell it from one whose cable was cut.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if not self._receiver.opened(self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._decoder.feed(data)
            for frame in self._decoder.frames():
                self._receiver.reserve(frame.wire_bytes)
                self._frames.append(frame)
        except ProtocolError as error:
            self._break(error)
        self._decode_next()

    def eof_received(self) -> bool:
        try:
            self._decoder.close()
        except ProtocolError as error:
            self._break(error)
        self._at_end = True
        self._close_when_settled()
        return True  # stays open until all that came is stored: our end of stream then tells the client so

    def connection_lost(self, error: Exception | None) -> None:
        self._receiver.closed(self, error)

    # what the receiver calls

    def pause(self) -> None:
        """Reads nothing for now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self._transport is not None and not self._transport.is_closing() and not self._at_end:
            self._transport.resume_reading()

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.close()

    def settled(self) -> None:
        """One batch of this connection has got the sink's word."""
        self._unsettled -= 1
        self._close_when_settled()

    # frames to batches

    def _break(self, error: ProtocolError) -> None:
        """The framing is unsound: nothing more is read, and what came whole before it is still stored."""
        self._receiver.metrics.errors["protocol"] += 1
        log.warning("%s: %s; its connection is closed", self.peer, error)
        self.pause()
        self._at_end = True

    def _close_when_settled(self) -> None:
        if self._at_end and not self._frames and self._decoding is None and not self._unsettled:
            self.close()

    def _decode_next(self) -> None:
        """Decodes what waits, in order: on the loop while a frame is small, in the pool otherwise."""
        while self._frames and self._decoding is None:
            frame = self._frames.popleft()
            if len(frame.payload) < INLINE_BYTES:
                self._take(frame, _decode(frame, self._receiver.settings))
            else:
                self._decoding = asyncio.create_task(self._decode_in_pool(frame))
        self._close_when_settled()

    async def _decode_in_pool(self, frame: Frame) -> None:
        receiver = self._receiver
        loop = asyncio.get_running_loop()
        self._take(frame, await loop.run_in_executor(receiver.pool, _decode, frame, receiver.settings))
        self._decoding = None
        self._decode_next()

    def _take(self, frame: Frame, decoded: _Decoded | DecompressionError | EntryError) -> None:
        receiver = self._receiver
        if not isinstance(decoded, _Decoded):
            self._bad_frames += 1
            receiver.metrics.frame_refused(decoded.reason)
            if self._bad_frames & (self._bad_frames - 1) == 0:  # the 1st, 2nd, 4th, 8th: a flood of them stays readable
                log.warning("%s: frame skipped, the %d. bad one: %s", self.peer, self._bad_frames, decoded)
            receiver.release(frame.wire_bytes)
            return
        lines = decoded.lines
        receiver.metrics.batch_received(
            frame.algorithm, entries=lines.count, raw_bytes=decoded.raw_bytes, wire_bytes=frame.wire_bytes
        )
        if lines.rewritten:
            receiver.metrics.errors["rewritten"] += lines.rewritten
        receiver.reserve(len(lines.ndjson))
        receiver.release(frame.wire_bytes)
        self._unsettled += 1
        batch = ReceivedBatch(lines.ndjson, lines.count, lines.first, lines.last, self.peer)
        receiver.commit(_Waiting(batch, self))


class _Decoded(msgspec.Struct, frozen=True):
    lines: Lines
    raw_bytes: int


def _decode(frame: Frame, settings: Settings) -> _Decoded | DecompressionError | EntryError:
    """A frame's entries, or why it has none. Pure: runs on the loop and in the pool."""
    try:
        raw = decompress(frame.algorithm, frame.payload, max_raw=settings.max_raw_bytes)
        return _Decoded(to_ndjson(raw, max_entries=settings.max_batch_entries), len(raw))
    except (DecompressionError, EntryError) as error:
        return error
