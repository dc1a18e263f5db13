"""Connecting: what a connection to a receiver is like before anything is said."""

import asyncio
import fcntl
import struct
import sys

import pytest

from logbale.connecting import UNSENT_BYTES, connect
from logbale.receivers import Receiver

SIOCOUTQNSD = 0x894B
"""Linux' question for the bytes that a socket holds and has not sent once."""


@pytest.mark.skipif(sys.platform != "linux", reason="others have no number for it")
def test_what_cannot_be_sent_yet_stays_with_the_shipper(run):
    """The kernel holds little of it, so a slow link shows at once, and what waits can still be compressed better."""

    async def scenario():
        ended = asyncio.Event()

        async def read_nothing(_, writer):
            await ended.wait()
            writer.close()

        server = await asyncio.start_server(read_nothing, "127.0.0.1", 0, limit=1)
        host, port = server.sockets[0].getsockname()
        _, writer = await connect(Receiver("receiver", host, port), None)
        writer.write(bytes(32 << 20))
        unsent = []
        for _ in range(200):
            await asyncio.sleep(0)
            descriptor = writer.get_extra_info("socket").fileno()
            unsent += struct.unpack("i", fcntl.ioctl(descriptor, SIOCOUTQNSD, bytes(4)))
        ended.set()
        writer.transport.abort()
        server.close()
        await server.wait_closed()
        # What one write may go over the mark: a segment that it has begun.
        assert 0 < max(unsent) <= UNSENT_BYTES + 64 * 1024

    run(scenario)
