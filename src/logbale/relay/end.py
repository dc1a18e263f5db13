"""RelayEnd: what makes a relay of a receiver: the sink, its sessions upstream, and how both end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from logbale.config import Settings
from logbale.relay.upstream import upstream_settings
from logbale.reloading import Reloading
from logbale.sinks.relay import RelaySink
from logbale.tls.files import TLSFiles, for_shipper
from logbale.tls.material import ShipperTLS


class RelayEnd:
    """open() makes one. `sink` is the receiver's to close, after drain()."""

    def __init__(self, sink: RelaySink, tls: TLSFiles[ShipperTLS] | None) -> None:
        self.sink = sink
        self._tls = tls
        parts = [sink.run(), *([tls.watch()] if tls is not None else [])]
        self.tasks = [asyncio.create_task(part) for part in parts]
        """They run for ever, and end by an error that nobody foresaw."""

    @classmethod
    async def open(cls, settings: Settings, reloading: Reloading) -> RelayEnd:
        """Recovers the spools, and forwards from now on. Raises ConfigError and StorageError."""
        upstream = upstream_settings(settings)
        tls = for_shipper(upstream)
        sink = RelaySink(
            Path(settings.relay_dir),
            upstream,
            connections=settings.relay_connections,
            tls=(lambda: tls.current) if tls is not None else lambda: None,
            **_limits(settings),
        )
        await sink.open()

        def follow(settings: Settings) -> Callable[[], None]:
            upstream = upstream_settings(settings)
            commit_tls = tls.prepare(upstream) if tls is not None else lambda: None

            def commit() -> None:
                commit_tls()
                sink.limit(**_limits(settings))
                sink.forwarding.follow(upstream, connections=settings.relay_connections)

            return commit

        reloading.add(follow)
        return cls(sink, tls)

    async def drain(self, ends: float, at_once: asyncio.Event) -> None:
        """Forwards what waits, until `ends` (by time.monotonic) or until it is asked to end at once."""
        draining = asyncio.create_task(self.sink.drain())
        asked = asyncio.create_task(at_once.wait())
        tasks = {draining, asked, *self.tasks}
        await asyncio.wait(tasks, timeout=max(0.0, ends - monotonic()), return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _limits(settings: Settings) -> dict[str, Any]:
    """What RelaySink is told, at its start and when it changes."""
    return {
        "max_bytes": settings.spool_max_bytes,
        "max_memory": settings.buffer_max_bytes,
        "max_streams": settings.max_streams,
        "marks_days": settings.marks_days,
    }
