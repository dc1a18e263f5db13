"""What the dashboard promises over plain HTTP: complete numbers, for this host's own names only, and a quick end."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import msgspec
import pytest
from serving import get, served

from logbale.dashboard.api import NOT_TOLD, stats_json
from logbale.dashboard.guard import own_names
from logbale.dashboard.server import DashboardServer
from logbale.metrics import ReceiverMetrics, ShipperMetrics
from logbale.protocol import Algorithm


def receiver_snapshot():
    metrics = ReceiverMetrics(now=0.0)
    metrics.clients, metrics.connections = 2, 3
    metrics.batch_received(Algorithm.GZIP, entries=50, raw_bytes=12_000, wire_bytes=1_500)
    metrics.stored_entries = 40
    metrics.frame_refused("corrupt")
    return metrics.snapshot(5.0)


def shipper_snapshot():
    metrics = ShipperMetrics(now=0.0, algorithm="gzip", level=6)
    metrics.read_entries = 60
    metrics.batch_sent(entries=50, raw_bytes=12_000, wire_bytes=1_500)
    return metrics.snapshot(5.0)


def dashboard(snapshot=receiver_snapshot, *, host="127.0.0.1", port=0, **more):
    return DashboardServer(snapshot, host=host, port=port, info={"archive": "/srv/<b>logs"}, **more)


@pytest.fixture(scope="module")
def server():
    """One receiver's dashboard for all tests that only ask."""
    with served(dashboard()) as server:
        yield server


@pytest.mark.parametrize(
    ("end", "snapshot"), [("receiver", receiver_snapshot), ("shipper", shipper_snapshot)], ids=["receiver", "shipper"]
)
def test_the_statistics_are_the_whole_snapshot_and_who_says_so(end, snapshot):
    """/api/stats has every field of the snapshot but the histograms, who says so and what the end says about itself."""
    with served(dashboard(snapshot)) as server:
        status, headers, body = get(server, "/api/stats")
    stats = json.loads(body)
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert {name: stats.pop(name) for name in ("end", "host", "info", "state", "why")} == {
        "end": end,
        "host": socket.gethostname(),
        "info": {"archive": "/srv/<b>logs"},
        "state": "OK",
        "why": "",
    }
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", stats.pop("version"))
    told = {name: value for name, value in msgspec.to_builtins(snapshot()).items() if name not in NOT_TOLD}
    assert stats == told


@pytest.mark.parametrize("snapshot", [receiver_snapshot, shipper_snapshot], ids=["receiver", "shipper"])
def test_every_statistic_is_documented(snapshot):
    """docs/api.md explains each field of /api/stats."""
    page = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
    fields = json.loads(stats_json(snapshot(), (True, ""), {}))
    assert [name for name in fields if f"`{name}`" not in page] == []


def test_each_question_gets_the_numbers_of_now():
    """Nothing is kept between two requests."""
    metrics = ReceiverMetrics(now=0.0)
    with served(dashboard(lambda: metrics.snapshot(1.0))) as server:
        before = json.loads(get(server, "/api/stats")[2])["clients"]
        metrics.clients = 7
        assert (before, json.loads(get(server, "/api/stats")[2])["clients"]) == (0, 7)


def test_an_end_that_cannot_do_its_work_is_degraded_and_says_why():
    """The state comes from the end itself; the process is alive all the same."""
    with served(dashboard(ready=lambda: (False, "no space left"))) as server:
        stats = json.loads(get(server, "/api/stats")[2])
        assert (stats["state"], stats["why"]) == ("DEGRADED", "no space left")
        assert get(server, "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("GET", "/", None, 200),
        ("HEAD", "/api/stats", None, 200),
        ("GET", "/healthz", None, 200),
        ("GET", "/nothing", None, 404),
        ("GET", "/api/stats/", None, 404),
        ("GET", "/server.py", None, 404),
        ("GET", "/..%2fserver.py", None, 404),
        ("POST", "/", None, 405),
        ("DELETE", "/api/stats", None, 405),
        ("OPTIONS", "/api/stats", None, 405),
        ("GET", "/", "attacker.example", 421),
        ("POST", "/nothing", "attacker.example", 421),
    ],
)
def test_every_answer_tells_the_browser_what_it_may_do(server, method, path, host, status):
    """Only GET and HEAD, no path but ours; the security headers are on refusals too."""
    answer, headers, body = get(server, path, method=method, host=host)
    assert answer == status
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers
    if method == "HEAD":
        assert body == b""
        assert int(headers["content-length"]) > 0
    if status == 405:
        assert {name.strip() for name in headers["allow"].split(",")} == {"GET", "HEAD"}


MACHINE = socket.gethostname().lower()
LOOPBACK = [
    "localhost",
    "LOCALHOST:8080",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1:8080",
    "127.8.9.1",
    "[::1]",
    "[::1]:80",
]
STRANGERS = [
    "",
    "attacker.example",
    "localhost.attacker.example",
    "127.0.0.1.attacker.example",
    "attacker.example:127",
    "[::1]attacker",
    "::1",
    "[attacker.example]",
    "localhost:",
    "localhost:http",
    "localhost, attacker.example",
    "user@localhost",
    "2130706433",
    "127.1",
    "[fe80::1%25eth0]",
    "local host",
    "\u212aocalhost",
]


@pytest.mark.parametrize(
    ("bound", "own", "foreign"),
    [
        ("127.0.0.1", [*LOOPBACK, MACHINE], ["192.0.2.7", "10.0.0.1", "0.0.0.0"]),
        ("192.0.2.7", [*LOOPBACK, MACHINE, "192.0.2.7:8080"], ["192.0.2.8"]),
        ("2001:db8::7", [*LOOPBACK, "[2001:DB8::7]:8080"], ["[2001:db8::8]"]),
        ("Logs.Example.org", [*LOOPBACK, "logs.example.org:8080"], ["example.org"]),
        ("0.0.0.0", [*LOOPBACK, MACHINE, "192.0.2.7:8080", "[2001:db8::7]"], []),
        ("::", [*LOOPBACK, MACHINE, "192.0.2.7:8080", "[2001:db8::7]"], []),
    ],
)
def test_only_names_of_this_host_are_answered(bound, own, foreign):
    """A rebound DNS name is refused however it is spelled; bound to everything, any literal address is ours."""
    is_own = own_names(bound)
    assert [name for name in own if not is_own(name)] == []
    assert [name for name in [*STRANGERS, *foreign] if is_own(name)] == []


def exchange(server, request):
    """What came back for raw bytes, until the server closed or said no more for a moment."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=1.0) as connection:
        answer = b""
        with contextlib.suppress(OSError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                answer += data
        return answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
        b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%ff%00%0d%0a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"POST /api/stats HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\nx",
        b"POST /api/stats HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_a_hostile_request_gets_a_refusal(server, request_bytes):
    """Never a server error, and the next one is answered."""
    answer = exchange(server, request_bytes)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:100]
    assert get(server, "/")[0] == 200


@pytest.mark.parametrize("query", ["x=", "x[]=1", "x=null&x=%5B%5D", "=" * 5000, "%00", "a=1e999"])
def test_parameters_that_nobody_asked_for_change_nothing(server, query):
    """The statistics are the same with any query, and so they are where an upgrade is asked for that is not had."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", "Range": "bytes=9-1"}
    status, _, body = get(server, f"/api/stats?{query}", headers=upgrade)
    assert status == 200
    assert json.loads(body)["clients"] == 2


def test_a_port_in_use_is_an_error_at_start():
    """start() raises OSError, and leaves nothing behind."""

    async def start_beside(port):
        server = dashboard(port=port)
        with pytest.raises(OSError, match="in use"):
            await server.start()
        await server.stop()

    with socket.create_server(("127.0.0.1", 0)) as taken:
        asyncio.run(start_beside(taken.getsockname()[1]))


def test_a_host_that_is_none_is_an_error_at_start():
    """An address of another machine cannot be had."""

    async def start():
        with pytest.raises(OSError, match=r"192\.0\.2\.1"):
            await dashboard(host="192.0.2.1").start()

    asyncio.run(start())


def test_localhost_is_every_address_it_stands_for_on_one_port():
    """With port 0 too: whichever address the browser tries first is answered."""
    with served(dashboard(host="localhost")) as server:
        here = {address[0] for *_, address in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
        for address in here & {"127.0.0.1", "::1"}:
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(socket.create_server((address, 0), family=socket.getaddrinfo(address, 0)[0][0]))
                except OSError:
                    continue  # ::1 in the hosts file of a machine without IPv6
                stack.enter_context(socket.create_connection((address, server.port)))


def test_signals_stay_with_the_owner_of_the_process():
    """While the server runs, SIGTERM reaches the handler that was there before, and only that."""

    async def run():
        loop = asyncio.get_running_loop()
        terminated = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, terminated.set)
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        server = dashboard()
        await server.start()
        await asyncio.to_thread(get, server, "/healthz")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60):
            await terminated.wait()
        await asyncio.sleep(0.25)  # two of uvicorn's ticks: it would have stopped by now
        assert (await asyncio.to_thread(get, server, "/healthz"))[0] == 200
        await server.stop()
        loop.remove_signal_handler(signal.SIGTERM)

    asyncio.run(run())


def test_a_stop_is_prompt_with_connections_open():
    """Idle, half a request, an answer that nobody reads: stop() ends them all, and the port is free."""

    async def run():
        server = dashboard()
        await server.start()
        address = ("127.0.0.1", server.port)
        question = b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        idle, silent, half, deaf = [socket.create_connection(address) for _ in range(4)]
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        idle.sendall(question)
        half.sendall(question[:20])
        deaf.sendall(question * 2_000)
        assert (await asyncio.to_thread(idle.recv, 100)).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(30):
            await server.stop()
        for connection in (idle, silent, half, deaf):
            connection.close()
        socket.create_server(address).close()

    asyncio.run(run())


def test_connections_over_the_limit_are_refused():
    """Browsers cannot use up the descriptors that shippers need; one that leaves makes room."""
    with served(dashboard(max_connections=3)) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            held = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            held.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert held.recv(10) == b"HTTP/1.1 2"
        with pytest.raises((ConnectionError, TimeoutError)):
            get(server, "/healthz")
        held.close()
        deadline = time.monotonic() + 60
        while True:
            try:
                assert get(server, "/healthz")[0] == 200
                return
            except ConnectionError:
                assert time.monotonic() < deadline, "no room was made"
