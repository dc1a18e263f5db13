"""What /api/tail promises over plain HTTP: events as browsers take them, filters, refusals, an end to the stalled."""

import asyncio
import contextlib
import http.client
import json
import socket
import time

import pytest
from serving import get, served
from test_dashboard import receiver_snapshot

from logbale import http_server
from logbale.dashboard import tail
from logbale.dashboard.server import DashboardServer
from logbale.sinks import ReceivedBatch
from logbale.sinks.live_tail import MAX_VIEWERS, LiveTail
from logbale.sse import EventDecoder


@contextlib.contextmanager
def tailed():
    """A dashboard with a live tail: `show(*objects)` stores entries, `tail(query, **headers)` looks at them."""
    live = LiveTail()
    server = DashboardServer(receiver_snapshot, host="127.0.0.1", port=0, info={}, live=live)

    async def store(lines):
        live.show([ReceivedBatch(b"".join(lines), len(lines), "", "")])

    def show(*objects):
        lines = [json.dumps(each).encode() + b"\n" for each in objects]
        asyncio.run_coroutine_threadsafe(store(lines), server.loop).result(60)

    with served(server), contextlib.ExitStack() as viewers:
        server.show, server.live = show, live
        server.tail = lambda *query, **headers: viewers.enter_context(
            contextlib.closing(Tail(server, *query, **headers))
        )
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(live.close(), server.loop).result(60)


@pytest.fixture
def server():
    with tailed() as server:
        yield server


class Tail:
    """A viewer's connection."""

    def __init__(self, server, query="", **headers):
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("GET", f"/api/tail?{query}", headers=names)
        self.response = self._connection.getresponse()
        self.decoder = EventDecoder()
        self._ahead = []
        if self.response.status == 200:
            assert self.response.read1(1000).startswith(b"retry: ")

    def event(self):
        """The next event; None at the end."""
        while not self._ahead:
            if not (some := self.response.read1(65536)):
                return None
            self._ahead += self.decoder.feed(some)
        return self._ahead.pop(0)

    def entries(self):
        """The entries of the next event."""
        event = self.event()
        assert event.name == "entries", event
        return [json.loads(text) for text in json.loads(event.data)]

    def close(self):
        self.response.close()
        self._connection.close()


def test_entries_come_as_events_with_rising_ids(server):
    """Each entry is the JSON text as it was stored; the headers let nobody keep or buffer it."""
    viewer = server.tail()
    assert viewer.response.getheader("content-type") == "text/event-stream; charset=utf-8"
    assert viewer.response.getheader("cache-control") == "no-store"
    server.show({"n": 1, "message": "a\u2028b\n\r<script>"}, {"n": 2})
    event = viewer.event()
    assert json.loads(event.data) == ['{"n": 1, "message": "a\\u2028b\\n\\r<script>"}', '{"n": 2}']
    server.show({"n": 3})
    assert int(viewer.event().id) == int(event.id) + 1


def test_the_query_chooses(server):
    """Text, levels, services; names with commas between them or one parameter each."""
    server.show(
        {"n": 1, "level": "ERROR", "service": "a", "message": "out of stock"},
        {"n": 2, "level": "warn", "service": "b", "message": "out of stock"},
        {"n": 3, "level": "INFO", "service": "a", "message": "out of stock"},
        {"n": 4, "level": "ERROR", "service": "c", "message": "out of stock"},
        {"n": 5, "level": "ERROR", "service": "a", "message": "in stock"},
    )

    def numbers(query):
        return [entry["n"] for entry in server.tail(f"last=10&{query}").entries()]

    assert numbers("") == numbers("q=&level=&service=&unknown=1") == [1, 2, 3, 4, 5]
    assert numbers("q=out+of%20stock&level=error,WARNING&service=a,b") == [1, 2]
    assert numbers("level=err&level=warning&service=b&service=c") == [2, 4]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("q=" + "x" * 257, "q: 257 characters, expected at most 256\n"),
        ("q=a&q=b", "q: given 2 times, expected once\n"),
        ("level=" + "a," * 65, "level: 65 names, expected at most 64 with commas between them\n"),
        ("last=1001", "last='1001': expected a number from 0 to 1000\n"),
        ("last=-1", "last='-1': expected a number from 0 to 1000\n"),
        ("last=1e999", "last='1e999': expected a number from 0 to 1000\n"),
        ("last=%D9%A3", "last='\\u0663': expected a number from 0 to 1000\n"),
        ("last=" + "9" * 10_000, f"last='{'9' * 40}'... (10000 characters): expected a number from 0 to 1000\n"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(server, query, message):
    """400, with the value, the limit and what was expected."""
    status, headers, body = get(server, f"/api/tail?{query}")
    assert (status, headers["content-type"], body.decode()) == (400, "text/plain; charset=utf-8", message)


def test_who_comes_again_goes_on_after_the_last_id(server):
    """As a browser does by itself; what is no number of ours begins at the end."""
    first = server.tail()
    server.show({"n": 1})
    first.event()
    first.close()
    server.show({"n": 2}, {"n": 3})
    again = server.tail(Last_Event_ID=first.decoder.last_id)
    odd = server.tail(Last_Event_ID="none")
    server.show({"n": 4})
    assert [entry["n"] for entry in again.entries()] + [entry["n"] for entry in again.entries()] == [2, 3, 4]
    assert [entry["n"] for entry in odd.entries()] == [4]


def test_what_is_missed_is_said_before_what_follows(server):
    """An event of its own, which has no id, so that a break between the two loses neither."""
    server.show({"n": 1})
    viewer = server.tail(Last_Event_ID="5")
    note = viewer.event()
    assert (note.name, note.id, json.loads(note.data)) == ("skipped", "", {"entries": 0, "restarted": True})
    assert [entry["n"] for entry in viewer.entries()] == [1]


def test_silence_is_broken_now_and_then(server, monkeypatch):
    """So that either end notices a dead connection; and the place to go on from moves past what did not fit."""
    monkeypatch.setattr(tail, "SILENCE", 0.05)
    viewer = server.tail("level=ERROR")
    server.show({"level": "INFO"})
    while viewer.decoder.last_id != str(server.live.base):
        assert viewer.decoder.feed(viewer.response.read1(100)) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
    ],
)
def test_a_page_from_elsewhere_is_refused(server, headers, status):
    """Its own page and programs are not."""
    assert server.tail(**{name.replace("-", "_"): value for name, value in headers.items()}).response.status == status


def test_its_own_origin_is_from_here(server):
    """With the port in it."""
    assert server.tail(Origin=f"http://127.0.0.1:{server.port}").response.status == 200


def test_one_too_many_hears_so_and_a_place_comes_free(server):
    """503; as soon as a viewer has gone, another one may look."""
    viewers = [server.tail() for _ in range(MAX_VIEWERS)]
    status, _, body = get(server, "/api/tail")
    assert (status, body) == (503, b"There is no place left at the live tail (20 may look); try again later.\n")
    viewers[0].close()
    deadline = time.monotonic() + 60
    while (viewer := server.tail()).response.status == 503:
        viewer.close()
        assert time.monotonic() < deadline
    for each in viewers[1:]:
        each.close()


def test_a_question_about_it_alone_takes_no_place(server):
    """HEAD is answered and over."""
    for _ in range(MAX_VIEWERS + 1):
        status, headers, body = get(server, "/api/tail", method="HEAD")
        assert (status, headers["content-type"], body) == (200, "text/event-stream; charset=utf-8", b"")


def test_an_end_without_a_live_tail_says_so():
    """A shipper's dashboard has none."""
    with served(DashboardServer(receiver_snapshot, host="127.0.0.1", port=0, info={})) as server:
        assert get(server, "/api/tail")[0] == 404


def test_the_end_of_the_tail_ends_the_answer(server):
    """A viewer is told that nothing comes any more, by the end of a whole answer."""
    viewer = server.tail()
    server.loop.call_soon_threadsafe(server.live.end)
    assert viewer.event() is None


def test_a_viewer_who_takes_nothing_is_cut_off(server, monkeypatch):
    """Its place comes free, and the others saw all of it."""
    monkeypatch.setattr(http_server, "STALLED", 0.2)
    stalled = socket.create_connection(("127.0.0.1", server.port))
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.sendall(b"GET /api/tail HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert stalled.recv(16)
    fast = server.tail()
    text = "x" * 50_000
    deadline, shown = time.monotonic() + 60, 0
    while len(server.live.viewers) > 1:
        assert time.monotonic() < deadline
        server.show({"text": text})
        shown += 1
        assert len(fast.entries()) == 1
    assert next(iter(server.live.viewers)).next == server.live.base + shown
    stalled.close()
