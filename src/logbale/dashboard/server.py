"""DashboardServer: one page with live numbers, and the same numbers as JSON (docs/api.md).

Answers GET and HEAD for this host's own names only, and a wrong parameter with 400 and one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib import resources

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router

from logbale.dashboard.api import clients_json, history_json, stats_json
from logbale.dashboard.guard import Guard, own_names
from logbale.dashboard.parameters import ParameterError, choice, unix_time
from logbale.dashboard.password import Password
from logbale.dashboard.tail import tail_route
from logbale.http_server import MAX_CONNECTIONS, HTTPServer
from logbale.metrics import Snapshot
from logbale.metrics_server import Ready, healthz, readyz
from logbale.monitor import Monitor
from logbale.sinks.live_tail import LiveTail
from logbale.tls.server import Listening

_FILES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "panels.css": "text/css",
    "icon.svg": "image/svg+xml",
    "app.js": "text/javascript",
    "charts.js": "text/javascript",
    "client_detail.js": "text/javascript",
    "clients.js": "text/javascript",
    "dom.js": "text/javascript",
    "ends.js": "text/javascript",
    "entry.js": "text/javascript",
    "format.js": "text/javascript",
    "history.js": "text/javascript",
    "level_changes.js": "text/javascript",
    "line_regex.js": "text/javascript",
    "numbers.js": "text/javascript",
    "plot.js": "text/javascript",
    "regex_worker.js": "text/javascript",
    "tail.js": "text/javascript",
    "tail_filter.js": "text/javascript",
    "theme.js": "text/javascript",
    "vendor/uPlot.iife.min.js": "text/javascript",
    "vendor/uPlot.min.css": "text/css",
}


def always_ready() -> tuple[bool, str]:
    """For an end that has nothing to be unready for."""
    return True, ""


class DashboardServer(HTTPServer):
    """Serves the page, /api/stats, /healthz and /readyz; with a receiver's `monitor` and `live` all of /api.

    `snapshot` and `ready` are called for each answer, on the event loop. `info` is what the page tells about this end
    beside its numbers, for example where the archive is: label to text.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        *,
        host: str,
        port: int,
        info: Mapping[str, str],
        ready: Ready = always_ready,
        monitor: Monitor | None = None,
        live: LiveTail | None = None,
        password: Password | None = None,
        tls: Listening | None = None,
        max_connections: int = MAX_CONNECTIONS,
        errors: Counter[str] | None = None,
        names: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`names` are further ones of this host's: those of its certificate."""
        routes = [Route(f"/{name}", _file(name, media_type)) for name, media_type in _FILES.items()]
        routes += [
            Route("/", _file("index.html", "text/html")),
            Route("/healthz", healthz),
            Route("/readyz", readyz(ready)),
            Route("/api/stats", _json(lambda request: stats_json(snapshot(), ready(), info, monitor))),
        ]
        if monitor is not None:
            routes += _receiver_routes(monitor)
        if live is not None:
            routes.append(tail_route(live))
        guarded = Guard(Router(routes, redirect_slashes=False), own_names(host, names), password)
        super().__init__(guarded, host=host, port=port, tls=tls, max_connections=max_connections, errors=errors)


def _receiver_routes(monitor: Monitor) -> list[Route]:
    def history(request: Request) -> bytes:
        query = request.query_params
        return history_json(monitor, choice(query, "range", monitor.history.ranges), unix_time(query, "since"))

    return [
        Route("/api/history", _json(history)),
        Route("/api/clients", _json(lambda request: clients_json(monitor))),
    ]


def _json(body: Callable[[Request], bytes]) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        try:
            return Response(body(request), media_type="application/json")
        except ParameterError as error:
            return PlainTextResponse(f"{error}\n", 400)

    return send


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = resources.files(__package__).joinpath(name).read_bytes()

    async def send(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return send
