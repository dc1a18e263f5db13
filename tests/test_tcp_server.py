"""The receiver's promises to clients that know only the base protocol, over real sockets."""

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
import time

import base_client
import pytest
from waiting import eventually

from logbale.config import Settings
from logbale.decoding import decode_base
from logbale.errors import StorageError
from logbale.metrics import ReceiverMetrics
from logbale.protocol import Algorithm, encode_frame, encode_header
from logbale.sinks import Rejected, Stored
from logbale.sinks.null import NullSink
from logbale.tcp_server import TCPLogReceiver


class ListSink(NullSink):
    """Keeps what it is given; fails, stalls or rejects when told to."""

    def __init__(self):
        super().__init__()
        self.kept = []
        self.commits = []
        self.failures = 0
        self.open = asyncio.Event()
        self.open.set()
        self.reject = False

    async def commit(self, batches):
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise StorageError("no space left on the device")
        if self.reject:
            return [Rejected("not wanted") for _ in batches]
        self.commits.append(len(batches))
        self.kept += batches
        return [Stored() for _ in batches]

    async def close(self):
        pass

    @property
    def arrived(self):
        return [json.loads(line) for batch in self.kept for line in batch.lines().splitlines()]


@contextlib.asynccontextmanager
async def receiver(**settings):
    server = TCPLogReceiver(
        Settings(server_host="127.0.0.1", server_port=0, **settings), ListSink(), ReceiverMetrics(now=0.0)
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop(deadline=0.0)


async def in_thread(function, *arguments):
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def exchange(address, data):
    """Sends bytes, ends the stream, and reads to the receiver's end."""
    with contextlib.suppress(OSError), base_client.connect(address) as connection:
        connection.sendall(data)
        base_client.finish(connection)


def raw_frame(*entries):
    return encode_frame(json.dumps(entries).encode(), Algorithm.NONE)


def test_every_algorithm_and_every_slicing_is_stored_in_order(run):
    """Raw, gzip and zlib; whole, byte by byte, and ten frames in one segment, mixed on one connection."""

    async def scenario():
        async with receiver() as server:
            sent = await in_thread(base_client.send_everything, server.address)
            assert [entry["number"] for entry in server.sink.arrived] == list(range(sent))
            snapshot = server.metrics.snapshot(1.0)
            assert snapshot.stored_entries == snapshot.received.entries == sent == 72
            assert {name: totals.batches for name, totals in snapshot.by_algorithm.items()} == {
                "none": 12,
                "gzip": 12,
                "zlib": 12,
            }
            assert snapshot.in_flight_bytes == 0

    run(scenario)


def test_the_end_of_the_stream_is_answered_only_when_all_is_stored(run):
    """A client that waits for our end knows that its entries are durable."""

    async def scenario():
        async with receiver() as server:
            server.sink.open.clear()
            client = asyncio.create_task(in_thread(exchange, server.address, raw_frame({"a": 1})))
            await eventually(lambda: server.metrics.received.entries == 1)
            await asyncio.sleep(0.05)
            assert not client.done()
            server.sink.open.set()
            await client
            assert server.sink.arrived == [{"a": 1}]

    run(scenario)


def test_a_bad_payload_is_counted_and_skipped(run, caplog):
    """The frames around it are stored, and the connection lives on; the 1st, 2nd, 4th … is said."""
    bad = [
        encode_frame(b"not gzip", Algorithm.GZIP),
        encode_frame(b"{}", Algorithm.NONE),
        encode_frame(b"[{}]" * 300, Algorithm.NONE),
        encode_frame(b"[" + b"{}," * 60 + b"{}]", Algorithm.NONE),
    ]

    async def scenario():
        async with receiver(max_raw_bytes=1000, max_batch_entries=50) as server:
            data = raw_frame({"n": 1}) + b"".join(bad) + raw_frame({"n": 2})
            await in_thread(exchange, server.address, data)
            assert server.sink.arrived == [{"n": 1}, {"n": 2}]
            snapshot = server.metrics.snapshot(1.0)
            assert snapshot.bad_frames == 4
            assert snapshot.errors == {"corrupt": 1, "not_entries": 1, "limit": 2}
        assert re.findall(r"frame skipped \((\d) so far\): ", caplog.text) == ["1", "2", "4"]

    run(scenario)


@pytest.mark.parametrize(
    "header", [b"\x00\x00\x00\x00\x40", b"\xff\xff\xff\xff\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x00\x80"]
)
def test_a_bad_header_closes_that_connection_only(run, header):
    """What came whole before it is stored, what comes after it is not, and another client notices nothing."""

    async def scenario():
        async with receiver() as server:
            other = await in_thread(base_client.connect, server.address)
            await in_thread(exchange, server.address, raw_frame({"n": 1}) + header + raw_frame({"n": 2}))
            await eventually(lambda: server.metrics.clients == 1)
            assert server.metrics.errors in ({"protocol": 1}, {"frame_limit": 1})
            await in_thread(other.sendall, raw_frame({"n": 3}))
            await in_thread(base_client.finish, other)
            assert [entry["n"] for entry in server.sink.arrived] == [1, 3]

    run(scenario)


def test_a_cut_frame_is_not_stored(run):
    """A connection that ends inside a frame loses that frame only, and it is counted."""

    async def scenario():
        async with receiver() as server:
            await in_thread(exchange, server.address, raw_frame({"n": 1}) + raw_frame({"n": 2})[:-1])
            assert server.sink.arrived == [{"n": 1}]
            assert server.metrics.errors["protocol"] == 1

    run(scenario)


def test_large_and_small_frames_stay_in_order(run):
    """Large ones are decoded in a thread of the pool, small ones on the loop; the order is the client's."""
    large = "x" * 300_000

    async def scenario():
        async with receiver() as server:
            data = b"".join(raw_frame({"n": n, "pad": large if n % 3 == 0 else ""}) for n in range(30))
            await in_thread(exchange, server.address, data)
            assert [entry["n"] for entry in server.sink.arrived] == list(range(30))

    run(scenario)


def test_what_arrives_during_a_commit_shares_the_next_one(run):
    """Group commit: fifty clients do not cost fifty fdatasyncs in a row."""

    async def scenario():
        async with receiver() as server:
            server.sink.open.clear()
            clients = [await in_thread(base_client.connect, server.address) for _ in range(20)]
            for number, client in enumerate(clients):
                client.sendall(raw_frame({"n": number}))
            await eventually(lambda: server.metrics.received.entries == 20)
            server.sink.open.set()
            for client in clients:
                await in_thread(base_client.finish, client)
            assert len(server.sink.commits) <= 2
            assert sorted(entry["n"] for entry in server.sink.arrived) == list(range(20))

    run(scenario)


def test_a_sink_that_cannot_store_is_asked_again(run, monkeypatch):
    """Nothing is dropped while the disk is full; clients wait, and it resumes by itself."""
    monkeypatch.setattr("logbale.committer.STORAGE_RETRY", 0.01)

    async def scenario():
        async with receiver() as server:
            server.sink.failures = 3
            client = asyncio.create_task(in_thread(exchange, server.address, raw_frame({"n": 1})))
            await eventually(lambda: server.committer.storage_error is not None)
            assert "no space" in server.committer.storage_error
            await client
            assert server.committer.storage_error is None
            assert server.sink.arrived == [{"n": 1}]
            assert server.metrics.errors["storage"] == 3

    run(scenario)


def test_a_rejected_batch_is_counted_as_such(run):
    """received = stored + rejected + waiting."""

    async def scenario():
        async with receiver() as server:
            server.sink.reject = True
            await in_thread(exchange, server.address, raw_frame({}, {}))
            snapshot = server.metrics.snapshot(1.0)
            assert (snapshot.rejected_entries, snapshot.stored_entries, snapshot.waiting_entries) == (2, 0, 0)

    run(scenario)


def test_reading_pauses_while_too_much_waits(run):
    """A stalled sink costs bounded memory: the clients' writes block, and everything arrives once it stores again."""
    limit = 200_000
    frames = [raw_frame({"n": n, "pad": "x" * 10_000}) for n in range(2000)]

    async def scenario():
        async with receiver(max_in_flight_bytes=limit) as server:
            server.sink.open.clear()
            client = asyncio.create_task(in_thread(exchange, server.address, b"".join(frames)))
            await eventually(lambda: server.metrics.in_flight_bytes > limit)
            await asyncio.sleep(0.1)
            # One read of the transport (at most 256 KiB) may be on its way when the limit is passed.
            assert server.metrics.in_flight_bytes < limit + 600_000
            server.sink.open.set()
            await client
            assert [entry["n"] for entry in server.sink.arrived] == list(range(2000))

    run(scenario)


def test_thousands_of_small_frames_in_one_read_hold_nobody_up(run):
    """Who sends one batch does not wait until all of them are decoded."""

    async def scenario():
        async with receiver() as server:
            many, one = [await in_thread(base_client.connect, server.address) for _ in range(2)]
            await eventually(lambda: server.metrics.clients == 2)
            many.sendall(raw_frame({"n": 1}) * 3000)
            one.sendall(raw_frame({"n": 2}))
            await in_thread(base_client.finish, one)
            assert 3000 - [entry["n"] for entry in server.sink.arrived].index(2) > 1000
            await in_thread(base_client.finish, many)
            assert len(server.sink.arrived) == 3001

    run(scenario)


def test_a_client_that_sends_faster_than_it_is_decoded_does_not_use_up_everybodys_bytes(run, monkeypatch):
    """It is not read while a megabyte of its own waits; what it sent is stored in order all the same."""

    def slowly(*arguments):
        time.sleep(0.01)
        return decode_base(*arguments)

    monkeypatch.setattr("logbale.base_receiving.decode_base", slowly)
    data = b"".join(raw_frame({"n": n, "pad": "x" * 300_000}) for n in range(40))

    async def scenario():
        async with receiver() as server:
            client = asyncio.create_task(in_thread(exchange, server.address, data))
            most = 0
            while not client.done():
                most = max(most, server.metrics.in_flight_bytes)
                await asyncio.sleep(0.001)
            assert 0 < most < 3_000_000
            assert [entry["n"] for entry in server.sink.arrived] == list(range(40))

    run(scenario)


def test_connections_over_the_limit_are_refused(run):
    """Those that are open live on."""

    async def scenario():
        async with receiver(max_connections=1) as server:
            first = await in_thread(base_client.connect, server.address)
            await eventually(lambda: server.metrics.clients == 1)
            await in_thread(exchange, server.address, raw_frame({"n": 2}))
            await in_thread(first.sendall, raw_frame({"n": 1}))
            await in_thread(base_client.finish, first)
            assert server.sink.arrived == [{"n": 1}]
            assert server.metrics.errors["too_many_connections"] == 1

    run(scenario)


@pytest.mark.parametrize("why", ["refused", "too large", "senseless"])
def test_what_is_not_stored_does_not_end_as_if_it_were(run, why):
    """A client that waits for our end gets a reset: one too many, or one that broke the rules behind a good frame."""
    bad = {"refused": b"", "too large": encode_header(2000, 0), "senseless": b"GET / HTTP/1.1\r\n\r\n"}[why]

    async def scenario():
        async with receiver(max_connections=1, max_frame_bytes=1000) as server:
            if why == "refused":
                first = await in_thread(base_client.connect, server.address)
                await eventually(lambda: server.metrics.clients == 1)
            assert await in_thread(base_client.is_refused, server.address, raw_frame({"n": 1}) + bad)
            assert server.sink.arrived == ([] if why == "refused" else [{"n": 1}])
            if why == "refused":
                first.close()

    run(scenario)


def test_an_error_in_one_connection_leaves_the_others_alone(run):
    """A reset in the middle of a frame is no more than the end of that client."""

    async def scenario():
        async with receiver() as server:
            victim = await in_thread(base_client.connect, server.address)
            await in_thread(victim.sendall, raw_frame({"n": 1})[:-2])
            victim.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            victim.close()
            await eventually(lambda: server.metrics.clients == 0 and server.metrics.connections == 1)
            await in_thread(exchange, server.address, raw_frame({"n": 2}))
            assert server.sink.arrived == [{"n": 2}]

    run(scenario)


def test_many_clients_at_once(run):
    """A hundred clients on one loop, each entry stored once."""

    async def scenario():
        async with receiver() as server:
            threads = [
                threading.Thread(
                    target=exchange, args=(server.address, b"".join(raw_frame({"c": c, "n": n}) for n in range(20)))
                )
                for c in range(100)
            ]
            for thread in threads:
                thread.start()
            await asyncio.gather(*[in_thread(thread.join) for thread in threads])
            by_client = {}
            for entry in server.sink.arrived:
                by_client.setdefault(entry["c"], []).append(entry["n"])
            assert by_client == {c: list(range(20)) for c in range(100)}

    run(scenario)


def test_a_stop_stores_what_was_received(run):
    """Graceful: the batches in memory are committed before the sockets close; what is left is returned by number."""

    async def scenario():
        async with receiver() as server:
            server.sink.open.clear()
            connection = await in_thread(base_client.connect, server.address)
            await in_thread(connection.sendall, raw_frame({"n": 1}, {"n": 2}))
            await eventually(lambda: server.metrics.received.entries == 2)
            assert await server.stop(deadline=asyncio.get_running_loop().time() + 0.05) == 2
            connection.close()
        async with receiver() as server:
            connection = await in_thread(base_client.connect, server.address)
            await in_thread(connection.sendall, raw_frame({"n": 1}))
            await eventually(lambda: server.metrics.received.entries == 1)
            assert await server.stop(deadline=asyncio.get_running_loop().time() + 60) == 0
            assert server.sink.arrived == [{"n": 1}]
            connection.close()

    run(scenario)


@pytest.mark.parametrize(("grace", "left"), [(60.0, 0.0), (0.05, 60.0)])
def test_a_stop_does_not_wait_for_a_client_that_reads_nothing(run, monkeypatch, grace, left):
    """Answers get a second to leave (here: CLOSE_GRACE), and none where the deadline is over."""
    monkeypatch.setattr("logbale.tcp_server.CLOSE_GRACE", grace)

    async def scenario():
        async with receiver() as server:
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                await in_thread(deaf.connect, server.address)
                await eventually(lambda: server._connections)
                (connection,) = server._connections
                while connection._transport.get_write_buffer_size() < 100_000:
                    connection._transport.write(bytes(60_000))
                    await asyncio.sleep(0)
                async with asyncio.timeout(30):
                    await server.stop(asyncio.get_running_loop().time() + left)

    run(scenario)


def test_ipv6_works_like_ipv4(run):
    """A receiver on ::1 takes clients there."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:  # in a container, though Python knows IPv6
        pytest.skip("this machine has no IPv6")

    async def scenario():
        sink = ListSink()
        server = TCPLogReceiver(Settings(server_host="::1", server_port=0), sink, ReceiverMetrics(now=0.0))
        await server.start()
        await in_thread(exchange, server.address, raw_frame({"n": 6}))
        await server.stop(deadline=0.0)
        assert sink.arrived == [{"n": 6}]

    run(scenario)
