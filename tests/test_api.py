"""What the API promises: the JSON that docs/api.md has, and a plain refusal of any parameter that makes no sense."""

import contextlib
import json
import re
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from serving import get, served

from logbale.clients import Clients
from logbale.config import Settings
from logbale.dashboard.server import DashboardServer
from logbale.history import COLUMNS
from logbale.liveness import Liveness
from logbale.metrics import ReceiverMetrics
from logbale.monitor import Monitor
from logbale.protocol import Algorithm
from logbale.reports import Report, encode_report

PAGE = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
XSS = "<script>alert(1)</script>"


def dashboard():
    """A receiver's, without the receiver: two clients, and ten seconds of history."""
    metrics, clients, now = ReceiverMetrics(now=0.0), Clients(), [100.0]
    server = SimpleNamespace(
        metrics=metrics, clients=clients, committer=SimpleNamespace(storage_error=None), settings=Settings()
    )
    monitor = Monitor(server, None, clock=lambda: now[0], day_clock=lambda: 1000.0 + now[0])
    client = clients.connected(
        stream="web-1", address="192.0.2.1:7", host=XSS, agent="logbale/1", live=Liveness(100.0), now=100.0
    )
    report = Report(read=90, delivered=40, waiting_entries=50, level=5, changes=[(1101.0, 6, 5, XSS)])
    client.take_report(encode_report(report), 100.0)
    clients.connected(stream="", address="192.0.2.1:8", live=Liveness(100.0), now=100.0)
    for _ in range(10):
        metrics.batch_received(Algorithm.ZSTD, entries=50, raw_bytes=5000, wire_bytes=500)
        metrics.levels_received({"ERROR": 1, "": 49})
        metrics.stored_entries += 50
        metrics.item_stored(now[0], now[0] - 0.01)
        client.add(Algorithm.ZSTD, 50, 5000, 500)
        now[0] += 1.0
        monitor.tick(metrics.snapshot(now[0]))
    return DashboardServer(
        lambda: metrics.snapshot(now[0]),
        host="127.0.0.1",
        port=0,
        info={},
        ready=monitor.ready,
        monitor=monitor,
    )


@pytest.fixture(scope="module")
def server():
    with served(dashboard()) as server:
        yield server


def ask(server, path):
    status, headers, body = get(server, path)
    assert (status, headers["content-type"]) == (200, "application/json")
    return json.loads(body)


def fields(value):
    """Every name in a JSON value."""
    if isinstance(value, dict):
        return {name for key, item in value.items() for name in {key} | fields(item)}
    return {name for item in value for name in fields(item)} if isinstance(value, list) else set()


@pytest.mark.parametrize("path", ["/api/stats", "/api/history", "/api/clients"])
def test_every_field_is_documented(server, path):
    """docs/api.md has each name of the answer."""
    names = fields(ask(server, path)) - {"ERROR", "zstd", ""}
    assert [name for name in names if not re.search(rf"\b{name}\b", PAGE)] == []


def test_the_statistics_tell_what_a_receiver_knows_beside_its_counters(server):
    """Latency, levels, what the shippers report, alarms, the disk, the time."""
    stats = ask(server, "/api/stats")
    assert stats["latency"]["count"] == 10
    assert stats["latency"]["p99"] == pytest.approx(0.01, rel=0.3)
    assert stats["levels"] == {"ERROR": 10, "": 490}
    assert stats["shippers"] == {
        "reporting": 1,
        "read_entries": 90,
        "delivered_entries": 40,
        "rejected_entries": 0,
        "dropped": {},
        "waiting_entries": 50,
    }
    assert (stats["state"], stats["alarms"], stats["disk"], stats["last_sync"]) == ("OK", [], None, None)
    assert stats["now"] == 1110.0


def test_the_history_is_told_by_column(server):
    """All of it, or what is later than `since`; the last changes of level."""
    history = ask(server, "/api/history")
    assert (history["step"], history["now"]) == (1, 1110.0)
    assert list(history["columns"]) == list(COLUMNS)
    assert history["columns"]["time"] == [float(n) for n in range(1101, 1111)]
    assert set(history["columns"]["entries"]) == {50.0}
    assert history["columns"]["ratio_gzip"] == [None] * 10
    assert history["level_changes"] == [
        {"time": 1101.0, "stream": "web-1", "host": XSS, "from": 6, "to": 5, "reason": XSS}
    ]
    assert ask(server, "/api/history?range=24h")["step"] == 60
    later = ask(server, "/api/history?range=15m&since=1108.5")
    assert (later["columns"]["time"], later["level_changes"]) == ([1109.0, 1110.0], [])


def test_the_clients_are_told_with_what_they_report(server):
    """A base client has no report, and nothing that only a report can tell."""
    answer = ask(server, "/api/clients")
    web, base = answer["clients"]
    assert (web["id"], web["host"], web["entries"], web["level"], web["lag_batches"]) == ("web-1", XSS, 500, 5, 0)
    assert (web["report"]["read"], web["report"]["waiting_entries"]) == (90, 50)
    assert (base["id"], base["report"], base["level"]) == ("base/192.0.2.1:8", None, None)
    assert answer["left_out"] == 0


HOSTILE = {
    "nothing": "",
    "null": "null",
    "a list": "[]",
    "an object": '{"a":1}',
    "1e999": "1e999",
    "not a number": "NaN",
    "infinite": "Infinity",
    "negative": "-1",
    "a sum": "1+1",
    "underscores": "1_000",
    "another script's digits": "١٢٣",
    "a bool": "true",
    "a nul": "15m\0",
    "a newline": "15m\n",
    "no utf-8": b"\xff\xfe",
    "half a pair": "\ud800".encode("utf-8", "surrogatepass"),
    "markup": XSS,
    "fifty thousand characters": "9" * 50_000,
}


@pytest.mark.parametrize("name", ["range", "since"])
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_parameter_that_makes_no_sense_is_refused(server, name, value):
    """400 and one short line of plain text, never 500; the next question is answered."""
    status, headers, body = get(server, f"/api/history?{name}={quote(value)}")
    assert status == 400
    assert headers["content-type"].startswith("text/plain")
    assert len(body) < 300
    assert body.isascii()
    assert body.count(b"\n") == 1
    assert body.startswith(f"{name}=".encode())
    assert get(server, "/api/history")[0] == 200


@pytest.mark.parametrize("path", ["/api/stats", "/api/clients"])
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_parameter_that_is_none_changes_nothing(server, path, value):
    """Unknown ones are ignored, whatever they are."""
    assert get(server, f"{path}?x={quote(value)}")[0] == 200


@pytest.mark.parametrize("path", ["/api/stats?x=", "/api/history?range=", "/api/history?since=", "/api/clients?x="])
def test_a_line_of_a_million_characters_is_refused(server, path):
    """The HTTP server does it, at 64 KiB: 400, or a connection that ends while the question is still being asked."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(f"GET {path}{'9' * 1_000_000} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert get(server, "/api/history")[0] == 200


@pytest.mark.parametrize("query", ["range=15m&range=15m", "since=1&since=2"])
def test_a_parameter_is_given_once(server, query):
    """Which of two is meant, nobody knows."""
    status, _, body = get(server, f"/api/history?{query}")
    assert (status, body) == (400, f"{query.partition('=')[0]}: given 2 times, expected once\n".encode())


def test_a_shippers_dashboard_has_no_clients():
    """It answers 404 where a receiver has a history."""
    metrics = ReceiverMetrics(now=0.0)
    with served(DashboardServer(lambda: metrics.snapshot(1.0), host="127.0.0.1", port=0, info={})) as server:
        assert [get(server, path)[0] for path in ("/api/history", "/api/clients", "/api/stats")] == [404, 404, 200]


def test_a_thousand_clients_are_told_quickly(monkeypatch):
    """A page asks every few seconds: an answer takes a small part of one on the receiver's own loop."""
    from logbale.dashboard.api import clients_json

    clients = Clients()
    for n in range(1000):
        client = clients.connected(stream=f"web-{n}", address="192.0.2.1:7", live=Liveness(0.0), now=0.0)
        client.take_report(encode_report(Report(read=1, delivered=1, waiting_entries=0)), 0.0)
    server = SimpleNamespace(clients=clients, metrics=ReceiverMetrics(now=0.0), settings=Settings())
    monitor = Monitor(server, None)
    began = time.thread_time()
    assert len(json.loads(clients_json(monitor))["clients"]) == 1000
    assert time.thread_time() - began < 0.2
