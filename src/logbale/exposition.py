"""A snapshot as Prometheus text, in base units; what can be computed from it is left out.

Label values are few by construction: the algorithms, the alarms, the kinds of reason for a level, at most MAX_REASONS
reasons and levels.MAX_LEVELS levels. No name of a stream, a host or a client is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from logbale import __version__
from logbale.adaptive import CAUSES
from logbale.alarms import ALARMS
from logbale.durations import Distribution
from logbale.kafka.metrics import AnySnapshot, ArchiverSnapshot
from logbale.metrics import LevelInputs, ReceiverSnapshot, RelaySnapshot, ShipperSnapshot, Totals
from logbale.protocol import Algorithm

if TYPE_CHECKING:  # a shipper has none, and should not load what makes one
    from logbale.monitor import Overview

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MAX_REASONS = 64
"""Reasons that get a series of their own, first come first served; the others share `other`."""


MAX_PARTITIONS = 256
"""Partitions that get a series of their own: those of one archiver are fewer."""


class Exposition:
    """The page that Prometheus scrapes: `text()` takes a fresh snapshot each time."""

    def __init__(self, snapshot: Callable[[], AnySnapshot], overview: Callable[[], Overview] | None = None) -> None:
        """`overview` is what a receiver knows beside its snapshot."""
        self._registry = CollectorRegistry()
        self._registry.register(_SnapshotCollector(snapshot, overview))
        ProcessCollector(registry=self._registry)  # CPU seconds, memory, descriptors, start time

    def text(self) -> bytes:
        """Everything, in the text format 0.0.4 (CONTENT_TYPE)."""
        return generate_latest(self._registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: Callable[[], AnySnapshot], overview: Callable[[], Overview] | None) -> None:
        self._snapshot = snapshot
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        if isinstance(snapshot, ArchiverSnapshot):
            yield from _archiver(snapshot)
            return
        receiver = isinstance(snapshot, ReceiverSnapshot)
        end = "receiver" if receiver else "shipper"
        yield InfoMetricFamily("logbale_build", "Version of logbale", {"version": __version__, "end": end})
        yield _gauge(f"logbale_{end}_uptime_seconds", "Time since the start", snapshot.uptime)
        yield from _receiver(snapshot) if isinstance(snapshot, ReceiverSnapshot) else _shipper(snapshot)
        yield _by_reason(f"logbale_{end}_errors", "Errors by reason", snapshot.errors)
        if snapshot.certificate_expires is not None:
            yield _gauge(
                f"logbale_{end}_certificate_expires_timestamp_seconds",
                "When the TLS certificate of this end ends",
                snapshot.certificate_expires,
            )
        if self._overview is not None:
            yield from _beside(self._overview())


def _receiver(snapshot: ReceiverSnapshot) -> Iterator[Metric]:
    yield _gauge("logbale_receiver_clients", "Connections open now", snapshot.clients)
    yield _counter("logbale_receiver_connections", "Connections accepted", snapshot.connections)
    yield from _by_algorithm("logbale_receiver_received", "received and decoded", snapshot.by_algorithm)
    yield _counter("logbale_receiver_stored_entries", "Entries durable in the sink", snapshot.stored_entries)
    yield _counter(
        "logbale_receiver_duplicate_entries", "Entries received again, not stored", snapshot.duplicate_entries
    )
    yield _counter("logbale_receiver_rejected_entries", "Entries the sink refused for good", snapshot.rejected_entries)
    yield _counter("logbale_receiver_skipped_entries", "Entries that will never come", snapshot.skipped_entries)
    yield _counter("logbale_receiver_lost_batches", "Acknowledged here and not here any more", snapshot.lost_batches)
    yield _gauge("logbale_receiver_waiting_entries", "Entries received, not stored yet", snapshot.waiting_entries)
    yield _gauge("logbale_receiver_in_flight_bytes", "Bytes received, not stored yet", snapshot.in_flight_bytes)
    yield _gauge("logbale_receiver_sessions", "Sessions open now", snapshot.sessions)
    yield _gauge("logbale_receiver_context_bytes", "Memory of their contexts, estimated", snapshot.context_bytes)
    yield _gauge("logbale_receiver_window_log", "Binary logarithm of the window on offer", snapshot.window_log)
    yield _counter("logbale_receiver_bad_frames", "Frames whose payload was no batch", snapshot.bad_frames)
    yield _histogram("logbale_receiver_ack_seconds", "A batch received whole to durable", snapshot.ack_durations)
    levels = CounterMetricFamily("logbale_receiver_level_entries", "Entries received by level", labels=["level"])
    for level, count in snapshot.levels.items():
        levels.add_metric([level or "none"], count)
    yield levels
    if snapshot.publish_durations is not None:
        yield _counter("logbale_receiver_published_messages", "Kafka delivered", snapshot.published_messages or 0)
        yield _counter("logbale_receiver_published_bytes", "Bytes of their values", snapshot.published_bytes or 0)
        yield _histogram(
            "logbale_receiver_publish_seconds",
            "A group of batches given to Kafka to delivered",
            snapshot.publish_durations,
        )
    if snapshot.relay is not None:
        yield from _relay(snapshot.relay)


def _relay(relay: RelaySnapshot) -> Iterator[Metric]:
    yield _gauge("logbale_relay_sessions", "Sessions open now with the receiver upstream", relay.sessions)
    yield _gauge("logbale_relay_streams", "Streams known", relay.streams)
    yield _gauge("logbale_relay_waiting_streams", "Streams of which something waits", relay.waiting_streams)
    yield _gauge("logbale_relay_waiting_batches", "Batches stored here, not upstream", relay.waiting_batches)
    yield _gauge("logbale_relay_waiting_entries", "Entries stored here, not upstream", relay.waiting_entries)
    yield _gauge("logbale_relay_oldest_waiting_seconds", "Age of the oldest batch waiting", relay.oldest_waiting)
    yield _gauge("logbale_relay_spool_bytes", "What the spools take on disk", relay.spool_bytes)
    yield _gauge("logbale_relay_spool_max_bytes", "What they may take", relay.max_spool_bytes)
    yield _counter("logbale_relay_taken_entries", "Entries stored here, and left at the start", relay.taken_entries)
    yield _counter("logbale_relay_forwarded_entries", "Entries durable upstream", relay.forwarded_entries)
    yield _counter("logbale_relay_rejected_entries", "Entries that upstream refused", relay.rejected_entries)
    yield _by_reason("logbale_relay_dropped_entries", "Entries that will never come, by reason", relay.dropped)
    yield from _totals("logbale_relay_sent", "sent", relay.sent)
    yield _by_reason("logbale_relay_errors", "Errors of the sessions upstream by reason", relay.errors)


def _beside(overview: Overview) -> Iterator[Metric]:
    on = {alarm.id for alarm in overview.alarms}
    yield _flags("logbale_receiver_alarm", "1 while the alarm is on", "id", ALARMS, on)
    yield _counter("logbale_receiver_damaged_blocks", "Blocks met that are not sound", overview.damaged_blocks)
    if overview.disk is not None:
        yield _gauge("logbale_receiver_disk_free_bytes", "Room on the archive's disk", overview.disk.free_bytes)
        yield _gauge("logbale_receiver_disk_total_bytes", "Size of the archive's disk", overview.disk.total_bytes)
    if overview.last_sync is not None:
        yield _gauge(
            "logbale_receiver_last_sync_timestamp_seconds", "When a commit became durable last", overview.last_sync
        )


def _shipper(snapshot: ShipperSnapshot) -> Iterator[Metric]:
    yield _gauge("logbale_shipper_connected", "1 while a receiver is connected", snapshot.connected)
    yield _counter("logbale_shipper_reconnects", "Connections after the first", snapshot.reconnects)
    yield _gauge("logbale_shipper_receivers", "Receivers to choose from", snapshot.receivers)
    yield _gauge("logbale_shipper_receiver_choice", "Place of the one in use: 1 is best", snapshot.receiver_choice)
    yield _counter("logbale_shipper_failovers", "Receivers that took the place of a lost one", snapshot.failovers)
    yield _counter("logbale_shipper_read_entries", "Entries accepted from the sources", snapshot.read_entries)
    yield from _totals("logbale_shipper_sent", "sent", snapshot.sent)
    yield _counter("logbale_shipper_delivered_entries", "Entries acknowledged as stored", snapshot.delivered_entries)
    yield _by_reason("logbale_shipper_dropped_entries", "Entries that are not delivered, by reason", snapshot.dropped)
    yield _gauge("logbale_shipper_waiting_batches", "Batches read, not delivered yet", snapshot.waiting_batches)
    yield _gauge("logbale_shipper_waiting_entries", "Entries read, not delivered yet", snapshot.waiting_entries)
    yield _counter("logbale_shipper_bypassed_batches", "Batches sent raw though compression is on", snapshot.bypassed)
    yield _histogram("logbale_shipper_ack_seconds", "A batch read to acknowledged", snapshot.ack_durations)
    yield _histogram("logbale_shipper_compress_seconds", "Compressing a batch", snapshot.compress_durations)
    yield _gauge("logbale_shipper_spool_bytes", "What the spool takes while something waits", snapshot.spool_bytes)
    yield _gauge("logbale_shipper_oldest_waiting_seconds", "Age of the oldest batch waiting", snapshot.oldest_waiting)
    yield _gauge("logbale_shipper_backlog_bytes", "Raw bytes waiting to be sent, estimated", snapshot.backlog_bytes)
    yield _counter("logbale_shipper_stalled_seconds", "Time in which sends waited", snapshot.stalled_seconds)
    yield _by_reason("logbale_shipper_level_changes", "Changes of level by reason", snapshot.level_changes)
    level = GaugeMetricFamily("logbale_shipper_compression_level", "Level in use", labels=["algorithm"])
    level.add_metric([snapshot.algorithm], snapshot.level)
    yield level
    cause = {snapshot.level_cause}
    yield _flags("logbale_shipper_level_reason", "1 for why the level is what it is", "reason", CAUSES, cause)
    if snapshot.cpu_percent is not None:
        yield _gauge("logbale_shipper_cpu_ratio", "How busy its CPUs are, 0 to 1", snapshot.cpu_percent / 100)
    if snapshot.level_inputs is not None:
        yield from _level_inputs(snapshot.level_inputs)


def _level_inputs(inputs: LevelInputs) -> Iterator[Metric]:
    yield _gauge("logbale_shipper_link_bytes_per_second", "Wire bytes, as believed; +Inf: not the limit", inputs.link)
    yield _gauge("logbale_shipper_core_ratio", "Part of a core that compressing gets, 0 to 1", inputs.core_share)
    yield _gauge("logbale_shipper_arrivals_bytes_per_second", "Raw bytes from sources, smoothed", inputs.arrivals)
    yield _gauge("logbale_shipper_behind", "1 while more waits than a moment's work", inputs.is_behind)


def _archiver(snapshot: ArchiverSnapshot) -> Iterator[Metric]:
    yield InfoMetricFamily("logbale_build", "Version of logbale", {"version": __version__, "end": "archiver"})
    yield _gauge("logbale_archiver_uptime_seconds", "Time since the start", snapshot.uptime)
    yield _gauge("logbale_archiver_partitions", "Partitions that are ours", snapshot.partitions)
    yield _labelled("logbale_archiver_messages", "Messages read, by what became of them", "outcome", snapshot.messages)
    yield _labelled("logbale_archiver_noticed", "What should not be, by what it is", "what", snapshot.noticed)
    yield _counter("logbale_archiver_stored_batches", "Batches in the store", snapshot.stored.batches)
    yield _counter("logbale_archiver_stored_entries", "Entries in the store", snapshot.stored.entries)
    yield _counter("logbale_archiver_stored_raw_bytes", "Raw bytes of these entries", snapshot.stored.raw_bytes)
    yield _counter("logbale_archiver_stored_bytes", "Bytes of the segments put", snapshot.stored.wire_bytes)
    yield _counter("logbale_archiver_segments", "Segments put", snapshot.segments)
    yield _counter("logbale_archiver_races_lost", "Segments that another owner put first", snapshot.races_lost)
    yield _counter("logbale_archiver_lost_offsets", "Offsets deleted before archived", snapshot.lost_offsets)
    yield _gauge("logbale_archiver_waiting_entries", "Entries read, in no segment yet", snapshot.waiting_entries)
    lag = GaugeMetricFamily("logbale_archiver_lag_messages", "In the topic, not in the store", labels=["partition"])
    for number, messages in list(snapshot.lag.items())[:MAX_PARTITIONS]:
        lag.add_metric([str(number)], messages)
    yield lag
    yield _gauge("logbale_archiver_lag_messages_sum", "The same of all partitions", sum(snapshot.lag.values()))
    yield _by_reason("logbale_archiver_errors", "Errors by reason", snapshot.errors)


def _flags(name: str, text: str, label: str, values: Iterable[str], on: Set[str]) -> Metric:
    """1 for those of all values that are on, 0 for the others."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for value in values:
        family.add_metric([value], value in on)
    return family


def _labelled(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, number in counts.items():
        family.add_metric([value], number)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    """Its series is called `name`_total."""
    return CounterMetricFamily(name, text, value)


def _histogram(name: str, text: str, distribution: Distribution) -> Metric:
    buckets = [(str(bound), float(count)) for bound, count in distribution.buckets()]
    return HistogramMetricFamily(name, text, [*buckets, ("+Inf", distribution.count)], distribution.seconds)


_WEIGHTS = {"batches": "Batches", "entries": "Entries", "raw_bytes": "Raw bytes", "wire_bytes": "Wire bytes"}


def _totals(name: str, verb: str, totals: Totals) -> Iterator[Metric]:
    for field, noun in _WEIGHTS.items():
        yield _counter(f"{name}_{field}", f"{noun} {verb}", getattr(totals, field))


def _by_algorithm(name: str, verb: str, by_algorithm: Mapping[str, Totals]) -> Iterator[Metric]:
    """Every algorithm from the start: a series that begins at 1 hides its first step from rate()."""
    for field, noun in _WEIGHTS.items():
        family = CounterMetricFamily(f"{name}_{field}", f"{noun} {verb}", labels=["algorithm"])
        for algorithm in Algorithm:
            family.add_metric([algorithm.label], getattr(by_algorithm.get(algorithm.label, Totals()), field))
        yield family


def _by_reason(name: str, text: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=["reason"])
    reasons = list(counts.items())
    for reason, count in reasons[:MAX_REASONS]:
        family.add_metric([reason], count)
    if len(reasons) > MAX_REASONS:
        family.add_metric(["other"], sum(count for _, count in reasons[MAX_REASONS:]))
    return family
