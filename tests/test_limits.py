"""Each limit of a receiver: what is just within it is taken, what is just over it is refused and counted by reason.

Limits with a test file of their own: the length of a frame (test_protocol.py), raw bytes, ratio and zstd's window
(test_compression.py), entries and depth (test_ndjson.py), connections in all (test_tcp_server.py).
"""

import asyncio
import json
import os
import threading
import zlib

import pytest
from test_delivery import next_message
from test_tcp_server import receiver
from waiting import eventually

from fuzz.receiving import Transport
from logbale.compression import decompress
from logbale.config import Settings
from logbale.connection import Connection
from logbale.decoding import decode_base
from logbale.errors import DecompressionError, ProtocolError
from logbale.liveness import Due
from logbale.messages import MAX_HELLO_BYTES, Hello, decode_from_client, encode_message
from logbale.newcomers import Newcomers
from logbale.protocol import Algorithm, Flag, FrameDecoder, encode_frame, encode_header
from logbale.room import Room, raw_bytes_at_most
from logbale.session import batch_crc, encode_batch

LIMIT = 3
AROUND = [(LIMIT - 1, True), (LIMIT, True), (LIMIT + 1, False)]


def frame_of(*entries, algorithm=Algorithm.NONE):
    raw = json.dumps(entries).encode()
    return encode_frame(raw if algorithm is Algorithm.NONE else zlib.compress(raw), algorithm)


# names and messages


@pytest.mark.parametrize(("length", "fits"), [(127, True), (128, True), (129, False)])
def test_a_stream_name_has_128_bytes_at_most(length, fits):
    """It is part of the archive and of what is kept in memory; a longer one is a protocol error."""
    payload = encode_message(Hello(1, "n" * length, 1))[5:]
    if fits:
        assert decode_from_client(payload).stream == "n" * length
    else:
        with pytest.raises(ProtocolError):
            decode_from_client(payload)


@pytest.mark.parametrize(("excess", "fits"), [(-1, True), (0, True), (1, False)])
def test_a_hello_has_four_kibibytes_at_most(run, excess, fits):
    """One byte more is refused on its header."""
    hello = b'{"type":"hello","version":1,"stream":"web-1","next":1}'
    payload = hello[:-1] + b" " * (MAX_HELLO_BYTES + excess - len(hello)) + b"}"

    async def scenario():
        async with receiver() as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(encode_header(len(payload), Flag.CONTROL) + (payload if fits else b""))
            if fits:
                assert (await next_message(reader))["type"] == "welcome"
            else:
                await eventually(lambda: server.metrics.errors == {"frame_limit": 1})
            writer.transport.abort()
            await eventually(lambda: not server._connections)

    run(scenario)


# what decompresses


@pytest.mark.parametrize(("count", "fits"), AROUND)
def test_a_frame_has_so_many_compressed_streams_at_most(count, fits):
    """MAX_MEMBERS, for a base frame and for a session's."""
    raw = b'[{"n":1}]'
    pieces = [raw, *[b""] * (count - 1)]
    payload = b"".join(zlib.compress(piece) for piece in pieces)
    found = decode_base(next_frame(encode_frame(payload, Algorithm.ZLIB)), Settings(max_members=LIMIT))
    assert isinstance(found, DecompressionError) is not fits
    assert fits or found.reason == "limit"


@pytest.mark.parametrize(("ratio", "fits"), [(299, False), (301, True)])
def test_the_ratio_of_a_large_base_frame_can_be_set(ratio, fits):
    """MAX_RATIO holds to the byte once a frame gives more than 4 MiB."""
    payload = zlib.compress(bytes(5_000_000))
    padded = payload + zlib.compress(os.urandom(5_000_000 // 300 - len(payload) - 16))
    total = 5_000_000 + 5_000_000 // 300 - len(payload) - 16
    assert total // len(padded) == 300
    if fits:
        assert len(decompress(Algorithm.ZLIB, padded, max_raw=2**25, max_ratio=ratio)) == total
    else:
        with pytest.raises(DecompressionError) as caught:
            decompress(Algorithm.ZLIB, padded, max_raw=2**25, max_ratio=ratio)
        assert caught.value.reason == "limit"


def next_frame(data, session=None):
    decoder = FrameDecoder(2**24, session=session)
    decoder.feed(data)
    return next(decoder.frames())


# connections of one address


@pytest.mark.parametrize(("count", "fits"), AROUND)
def test_an_address_has_so_many_unknown_connections_at_most(run, count, fits):
    """MAX_CONNECTIONS_PER_ADDRESS; another address has its own, and one that is known or gone makes room."""

    async def scenario():
        async with receiver(max_connections_per_address=LIMIT) as server:
            transports = []

            def come(host):
                transports.append(Transport(host))
                connection = Connection(server)
                connection.connection_made(transports[-1])
                return connection

            connections = [come("192.0.2.1") for _ in range(count)]
            assert transports[-1].closed is not fits
            assert server.metrics.errors == ({} if fits else {"too_many_of_address": 1})
            come("192.0.2.2")
            assert not transports[-1].closed
            connections[0].data_received(frame_of({"n": 1}))  # a sound batch: it is known
            connections[1].data_received(encode_message(Hello(1, "web-1", 1)))
            await eventually(lambda: connections[1].session.stream is not None)
            for _ in range(2):
                come("192.0.2.1")
                assert not transports[-1].closed
            for connection in list(server._connections):
                connection.connection_lost(None)
            assert not server._strangers
            assert len(server._newcomers) == 0

    run(scenario)


def test_addresses_are_counted_as_their_owners_have_them():
    """IPv6 by the /64 that one customer has; IPv4 in IPv6 as itself; loopback not at all."""
    newcomers = Newcomers(lambda: 1)
    assert newcomers.came("2001:db8::1")
    assert not newcomers.came("2001:db8::ffff:1")
    assert newcomers.came("2001:db8:0:1::1")
    assert newcomers.came("192.0.2.1")
    assert not newcomers.came("::ffff:192.0.2.1")
    for host in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "?"):
        assert newcomers.came(host)
        assert newcomers.came(host)
        newcomers.settled(host)
    newcomers.settled("192.0.2.1")
    assert newcomers.came("192.0.2.1")


# time


def test_a_frame_has_half_a_minute_and_its_length_at_two_kibibytes_a_second():
    """From its first byte on; the next frame has its own time, and a pause of ours gives all of it anew."""
    decoder, due = FrameDecoder(2**24), Due(30.0, 2048)
    length = 2048 * 10 - 5

    def receive(data, now):
        decoder.feed(data)
        list(decoder.frames())
        due.received(now, decoder)

    receive(encode_header(length, 0), 100.0)
    receive(b"x", 139.0)
    due.check(139.9, decoder)
    with pytest.raises(ProtocolError) as caught:
        due.check(140.0, decoder)
    assert caught.value.reason == "frame_timeout"
    due.restart(139.0)
    due.check(178.9, decoder)
    receive(b"x" * (length - 1) + encode_header(0, 0)[:3], 178.9)
    due.check(208.8, decoder)
    with pytest.raises(ProtocolError):
        due.check(209.0, decoder)
    receive(encode_header(0, 0)[3:], 209.0)
    due.check(10_000.0, decoder)


@pytest.mark.parametrize("beginning", [b"", encode_message(Hello(1, "web-1", 1))])
def test_a_frame_that_dribbles_is_given_up(run, monkeypatch, beginning):
    """A base client's and a session's: a byte now and then does not help. It is counted as what it is."""
    monkeypatch.setattr("logbale.tcp_server.LIVENESS_INTERVAL", 0.02)

    async def scenario():
        async with receiver(frame_timeout=0.2, frame_min_rate=10_000) as server:
            _, writer = await asyncio.open_connection(*server.address)
            flags = Flag.SEQUENCED if beginning else 0
            writer.write(beginning + encode_header(1000, flags))
            begun = asyncio.get_running_loop().time()
            while not server.metrics.errors:
                writer.write(b"x")
                await asyncio.sleep(0.02)
            assert server.metrics.errors == {"frame_timeout": 1}
            assert 0.25 < asyncio.get_running_loop().time() - begun < 20.0  # thirty by default
            writer.transport.abort()
            await eventually(lambda: not server._connections)

    run(scenario)


# memory


def test_what_decoding_may_give_is_known_before_it_starts():
    """A session's frame says it, a base frame has its ratio, and neither has more than MAX_RAW_BYTES."""
    settings = Settings(max_raw_bytes=20_000_000, max_ratio=100)
    raw = b'[{"n":1}]'
    sequenced = encode_batch(1, 12_345, batch_crc(1, raw), raw, Algorithm.NONE)
    assert raw_bytes_at_most(next_frame(encode_message(Hello(1, "a", 1))), settings) == 0
    assert raw_bytes_at_most(next_frame(sequenced, session=True), settings) == 12_345
    assert raw_bytes_at_most(next_frame(encode_frame(raw, Algorithm.NONE)), settings) == len(raw)
    for size, most in ((1, 4 * 2**20), (100_000, 10_000_000), (300_000, 20_000_000)):
        assert raw_bytes_at_most(next_frame(encode_frame(b"x" * size, Algorithm.GZIP)), settings) == most


def test_there_is_room_up_to_half_the_limit_and_then_a_line():
    """To the byte; in the order in which they came; what is promised to one is not promised to the next; never none."""
    woken = []
    room = Room(lambda: 100, lambda who, size: woken.append((who, size)))
    assert room.has(1000), "something always may while nothing else is"
    room.taken = 30
    assert room.has(69)
    assert room.has(70)
    assert not room.has(71)
    room.wait("a", 71)
    assert not room.has(1), "not before those in line"
    room.wait("b", 2)
    room.settled()
    assert woken == []
    room.taken = 28
    room.settled()
    room.settled()
    assert woken == [("a", 71)]
    assert room.taken == 99
    room.taken -= 1
    room.settled()
    assert woken[1:] == [("b", 2)]


def test_frames_that_grow_wait_while_the_sink_is_stuck(run):
    """Thirty frames of a few kilobytes that give a megabyte each: no more are decoded than there is room for."""
    large = frame_of(*[{"n": n, "message": "x" * 1000} for n in range(1000)], algorithm=Algorithm.ZLIB)
    assert len(large) < 10_000

    async def scenario():
        async with receiver(max_in_flight_bytes=16 * 2**20) as server:
            server.sink.open.clear()
            writers = [(await asyncio.open_connection(*server.address))[1] for _ in range(10)]
            for writer in writers:
                writer.write(large * 3)
            await eventually(lambda: sum(len(one._frames) for one in server._connections) > 20)
            await eventually(lambda: server.metrics.received.batches)
            await asyncio.sleep(0.1)
            assert server.metrics.received.batches <= 6
            assert server.metrics.in_flight_bytes <= 9 * 2**20
            server.sink.open.set()
            await eventually(lambda: len(server.sink.arrived) == 30_000)
            assert server.metrics.in_flight_bytes == 0
            assert server.room.taken == 0
            for writer in writers:
                writer.transport.abort()
            await eventually(lambda: not server._connections)

    run(scenario)


def test_what_is_decoded_in_the_pool_has_its_room_before(run, monkeypatch):
    """Two at a time, where there is room for two."""
    running, most, lock, go_on = 0, 0, threading.Lock(), threading.Event()

    def slowly(*arguments):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go_on.wait(60)
        with lock:
            running -= 1
        return decode_base(*arguments)

    monkeypatch.setattr("logbale.base_receiving.decode_base", slowly)
    incompressible = encode_frame(
        zlib.compress(json.dumps([{"m": os.urandom(100_000).hex()}]).encode()), Algorithm.ZLIB
    )

    async def scenario():
        async with receiver(max_in_flight_bytes=2**20 * 18, max_ratio=1) as server:
            writers = [(await asyncio.open_connection(*server.address))[1] for _ in range(5)]
            for writer in writers:
                writer.write(incompressible)
            await eventually(lambda: running >= 2 or os.cpu_count() == 1)
            await asyncio.sleep(0.05)
            go_on.set()
            await eventually(lambda: len(server.sink.arrived) == 5)
            assert most <= 2
            for writer in writers:
                writer.transport.abort()
            await eventually(lambda: not server._connections)

    run(scenario)


def test_frames_that_come_at_once_do_not_share_one_room(run):
    """Ten in one turn of the loop, where there is room for two: the others wait until those are stored."""
    large = encode_frame(zlib.compress(json.dumps([{"m": os.urandom(100_000).hex()}]).encode()), Algorithm.ZLIB)

    async def scenario():
        async with receiver(max_in_flight_bytes=18 * 2**20, max_ratio=1) as server:
            connections = [Connection(server) for _ in range(10)]
            for connection in connections:
                connection.connection_made(Transport())
                connection.data_received(large)
            assert server.room.taken == 8 * 2**20
            await eventually(lambda: len(server.sink.arrived) == 10)
            assert server.room.taken == server.metrics.in_flight_bytes == 0
            for connection in connections:
                connection.connection_lost(None)

    run(scenario)


def test_unfinished_frames_take_half_of_what_may_be_in_flight(run):
    """Over it the one goes that has taken the most for the longest time; the others arrive, and are stored."""
    limit = 1_000_000

    async def scenario():
        async with receiver(max_in_flight_bytes=limit) as server:
            hoarders = [(await asyncio.open_connection(*server.address))[1] for _ in range(4)]
            for number, writer in enumerate(hoarders, start=1):
                writer.write(encode_header(400_000, 0) + b"x" * 150_000)
                await eventually(lambda number=number: server._arriving_bytes >= min(number, 3) * 150_000)
                await asyncio.sleep(0.01)
            await eventually(lambda: server.metrics.errors == {"frame_memory": 1})
            await eventually(lambda: len(server._connections) == 3)
            assert server._arriving_bytes == 3 * 150_005 <= limit // 2
            _, honest = await asyncio.open_connection(*server.address)
            honest.write(frame_of({"n": 1}))
            await eventually(lambda: server.sink.arrived == [{"n": 1}])
            for writer in (honest, *hoarders):
                writer.transport.abort()
            await eventually(lambda: not server._connections)
            assert server._arriving_bytes == 0

    run(scenario)
