"""Sending: what leaves over one session, batch by batch: as much as the window takes, compressed as was agreed."""

from __future__ import annotations

import asyncio
from time import monotonic

from logbale import messages
from logbale.compressing import Compressing, context_flags
from logbale.config import Settings
from logbale.context import ContextCompressor
from logbale.messages import NO_CONTEXT, encode_message
from logbale.metrics import ShipperMetrics
from logbale.protocol import FLAGS_AT, Algorithm, Flag
from logbale.session import ShipperSession, encode_batch
from logbale.spool import DamagedError, Record, Skip
from logbale.spool_queue import SpoolQueue
from logbale.storing import LARGE_BYTES


class Sending:
    """The way out of a session that is open; the session tells it what the receiver has said."""

    def __init__(
        self,
        queue: SpoolQueue,
        settings: Settings,
        compressing: Compressing,
        metrics: ShipperMetrics,
        session: ShipperSession,
        writer: asyncio.StreamWriter,
        *,
        first_alone: bool,
    ) -> None:
        """`first_alone`: the first batch travels outside any context, because it did not decode inside one."""
        self.acked = asyncio.Event()
        """Set when the window may have room again."""
        self.window_log = NO_CONTEXT
        """The largest window that a new context may have."""
        self._queue = queue
        self._settings = settings
        self._compressing = compressing
        self._metrics = metrics
        self._session = session
        self._writer = writer
        self._alone = first_alone
        self._context: ContextCompressor | None = None
        self._ended_contexts = 0
        """By the receiver's word: what was compressed in one of them and has not left is of no use."""

    def end_context(self, window_log: int) -> None:
        """The receiver has ended the context; the next one has no larger window than this."""
        self.window_log = window_log
        self._context = None
        self._ended_contexts += 1

    async def settled(self) -> None:
        """Returns once nothing is unacknowledged, and the queue knows it."""
        while self._queue.first <= self._session.last_sent:
            await self._queue.wait_for_change()

    async def run(self, resume_at: int) -> None:
        """Sends what there is from there on, until the queue's input is closed and all of it is consumed."""
        sequence = resume_at
        while (item := await self._queue.next_item(sequence)) is not None:
            last = await self._send_record(item) if isinstance(item, Record) else await self._skip(item, sequence)
            sequence = last + 1
        while not self._queue.is_drained:
            await self._queue.wait_for_change()
        await self._queue.settle()

    async def _send_record(self, record: Record) -> int:
        """Sends a batch, or what stands in its place; returns the last sequence that this covers."""
        ended_contexts = self._ended_contexts
        if (pressed := self._queue.pressed(record)) is not None:
            self._alone = False
            payload = await self._compressing.payload(pressed)
            frame = encode_batch(record.sequence, record.raw_bytes, record.crc, payload, Algorithm.ZSTD)
        else:
            try:
                raw = await self._queue.read(record)
            except DamagedError as error:
                return await self._skip(error.skip, record.sequence)
            frame = await self._frame(record, raw)
        welcome = self._session.welcome
        assert welcome is not None, "nothing is sent before the welcome"
        if record.raw_bytes > welcome.max_raw or len(frame) > welcome.max_frame:
            reason = (
                f"{record.raw_bytes} raw bytes, {len(frame)} as a frame: "
                f"the receiver takes {welcome.max_raw} and {welcome.max_frame}"
            )
            await self._queue.reject(record.sequence, reason)
            self._context = None  # it holds what the receiver will never see
            skip = Skip(record.sequence, record.sequence, record.count, "too large for the receiver")
            return await self._skip(skip, record.sequence)
        if not await self._write(frame, record.sequence, ended_contexts):
            return await self._send_record(record)
        self._metrics.batch_sent(entries=record.count, raw_bytes=record.raw_bytes, wire_bytes=len(frame))
        return record.sequence

    async def _frame(self, record: Record, raw: bytes) -> bytes:
        algorithm = self._compressing.handler.algorithm
        in_context = self._settings.compression_context == "stream" and algorithm is not Algorithm.NONE
        # What is large gains nothing from a context, and the archive can keep its frame as it is.
        is_large = algorithm is Algorithm.ZSTD and len(raw) >= LARGE_BYTES
        if self._alone or is_large or not in_context or self.window_log == NO_CONTEXT:
            self._alone = False
            compressed = await self._compressing.alone(raw)
            return encode_batch(record.sequence, len(raw), record.crc, compressed.payload, compressed.algorithm)
        context = self._current_context(algorithm)
        flags = context_flags(context)
        body = await self._compressing.in_context(context, raw)
        return encode_batch(record.sequence, len(raw), record.crc, body, algorithm, context=flags)

    def _current_context(self, algorithm: Algorithm) -> ContextCompressor:
        """The context, or a new one where the level or the window has changed."""
        level, window_log = self._compressing.handler.level, self.window_log
        context = self._context
        if context is None or (context.level, context.window_log) != (level, window_log):
            context = self._context = ContextCompressor(algorithm, level, window_log=window_log)
        return context

    async def _skip(self, skip: Skip, sequence: int) -> int:
        """Announces what will never come, from `sequence` on; returns where it ends."""
        first = max(skip.first, sequence)
        await self._write(encode_message(messages.Skip(first, skip.last, skip.entries, skip.reason)), skip.last)
        return skip.last

    async def _write(self, frame: bytes, sequence: int, ended_contexts: int | None = None) -> bool:
        """Gives a frame to the connection once the window has room for it.

        False, and it is not sent, where its context has ended meanwhile; `ended_contexts` had ended before it was made.
        """
        self._metrics.send_begins(monotonic())
        try:
            while not self._session.has_room(len(frame)):
                self.acked.clear()
                await self.acked.wait()
            in_context = frame[FLAGS_AT] & Flag.CONTINUED
            if in_context and ended_contexts != self._ended_contexts:
                return False
            self._session.sent(sequence, len(frame))
            self._writer.write(frame)
            await self._writer.drain()
            return True
        finally:
            self._metrics.send_ended(monotonic())
