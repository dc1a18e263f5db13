"""What sessions hand to a relay, and a relay in this process."""

import asyncio
import contextlib

from chaos.processes import free_port
from logbale.config import Settings
from logbale.metrics import ReceiverMetrics
from logbale.relay.spool import OriginSpool
from logbale.session import batch_crc
from logbale.sinks import ReceivedBatch, RejectedSequence, SkippedRange
from logbale.sinks.relay import RelaySink
from logbale.tcp_server import TCPLogReceiver

STREAM = "edge:1"


def batch(sequence, stream=STREAM, *, entries=1, padding=0):
    """A batch whose entries have its sequence as `n`."""
    lines = b'{"n":%d,"pad":"%s"}\n' % (sequence, b"x" * padding) * entries
    return ReceivedBatch(lines, entries, "", "", "peer", stream, sequence, batch_crc(sequence, lines))


def base_batch(number):
    """What came without a session."""
    return ReceivedBatch(b'{"n":%d}\n' % number, 1, "", "", "peer")


def reject(sequence, stream=STREAM):
    return RejectedSequence(stream, sequence, "too strange", 7)


def skip(first, last, entries=1, stream=STREAM, reason="drop_oldest"):
    return SkippedRange(stream, first, last, entries, reason)


def spool_of(directory, *, stream=STREAM, first=1, max_bytes=1 << 30):
    """An open one."""
    spool = OriginSpool(directory, stream=stream, first=first, max_bytes=max_bytes)
    spool.open()
    return spool


def settings_of(port, *, host="127.0.0.1", **options):
    return Settings(server_host=host, server_port=port, compression_algorithm="zstd", **options)


LIMITS = {"max_bytes": 1 << 30, "max_memory": 1 << 20, "max_streams": 1000, "marks_days": 30, "connections": 64}


@contextlib.asynccontextmanager
async def relay(directory, port, *, host="127.0.0.1", **options):
    """A relay's sink that forwards to a port, of this host if no other is given, while the body runs."""
    sink = RelaySink(directory, settings_of(port, host=host), **(LIMITS | options))
    await sink.open()
    forwarding = asyncio.create_task(sink.run())
    try:
        yield sink
    finally:
        forwarding.cancel()
        await asyncio.wait({forwarding})
        await sink.close()
    assert forwarding.cancelled(), forwarding.exception()


@contextlib.asynccontextmanager
async def upstream(sink, port=None, **settings):
    """A receiver for it, on a port that another one may have after it."""
    server = TCPLogReceiver(
        Settings(server_host="127.0.0.1", server_port=port or free_port(), **settings), sink, ReceiverMetrics(now=0.0)
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop(deadline=0.0)
