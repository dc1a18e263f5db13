"""One base client at the receiver: its frames, each decoded on its own, and nothing is written to it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from logbale.decoding import INLINE_BYTES, Decoded, decode_base
from logbale.errors import DecompressionError, EntryError
from logbale.floods import is_worth_saying
from logbale.protocol import Frame
from logbale.room import raw_bytes_at_most
from logbale.sinks import ReceivedBatch

if TYPE_CHECKING:
    from logbale.connection import Connection

log = logging.getLogger("logbale.receiver")


class BaseReceiving:
    """What ReceivingSession is for a session."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bad_frames = 0
        self._is_known = False

    def take(self, frame: Frame) -> None:
        """On the loop while it is small, in the pool otherwise."""
        connection = self._connection
        if len(frame.payload) < INLINE_BYTES:
            self._take(frame, decode_base(frame, connection.settings))
            return
        # Now, not when the task begins: what comes in this turn of the loop must not find the same room.
        connection.receiver.take_room(size := raw_bytes_at_most(frame, connection.settings))
        connection.work(self._decode_in_pool, frame, size)

    async def _decode_in_pool(self, frame: Frame, size: int) -> None:
        connection = self._connection
        self._take(frame, await connection.receiver.decode(size, decode_base, frame, connection.settings))

    def _take(self, frame: Frame, decoded: Decoded | DecompressionError | EntryError) -> None:
        connection = self._connection
        if not isinstance(decoded, Decoded):
            self._bad_frames += 1
            connection.receiver.metrics.frame_refused(decoded.reason)
            if is_worth_saying(self._bad_frames):
                log.warning("%s: frame skipped (%d so far): %s", connection.peer, self._bad_frames, decoded)
            connection.receiver.release(frame.wire_bytes)
            return
        if not self._is_known:  # only who sent a sound frame is listed
            self._is_known = True
            connection.identify()
        connection.count(frame.algorithm, decoded, frame.wire_bytes)
        lines = decoded.lines
        batch = ReceivedBatch(lines.ndjson, lines.count, lines.first, lines.last, connection.peer)
        connection.submit(batch, frame.wire_bytes)
