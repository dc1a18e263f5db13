"""Attacks on the shells: each of these once lost, leaked, hung or killed something."""

import asyncio
import contextlib
import itertools
import json
import logging
import random
import socket
import struct
import threading
import time

import msgspec
import pytest
from chunks import batch_of
from proxy import Proxy
from test_delivery import Numbers, Scripted, at_once, next_message, receiver, shipper
from waiting import eventually

from logbale.config import Settings
from logbale.decoding import decode_base
from logbale.errors import StorageError
from logbale.known_store import KnownStore
from logbale.log_shipper import LogShipper
from logbale.messages import MAX_CONTROL_BYTES, Error, Hello, Skip, Status, encode_message
from logbale.protocol import Algorithm, Flag, encode_header
from logbale.session import batch_crc, encode_batch
from logbale.spool import DiskSpool, MemoryStore
from logbale.spool import Skip as SpoolSkip
from logbale.spool_queue import SpoolQueue

_ = at_once  # a fixture that every test here uses too


async def open_session(server, stream="web-1", first=1):
    """A client in session: its reader and writer."""
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(encode_message(Hello(1, stream, first)))
    assert (await next_message(reader))["type"] == "welcome"
    return reader, writer


def frame_of(sequence, raw):
    return encode_batch(sequence, len(raw), batch_crc(sequence, raw), raw, Algorithm.NONE)


def large(n):
    """A batch that is decoded in the pool."""
    return json.dumps([{"n": n, "message": "x" * 400_000}]).encode()


def test_a_skip_behind_batches_that_were_never_stored_is_not_stored_either(run):
    """A connection is reset while a batch is decoded: what waits behind that batch goes with it."""

    async def scenario():
        async with receiver() as server:
            _, writer = await open_session(server)
            writer.write(frame_of(1, b'[{"n":1}]'))
            writer.write(frame_of(2, large(2)) + frame_of(3, b'[{"n":3}]') + encode_message(Skip(4, 6, 10, "damaged")))
            decoding = []
            while not decoding:
                await asyncio.sleep(0)
                decoding = [one for one in server._connections if one._working is not None and len(one._frames) == 2]
            # As the transport calls it for a connection that was reset.
            decoding[0]._transport.abort()
            await eventually(lambda: not server._connections and server.metrics.in_flight_bytes == 0)
            await asyncio.sleep(0.05)
            mark = server.sink.mark("web-1").sequence
            assert server.sink.numbers == [1, 2, 3][: len(server.sink.numbers)]
            assert mark == len(server.sink.numbers)
            assert server.metrics.skipped_entries == 0
            writer.transport.abort()
            await asyncio.sleep(0)

    run(scenario)


def test_a_batch_rejected_here_and_not_announced_before_a_cut_stops_nothing(run, tmp_path):
    """The shipper consumed it as a dead letter; the receiver, which never heard of it, is told in the next session."""

    async def scenario():
        async with receiver() as server:
            spool = DiskSpool(tmp_path, max_bytes=2**20)
            spool.open()
            spool.append([(b'[{"n":%d}]' % n, 1, {}) for n in (1, 2, 3)])
            reader, writer = await open_session(server, spool.stream)
            writer.write(frame_of(1, spool.read(1)))
            assert (await next_message(reader))["type"] == "ack"
            writer.transport.abort()
            spool.reject(2, "too large for the receiver")
            report = await LogShipper(
                Settings(server_host="127.0.0.1", server_port=server.address[1]), Scripted([]), store=spool
            ).run()
            assert report.delivered
            assert report.snapshot.delivered_entries == 2
            assert server.sink.numbers == [1, 3]
            assert server.sink.mark(spool.stream).sequence == 3

    run(scenario)


class Failing(MemoryStore):
    """A store whose disk is full for the first few calls of one kind."""

    def __init__(self, call, times=2):
        super().__init__("failing-disk")
        self.call, self.times = call, times

    def _fail(self, call):
        if call == self.call and self.times:
            self.times -= 1
            raise StorageError("no space left on device")

    def reject(self, sequence, reason):
        self._fail("reject")
        super().reject(sequence, reason)

    def read(self, sequence):
        self._fail("read")
        return super().read(sequence)


@pytest.mark.parametrize("call", ["reject", "read"])
def test_a_full_disk_at_the_shipper_is_waited_out(run, call):
    """A dead letter that cannot be written now, or a batch that cannot be read back now, does not end the shipper."""

    async def scenario():
        async with receiver(max_batch_entries=1) as server:
            source = Scripted([[{"n": 0}], [{"n": 7}, {"n": 8}], [{"n": 1}]])
            settings = Settings(
                server_host="127.0.0.1", server_port=server.address[1], batch_max_bytes=200, buffer_max_bytes=1
            )
            running = LogShipper(settings, source, store=Failing(call))
            report = await running.run()
            assert running._queue.store.times == 0
            assert report.snapshot.errors["storage"] == 2
            assert report.delivered
            assert report.snapshot.read_entries == 4
            assert sum(report.snapshot.dropped.values()) + report.snapshot.delivered_entries == 4

    run(scenario)


class Quota:
    """A store that is full until it is acknowledged, and has nothing that it could drop."""

    def __init__(self, spool):
        self._spool = spool

    def __getattr__(self, name):
        return getattr(self._spool, name)

    def acknowledge(self, last):
        time.sleep(0.05)  # on the spool's thread: the queue asks for room meanwhile
        self._spool.acknowledge(last)

    @property
    def free_bytes(self):
        return 0 if self._spool.first < self._spool.next_sequence else 10_000


def test_an_acknowledgement_while_room_is_looked_for_is_not_missed(run, tmp_path):
    """With drop_oldest: the last ack may arrive while the store finds nothing to drop; no other follows."""

    async def scenario():
        spool = DiskSpool(tmp_path, max_bytes=2**20)
        spool.open()
        queue = SpoolQueue(Quota(spool), max_memory=10_000, policy="drop_oldest")
        running = asyncio.create_task(queue.run())
        queue.append(batch_of([{"n": 1}]))
        assert await queue.next_item(1) is not None
        await asyncio.sleep(0)
        acknowledged = asyncio.create_task(queue.acknowledge(1))
        queue.append(batch_of([{"n": 2}]))
        await acknowledged
        async with asyncio.timeout(60):
            assert await queue.next_item(2) is not None
        assert queue.counts["spooled"] == 1
        queue.close_input()
        await running
        await queue.close()

    run(scenario)


class Watched(KnownStore):
    """Remembers how far may have been sent, each time, and the welcomes between."""

    @property
    def sent_up_to(self):
        return self.sent[-1]

    @sent_up_to.setter
    def sent_up_to(self, sequence):
        self.__dict__.setdefault("sent", []).append(sequence)

    async def call(self, function, *arguments):
        if function == self.store.begin_sending:
            self.sent.append("welcome")
        return await super().call(function, *arguments)


def test_what_was_sent_is_not_dropped_before_a_welcome_says_what_became_of_it(run, monkeypatch):
    """Between two connections it may still arrive. After the welcome nothing above the receiver's mark is under way."""
    monkeypatch.setattr("logbale.spool_queue.KnownStore", Watched)

    async def scenario():
        async with receiver() as server, Proxy(server.address[1], [{"cut": ("up", 1500)}]) as proxy:
            running = shipper(proxy.port, Numbers(500))
            assert (await running.run()).delivered
            assert proxy.bites == 1
            sent = running._queue._stored.sent
            assert sent.count("welcome") == 2
            for number, (one, other) in enumerate(itertools.pairwise(sent)):
                assert "welcome" in (one, other) or one <= other, number

    run(scenario)


def test_a_batch_is_not_dropped_while_it_is_made_ready_to_be_sent(run, tmp_path):
    """Compressed, or waiting for the window: it would be stored, and counted as dropped."""

    async def scenario():
        spool = DiskSpool(tmp_path, max_bytes=32_000)
        spool.open()
        queue = SpoolQueue(spool, max_memory=1_000_000, policy="drop_oldest")
        running = asyncio.create_task(queue.run())
        random_text = random.Random(1).randbytes(3_000).hex()
        await queue.begin_sending(1)
        queue.append(batch_of([{"n": 1, "text": random_text}]))
        given = await queue.next_item(1)
        for number in range(2, 20):
            queue.append(batch_of([{"n": number, "text": random_text}]))
            await eventually(lambda number=number: spool.next_sequence == number + 1)
        assert spool.counts["dropped_drop_oldest"] > 10
        assert spool.item(1) == given
        assert len(await queue.read(given)) > 6_000
        assert isinstance(await queue.next_item(3), SpoolSkip)
        queue.close_input()
        await running
        await queue.close()

    run(scenario)


STATUS = Status(msgspec.Raw(b'{"read":7,"delivered":0,"waiting_entries":7}'))


def test_a_hello_whose_connection_ends_before_the_welcome_leaves_nothing_behind(run):
    """Neither a stream nor a task, also while the sink is stuck and the welcome has to wait."""

    async def scenario():
        async with receiver() as server:
            ends = []
            for n in range(5):
                _, writer = await asyncio.open_connection(*server.address)
                ends.append(writer)
                writer.write(encode_message(Hello(1, f"gone-{n}", 1)))
                writer.write_eof()
            await eventually(lambda: server.metrics.connections == 5 and not server._connections)
            assert server.streams._streams == {}

            _, first = await open_session(server)
            server.sink.open.clear()
            ends.append(first)
            first.write(frame_of(1, b'[{"n":1}]'))
            await eventually(lambda: server.metrics.received.entries == 1)
            tasks = len(asyncio.all_tasks())
            for _ in range(5):
                _, writer = await asyncio.open_connection(*server.address)
                ends.append(writer)
                writer.write(encode_message(Hello(1, "web-1", 1)) + encode_message(STATUS))
                await asyncio.sleep(0.01)
            for writer in ends:
                writer.transport.abort()
            # Each was superseded by the next; the last one waits, half closed.
            await eventually(lambda: len(server._connections) <= 1)
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks + 1)
            server.sink.open.set()
            await eventually(lambda: not server._connections and server.metrics.in_flight_bytes == 0)
            assert server.streams._streams == {}
            assert not server.metrics.errors
            assert server.sink.numbers == [1]

    run(scenario)


def test_clients_that_take_a_new_name_each_time_fill_no_memory(run, monkeypatch):
    """What is known of those that have gone is bounded: the one that went first is forgotten first."""
    monkeypatch.setattr("logbale.clients.MAX_ROWS", 2)

    async def scenario():
        async with receiver() as server:
            for n in range(5):
                _, writer = await open_session(server, f"web-{n}")
                writer.write(encode_message(Status(msgspec.Raw(b'{"read":%d,"delivered":0,"waiting_entries":0}' % n))))
                await eventually(lambda n=n: server.clients.reported().read_entries == n)
                writer.transport.abort()
                await eventually(lambda: not server._connections)
            assert [client.id for client in server.clients] == ["web-4", "web-3"]

    run(scenario)


HOSTILE_STATUSES = [
    b"[]",
    b"null",
    b'"x"',
    b"1e999",
    b"{}",
    b'{"read":"12","delivered":0,"waiting_entries":0}',
    b'{"read":-1,"delivered":0,"waiting_entries":0}',
    b'{"read":9007199254740993,"delivered":0,"waiting_entries":0}',
    b'{"read":1' + b"0" * 3000 + b',"delivered":0,"waiting_entries":0}',
    b'{"read":1,"delivered":0,"waiting_entries":0,"oldest_waiting":1e16}',
    b'{"read":1,"delivered":0,"waiting_entries":0,"level":null}',
    b'{"read":1,"delivered":0,"waiting_entries":0,"dropped":[]}',
    b'{"read":1,"delivered":0,"waiting_entries":0,"changes":[[0,1,2]]}',
    b'{"read":1,"delivered":0,"waiting_entries":0,"changes":[' + b",".join([b'[0,1,2,""]'] * 11) + b"]}",
    b'{"read":1,"delivered":0,"waiting_entries":0,"dropped":{' + b",".join(b'"%d":1' % n for n in range(33)) + b"}}",
    b'{"read":1,"delivered":0,"waiting_entries":0,"level_reason":"' + b"x" * 3000 + b'"}',
]


def test_a_hostile_status_changes_nothing(run):
    """Wrong types, numbers beyond reason, too much of anything: counted, not believed, and the session goes on."""

    async def scenario():
        async with receiver() as server:
            _, writer = await open_session(server)
            writer.write(encode_message(STATUS))
            await eventually(lambda: server.clients.reported().read_entries == 7)
            for text in HOSTILE_STATUSES:
                writer.write(encode_message(Status(msgspec.Raw(text))))
            await eventually(lambda: server.metrics.errors["bad_status"] == len(HOSTILE_STATUSES))
            assert server.clients.reported().read_entries == 7
            writer.write(frame_of(1, b'[{"n":1}]'))
            await eventually(lambda: server.sink.numbers == [1])
            assert set(server.metrics.errors) == {"bad_status"}
            writer.transport.abort()

    run(scenario)


def test_what_a_status_nests_or_adds_is_left_out(run):
    """A field that nobody knows is ignored, however deep; a nesting that no parser follows ends its connection only."""

    async def scenario():
        async with receiver() as server:
            _, writer = await open_session(server)
            known = b'{"read":7,"delivered":0,"waiting_entries":7,"later":'
            writer.write(encode_message(Status(msgspec.Raw(known + b"[" * 400 + b"]" * 400 + b"}"))))
            await eventually(lambda: server.clients.reported().read_entries == 7)
            assert b"later" not in msgspec.json.encode(server.clients.rows(0.0, 0.0))
            writer.write(encode_message(Status(msgspec.Raw(known + b"[" * 1900 + b"]" * 1900 + b"}"))))
            await eventually(lambda: not server._connections)
            assert server.metrics.errors == {"protocol": 1}
            assert server.metrics.in_flight_bytes == 0
            writer.transport.abort()

    run(scenario)


@pytest.mark.parametrize("beginning", [encode_message(Hello(1, "web-1", 1))[:-3], encode_header(100, Flag.CONTROL)])
def test_a_hello_that_is_never_finished_ends_the_connection(run, monkeypatch, beginning):
    """Once the first header has K there are HELLO_TIMEOUT seconds; a base client may be silent for days."""
    monkeypatch.setattr("logbale.tcp_server.LIVENESS_INTERVAL", 0.02)

    async def scenario():
        async with receiver(hello_timeout=0.2) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            base = await asyncio.open_connection(*server.address)
            base[1].write(encode_header(100, 0))
            writer.write(beginning)
            async with asyncio.timeout(60):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            await eventually(lambda: len(server._connections) == 1)
            for end in (writer, base[1]):
                end.transport.abort()
            await asyncio.sleep(0)

    run(scenario)


def test_a_control_frame_that_is_too_long_is_refused_before_it_is_kept(run):
    """A hello has 4 KiB: eight megabytes of one are not waited for."""

    async def scenario():
        async with receiver() as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(encode_header(MAX_CONTROL_BYTES + 1, Flag.CONTROL) + b"x" * 100)
            async with asyncio.timeout(60):
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            assert server.metrics.errors == {"frame_limit": 1}
            writer.transport.abort()
            await asyncio.sleep(0)

    run(scenario)


def test_rejects_and_skips_that_wait_for_the_sink_weigh_something(run, monkeypatch):
    """While the sink is stuck, a client cannot fill the memory with notes that hold no entries."""
    monkeypatch.setattr(logging.getLogger("logbale.receiver"), "disabled", True)

    async def scenario():
        async with receiver(max_in_flight_bytes=100_000) as server:
            _, writer = await open_session(server)
            server.sink.open.clear()
            for sequence in range(1, 20_000, 2):
                writer.write(frame_of(sequence, b"[]") + encode_message(Skip(sequence + 1, sequence + 1, 0, "damaged")))
            await eventually(lambda: server._paused)
            await asyncio.sleep(0.1)
            assert len(server.committer._waiting) < 15_000
            server.sink.open.set()
            await eventually(lambda: server.sink.mark("web-1").sequence == 20_000)
            await eventually(lambda: server.metrics.in_flight_bytes == 0)
            writer.transport.abort()
            await asyncio.sleep(0)

    run(scenario)


def test_no_linger_is_no_busy_loop(run):
    """BATCH_LINGER=0 with a receiver that is away: the shipper waits, it does not spin."""

    async def scenario():
        running = shipper(1, Numbers(15, then="wait"), batch_linger=0.0, batch_interval=60.0, drain_timeout=0.0)
        looks = 0
        buffer = running._reading.buffer
        take_deadline = type(buffer).deadline.fget

        class Counted(type(buffer)):
            @property
            def deadline(self):
                nonlocal looks
                looks += 1
                return take_deadline(self)

        buffer.__class__ = Counted
        task = asyncio.create_task(running.run())
        await asyncio.sleep(0.3)
        assert looks < 300
        running.stop()
        assert (await task).left_entries == 15

    run(scenario)


def test_a_client_hears_something_while_a_long_frame_arrives_slowly(run, monkeypatch):
    """Else a batch that takes a slow link longer than DEAD_AFTER is sent, given up, and sent again for ever."""
    for module in ("liveness", "connection"):
        monkeypatch.setattr(f"logbale.{module}.PING_AFTER", 0.2, raising=False)
    monkeypatch.setattr("logbale.tcp_server.LIVENESS_INTERVAL", 0.02)

    async def scenario():
        async with receiver() as server:
            reader, writer = await open_session(server)
            heard = asyncio.create_task(next_message(reader))
            for byte in frame_of(1, b'[{"n":1}]' + b" " * 30):
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)
                if heard.done():
                    break
            assert heard.done()
            assert (await heard)["type"] == "ping"
            writer.transport.abort()
            await asyncio.sleep(0)

    run(scenario)


def test_a_client_that_is_gone_before_it_is_accepted_harms_nobody(run):
    """Health checks connect and reset at once."""

    async def scenario():
        unforeseen = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unforeseen.append(context))
        async with receiver() as server:
            for _ in range(20):
                client = socket.create_connection(server.address)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            _, writer = await open_session(server)  # they are accepted in turn: all of those were before this one
            writer.close()
            while server._connections:
                await asyncio.sleep(0.01)
        assert unforeseen == []

    run(scenario)


def test_a_closed_connection_whose_answers_nobody_reads_is_given_up(run, monkeypatch):
    """It would count against MAX_CONNECTIONS for ever."""
    monkeypatch.setattr("logbale.liveness.DEAD_AFTER", 0.2)
    monkeypatch.setattr("logbale.tcp_server.LIVENESS_INTERVAL", 0.02)
    monkeypatch.setattr("logbale.connection.MAX_UNREAD_ANSWERS", 2**30)

    async def scenario():
        async with receiver() as server:
            reader, writer = await open_session(server)
            (connection,) = server._connections
            reader._transport.pause_reading()
            while connection._transport.get_write_buffer_size() < 100_000:
                connection.goaway("x" * 60_000)
                await asyncio.sleep(0)
            writer.write(encode_message(Hello(1, "web-1", 1)))
            await eventually(lambda: not server._connections)
            writer.transport.abort()
            await asyncio.sleep(0)

    run(scenario)


def test_a_receiver_that_asks_for_an_impossible_window_ends_the_session_and_not_the_shipper(run):
    """Whatever a peer says is an event or a protocol error."""

    async def scenario():
        serving = set()

        async def serve(reader, writer):
            serving.add(writer)
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await reader.readuntil(b"}")
                    text = b'{"type":"welcome","version":1,"last":0,"max_frame":1000,"max_raw":1000,"window_log":99}'
                    writer.write(encode_header(len(text), Flag.CONTROL) + text)
                    await reader.read()
            finally:
                writer.transport.abort()
                asyncio.get_running_loop().call_later(0.01, serving.discard, writer)  # by when it is closed

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        report = await shipper(server.sockets[0].getsockname()[1], Numbers(20), drain_timeout=0.2).run()
        assert not report.delivered
        assert report.left_entries == 20
        server.close()
        await eventually(lambda: not serving)

    run(scenario)


def test_a_receiver_that_thinks_up_reasons_makes_no_counters(run, monkeypatch):
    """Reasons that the protocol does not know count together: each counter stays, and has a label in /metrics."""
    monkeypatch.setattr("logbale.failover.FIRST_DELAY", 0.001)
    monkeypatch.setattr("logbale.failover.LONGEST_DELAY", 0.001)

    async def scenario():
        refused = 0

        async def serve(reader, writer):
            nonlocal refused
            refused += 1
            with contextlib.suppress(ConnectionError):
                await reader.read(100)
                writer.write(encode_message(Error("limit" if refused % 2 else f"no{refused}", "I will not")))
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        running = shipper(server.sockets[0].getsockname()[1], Numbers(20, then="wait"), drain_timeout=0.1)
        task = asyncio.create_task(running.run())
        await eventually(lambda: refused > 20)
        running.stop()
        errors = (await task).snapshot.errors
        assert set(errors) <= {"limit", "other", "connection_lost", "connect"}
        assert min(errors["limit"], errors["other"]) >= 9
        server.close()

    run(scenario)


def test_a_task_of_the_shipper_that_dies_is_heard_of(run, monkeypatch):
    """Also the one that only looks at the CPU."""

    async def scenario():
        async with receiver() as server:
            running = shipper(server.address[1], Numbers(20, then="wait"), adaptive_enabled=True)
            monkeypatch.setattr(running._levels._policy, "decide", lambda: 1 / 0)
            monkeypatch.setattr("logbale.cpu.CpuMeter.read", lambda _: 50.0)
            with pytest.raises(ZeroDivisionError):
                async with asyncio.timeout(60):
                    await running.run()
            assert server.sink.numbers == list(range(len(server.sink.numbers)))

    run(scenario)


def test_a_base_client_that_is_gone_before_its_batch_is_decoded_is_listed_as_gone(run, monkeypatch):
    """The batch counts, and nobody is connected any more."""
    decoding, go_on = threading.Event(), threading.Event()

    def slowly(*arguments):
        decoding.set()
        assert go_on.wait(60)
        return decode_base(*arguments)

    monkeypatch.setattr("logbale.base_receiving.decode_base", slowly)

    async def scenario():
        async with receiver() as server:
            _, writer = await asyncio.open_connection(*server.address)
            payload = json.dumps([{"text": "x" * 70_000}]).encode()
            writer.write(encode_header(len(payload), 0) + payload)
            await eventually(decoding.is_set)
            # A reset, not an end: behind an end the receiver would wait for what it decodes.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            await eventually(lambda: not server._connections)
            go_on.set()
            await eventually(lambda: server.metrics.received.entries == 1)
            (client,) = server.clients
            assert client.totals.entries == 1
            assert client.live is None
            assert server.clients.connected_count == 0

    run(scenario)
