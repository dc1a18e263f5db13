"""DashboardServer: one page with live numbers, and the same numbers as JSON (docs/api.md).

Answers GET and HEAD for this host's own names only: a page of somebody else's that makes its name point here (DNS
rebinding) gets 421. The browser is told to load, run and frame nothing but these files.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from ipaddress import ip_address

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from logbale import __version__
from logbale.dashboard.tail import tail_route
from logbale.http_server import HTTPServer
from logbale.metrics import ReceiverSnapshot, Snapshot
from logbale.metrics_server import healthz
from logbale.sinks.live_tail import LiveTail

_FILES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
    "app.js": "text/javascript",
    "charts.js": "text/javascript",
    "dom.js": "text/javascript",
    "format.js": "text/javascript",
    "history.js": "text/javascript",
}

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def always_ready() -> tuple[bool, str]:
    """For an end that has nothing to be unready for."""
    return True, ""


class DashboardServer(HTTPServer):
    """Serves /, /api/stats, /api/tail and /healthz.

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
        ready: Callable[[], tuple[bool, str]] = always_ready,
        live: LiveTail | None = None,
    ) -> None:
        async def stats(request: Request) -> Response:
            return Response(stats_json(snapshot(), ready(), info), media_type="application/json")

        routes = [Route(f"/{name}", _file(name, media_type)) for name, media_type in _FILES.items()]
        routes += [Route("/", _file("index.html", "text/html")), Route("/api/stats", stats), Route("/healthz", healthz)]
        routes.append(tail_route(live))
        super().__init__(_Guard(Router(routes, redirect_slashes=False), own_names(host)), host=host, port=port)


def stats_json(snapshot: Snapshot, ready: tuple[bool, str], info: Mapping[str, str]) -> bytes:
    """The body of /api/stats: every field of the snapshot beside the end's state and identity."""
    is_ready, why = ready
    return msgspec.json.encode(
        {
            "end": "receiver" if isinstance(snapshot, ReceiverSnapshot) else "shipper",
            "version": __version__,
            "host": socket.gethostname(),
            "info": dict(info),
            "state": "OK" if is_ready else "DEGRADED",
            "why": why,
            **msgspec.structs.asdict(snapshot),
        }
    )


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = resources.files(__package__).joinpath(name).read_bytes()

    async def send(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return send


# Host headers


_HOST_HEADER = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]+))(?::\d{1,5})?")


def own_names(host: str) -> Callable[[str], bool]:
    """Whether a Host header names this machine, for a dashboard bound to `host`.

    localhost and loopback addresses, `host` itself and the machine's host name do. Bound to every address (0.0.0.0,
    ::), any literal address does too: rebinding needs a name, and which addresses lead here only the network knows.
    """
    names = {"localhost", host.lower(), socket.gethostname().lower()}
    everywhere = host in ("", "0.0.0.0", "::")

    def is_own(header: str) -> bool:
        match = _HOST_HEADER.fullmatch(header.strip().lower())
        if match is None:
            return False
        name = match["ipv6"] or match["name"].removesuffix(".")
        if name in names:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return everywhere or address.is_loopback

    return is_own


class _Guard:
    """Refuses other hosts' names, and puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, is_own: Callable[[str], bool]) -> None:
        self._app = app
        self._is_own = is_own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        app = self._app
        if not self._is_own(Headers(scope=scope).get("host", "")):
            app = PlainTextResponse(
                "This dashboard answers to localhost, to this machine's name and to DASHBOARD_HOST only.\n", 421
            )
        await app(scope, receive, send_with_headers)
