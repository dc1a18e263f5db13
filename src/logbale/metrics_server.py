"""MetricsServer: what machines ask, at either end (METRICS_PORT).

/metrics for Prometheus, /healthz (the process answers), /readyz (it can do its work; 503 and why otherwise). Exempt
from the dashboard's rules: probes and scrapers come from other hosts, by whatever name, and read numbers only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router

from logbale.exposition import CONTENT_TYPE, Exposition
from logbale.http_server import MAX_CONNECTIONS, HTTPServer
from logbale.kafka.metrics import AnySnapshot
from logbale.tls.server import Listening

if TYPE_CHECKING:  # a shipper has none, and should not load it
    from logbale.monitor import Monitor

Ready = Callable[[], tuple[bool, str]]
"""Whether this end can do its work now, and if not, why."""

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class MetricsServer(HTTPServer):
    """Serves /metrics, /healthz and /readyz."""

    def __init__(
        self,
        snapshot: Callable[[], AnySnapshot],
        ready: Ready,
        *,
        host: str,
        port: int,
        monitor: Monitor | None = None,
        tls: Listening | None = None,
        max_connections: int = MAX_CONNECTIONS,
        errors: Counter[str] | None = None,
    ) -> None:
        exposition = Exposition(snapshot, monitor.overview if monitor is not None else None)

        async def metrics(request: Request) -> Response:
            return Response(exposition.text(), headers={**_HEADERS, "Content-Type": CONTENT_TYPE})

        routes = [Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz(ready))]
        super().__init__(
            Router(routes, redirect_slashes=False),
            host=host,
            port=port,
            tls=tls,
            max_connections=max_connections,
            errors=errors,
        )


async def healthz(request: Request) -> Response:
    """The process is alive: its event loop answers."""
    return PlainTextResponse("ok\n", headers=_HEADERS)


def readyz(ready: Ready) -> Callable[[Request], Awaitable[Response]]:
    """The end can do its work, or 503 and why not."""

    async def answer(request: Request) -> Response:
        is_ready, why = ready()
        return PlainTextResponse("ready\n" if is_ready else f"{why}\n", 200 if is_ready else 503, _HEADERS)

    return answer
