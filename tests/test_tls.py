"""TLS between shipper and receiver, over real sockets: what is delivered, what is refused and how that is said."""

import asyncio
import contextlib
import functools
import logging
import re
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

import base_client
import pytest
from certificates import FUTURE, PAST, Certificates
from proxy import Proxy
from test_delivery import KeepingSink, Numbers
from test_tcp_server import ListSink, in_thread, raw_frame
from waiting import eventually

from logbale import failover
from logbale.config import Settings
from logbale.log_shipper import LogShipper
from logbale.metrics import ReceiverMetrics
from logbale.tcp_server import TCPLogReceiver
from logbale.tls.material import receiver_tls

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Reconnects do not wait."""
    monkeypatch.setattr(failover, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(failover, "LONGEST_DELAY", 0.001)


@pytest.fixture
def files(tmp_path):
    return Certificates(tmp_path / "tls")


@contextlib.asynccontextmanager
async def receiver(files, sink=None, version=None, dates=None, names=(), **settings):
    """One with a certificate of the CA; `version` is the only one that it speaks."""
    settings = Settings(server_host="127.0.0.1", server_port=0, **files.receiver(*names, **dates or {}), **settings)
    loaded = receiver_tls(settings)
    if version:
        loaded.shippers.minimum_version = loaded.shippers.maximum_version = version
    server = TCPLogReceiver(settings, sink or KeepingSink(), ReceiverMetrics(now=0.0), lambda: loaded.shippers)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(deadline=0.0)


def shipper(port, source, **settings):
    options = {"batch_size": 10, "drain_timeout": 60.0, "server_host": "127.0.0.1", **settings}
    return LogShipper(Settings(server_port=port, **options), source)


def connect(address, context):
    """A client of the base protocol, its handshake done."""
    return context.wrap_socket(base_client.connect(address), server_hostname="127.0.0.1")


# What is delivered


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["on", "off"])
def test_entries_are_delivered_with_tls(run, files, version, mode):
    """With a session and without, in both versions; the receiver knows the client by its certificate."""

    async def scenario():
        async with receiver(files, version=VERSIONS[version], **files.client_trust()) as server:
            ours = files.trust() | files.pair("web1", "web1")
            report = await shipper(server.address[1], Numbers(500), session_mode=mode, **ours).run()
            assert report.delivered
            assert report.snapshot.certificate_expires is not None
            assert server.sink.numbers == list(range(500))
            assert [row.identity for row in server.clients.rows(0.0, 0.0)] == ["web1"]
            assert not server.metrics.errors

    run(scenario)


def test_a_connection_cut_at_any_byte_costs_no_entry(run, files):
    """In the handshake, in a record, between two: each entry is stored once and in order."""
    plans = [{"cut": ("up", byte)} for byte in range(1, 8000, 397)]
    plans += [{"cut": ("down", byte)} for byte in range(1, 1500, 97)]

    async def scenario():
        async with receiver(files) as server, Proxy(server.address[1], plans) as proxy:
            report = await shipper(proxy.port, Numbers(3000), compression_enabled=False, **files.trust()).run()
            assert report.delivered
            assert proxy.bites > len(plans) // 2
            assert server.sink.numbers == list(range(3000))

    run(scenario)


def test_one_byte_slices_change_nothing(run, files):
    """A network that splits every record is slow, not wrong."""

    async def scenario():
        async with receiver(files) as server, Proxy(server.address[1], [{"slices": True}]) as proxy:
            assert (await shipper(proxy.port, Numbers(100), **files.trust()).run()).delivered
            assert server.sink.numbers == list(range(100))
            assert proxy.connections == 1

    run(scenario)


def test_a_flipped_bit_ends_the_connection_and_is_sent_again(run, files):
    """TLS notices it, so that not even the CRC of the batch is asked."""

    async def scenario():
        plans = [{"flip": ("up", 4000, 3)}]
        async with receiver(files) as server, Proxy(server.address[1], plans) as proxy:
            assert (await shipper(proxy.port, Numbers(1000), **files.trust()).run()).delivered
            assert (proxy.bites, proxy.connections) == (1, 2)
            assert server.sink.numbers == list(range(1000))
            assert server.metrics.bad_frames == 0

    run(scenario)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_end_of_a_base_clients_stream_is_answered_when_all_is_stored(run, files, version):
    """Ours and any other's: TLS has no half-closed socket, but each direction has an end of its own."""

    async def scenario():
        async with receiver(files, sink=ListSink()) as server:
            server.sink.open.clear()
            client = await in_thread(connect, server.address, files.client_context(version=VERSIONS[version]))
            ours = shipper(server.address[1], Numbers(10), session_mode="off", **files.trust())
            client.sendall(raw_frame({"n": 1}))
            ended = [asyncio.create_task(in_thread(client.unwrap)), asyncio.create_task(ours.run())]
            await eventually(lambda: server.metrics.received.entries == 11)
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in ended)
            server.sink.open.set()
            plain, report = await asyncio.gather(*ended)
            plain.close()
            assert report.delivered
            assert len(server.sink.arrived) == 11

    run(scenario)


def test_a_stream_that_somebody_cuts_is_not_called_delivered(run, files):
    """The end of the TCP connection is no answer to a base client's end: anybody on the way can make it."""

    async def scenario():
        sink = ListSink()
        sink.open.clear()
        async with receiver(files, sink=sink) as server, Proxy(server.address[1]) as proxy:
            ours = shipper(proxy.port, Numbers(10), session_mode="off", drain_timeout=60.0, **files.trust())
            running = asyncio.create_task(ours.run())
            await eventually(lambda: server.metrics.received.entries == 10)
            await asyncio.sleep(0.05)
            for writer in proxy._writers:
                writer.write_eof()
            report = await running
            assert not report.delivered
            sink.open.set()

    run(scenario)


# What a connection is beside its bytes


def test_what_the_kernel_knows_of_a_connection_is_there_with_tls(run, files):
    """Keepalive at the receiver, the client's address, how long the link held the shipper up."""

    async def scenario():
        async with receiver(files) as server:
            ours = shipper(server.address[1], Numbers(10, then="wait"), **files.trust())
            running = asyncio.create_task(ours.run())
            await eventually(lambda: len(server.sink.numbers) == 10)
            (connection,) = server._connections
            kept = connection._transport.get_extra_info("socket")
            assert kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert re.fullmatch(r"127\.0\.0\.1:\d+", connection.peer)
            if sys.platform == "linux":
                assert ours._link.link_seconds() is not None
            ours.stop()
            assert (await running).delivered

    run(scenario)


def test_reading_pauses_while_too_much_waits(run, files):
    """TLS reads nothing ahead of a receiver that is over its budget, and a handshake takes no part in that."""
    limit = 200_000
    frames = b"".join(raw_frame({"n": n, "pad": "x" * 10_000}) for n in range(2000))

    def send(client):
        client.sendall(frames)
        return client.unwrap()

    async def scenario():
        async with receiver(files, sink=ListSink(), max_in_flight_bytes=limit) as server:
            server.sink.open.clear()
            client = await in_thread(connect, server.address, files.client_context())
            sending = asyncio.create_task(in_thread(send, client))
            await eventually(lambda: server.metrics.in_flight_bytes > limit)
            await asyncio.sleep(0.1)
            assert server.metrics.in_flight_bytes < limit + 600_000
            late = await in_thread(connect, server.address, files.client_context())
            await in_thread(late.sendall, raw_frame({"n": 2000}))
            await asyncio.sleep(0.05)
            for connection in server._connections:
                assert connection._transport._incoming.pending < 20_000
            server.sink.open.set()
            (await sending).close()
            (await in_thread(late.unwrap)).close()
            assert sorted(entry["n"] for entry in server.sink.arrived) == list(range(2001))

    run(scenario)


def test_a_stop_does_not_wait_for_clients_that_say_nothing(run, files):
    """Neither for one in its handshake nor for one that reads nothing."""

    async def scenario():
        async with receiver(files) as server:
            silent = await in_thread(base_client.connect, server.address)
            idle = await in_thread(connect, server.address, files.client_context())
            await eventually(lambda: server.metrics.clients == 2)
            now = asyncio.get_running_loop().time()
            await server.stop(deadline=now + 100)
            assert asyncio.get_running_loop().time() - now < 50
            silent.close()
            idle.close()

    run(scenario)


# What is refused

REFUSED = {
    "receiver expired": ({"dates": PAST}, {}, "has expired: renew it there", "tls_refused"),
    "receiver not yet valid": ({"dates": FUTURE}, {}, "is not valid yet", "tls_refused"),
    "another name": ({"names": ("logs.example.org",)}, {}, "is not for 127.0.0.1", "tls_refused"),
    "another address": ({"names": ("127.0.0.9",)}, {}, "is not for 127.0.0.1", "tls_refused"),
    "another CA": ({}, {"ca": "other"}, "is not from a CA in TLS_CA_FILE=", "tls_refused"),
    "no certificate": ({}, {"client": None}, "demands a client certificate: set TLS_CERT_FILE", "tls_no_certificate"),
    "client expired": ({}, {"client": PAST}, "TLS_CERT_FILE has expired: renew it", "tls_bad_certificate"),
    "client of another CA": (
        {},
        {"client_ca": "other"},
        "does not know the CA of TLS_CERT_FILE",
        "tls_bad_certificate",
    ),
}


async def refused(sending, why):
    """What a shipper reports that is stopped when it has read its source and says so of the receiver."""
    running = asyncio.create_task(sending.run())
    await eventually(lambda: sending.snapshot().read_entries and why in sending.report().why)
    await eventually(lambda: running.done() or sending._queue.is_closed)  # by the source's end
    sending.stop()
    sending.stop()
    report = await running
    assert not report.delivered
    assert why in report.why
    return report


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("case", REFUSED)
def test_who_is_refused_reports_that_nothing_was_sent_and_why(run, files, tmp_path, case, mode, version):
    """With TLS 1.3 the shipper's handshake is over before the receiver refuses it; that sends no entry into nowhere."""
    theirs, mine, why, counted = REFUSED[case]
    other = Certificates(tmp_path / "other")
    ours = (other if mine.get("ca") else files).trust()
    dates = mine.get("client", {})
    if dates is not None:
        ours |= (other if mine.get("client_ca") else files).pair("web1", "web1", **dates)

    async def scenario():
        async with receiver(files, version=VERSIONS[version], **files.client_trust(), **theirs) as server:
            report = await refused(shipper(server.address[1], Numbers(30), session_mode=mode, **ours), why)
            assert report.left_entries == report.snapshot.read_entries == 30
            await eventually(lambda: server.metrics.errors[counted] >= 1)
            assert server.metrics.received.batches == 0

    run(scenario)


def test_a_shipper_in_plain_is_told_that_the_port_speaks_tls(run, files, caplog):
    """A session hears it from the receiver itself; the receiver's log says it of any client."""

    async def scenario():
        async with receiver(files) as server:
            await refused(shipper(server.address[1], Numbers(10)), "this port speaks TLS only: set TLS_CA_FILE")
            await in_thread(base_client_alone, server.address)
            await eventually(lambda: server.metrics.errors["tls_plaintext"] >= 2)
            assert server.metrics.received.batches == 0

    with caplog.at_level(logging.WARNING, "logbale.receiver"):
        run(scenario)
    assert "it speaks no TLS: set TLS_CA_FILE there" in caplog.text


def base_client_alone(address):
    with base_client.connect(address) as connection, contextlib.suppress(OSError):
        connection.sendall(raw_frame({"n": 1}))
        assert connection.recv(100) == b""


def test_a_shipper_with_tls_on_a_port_in_plain_is_told_so(run, files, caplog):
    """At both ends."""

    async def scenario():
        settings = Settings(server_host="127.0.0.1", server_port=0)
        server = TCPLogReceiver(settings, KeepingSink(), ReceiverMetrics(now=0.0))
        await server.start()
        why = "or it speaks no TLS: set TLS_CERT_FILE at the receiver"
        await refused(shipper(server.address[1], Numbers(10), **files.trust()), why)
        await server.stop(deadline=0.0)

    with caplog.at_level(logging.WARNING, "logbale.receiver"):
        run(scenario)
    assert "the first bytes are TLS" in caplog.text
    assert "this port speaks none: set TLS_CERT_FILE at the receiver" in caplog.text


HOSTILE = [
    b"\x16",
    b"\x16\x03\x01\x00\x05hello",
    b"\x16\x03\x01\xff\xff" + bytes(70_000),
    b"\x16\x03\x03\x40\x00" + b"\x01\x00\x3f\xfc" + bytes(16_380),
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x00\x00\x00\x00\x80",
    bytes(300_000),
    b"\x15\x03\x01\x00\x02\x02\x28",
]


@pytest.mark.slow
def test_a_thousand_bad_handshakes_keep_nobody_out(run, files, caplog):
    """The listener lives, nothing stays behind, each is counted, and the log has a line for the 1st, 2nd, 4th … ."""

    def misbehave(address, number):
        with contextlib.suppress(OSError), base_client.connect(address) as connection:
            connection.sendall(HOSTILE[number % len(HOSTILE)])
            if number % 3:
                connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    async def scenario():
        async with receiver(files, hello_timeout=1.0, **files.client_trust()) as server:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(50))
            await asyncio.gather(*(in_thread(misbehave, server.address, number) for number in range(1000)))
            await eventually(lambda: server.metrics.clients == 0)
            counted = {reason: count for reason, count in server.metrics.errors.items() if reason.startswith("tls_")}
            assert sum(counted.values()) == 1000, counted
            late = 1000 // len(HOSTILE) * 4 - counted["tls_plaintext"]  # on a machine that is busy for a second
            assert 0 <= late <= counted["tls_timeout"], counted
            ours = files.trust() | files.pair("web1", "web1")
            assert (await shipper(server.address[1], Numbers(100), **ours).run()).delivered
            assert server.sink.numbers == list(range(100))

    with caplog.at_level(logging.INFO, "logbale.receiver"):
        run(scenario)
    lines = [record.getMessage() for record in caplog.records if "no connection by TLS" in record.getMessage()]
    ends = [record.getMessage() for record in caplog.records if "disconnected" in record.getMessage()]
    assert not [end for end in ends if "TLS" in end or "certificate" in end], "said a second time"
    assert [re.search(r"\((\d+) within", line)[1] for line in lines] == [str(2**n) for n in range(10)]


def test_a_look_whether_the_port_is_open_is_no_failure(run, files, caplog):
    """A health check connects and goes."""

    async def scenario():
        async with receiver(files) as server:
            for _ in range(3):
                (await in_thread(base_client.connect, server.address)).close()
            await eventually(lambda: server.metrics.connections == 3 and server.metrics.clients == 0)
            assert not server.metrics.errors

    with caplog.at_level(logging.WARNING, "logbale.receiver"):
        run(scenario)
    assert not caplog.records


def test_handshakes_end_in_time_and_count_as_connections(run, files):
    """Who says nothing, and who says it byte by byte, takes a place for HELLO_TIMEOUT and no longer."""

    async def drip(client):
        with contextlib.suppress(OSError):
            for byte in b"\x16\x03\x01\x02\x00" + bytes(500):
                client.send(bytes([byte]))
                await asyncio.sleep(0.02)

    async def scenario():
        for hello_timeout in (0.5, 5.0, 50.0):  # a busy machine may be slower than the first
            if await is_full(hello_timeout):
                return
        pytest.fail("a third connection found a place each time")

    async def is_full(hello_timeout):
        async with receiver(files, max_connections=2, hello_timeout=hello_timeout) as server:
            silent, slow = [await in_thread(base_client.connect, server.address) for _ in range(2)]
            dripping = asyncio.create_task(drip(slow))
            await eventually(lambda: server.metrics.connections == 2)
            was_refused = False
            try:
                (await in_thread(connect, server.address, files.client_context())).close()
            except OSError:  # a reset or an end, as the systems have it
                was_refused = server.metrics.errors["too_many_connections"] == 1
            assert was_refused or server.metrics.errors["tls_timeout"]
            await eventually(lambda: server.metrics.errors["tls_timeout"] == 2)
            silent.close()
            slow.close()
            await dripping
            await eventually(lambda: server.metrics.clients == 0)
            assert (await shipper(server.address[1], Numbers(10), **files.trust()).run()).delivered
            return was_refused

    run(scenario)


@pytest.mark.parametrize(
    "where", ["logbale.tls.server.Listening.wrap", "logbale.tls.transport.TLSTransport._shake_hands"]
)
def test_an_error_that_nobody_foresaw_keeps_nobody_out(run, files, monkeypatch, where):
    """Where a connection begins, and in its handshake: the next one is served."""

    async def scenario():
        async with receiver(files, hello_timeout=0.5) as server:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda *_: None)
            with monkeypatch.context() as patch:
                patch.setattr(where, functools.partial(fail, MemoryError("no memory")))
                client = await in_thread(base_client.connect, server.address)
                with contextlib.suppress(OSError):
                    client.sendall(b"\x16\x03\x01")
                    client.shutdown(socket.SHUT_WR)
                    await in_thread(client.recv, 100)
                client.close()
                await eventually(lambda: server.metrics.clients == 0)
            assert (await shipper(server.address[1], Numbers(10), **files.trust()).run()).delivered

    run(scenario)


def fail(error, *_):
    raise error


# Whose stream it is


def test_a_client_writes_only_streams_of_its_certificates_name(run, files, caplog):
    """Who names another's stream is refused before that one is superseded, and told what it may write."""

    async def scenario():
        bound = files.client_trust() | {"tls_bind_streams": True}
        async with receiver(files, **bound) as server:
            first = files.trust() | files.pair("web1", "web1")
            owner = shipper(server.address[1], Numbers(10, then="wait"), **first)
            running = asyncio.create_task(owner.run())
            await eventually(lambda: len(server.sink.numbers) == 10)
            stream = owner._queue.store.stream
            assert stream.startswith("web1:")

            second = files.trust() | files.pair("web", "web")
            thief = shipper(server.address[1], Numbers(10), **second)
            thief._queue.store.stream = stream
            thief._queue.store.owner = ""
            await refused(thief, f"stream {stream}: expected web or web:…")
            assert server.metrics.errors["wrong_stream"] >= 1
            assert server.metrics.sessions == 1
            owner.stop()
            assert (await running).delivered
            assert owner.snapshot().reconnects == 0

    run(scenario)


def test_a_stream_from_before_the_certificate_goes_on_as_one_of_its_own(run, files, caplog):
    """The receiver binds streams from one day on: the shipper takes another name by itself, and says so."""

    async def scenario():
        async with receiver(files, **files.client_trust(), tls_bind_streams=True) as server:
            ours = shipper(server.address[1], Numbers(100), **files.trust(), **files.pair("web1", "web1"))
            ours._queue.store.stream = "oldhost:0123456789abcdef"
            report = await ours.run()
            assert report.delivered
            assert server.sink.numbers == list(range(100))
            assert {item.stream.partition(":")[0] for item in server.sink.items} == {"web1"}

    with caplog.at_level(logging.ERROR, "logbale.client"):
        run(scenario)
    assert "does not let web1 write stream oldhost:0123456789abcdef" in caplog.text


def test_without_binding_any_stream_may_be_written(run, files):
    """The certificate says who it is all the same."""

    async def scenario():
        async with receiver(files, **files.client_trust()) as server:
            ours = shipper(server.address[1], Numbers(10), **files.trust(), **files.pair("web1", "web1"))
            ours._queue.store.stream = "oldhost:0123456789abcdef"
            assert (await ours.run()).delivered
            (row,) = server.clients.rows(0.0, 0.0)
            assert (row.stream, row.identity) == ("oldhost:0123456789abcdef", "web1")

    run(scenario)
