"""Exactly once, over real sockets: whatever happens to the connection, each entry is stored once and in order."""

import asyncio
import contextlib
import json
import logging
import random
import shutil
import zlib

import base_client
import pytest
from chunks import chunk_of, objects_of
from proxy import Proxy
from waiting import eventually

from chaos.processes import free_port
from logbale import failover
from logbale.config import Settings
from logbale.log_shipper import LogShipper
from logbale.messages import Goaway, Hello, encode_message
from logbale.metrics import ReceiverMetrics
from logbale.protocol import Algorithm, Flag, FrameDecoder, encode_header
from logbale.session import batch_crc, encode_batch
from logbale.sinks import ReceivedBatch, Stored
from logbale.sinks.null import NullSink
from logbale.spool import DiskSpool, MemoryStore
from logbale.tcp_server import TCPLogReceiver


class KeepingSink(NullSink):
    """Keeps every entry and every item; may be told to wait."""

    def __init__(self):
        super().__init__()
        self.items = []
        self.open = asyncio.Event()
        self.open.set()

    async def commit(self, items):
        await self.open.wait()
        await super().commit(items)
        self.items += items
        return [Stored() for _ in items]

    @property
    def numbers(self):
        batches = [item for item in self.items if isinstance(item, ReceivedBatch)]
        return [json.loads(line)["n"] for batch in batches for line in batch.lines().splitlines()]


class Numbers:
    """A source of numbered entries, some long enough to make batches of every size; then it ends or waits."""

    def __init__(self, count, then="end"):
        self.count = count
        self.then = then

    async def chunks(self):
        for n in range(self.count):
            entry = {"n": n, "message": f"request {n * 7919 % 1000} took {n * 31 % 97} ms" * (1 + n % 5)}
            yield chunk_of([entry])
            if n % 100 == 0:
                await asyncio.sleep(0)
        if self.then == "wait":
            await asyncio.Event().wait()

    def counts(self):
        return {}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Reconnects do not wait: a test of a hundred cuts is no test of patience."""
    monkeypatch.setattr(failover, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(failover, "LONGEST_DELAY", 0.001)


@contextlib.asynccontextmanager
async def receiver(sink=None, **settings):
    settings = Settings(**{"server_host": "127.0.0.1", "server_port": 0, **settings})
    server = TCPLogReceiver(settings, sink or KeepingSink(), ReceiverMetrics(now=0.0))
    await server.start()
    try:
        yield server
    finally:
        await server.stop(deadline=0.0)


def shipper(port, source, **settings):
    options = {"batch_size": 10, "compression_algorithm": "zstd", "drain_timeout": 60.0, **settings}
    return LogShipper(Settings(server_host="127.0.0.1", server_port=port, **options), source)


async def ship_through(plans, *, count=200, **settings):
    """Ships numbered entries through a proxy with these plans; returns the report, the proxy and the receiver."""
    async with receiver() as server, Proxy(server.address[1], plans) as proxy:
        report = await shipper(proxy.port, Numbers(count), **settings).run()
        assert report.delivered
        assert report.snapshot.read_entries == report.snapshot.delivered_entries == count
        assert server.sink.numbers == list(range(count))
        totals = server.metrics.snapshot(1.0)
        assert totals.received.entries == totals.stored_entries + totals.duplicate_entries
        assert totals.in_flight_bytes == 0
        return report, proxy, server


@pytest.mark.parametrize("algorithm", ["gzip", "zlib", "zstd", "none"])
@pytest.mark.parametrize("context", ["stream", "batch"])
def test_a_session_delivers_and_acknowledges(run, algorithm, context):
    """Each algorithm, in a context and batch by batch."""

    async def scenario():
        await ship_through([], compression_algorithm=algorithm, compression_context=context)

    run(scenario)


@pytest.fixture
def without_reports(monkeypatch):
    """A shipper that tells nothing of itself: how long that is varies, and nobody answers the last of it."""
    monkeypatch.setattr("logbale.open_session.OpenSession._tell_all", lambda self, *, ended=False: None)


@pytest.mark.usefixtures("without_reports")
def test_a_connection_cut_at_any_byte_costs_no_entry(run):
    """F12: cut after so many bytes in either direction, again and again; each entry is stored once."""

    async def scenario():
        _, proxy, _ = await ship_through([])
        seed = random.randrange(10**6)
        print("seed", seed)
        chance = random.Random(seed)
        for direction, total in proxy.passed.items():
            for _ in range(6):
                cuts = [{"cut": (direction, chance.randrange(1, total))} for _ in range(5)]
                _, harmed, _ = await ship_through(cuts)
                assert harmed.bites > 0

    run(scenario)


@pytest.mark.slow
@pytest.mark.usefixtures("without_reports")
def test_a_connection_cut_at_every_byte_of_its_beginning(run):
    """Hello, welcome and the first batch: no offset is special."""

    async def scenario():
        _, whole, _ = await ship_through([], count=30)
        for direction, end in whole.passed.items():
            for offset in range(1, end, 5):
                _, proxy, _ = await ship_through([{"cut": (direction, offset)}], count=30)
                assert proxy.bites == 1

    run(scenario)


def test_one_byte_slices_change_nothing(run):
    """F17: the slowest possible network delivers the same."""

    async def scenario():
        await ship_through([{"slices": True}])

    run(scenario)


@pytest.mark.usefixtures("without_reports")
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("context", ["stream", "batch"])
def test_a_flipped_bit_is_noticed(run, monkeypatch, way, context):
    """F18: anywhere, either way; test_virtual_time.py turns over all of them, here are some over real sockets."""
    monkeypatch.setattr("logbale.liveness.FRAME_SECONDS", 0.5)
    monkeypatch.setattr("logbale.open_session.WELCOME_TIMEOUT", 0.5)

    async def scenario():
        _, proxy, _ = await ship_through([], count=60, compression_context=context)
        seed = random.randrange(10**6)
        print("seed", seed)
        chance = random.Random(seed)
        noticed = bitten = 0
        for _ in range(20):
            flip = {"flip": (way, chance.randrange(proxy.passed[way]), chance.randrange(8))}
            _, harmed, _ = await ship_through([flip], count=60, compression_context=context)
            bitten += harmed.bites
            noticed += harmed.bites and harmed.connections > 1
        assert noticed >= bitten - 2  # a few bits of a compressed frame's header say nothing
        assert bitten >= 10  # acks of several batches at once leave fewer bytes to bite into

    run(scenario)


def test_the_last_word_of_a_shipper_is_complete(run, tmp_path):
    """Its numbers are those of the end, whatever the spool's thread was still at."""

    async def scenario():
        async with receiver() as server:
            spool = DiskSpool(tmp_path, max_bytes=1 << 24)
            spool.open()
            settings = Settings(server_host="127.0.0.1", server_port=server.address[1], batch_size=10)
            await LogShipper(settings, Numbers(500), store=spool).run()
            await eventually(lambda: not server.clients.connected_count)
            (client,) = server.clients
            report = client.report
            assert (report.ended, report.read, report.delivered, report.waiting_entries) == (True, 500, 500, 0)
            assert (report.waiting_batches, report.spool_bytes, report.oldest_waiting) == (0, 0, 0.0)
            assert report.latency.count == server.metrics.received.batches

    run(scenario)


def test_lost_acks_lead_to_duplicates_that_are_counted_and_not_stored(run):
    """F13: the receiver has stored what the shipper sends again."""

    async def scenario():
        async with receiver() as server, Proxy(server.address[1]) as proxy:
            running = shipper(proxy.port, Numbers(100, then="wait"))
            # The welcome passes; the acks do not.
            proxy.plans = [{"cut": ("down", 260)}]
            task = asyncio.create_task(running.run())
            await eventually(lambda: running.snapshot().delivered_entries == 100)
            assert server.sink.numbers == list(range(100))
            assert proxy.bites == 1
            running.stop()
            assert (await task).delivered

    run(scenario)


def test_the_ack_waits_for_the_sink(run):
    """Nothing is called delivered before it is durable."""

    async def scenario():
        async with receiver() as server:
            server.sink.open.clear()
            running = shipper(server.address[1], Numbers(50, then="wait"), batch_interval=0.1)
            task = asyncio.create_task(running.run())
            await eventually(lambda: server.metrics.received.entries == 50)
            await asyncio.sleep(0.05)
            assert running.snapshot().delivered_entries == 0
            server.sink.open.set()
            await eventually(lambda: running.snapshot().delivered_entries == 50)
            running.stop()
            assert (await task).delivered

    run(scenario)


def test_a_receiver_that_restarts_is_found_again_and_nothing_is_stored_twice(run):
    """The marks live in the sink; what was not acknowledged comes again."""

    async def scenario():
        sink = KeepingSink()
        port = free_port()
        async with receiver(sink, server_port=port):
            running = shipper(port, Numbers(500, then="wait"), batch_size=7)
            task = asyncio.create_task(running.run())
            await eventually(lambda: len(sink.numbers) > 50)
        settings = Settings(server_host="127.0.0.1", server_port=port)
        again = TCPLogReceiver(settings, sink, ReceiverMetrics(now=0.0))
        await again.start()
        await eventually(lambda: running.snapshot().delivered_entries == 500)
        running.stop()
        assert (await task).delivered
        assert sink.numbers == list(range(500))
        await again.stop(deadline=0.0)

    run(scenario)


def test_a_second_connection_supersedes_the_first(run):
    """F30: a half-open connection must not block a reconnect, and a clone cannot interleave."""

    async def scenario():
        async with receiver() as server:
            first, second = [await asyncio.open_connection(*server.address) for _ in range(2)]
            for reader, writer in (first, second):
                writer.write(encode_message(Hello(1, "web-1", 1)))
                assert (await next_message(reader))["type"] == "welcome"
            assert (await next_message(first[0]))["code"] == "superseded"
            assert await first[0].read() == b""
            raw = b'[{"n":1}]'
            second[1].write(encode_batch(1, len(raw), batch_crc(1, raw), raw, Algorithm.NONE))
            assert await next_message(second[0]) == {"type": "ack", "last": 1}
            for _, writer in (first, second):
                writer.transport.abort()
            await asyncio.sleep(0)

    run(scenario)


def test_a_welcome_waits_for_the_batches_of_the_older_connection(run):
    """What waits in a group commit when a stream is taken over is neither lost nor stored twice."""

    async def scenario():
        async with receiver() as server:
            raw = b'[{"n":1}]'
            batch = encode_batch(1, len(raw), batch_crc(1, raw), raw, Algorithm.NONE)
            first = await asyncio.open_connection(*server.address)
            first[1].write(encode_message(Hello(1, "web-1", 1)))
            await next_message(first[0])
            server.sink.open.clear()
            first[1].write(batch)
            await eventually(lambda: server.metrics.received.entries == 1)
            second = await asyncio.open_connection(*server.address)
            second[1].write(encode_message(Hello(1, "web-1", 1)))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(second[0].readexactly(5)), 0.05)
            server.sink.open.set()
            await asyncio.sleep(0.05)
            assert server.sink.numbers == [1]
            for _, writer in (first, second):
                writer.transport.abort()
            await asyncio.sleep(0)

    run(scenario)


@pytest.mark.parametrize("raw", [b"not json", b"[]", b"[7]", b'[{"a":' + b"[" * 70 + b"]" * 70 + b"}]"])
def test_a_batch_that_can_never_be_stored_is_rejected_in_its_place(run, raw):
    """Its sequence is consumed, its neighbours are stored, and the shipper hears the reason before the ack."""

    async def scenario():
        async with receiver() as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(encode_message(Hello(1, "web-1", 1)))
            await next_message(reader)
            for sequence, body in ((1, b'[{"n":1}]'), (2, raw), (3, b'[{"n":3}]')):
                writer.write(encode_batch(sequence, len(body), batch_crc(sequence, body), body, Algorithm.NONE))
            heard = []
            while not heard or heard[-1] != {"type": "ack", "last": 3}:
                heard.append(await next_message(reader))
            rejected = [message["sequence"] for message in heard if message["type"] == "reject"]
            assert rejected == [2]
            assert server.sink.numbers == [1, 3]
            writer.transport.abort()
            await asyncio.sleep(0)

    run(scenario)


def test_a_stand_alone_batch_that_does_not_decode_is_asked_for_once_more_and_then_rejected(run):
    """The first failure may be the network's; the second is the batch's own."""

    async def scenario():
        async with receiver() as server:
            for attempt in range(2):
                reader, writer = await asyncio.open_connection(*server.address)
                writer.write(encode_message(Hello(1, "web-1", 1)))
                await next_message(reader)
                writer.write(encode_batch(1, 9, 12345, b'[{"n":1}]', Algorithm.NONE))
                answer = await next_message(reader)
                assert answer["type"] == ("error" if attempt == 0 else "reject")
                writer.transport.abort()
            assert server.sink.mark("web-1").sequence == 1

    run(scenario)


def test_a_batch_that_is_damaged_anew_each_time_is_asked_for_as_often_as_it_takes(run):
    """Other bytes each time are the link's doing, and no reason to give the batch up: `make chaos` once lost one so."""
    good = encode_batch(1, 9, batch_crc(1, b'[{"n":1}]'), b'[{"n":1}]', Algorithm.NONE)

    async def scenario():
        async with receiver() as server:
            for position in (*range(13, len(good), 3), None):
                reader, writer = await asyncio.open_connection(*server.address)
                writer.write(encode_message(Hello(1, "web-1", 1)))
                await next_message(reader)
                frame = bytearray(good)
                if position is not None:
                    frame[position] ^= 1
                writer.write(frame)
                answer = await next_message(reader)
                assert answer["type"] == ("ack" if position is None else "error")
                writer.transport.abort()
            assert server.sink.numbers == [1]

    run(scenario)


def test_silence_is_never_a_downgrade(run, monkeypatch, caplog):
    """A receiver that accepts and says nothing gets a hello, again and again, and never a base frame."""
    monkeypatch.setattr("logbale.open_session.WELCOME_TIMEOUT", 0.05)

    async def scenario():
        received = []

        async def serve(reader, writer):
            if data := await reader.read(65536):  # on a busy machine it may be gone before it is served
                received.append(data)
            while await reader.read(65536):
                pass
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with caplog.at_level(logging.WARNING):
            sending = shipper(server.sockets[0].getsockname()[1], Numbers(20))
            running = asyncio.create_task(sending.run())
            await eventually(lambda: len(received) >= 2 and sending.snapshot().read_entries == 20)
            sending.stop()
            sending.stop()
            report = await running
        assert not report.delivered
        assert report.left_entries == 20
        for data in received:
            decoder = FrameDecoder(10_000, session=True)
            decoder.feed(data)
            assert [frame.flags for frame in decoder.frames()] == [Flag.CONTROL]
        assert "SESSION_MODE=off" in caplog.text
        server.close()

    run(scenario)


def test_session_mode_off_speaks_the_base_protocol(run):
    """The receiver stores it too, and knows no stream of it."""

    async def scenario():
        async with receiver() as server:
            report = await shipper(server.address[1], Numbers(100), session_mode="off").run()
            assert report.delivered
            assert server.sink.numbers == list(range(100))
            assert {item.stream for item in server.sink.items} == {""}

    run(scenario)


def test_base_clients_keep_working_beside_sessions(run):
    """On the same port, at the same time."""

    async def scenario():
        async with receiver() as server:
            base = asyncio.to_thread(base_client.send_everything, server.address)
            report, sent = await asyncio.gather(shipper(server.address[1], Numbers(300)).run(), base)
            assert report.delivered
            entries = [json.loads(line) for item in server.sink.items for line in item.lines().splitlines()]
            assert [entry["n"] for entry in entries if "n" in entry] == list(range(300))
            assert [entry["number"] for entry in entries if "number" in entry] == list(range(sent))

    run(scenario)


def test_a_copied_spool_is_noticed_and_takes_a_new_name(run, caplog):
    """Two shippers with one stream: the second one's entries are not taken for duplicates of the first's."""

    async def scenario():
        async with receiver() as server:
            for start in (0, 1000):
                settings = Settings(server_host="127.0.0.1", server_port=server.address[1], batch_size=10)
                source = Numbers(30)
                source.count = 30
                report = await LogShipper(settings, Shifted(source, start), store=MemoryStore("twin")).run()
                assert report.delivered
            assert server.sink.numbers == [*range(30), *range(1000, 1030)]
            assert len({item.stream for item in server.sink.items}) == 2

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert "another history" in caplog.text


def spooled(directory, source, port, **settings):
    """A shipper with its spool on disk, as after a start."""
    spool = DiskSpool(directory, max_bytes=1 << 24)
    spool.open()
    return LogShipper(
        Settings(server_host="127.0.0.1", server_port=port, batch_size=10, **settings), source, store=spool
    )


def test_a_restart_with_everything_acknowledged_sends_nothing_again_and_goes_on(run, tmp_path):
    """Its last word, the ack, is on disk; the next batch has the next sequence, and the receiver knows no gap."""

    async def scenario():
        async with receiver() as server:
            assert (await spooled(tmp_path, Numbers(30), server.address[1]).run()).delivered
            assert (await spooled(tmp_path, Numbers(0), server.address[1]).run()).snapshot.sent.batches == 0
            assert (await spooled(tmp_path, Shifted(Numbers(30), 30), server.address[1]).run()).delivered
            assert server.sink.numbers == list(range(60))
            assert server.metrics.duplicate_entries == 0
            assert [item.sequence for item in server.sink.items] == [1, 2, 3, 4, 5, 6]

    run(scenario)


def test_a_restored_older_spool_loses_nothing_that_is_new_and_says_what_may_be_doubled(run, tmp_path, caplog):
    """Its next sequences are known here with other contents: they are not taken for duplicates of those."""

    async def scenario():
        async with receiver() as server:
            assert (await spooled(tmp_path / "spool", Numbers(20), server.address[1]).run()).delivered
            shutil.copytree(tmp_path / "spool", tmp_path / "backup")
            assert (await spooled(tmp_path / "spool", Shifted(Numbers(20), 20), server.address[1]).run()).delivered
            report = await spooled(tmp_path / "backup", Shifted(Numbers(20), 40), server.address[1]).run()
            assert report.delivered
            assert server.sink.numbers == list(range(60))
            assert len({item.stream for item in server.sink.items}) == 2

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert "entries that wait may be stored twice" in caplog.text


def test_a_reject_that_nobody_read_before_a_crash_is_a_dead_letter_after_it(run, tmp_path):
    """The welcome repeats it, though acks have gone past it."""

    async def scenario():
        async with receiver() as server:
            spool = DiskSpool(tmp_path, max_bytes=1 << 24)
            spool.open()
            spool.append([(raw, 1, {}) for raw in (b'[{"n":0}]', b"[7]", b'[{"n":2}]')])
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(encode_message(Hello(2, spool.stream, 1)))
            for sequence in (1, 2, 3):
                raw = spool.read(sequence)
                writer.write(encode_batch(sequence, len(raw), batch_crc(sequence, raw), raw, Algorithm.NONE))
            while await next_message(reader) != {"type": "ack", "last": 3}:
                pass
            writer.transport.abort()
            spool.close()  # its shipper has died with the answers unread
            report = await spooled(tmp_path, Numbers(0), server.address[1]).run()
            assert report.delivered
            assert (report.snapshot.dropped, report.snapshot.delivered_entries) == ({"rejected": 1}, 2)
            assert len(list((tmp_path / "dead-letters").glob("*.json"))) == 1
            assert report.snapshot.sent.batches == 0
            assert server.sink.numbers == [0, 2]

    run(scenario)


@pytest.mark.parametrize("algorithm", ["gzip", "zlib", "zstd"])
def test_a_batch_that_does_not_compress_stays_in_its_context(run, algorithm):
    """It was compressed there, so it is sent so, though it grew; what comes behind it decodes."""
    chance = random.Random(4)
    noise = ["".join(map(chr, chance.choices(range(0x4E00, 0x9FFF), k=30_000))) for _ in range(3)]
    text = [{"n": n, "m": noise[n // 2] if n % 2 else "alike"} for n in range(6)]

    async def scenario():
        async with receiver() as server, Proxy(server.address[1]) as proxy:
            source = Scripted([[entry] for entry in text])
            assert (await shipper(proxy.port, source, batch_size=1, compression_algorithm=algorithm).run()).delivered
            assert [json.loads(line) for item in server.sink.items for line in item.lines().splitlines()] == text
            assert proxy.connections == 1

    run(scenario)


@pytest.mark.parametrize("context", ["stream", "batch"])
def test_a_million_identical_lines(run, context):
    """A ratio that looks like a decompression bomb is no reason to refuse them, and no line is taken for another."""
    line = {"level": "INFO", "message": "the same again"}

    async def scenario():
        async with receiver() as server:
            source = Scripted([[line] * 10_000] * 100)
            options = {"batch_size": 100_000, "batch_max_bytes": 32 << 20, "compression_context": context}
            report = await shipper(server.address[1], source, **options).run()
            assert report.delivered
            assert report.snapshot.delivered_entries == server.metrics.stored_entries == 1_000_000
            assert report.snapshot.sent.raw_bytes > 256 * report.snapshot.sent.wire_bytes
            assert all(
                set(item.lines().split(b"\n")) == {json.dumps(line, separators=(",", ":")).encode(), b""}
                for item in server.sink.items
            )

    run(scenario)


class Shifted:
    """Another source's entries with other numbers."""

    def __init__(self, source, start):
        self.source = source
        self.start = start

    async def chunks(self):
        async for chunk in self.source.chunks():
            yield chunk_of([{**entry, "n": entry["n"] + self.start} for entry in objects_of(chunk)])

    def counts(self):
        return {}


def test_a_stream_too_many_is_refused_with_its_own_code(run, monkeypatch):
    """MAX_STREAMS: the error is `limit`, not `protocol`; the shipper keeps everything and tries again."""

    async def scenario():
        async with receiver() as server:
            monkeypatch.setattr(server.sink, "can_admit", lambda name: name == "known")
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(encode_message(Hello(1, "one-too-many", 1)))
            refused = await next_message(reader)
            assert (refused["type"], refused["code"]) == ("error", "limit")
            assert "MAX_STREAMS" in refused["detail"]
            assert await reader.read() == b""
            assert server.metrics.errors == {"too_many_streams": 1}
            assert server.metrics.in_flight_bytes == 0
            writer.transport.abort()
            await asyncio.sleep(0)

    run(scenario)


def test_a_lone_entry_leaves_after_the_linger(run):
    """Where nothing is unacknowledged a partial batch does not wait for BATCH_INTERVAL."""

    async def scenario():
        async with receiver() as server:
            running = shipper(server.address[1], Numbers(1, then="wait"), batch_interval=60.0, batch_linger=0.01)
            task = asyncio.create_task(running.run())
            await eventually(lambda: server.sink.numbers == [0])
            running.stop()
            assert (await task).delivered

    run(scenario)


def test_a_batch_larger_than_the_receiver_takes_is_a_dead_letter_and_not_a_stop(run, caplog):
    """One bad batch, retried for ever, would block all that come after it."""

    async def scenario():
        async with receiver(max_raw_bytes=2000) as server:
            big = {"n": 1, "message": "x" * 5000}
            source = Scripted([[{"n": 0}], [big], [{"n": 2}]])
            report = await shipper(server.address[1], source, batch_size=1).run()
            assert report.snapshot.dropped == {"rejected": 1}
            assert server.sink.numbers == [0, 2]

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert "rejected" in caplog.text


class Scripted:
    """Chunks as given."""

    def __init__(self, chunks):
        self.script = chunks

    async def chunks(self):
        for entries in self.script:
            yield chunk_of(entries)

    def counts(self):
        return {}


@pytest.mark.parametrize(
    "data",
    [
        encode_header(2, 0x80) + b"{}",
        encode_message(Goaway("I am a receiver")),
        encode_message(Hello(1, "web-1", 1)) + encode_message(Hello(1, "web-1", 1)),
        encode_message(Hello(1, "web-1", 1)) + encode_header(2, 0) + b"[]",
    ],
)
def test_a_session_that_breaks_the_rules_is_told_so_and_closed(run, data):
    """The error names the rule; other connections notice nothing."""

    async def scenario():
        async with receiver() as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(data)
            async with asyncio.timeout(60):
                heard = await reader.read(-1)
            decoder = FrameDecoder(10_000, session=True)
            decoder.feed(heard)
            assert b'"code":"protocol"' in list(decoder.frames())[-1].payload
            writer.transport.abort()
            await asyncio.sleep(0)

    run(scenario)


async def next_message(reader):
    """The next control message of a receiver, its crc checked and taken off as docs/protocol.md says."""
    async with asyncio.timeout(60):
        header = await reader.readexactly(5)
        payload = await reader.readexactly(int.from_bytes(header[:4], "big"))
    text = payload[:-18] + b"}"
    assert payload[-18:] == b',"crc":"%08x"}' % zlib.crc32(text)
    return json.loads(text)


@pytest.mark.parametrize(
    "limits", [{"max_raw_bytes": 30_000}, {"max_frame_bytes": 4096}, {"max_batch_entries": 100}], ids=str
)
def test_batches_under_backlog_grow_within_what_the_receiver_takes(run, limits):
    """A receiver that takes batches of BATCH_SIZE gets every entry, however small its limits and large the backlog."""

    async def scenario():
        sink = KeepingSink()
        sink.open.clear()
        async with receiver(sink, **limits) as server:
            running = shipper(server.address[1], Numbers(20_000, then="wait"))
            shipping = asyncio.create_task(running.run())
            await eventually(lambda: running.snapshot().read_entries == 20_000)
            sink.open.set()
            running.stop()
            report = await shipping
            assert report.delivered
            assert sink.numbers == list(range(20_000))

    run(scenario)
