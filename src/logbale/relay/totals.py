"""A relay's numbers, added up over its streams."""

from __future__ import annotations

from collections import Counter

import msgspec

from logbale.metrics import RelaySnapshot, Totals
from logbale.relay.forwarding import Forwarding
from logbale.relay.origin import Shared
from logbale.reports import REJECTED
from logbale.spool.state import ACKNOWLEDGED


def snapshot_of(shared: Shared, forwarding: Forwarding, *, streams: int, now: float) -> RelaySnapshot:
    """Everything at once; `now` is by time.monotonic."""
    settled = Counter(shared.settled)
    for queue in shared.queues:
        settled.update({name: number for name, number in queue.counts.items() if name not in ("read", "spooled")})
    sent, errors = msgspec.structs.replace(forwarding.sent), Counter(forwarding.errors)
    for link in forwarding.links:
        errors.update(link.metrics.errors)
        _add(sent, link.metrics.sent)
    waiting = shared.waiting_origins
    sessions = forwarding.sessions
    return RelaySnapshot(
        upstream=forwarding.address,
        sessions=sessions,
        last_error=forwarding.last_error if not sessions else "",
        streams=streams,
        taken_entries=shared.taken_entries + sum(queue.taken_entries for queue in shared.queues),
        waiting_streams=len(waiting),
        waiting_entries=sum(origin.entries_to_go for origin in waiting),
        waiting_batches=sum(origin.batches_to_go for origin in waiting),
        oldest_waiting=max((origin.oldest_waiting(now) for origin in waiting), default=0.0),
        spool_bytes=shared.disk_bytes,
        max_spool_bytes=shared.max_bytes,
        forwarded_entries=settled.pop(ACKNOWLEDGED, 0),
        rejected_entries=settled.pop(REJECTED, 0),
        dropped={name: number for name, number in settled.items() if number},
        sent=sent,
        errors={reason: number for reason, number in errors.items() if number},
    )


def _add(totals: Totals, more: Totals) -> None:
    totals.batches += more.batches
    totals.entries += more.entries
    totals.raw_bytes += more.raw_bytes
    totals.wire_bytes += more.wire_bytes
