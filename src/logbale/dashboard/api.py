"""What the dashboard's API answers, as JSON (docs/api.md)."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import msgspec

from logbale import __version__
from logbale.metrics import ReceiverSnapshot, Snapshot
from logbale.monitor import Monitor

NOT_TOLD = ("ack_durations", "compress_durations", "publish_durations")
"""Fields of a snapshot that are for Prometheus: here their percentiles are."""


def stats_json(
    snapshot: Snapshot, ready: tuple[bool, str], info: Mapping[str, str], monitor: Monitor | None = None
) -> bytes:
    """The body of /api/stats: the snapshot beside the end's state and identity, and what a receiver's monitor knows."""
    is_ready, why = monitor.state() if monitor is not None else ready
    fields: dict[str, Any] = msgspec.structs.asdict(snapshot)
    for name in NOT_TOLD:
        fields.pop(name, None)
    return msgspec.json.encode(
        {
            "end": "receiver" if isinstance(snapshot, ReceiverSnapshot) else "shipper",
            "version": __version__,
            "host": socket.gethostname(),
            "info": dict(info),
            "state": "OK" if is_ready else "DEGRADED",
            "why": why,
            **fields,
            **(msgspec.structs.asdict(monitor.overview()) if monitor is not None else {}),
        }
    )


def history_json(monitor: Monitor, name: str, since: float) -> bytes:
    """The body of /api/history: one of its ranges, what is later than `since` (Unix seconds) of it."""
    history, now = monitor.history, monitor.now
    series = history.ranges[name]
    return msgspec.json.encode(
        {
            "step": series.step,
            "now": now,
            "columns": series.since(since),
            "level_changes": history.level_changes(max(since, now - series.seconds)),
        }
    )


def clients_json(monitor: Monitor) -> bytes:
    """The body of /api/clients."""
    rows, left_out = monitor.rows()
    return msgspec.json.encode({"now": monitor.now, "clients": rows, "left_out": left_out})
