"""The client's promises over real sockets: whole frames, reconnects with growing delays, and an honest end."""

import asyncio
import contextlib
import socket
import struct

import pytest

from chaos.processes import free_port
from logbale.metrics import ShipperMetrics
from logbale.protocol import Algorithm, FrameDecoder, encode_header
from logbale.receivers import Receivers
from logbale.tcp_client import TCPClient


class Peer:
    """A receiver whose manners the test decides."""

    def __init__(self):
        self.frames = []
        self.writers = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader, writer):
        self.writers.append(writer)
        decoder = FrameDecoder(1 << 30)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                decoder.feed(data)
                self.frames += [frame.payload for frame in decoder.frames()]
            writer.close()


def client(port, **options):
    metrics = ShipperMetrics(now=0.0)
    receivers = Receivers([("127.0.0.1", port)], chance=options.pop("chance", lambda: 0.5))
    send_timeout = options.pop("send_timeout", 5)
    made = TCPClient(receivers, stream="s", send_timeout=send_timeout, metrics=metrics, **options)
    made.metrics = metrics
    return made


async def send(client, payload):
    await client.send(encode_header(len(payload), Algorithm.NONE), payload)


def test_frames_arrive_whole_over_one_connection(run):
    """Many frames, one connection, and the receiver's end answers ours."""

    async def scenario():
        async with Peer() as peer:
            sender = client(peer.port)
            for number in range(100):
                await send(sender, b"%d" % number)
            sender.metrics.batch_sent(entries=1, raw_bytes=1, wire_bytes=1)
            assert await sender.finish(5)
            assert peer.frames == [b"%d" % number for number in range(100)]
            assert sender.metrics.connections == 1
            await sender.close()

    run(scenario)


def test_delays_grow_while_nobody_listens(run):
    """One second, doubling to thirty, with jitter; every failure is counted; the first success starts them anew."""

    async def scenario():
        port = free_port()
        waits, listening = [], []

        ended = asyncio.Event()

        async def accept(reader, writer):
            with contextlib.suppress(ConnectionError):
                await reader.read()
                writer.close()
                await writer.wait_closed()
            ended.set()

        async def sleep(seconds):
            waits.append(seconds)
            if len(waits) == 7:
                listening.append(await asyncio.start_server(accept, "127.0.0.1", port))

        sender = client(port, sleep=sleep, chance=lambda: 0.0)
        await send(sender, b"x")
        assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 30], abs=0.1)
        assert sender.metrics.errors == {"connect": 7}
        assert sender.metrics.connected
        await sender.close()
        listening[0].close()
        await ended.wait()

    run(scenario)


def test_a_lost_connection_is_made_anew_and_the_next_frame_uses_it(run):
    """A receiver that closed is noticed before the next frame is written into nowhere."""

    async def scenario():
        async with Peer() as peer:
            sender = client(peer.port, sleep=lambda _: asyncio.sleep(0))
            await send(sender, b"1")
            while not peer.frames:
                await asyncio.sleep(0.001)
            peer.writers[0].close()
            while not sender._peer_ended.done():
                await asyncio.sleep(0.001)
            await send(sender, b"2")
            assert sender.metrics.connections == 2
            assert sender.metrics.errors == {"connection_lost": 1}
            sender.metrics.batch_sent(entries=1, raw_bytes=1, wire_bytes=1)
            assert await sender.finish(5)
            assert peer.frames == [b"1", b"2"]
            await sender.close()

    run(scenario)


def test_a_frame_that_does_not_leave_is_sent_again_whole(run):
    """A frozen receiver costs the send time-out; the frame then travels over a new connection."""

    async def scenario():
        held = []

        async def freeze_first(reader, writer):
            writer.transport.pause_reading()
            held.append(writer)
            if len(held) > 1:
                writer.transport.resume_reading()
                decoder = FrameDecoder(1 << 30)
                while data := await reader.read(1 << 20):
                    decoder.feed(data)
                    received.extend(len(frame.payload) for frame in decoder.frames())
                writer.close()

        received = []
        listening = socket.create_server(("127.0.0.1", 0))
        # Or the kernel buffers so much that a frame has to be too large for a busy machine to send in time.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        server = await asyncio.start_server(freeze_first, sock=listening)

        async def become_patient(_):
            sender.send_timeout = 60.0  # the second time it leaves, however busy the machine is

        sender = client(listening.getsockname()[1], send_timeout=0.2, sleep=become_patient)
        size = 8 << 20  # more than the sender's end of it buffers
        await send(sender, bytes(size))
        assert sender.metrics.errors == {"send_timeout": 1}
        assert await sender.finish(30)
        assert received == [size]
        await sender.close()
        server.close()
        for writer in held:
            writer.transport.abort()

    run(scenario)


@pytest.mark.parametrize("manners", ["reset", "silence", "early"])
def test_an_end_without_the_receivers_answer_is_not_called_delivered(run, manners):
    """A reset, no answer in time, or an end before ours leave the last frames in doubt, and finish() says so."""

    async def scenario():
        async def serve(reader, writer):
            writers.append(writer)
            await reader.readexactly(6)
            if manners == "reset":
                reset = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                writer.transport.abort()
            if manners == "early":
                writer.close()

        writers = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        sender = client(server.sockets[0].getsockname()[1])
        await send(sender, b"x")
        if manners == "early":
            assert await sender._peer_ended
        sender.metrics.batch_sent(entries=1, raw_bytes=1, wire_bytes=1)
        assert not await sender.finish(0.2)
        await sender.close()
        server.close()
        for writer in writers:
            writer.transport.abort()

    run(scenario)


def test_nothing_sent_is_delivered(run):
    """An empty file needs no connection."""

    async def scenario():
        assert await client(1).finish(0)

    run(scenario)
