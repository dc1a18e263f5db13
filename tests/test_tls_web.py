"""HTTPS on the ports of the dashboard and the metrics: who gets in, and what is told of the certificate."""

import asyncio
import contextlib
import http.client
import io
import json
import re
import ssl

import pytest
from certificates import PAST, SHORT, Certificates
from waiting import eventually

from chaos.processes import free_port
from logbale.config import Settings
from logbale.log_receiver import LogReceiver
from logbale.log_shipper import LogShipper


@pytest.fixture
def files(tmp_path):
    return Certificates(tmp_path / "tls")


@contextlib.asynccontextmanager
async def receiver(**settings):
    """One with both ports, which run on until the end."""
    ports = {"dashboard_port": free_port(), "metrics_port": free_port()}
    settings = Settings(
        **{"server_host": "127.0.0.1", "server_port": 0, "sink": "null", "dashboard_enabled": True, **ports, **settings}
    )
    running = LogReceiver(settings, out=io.StringIO())
    await running.start()
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        running.stop()
        await task


async def ask(port, path, context, *, host=None):
    """Status and body; `context` is None for plain HTTP."""

    def get():
        if context is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Host": host} if host else {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    return await asyncio.get_running_loop().run_in_executor(None, get)


def test_the_page_and_the_metrics_are_served_over_tls(run, files):
    """Without a client certificate, though the receiver demands one of shippers: a browser has none."""

    async def scenario():
        tls = files.receiver() | files.client_trust()
        async with receiver(dashboard_tls="on", **tls) as server:
            context = files.client_context()
            page, metrics = server.settings.dashboard_port, server.settings.metrics_port
            assert (await ask(page, "/", context))[0] == 200
            status, body = await ask(metrics, "/metrics", context)
            assert status == 200
            told = re.search(rb"^logbale_receiver_certificate_expires_timestamp_seconds (\S+)$", body, re.MULTILINE)
            assert float(told[1]) == files.read("receiver").not_valid_after_utc.timestamp()
            for port in (page, metrics):
                assert await ask(port, "/", None) == (400, b"This port speaks HTTPS only.\n")
            assert server.snapshot().errors == {"tls_plaintext": 2}

    run(scenario)


def test_on_loopback_the_dashboard_stays_in_plain(run, files):
    """DASHBOARD_TLS=auto: the shippers' port alone is encrypted."""

    async def scenario():
        async with receiver(**files.receiver()) as server:
            assert (await ask(server.settings.dashboard_port, "/healthz", None))[0] == 200

    run(scenario)


def test_the_page_answers_to_the_certificates_names(run, files):
    """As it does to this host's; a page of somebody else's cannot have a certificate of that name."""

    async def scenario():
        names = ("127.0.0.1", "logs.example.org", "*.example.net")
        async with receiver(dashboard_tls="on", **files.receiver(*names)) as server:
            port, context = server.settings.dashboard_port, files.client_context()
            for host in ("LOGS.example.org:8080", "logs.example.net"):
                assert (await ask(port, "/healthz", context, host=host))[0] == 200
            for host in ("evil.example.org", "example.net", "a.b.example.net", "*.example.org", "evil.net"):
                assert (await ask(port, "/healthz", context, host=host))[0] == 421

    run(scenario)


def test_a_renewed_certificate_is_served_and_ends_the_alarm(run, files):
    """The old one is in use, and its end is an alarm, until the new one is there."""

    async def scenario():
        async with receiver(dashboard_tls="off", **files.receiver(**PAST)) as server:
            port = server.settings.dashboard_port

            async def alarms():
                stats = json.loads((await ask(port, "/api/stats", None))[1])
                return stats["certificate_expires"], {alarm["id"]: alarm["severity"] for alarm in stats["alarms"]}

            async def until(expected):
                async with asyncio.timeout(60):
                    while await alarms() != expected:
                        await asyncio.sleep(0.1)

            await until((PAST["not_after"].timestamp() // 1, {"certificate": "critical"}))
            files.receiver()
            server.reloading.reload(server.settings)
            await until((files.read("receiver").not_valid_after_utc.timestamp(), {}))

    run(scenario)


def test_connections_live_on_through_a_reload(run, files):
    """An open one keeps its certificate, the next one gets the new one."""

    async def scenario():
        async with receiver(dashboard_tls="on", **files.receiver()) as server:
            address, context = ("127.0.0.1", server.settings.dashboard_port), files.client_context()

            async def connect():
                return await asyncio.open_connection(*address, ssl=context)

            def ends(writer):
                return ssl.cert_time_to_seconds(writer.get_extra_info("peercert")["notAfter"])

            async def healthz(reader, writer):
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")

            old = await connect()
            await healthz(*old)
            loaded = server._tls.current
            files.receiver(**SHORT)
            server.reloading.reload(server.settings)
            await eventually(lambda: server._tls.current is not loaded)
            await healthz(*old)
            new = await connect()
            await healthz(*new)
            assert ends(new[1]) == SHORT["not_after"].timestamp() // 1 != ends(old[1])
            for _, writer in (old, new):
                writer.close()
                await writer.wait_closed()

    run(scenario)


def test_handshakes_count_among_the_connections(run, files):
    """Who never ends one takes a place, for HELLO_TIMEOUT."""

    async def scenario():
        for hello_timeout in (0.5, 5.0, 50.0):  # a busy machine may be slower than the first
            if await is_full(hello_timeout):
                return
        pytest.fail("a third connection found a place each time")

    async def is_full(hello_timeout):
        async with receiver(
            dashboard_tls="on", dashboard_max_connections=2, hello_timeout=hello_timeout, **files.receiver()
        ) as server:
            port, context = server.settings.dashboard_port, files.client_context()
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            was_refused = False
            try:
                await ask(port, "/healthz", context)  # which the server accepts after those two
            except OSError:  # reset, or ended in the handshake
                was_refused = True
            assert was_refused or server.snapshot().errors["tls_timeout"]
            await eventually(lambda: server.snapshot().errors.get("tls_timeout") == 2)
            for _, writer in silent:
                writer.close()
            async with asyncio.timeout(60):
                status = 0
                while not status:
                    with contextlib.suppress(OSError):  # until their places are free
                        status, _ = await ask(port, "/healthz", context)
            assert status == 200
            return was_refused

    run(scenario)


class Nothing:
    """A source that waits."""

    async def chunks(self):
        await asyncio.Event().wait()
        yield

    def counts(self):
        return {}


def test_a_shippers_metrics_are_served_over_tls_where_that_is_asked_for(run, files):
    """With a certificate that is good for a server; its own end is among them."""

    async def scenario():
        port = free_port()
        both = files.trust() | files.pair("web1", "web1", "127.0.0.1")
        settings = Settings(
            server_host="127.0.0.1", server_port=free_port(), metrics_port=port, dashboard_tls="on", **both
        )
        shipper = LogShipper(settings, Nothing())
        running = asyncio.create_task(shipper.run())
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(ConnectionError):
                    status, body = await ask(port, "/metrics", files.client_context())
                    break
                await asyncio.sleep(0.01)
        assert status == 200
        assert b"logbale_shipper_certificate_expires_timestamp_seconds" in body
        shipper.stop()
        shipper.stop()
        await running

    run(scenario)
