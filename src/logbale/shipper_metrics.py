"""A shipper's /metrics, /healthz and /readyz."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from ssl import SSLContext

from logbale.config import Settings
from logbale.metrics import ShipperMetrics, ShipperSnapshot
from logbale.tls.files import TLSFiles
from logbale.tls.material import ShipperTLS


@contextlib.asynccontextmanager
async def serving_metrics(
    settings: Settings,
    metrics: ShipperMetrics,
    snapshot: Callable[[], ShipperSnapshot],
    status: Callable[[], tuple[bool, str]],
    tls: TLSFiles[ShipperTLS] | None,
) -> AsyncIterator[None]:
    """Served while the body runs, where METRICS_PORT asks for them; `status` is whether it is ready, and why not."""
    if not settings.metrics_port:
        yield
        return
    # Here, not above: the web server's modules would cost every shipper its memory and a tenth of its start-up.
    from logbale.metrics_server import MetricsServer
    from logbale.tls.server import Failures, Listening, http_answer

    def context() -> SSLContext:
        web = tls.current.web if tls is not None else None
        assert web is not None, "settings do not change"
        return web

    is_encrypted = tls is not None and tls.current.web is not None
    server = MetricsServer(
        snapshot,
        status,
        host=settings.dashboard_host,
        port=settings.metrics_port,
        tls=Listening(context, Failures(metrics.errors), plain_answer=http_answer) if is_encrypted else None,
        max_connections=settings.dashboard_max_connections,
        errors=metrics.errors,
    )
    await server.start()
    try:
        yield
    finally:
        await server.stop()
