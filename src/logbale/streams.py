"""Who writes which stream, and the two marks of each: accepted (on its way to the sink) and durable (in it)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from hashlib import sha256
from typing import Protocol

from logbale.session import SequencedBatch
from logbale.sinks import Mark, Sink

MAX_FAILED = 1000


class Writer(Protocol):
    """A connection that holds a session."""

    def superseded(self) -> None:
        """Another connection has taken its stream over."""


class Stream:
    """One stream that has a session, or has batches of one on their way to the sink."""

    def __init__(self, name: str, mark: Mark) -> None:
        self.name = name
        self.writer: Writer | None = None
        self.accepted = mark.sequence
        self.durable = mark.sequence
        self._pending = 0
        self._settled = asyncio.Event()
        self._settled.set()

    def submitted(self, last: int) -> None:
        """Sequences up to `last` are on their way to the sink."""
        self.accepted = last
        self._pending += 1
        self._settled.clear()

    def settled(self, last: int) -> None:
        """One of them is durable, or rejected, which is durable too."""
        self.durable = last
        self.returned()

    def returned(self) -> None:
        """One of them is not on its way any more."""
        self._pending -= 1
        if not self._pending:
            self._settled.set()

    async def wait_until_settled(self) -> None:
        """Returns when nothing of the stream is on its way to the sink: a welcome tells the whole truth then."""
        await self._settled.wait()

    @property
    def is_idle(self) -> bool:
        """Nobody writes it and nothing of it is on its way."""
        return self.writer is None and not self._pending


class Streams:
    """The streams in use."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._streams: dict[str, Stream] = {}
        self._failed: OrderedDict[str, tuple[int, bytes]] = OrderedDict()

    def claim(self, name: str, writer: Writer) -> Stream | None:
        """Makes `writer` the one writer of the stream; an older one is superseded.

        None where the stream is new and the sink can take no further one.
        """
        stream = self._streams.get(name)
        if stream is None:
            if not self._sink.can_admit(name):
                return None
            stream = self._streams[name] = Stream(name, self._sink.mark(name) or Mark())
        older, stream.writer = stream.writer, writer
        if older is not None:
            older.superseded()
        return stream

    def release(self, stream: Stream, writer: Writer) -> None:
        """The writer's connection is gone."""
        if stream.writer is writer:
            stream.writer = None
        self.forget_if_idle(stream)

    def failed_before(self, name: str, batch: SequencedBatch) -> bool:
        """Whether this batch of a stream failed to decode on its own, with these very bytes, once already; now it has.

        A link that flips bits gives other bytes each time. Of MAX_FAILED streams at a time: to forget one costs no more
        than another attempt.
        """
        prefix = b"%d %d" % (batch.raw_bytes, batch.crc)
        failed = batch.sequence, sha256(prefix + batch.body).digest()
        if self._failed.pop(name, None) == failed:
            return True
        self._failed[name] = failed
        if len(self._failed) > MAX_FAILED:
            self._failed.popitem(last=False)
        return False

    def forget_if_idle(self, stream: Stream) -> None:
        """The sink's mark says all there is to know of a stream that is not in use."""
        if stream.is_idle and self._streams.get(stream.name) is stream:
            del self._streams[stream.name]
