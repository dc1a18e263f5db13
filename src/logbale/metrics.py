"""What each end counts, per batch, and one consistent snapshot() of it.

No clock: the caller passes `now` (monotonic seconds).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

import msgspec

from logbale.compression import CompressionStats
from logbale.durations import Distribution, Durations, Latency, LatencyWindow
from logbale.levels import add_level
from logbale.protocol import Algorithm

RATE_WINDOW = 10.0
"""Seconds over which the current rates are taken."""


class Totals(msgspec.Struct):
    """Batches and what they weighed."""

    batches: int = 0
    entries: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0

    def add(self, entries: int, raw_bytes: int, wire_bytes: int) -> None:
        """Counts one batch more."""
        self.batches += 1
        self.entries += entries
        self.raw_bytes += raw_bytes
        self.wire_bytes += wire_bytes

    @property
    def ratio(self) -> float:
        """Raw bytes for each wire byte; 0 before there are any."""
        return self.raw_bytes / self.wire_bytes if self.wire_bytes else 0.0


class Rates(msgspec.Struct, frozen=True):
    """Per second: over the last RATE_WINDOW in a snapshot's `rates`, over the whole run in its `mean_rates`."""

    entries: float = 0.0
    raw_bytes: float = 0.0
    wire_bytes: float = 0.0


class RateWindow:
    """Rates from samples of rising totals: one a second is kept, those older than the window go."""

    def __init__(self, now: float) -> None:
        self._samples: deque[tuple[float, int, int, int]] = deque([(now, 0, 0, 0)])

    def sample(self, totals: Totals, now: float) -> Rates:
        """The rates up to now."""
        while len(self._samples) > 1 and self._samples[1][0] <= now - RATE_WINDOW:
            self._samples.popleft()
        then, entries, raw_bytes, wire_bytes = self._samples[0]
        if now - self._samples[-1][0] >= 1.0:
            self._samples.append((now, totals.entries, totals.raw_bytes, totals.wire_bytes))
        elapsed = now - then
        if elapsed <= 0:
            return Rates()
        return Rates(
            (totals.entries - entries) / elapsed,
            (totals.raw_bytes - raw_bytes) / elapsed,
            (totals.wire_bytes - wire_bytes) / elapsed,
        )


def mean(totals: Totals, elapsed: float) -> Rates:
    """Over the whole run."""
    if elapsed <= 0:
        return Rates()
    return Rates(totals.entries / elapsed, totals.raw_bytes / elapsed, totals.wire_bytes / elapsed)


class LevelInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What the balanced policy weighed last, beside backlog, stalls and CPU load."""

    link: float
    """Wire bytes a second that the link is believed to take; infinite while it is not known as the limit."""
    core_share: float
    """The part of a core that compressing gets while it wants one."""
    arrivals: float
    """Raw bytes a second from the sources, smoothed."""
    is_behind: bool
    """More waits than a moment's work."""


class ShipperSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The shipper at one moment. read_entries = delivered + dropped + waiting entries."""

    uptime: float
    connected: bool
    read_entries: int
    """Since the start, and what the spool still held then."""
    delivered_entries: int
    """Acknowledged as durable; to a receiver without a session: sent."""
    dropped: dict[str, int]
    """By reason: rejected (kept as dead letters), dropped_oldest, dropped_newest, damaged, …"""
    waiting_batches: int
    waiting_entries: int
    sent: Totals
    """What travelled, that which was sent again included."""
    ratio: float
    rates: Rates
    mean_rates: Rates
    bypassed: int
    """Batches sent raw though compression is on."""
    compress_seconds: float
    algorithm: str
    level: int
    level_reason: str
    level_changes: dict[str, int]
    """By cause, those of adaptive.CAUSES that can change it."""
    backlog_bytes: int
    """Raw bytes that wait to be sent for the first time; estimated from the number of batches."""
    stalled_seconds: float
    """In which sends waited for the network or for room in the window."""
    reconnects: int
    errors: dict[str, int]
    """By reason: connect, send_timeout, connection_lost, tls_untrusted, invalid_utf8, split_line, …"""
    certificate_expires: float | None = None
    """When the certificate that this end shows ends, in Unix seconds; None where it shows none."""
    latency: Latency = Latency()
    """Read → acknowledged as durable, by batch."""
    ack_durations: Distribution = Distribution()
    """The same, since the start."""
    compress_durations: Distribution = Distribution()
    """Of each batch."""
    spool_bytes: int = 0
    """What the spool takes while something waits in it."""
    oldest_waiting: float = 0.0
    """Seconds that the oldest batch waits which this process read; 0 where none does."""
    cpu_percent: float | None = None
    """How busy the CPU is that this process may use; None before the first reading."""
    receiver: str = ""
    """The one in use, or the last one that was."""
    receiver_choice: int = 0
    """Its place among those that this stream wants: 1 is the first choice, 0 before there was any."""
    level_cause: str = "fixed"
    """The kind of level_reason, one of adaptive.CAUSES."""
    level_inputs: LevelInputs | None = None
    """Of the balanced policy, from its first decision on."""
    receivers: int = 1
    """How many there are to choose from."""
    failovers: int = 0
    """How often another receiver had to take the place of one that was lost."""


class ShipperMetrics:
    """Counts at the shipper. Owned by its event loop."""

    def __init__(
        self, *, now: float, algorithm: str = "none", level: int = 0, compression: CompressionStats | None = None
    ) -> None:
        self.connected = False
        self.read_entries = 0
        self.sent = Totals()
        self.waiting_batches = 0
        self.waiting_entries = 0
        self.delivered_entries = 0
        self.dropped: dict[str, int] = {}
        self.compression = compression or CompressionStats()
        self.algorithm = algorithm
        self.level = level
        self.level_reason = self.level_cause = "fixed"
        self.level_inputs: LevelInputs | None = None
        self.level_changes: Counter[str] = Counter()
        self.backlog_bytes = 0
        self.arrived_bytes = 0
        """Wire bytes that the receiver acknowledged; to a receiver without a session: that left."""
        self.connections = 0
        self.receiver = ""
        self.receiver_choice = 0
        self.receivers = 1
        self.failovers = 0
        self.errors: Counter[str] = Counter()
        self.certificate_expires: float | None = None
        self.ack_durations = Durations()
        self.spool_bytes = 0
        self.oldest_waiting = 0.0
        self.cpu_percent: float | None = None
        self._latency = LatencyWindow(now)
        self._stalled = 0.0
        self._stalled_since: float | None = None
        self._started = now
        self._window = RateWindow(now)

    def batch_sent(self, *, entries: int, raw_bytes: int, wire_bytes: int) -> None:
        """A whole frame has left."""
        self.sent.add(entries, raw_bytes, wire_bytes)

    def send_begins(self, now: float) -> None:
        """A frame is ready and waits for the network from now on."""
        self._stalled_since = now

    def send_ended(self, now: float) -> None:
        """It has left, or its connection is lost."""
        self._stalled, self._stalled_since = self.stalled_seconds(now), None

    def stalled_seconds(self, now: float) -> float:
        """In all, the send that waits now included."""
        return self._stalled + (now - self._stalled_since if self._stalled_since is not None else 0.0)

    def snapshot(self, now: float) -> ShipperSnapshot:
        """Everything at once."""
        uptime = now - self._started
        acks = self.ack_durations.distribution()
        return ShipperSnapshot(
            uptime=uptime,
            connected=self.connected,
            read_entries=self.read_entries,
            waiting_batches=self.waiting_batches,
            delivered_entries=self.delivered_entries,
            dropped={reason: count for reason, count in self.dropped.items() if count},
            waiting_entries=self.waiting_entries,
            sent=msgspec.structs.replace(self.sent),
            ratio=self.sent.ratio,
            rates=self._window.sample(self.sent, now),
            mean_rates=mean(self.sent, uptime),
            bypassed=self.compression.bypassed,
            compress_seconds=self.compression.seconds,
            algorithm=self.algorithm,
            level=self.level,
            level_reason=self.level_reason,
            level_cause=self.level_cause,
            level_inputs=self.level_inputs,
            level_changes=dict(self.level_changes),
            backlog_bytes=self.backlog_bytes,
            stalled_seconds=self.stalled_seconds(now),
            reconnects=max(0, self.connections - 1),
            errors=dict(self.errors),
            certificate_expires=self.certificate_expires,
            latency=self._latency.sample(acks, now),
            ack_durations=acks,
            compress_durations=self.compression.durations.distribution(),
            spool_bytes=self.spool_bytes,
            oldest_waiting=self.oldest_waiting,
            cpu_percent=self.cpu_percent,
            receiver=self.receiver,
            receiver_choice=self.receiver_choice,
            receivers=self.receivers,
            failovers=self.failovers,
        )


class RelaySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver that is a relay has done with what it stored.

    taken_entries = forwarded + rejected + all of dropped + waiting entries.
    """

    upstream: str
    """Host and port of the receiver that it forwards to."""
    sessions: int
    """Open now, one a stream."""
    last_error: str
    """Why there is none, where that is known."""
    streams: int
    """Known, whatever waits of them."""
    taken_entries: int
    """Stored, and left at the start; with those of which an origin said that they will never come."""
    waiting_streams: int
    waiting_entries: int
    waiting_batches: int
    oldest_waiting: float
    """Seconds that the oldest batch waits; of what waited at the start, since then."""
    spool_bytes: int
    max_spool_bytes: int
    forwarded_entries: int
    """Of which upstream has said that they are durable there."""
    rejected_entries: int
    """That upstream will never store: dead letters."""
    dropped: dict[str, int]
    """By reason: damaged here, or never sent by their origin."""
    sent: Totals
    errors: dict[str, int]


class Published(msgspec.Struct):
    """What a receiver whose sink is Kafka has published."""

    messages: int = 0
    """Delivered: all in-sync replicas have them."""
    bytes: int = 0
    """Of their values."""
    durations: Durations = msgspec.field(default_factory=Durations)
    """Of each group of batches, from its first message to its last delivery report."""

    def add(self, messages: int, size: int, seconds: float) -> None:
        """Counts one group more."""
        self.messages += messages
        self.bytes += size
        self.durations.add(seconds)


class ReceiverSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The receiver at one moment. received.entries = stored + duplicate + rejected + waiting entries."""

    uptime: float
    clients: int
    connections: int
    """Accepted since the start."""
    received: Totals
    ratio: float
    rates: Rates
    mean_rates: Rates
    by_algorithm: dict[str, Totals]
    stored_entries: int
    duplicate_entries: int
    """Received again after a reconnect, acknowledged, not stored."""
    rejected_entries: int
    skipped_entries: int
    """Of which a shipper said that they will never come."""
    lost_batches: int
    """Acknowledged here, by what their shippers hold, and not here (losses.py)."""
    waiting_entries: int
    in_flight_bytes: int
    sessions: int
    """Open now: clients that were welcomed."""
    context_bytes: int
    """Memory that their decompression contexts hold, estimated for batches of log entries."""
    window_log: int
    """The zstd window on offer to a new session, 2**window_log bytes; 0 is no context."""
    bad_frames: int
    errors: dict[str, int]
    """By reason: corrupt, limit, not_entries, protocol, storage, tls_plaintext, …"""
    certificate_expires: float | None = None
    """When the certificate that this end shows ends, in Unix seconds; None where it shows none."""
    latency: Latency = Latency()
    """A batch received whole → durable in the sink."""
    ack_durations: Distribution = Distribution()
    """The same, since the start."""
    levels: dict[str, int] = {}
    """Entries received, by canonical level; "" has none. Counted while somebody may look (`Settings.is_observed`)."""
    relay: RelaySnapshot | None = None
    """Where what is stored goes on to another receiver."""
    published_messages: int | None = None
    """Delivered to Kafka; None, and the others too, where that is not the sink."""
    published_bytes: int | None = None
    publish_durations: Distribution | None = None
    """Of each group of batches."""


class ReceiverMetrics:
    """Counts at the receiver. Owned by its event loop."""

    def __init__(self, *, now: float) -> None:
        self.clients = 0
        self.connections = 0
        self.received = Totals()
        self.by_algorithm: dict[str, Totals] = {}
        self.stored_entries = 0
        self.duplicate_entries = 0
        self.rejected_entries = 0
        self.skipped_entries = 0
        self.lost_batches = 0
        self.lost_streams: dict[str, None] = {}
        """Whose they are."""
        self.in_flight_bytes = 0
        self.sessions = 0
        self.context_bytes = 0
        self.window_log = 0
        self.bad_frames = 0
        self.errors: Counter[str] = Counter()
        self.certificate_expires: float | None = None
        self.ack_durations = Durations()
        self.levels: dict[str, int] = {}
        self.relay: RelaySnapshot | None = None
        self.published: Published | None = None
        """Where the sink is Kafka."""
        self.pending_entries = 0
        """On their way to the sink, counted one by one: what waiting_entries must come to."""
        self.last_stored: float | None = None
        """When something became durable in the sink last, by the caller's clock."""
        self._latency = LatencyWindow(now)
        self._started = now
        self._window = RateWindow(now)

    def item_stored(self, now: float, arrived: float | None) -> None:
        """Something became durable in the sink; of a batch, when it had been received whole."""
        self.last_stored = now
        if arrived is not None:
            self.ack_durations.add(max(0.0, now - arrived))

    def levels_received(self, levels: Mapping[str, int]) -> None:
        """What count_levels() found in a batch."""
        for name, count in levels.items():
            add_level(self.levels, name, count)

    def batch_received(self, algorithm: Algorithm, *, entries: int, raw_bytes: int, wire_bytes: int) -> None:
        """A frame was decoded into a sound batch; it is not stored yet."""
        self.received.add(entries, raw_bytes, wire_bytes)
        self.by_algorithm.setdefault(algorithm.label, Totals()).add(entries, raw_bytes, wire_bytes)

    def frame_refused(self, reason: str) -> None:
        """A frame's payload was no batch; the connection lives on."""
        self.bad_frames += 1
        self.errors[reason] += 1

    def snapshot(self, now: float) -> ReceiverSnapshot:
        """Everything at once."""
        uptime = now - self._started
        acks = self.ack_durations.distribution()
        published = self.published
        return ReceiverSnapshot(
            uptime=uptime,
            clients=self.clients,
            connections=self.connections,
            received=msgspec.structs.replace(self.received),
            ratio=self.received.ratio,
            rates=self._window.sample(self.received, now),
            mean_rates=mean(self.received, uptime),
            by_algorithm={name: msgspec.structs.replace(totals) for name, totals in self.by_algorithm.items()},
            stored_entries=self.stored_entries,
            duplicate_entries=self.duplicate_entries,
            rejected_entries=self.rejected_entries,
            skipped_entries=self.skipped_entries,
            lost_batches=self.lost_batches,
            waiting_entries=(
                self.received.entries - self.stored_entries - self.duplicate_entries - self.rejected_entries
            ),
            in_flight_bytes=self.in_flight_bytes,
            sessions=self.sessions,
            context_bytes=self.context_bytes,
            window_log=self.window_log,
            bad_frames=self.bad_frames,
            errors=dict(self.errors),
            certificate_expires=self.certificate_expires,
            latency=self._latency.sample(acks, now),
            ack_durations=acks,
            levels=dict(self.levels),
            relay=self.relay,
            published_messages=published.messages if published is not None else None,
            published_bytes=published.bytes if published is not None else None,
            publish_durations=published.durations.distribution() if published is not None else None,
        )


Snapshot = ShipperSnapshot | ReceiverSnapshot
