"""A dashboard whose numbers a test sets: for states that a real receiver seldom has. It serves the real page.

`python tests/fake_dashboard.py` serves it with made-up traffic, for working on the page without a pipeline.
"""

import asyncio
import json
import math
import random
import sys
import time

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from logbale.dashboard.guard import Guard, own_names
from logbale.dashboard.server import _FILES, _file
from logbale.http_server import HTTPServer


def stats(**changed):
    """What /api/stats of a busy receiver says, but for what is given."""
    totals = {"batches": 7_208, "entries": 360_400, "raw_bytes": 82_892_000, "wire_bytes": 9_111_600}
    return {
        "end": "receiver",
        "version": "0.1.0",
        "host": "logs-1",
        "info": {"sink": "archive", "archive": "/srv/archive"},
        "state": "OK",
        "why": "listening, storing",
        "now": time.time(),
        "uptime": 3604.2,
        "clients": 2,
        "connections": 3,
        "received": totals,
        "ratio": 9.1,
        "rates": {"entries": 98_765.4, "raw_bytes": 23_456_789.0, "wire_bytes": 2_578_123.0},
        "mean_rates": {"entries": 100.0, "raw_bytes": 22_998.7, "wire_bytes": 2_528.1},
        "by_algorithm": {"zstd": totals},
        "stored_entries": 360_350,
        "duplicate_entries": 0,
        "rejected_entries": 0,
        "skipped_entries": 0,
        "lost_batches": 0,
        "waiting_entries": 50,
        "in_flight_bytes": 11_500,
        "sessions": 2,
        "context_bytes": 600_000,
        "window_log": 17,
        "bad_frames": 0,
        "errors": {},
        "latency": {"p50": 0.004, "p99": 0.012, "count": 1234},
        "shippers": {
            "reporting": 2,
            "read_entries": 361_000,
            "delivered_entries": 360_300,
            "dropped": {"dropped_oldest": 100},
            "rejected_entries": 0,
            "waiting_entries": 600,
        },
        "levels": {"INFO": 300_000, "WARNING": 50_000, "ERROR": 10_000, "": 400},
        "alarms": [],
        "disk": {"path": "/srv/archive", "free_bytes": 73e9, "total_bytes": 252e9},
        "last_sync": time.time(),
    } | changed


def client(id="a", **changed):
    """A row of /api/clients, but for what is given."""
    now = time.time()
    return {
        "id": id,
        "stream": f"{id}-3f2a91c0b4d2",
        "host": f"web-{id}",
        "agent": "logbale/0.1.0",
        "address": "192.0.2.7:41234",
        "identity": "",
        "connected": True,
        "connected_since": now - 300,
        "last_seen": now,
        "entries_per_second": 120.0,
        "entries": 36_000,
        "raw_bytes": 8_000_000,
        "wire_bytes": 800_000,
        "ratio": 10.0,
        "algorithm": "zstd",
        "level": 6,
        "level_reason": "nothing waits",
        "lag_batches": 2,
        "lag_seconds": 0.25,
        "spool_bytes": 12_000,
        "reconnects": 1,
        "dropped": {},
        "report": {"read": 36_100, "delivered": 36_000, "waiting_entries": 100, "cpu_percent": 12.5},
        "reported_at": now - 2,
    } | changed


def history(step, samples, now, **columns):
    """An answer of /api/history: `samples` of the last time, all columns flat but for what is given."""
    flat = {
        "entries": 1000.0,
        "raw_bytes": 2e6,
        "wire_bytes": 2e5,
        "ratio_zstd": 10.0,
        "p50": 0.004,
        "p99": 0.02,
        "level": 6,
        "cpu_percent": 20.0,
        "backlog_bytes": 0,
        "errors": 3.0,
        "warnings": 12.0,
        "clients": 2,
    }
    times = [now - step * (samples - 1 - n) for n in range(samples)]
    made = {name: [value] * samples for name, value in flat.items()}
    return {"step": step, "now": now, "columns": {"time": times} | made | columns, "level_changes": []}


def entry(message, *, level="INFO", service="web", **more):
    """An entry's JSON text."""
    fields = {"timestamp": "2026-11-24T08:30:00.123456Z", "level": level, "service": service, "message": message}
    return json.dumps(fields | more, ensure_ascii=False)


class FakeDashboard(HTTPServer):
    """The page and its four questions; what is answered are attributes that anybody may set."""

    def __init__(self, port=0):
        self.questions = []
        """Path and query of every request, in order."""
        self.resumed = []
        """The Last-Event-ID of every viewer, "" where there was none."""
        self._viewers = set()
        self._kept = []
        self.last_id = 0
        self.forget()
        routes = [Route(f"/{name}", _file(name, media_type)) for name, media_type in _FILES.items()]
        routes += [
            Route("/", _file("index.html", "text/html")),
            Route("/api/stats", self._answer(lambda request: self.stats | {"now": time.time()})),
            Route("/api/clients", self._answer(lambda request: {"now": time.time()} | self.clients)),
            Route("/api/history", self._answer(self._history)),
            Route("/api/tail", self._tail),
        ]
        super().__init__(Guard(Router(routes), own_names("127.0.0.1")), host="127.0.0.1", port=port)

    def forget(self):
        """Begins anew, as if nothing had happened."""
        self.stats = stats()
        self.clients = {"clients": [client("a"), client("b")], "left_out": 0}
        self.history = lambda span, now: history(60 if span == "24h" else 1, 300, now)
        self.is_silent = False
        self.tail_refusal = None
        self._kept.clear()
        self.questions.clear()
        self.resumed.clear()

    async def start(self):
        """As it says; from then on send() may be called from any thread."""
        self._loop = asyncio.get_running_loop()
        await super().start()

    def _answer(self, answer):
        async def respond(request: Request) -> Response:
            self.questions.append(str(request.url).split("/", 3)[3])
            if self.is_silent:
                return PlainTextResponse("not now", 503)
            return Response(json.dumps(answer(request)), media_type="application/json")

        return respond

    def _history(self, request):
        answer = self.history(request.query_params["range"], time.time())
        since = float(request.query_params.get("since", 0))
        kept = [index for index, moment in enumerate(answer["columns"]["time"]) if moment > since]
        columns = {name: [values[index] for index in kept] for name, values in answer["columns"].items()}
        return answer | {"columns": columns}

    async def _tail(self, request: Request) -> Response:
        self.questions.append(str(request.url).split("/", 3)[3])
        if self.tail_refusal is not None:
            return PlainTextResponse(self.tail_refusal, 503)
        last = request.headers.get("last-event-id", "")
        self.resumed.append(last)
        queue = asyncio.Queue()
        self._viewers.add(queue)
        for id, event in self._kept:
            if id > int(last or 0):
                queue.put_nowait(event)

        async def events():
            try:
                yield b": welcome\nretry: 100\n\n"
                while (event := await queue.get()) is not None:
                    yield event
            finally:
                self._viewers.discard(queue)

        return StreamingResponse(events(), media_type="text/event-stream")

    def _post(self, name, data):
        self.last_id += 1
        event = f"event: {name}\nid: {self.last_id}\ndata: {json.dumps(data)}\n\n".encode()
        self._kept.append((self.last_id, event))
        self._tell(event)

    def _tell(self, event):
        for queue in self._viewers:
            queue.put_nowait(event)

    def send(self, *entries):
        """These JSON texts come by; who comes later sees them too."""
        self._loop.call_soon_threadsafe(self._post, "entries", entries)

    def skip(self, entries, **more):
        """So many are said to be skipped."""
        self._loop.call_soon_threadsafe(self._post, "skipped", {"entries": entries, **more})

    def cut(self):
        """Ends the streams of all viewers, as a broken connection does."""
        self._loop.call_soon_threadsafe(self._tell, None)

    @property
    def viewers(self):
        """How many look at the tail."""
        return len(self._viewers)


def made_up(span, now):
    """A history with a shape: waves, a gap, changes of level."""
    step, kept = (60, 86_400) if span == "24h" else (1, 900)
    times = [math.floor(now / step) * step - step * n for n in reversed(range(kept // step))]
    phase = [2 * math.pi * t / (kept / 3) for t in times]
    chance = [random.Random(t).random() for t in times]
    raw = [2e7 * (1.2 + math.sin(p)) * (0.9 + 0.2 * c) for p, c in zip(phase, chance, strict=True)]
    level = [6 if math.sin(p) < 0.5 else 3 for p in phase]
    columns = {
        "entries": [value / 230 for value in raw],
        "raw_bytes": raw,
        "wire_bytes": [value / (9 + 2 * math.cos(p)) for value, p in zip(raw, phase, strict=True)],
        "ratio_zstd": [9 + 2 * math.cos(p) for p in phase],
        "ratio_gzip": [5 + 0.2 * c if c > 0.6 else None for c in chance],
        "p50": [0.004 + 0.002 * c for c in chance],
        "p99": [0.012 + (0.4 if c > 0.99 else 0.004 * c) for c in chance],
        "level": level,
        "cpu_percent": [50 + 30 * math.sin(p) + 8 * c for p, c in zip(phase, chance, strict=True)],
        "backlog_bytes": [max(0, 4e6 * math.sin(p)) for p in phase],
        "errors": [20 * c for c in chance],
        "warnings": [100 + 40 * c for c in chance],
        "clients": [4 for _ in times],
    }
    gap = range(len(times) // 2, len(times) // 2 + 40)
    columns = {
        name: [None if n in gap else value for n, value in enumerate(values)] for name, values in columns.items()
    }
    changes = [
        {
            "time": times[n],
            "stream": "web-1-3f2a",
            "host": "web-1",
            "from": level[n - 1],
            "to": level[n],
            "reason": "the link is what everything waits for (1.06 MB/s arrive, 4.4 MB wait, CPU 64 %)",
        }
        for n in range(1, len(times))
        if level[n] != level[n - 1]
    ]
    return {"step": step, "now": now, "columns": {"time": times} | columns, "level_changes": changes}


async def main():
    """Made-up traffic until Ctrl-C."""
    fake = FakeDashboard(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    fake.history = made_up
    fake.clients["clients"] = [client(f"{n}", connected=n % 7 != 0, entries_per_second=1000 / n) for n in range(1, 30)]
    await fake.start()
    print(f"http://127.0.0.1:{fake.port}/", flush=True)
    while True:
        await asyncio.sleep(0.5)
        level = random.choice(["INFO", "INFO", "INFO", "DEBUG", "WARNING", "ERROR"])
        fake.send(
            entry(f"GET /orders/{random.randrange(9999)} 200 in {random.randrange(90)} ms", level=level, host="web-1")
        )
        if random.random() < 0.1:
            fake.skip(random.randrange(1, 5000))


if __name__ == "__main__":
    asyncio.run(main())
