"""What the counters promise: totals that add up, rates of now, snapshots that stay as they were taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.metrics import RATE_WINDOW, Rates, ReceiverMetrics, ShipperMetrics, Totals
from logbale.protocol import Algorithm


def receive(metrics, *, entries=100, raw_bytes=10_000, wire_bytes=1_000, algorithm=Algorithm.GZIP):
    metrics.batch_received(algorithm, entries=entries, raw_bytes=raw_bytes, wire_bytes=wire_bytes)


def test_nothing_yet_is_zero_everywhere():
    """No division by a time or a size that is zero."""
    for metrics in (ReceiverMetrics(now=7.0), ShipperMetrics(now=7.0)):
        snapshot = metrics.snapshot(7.0)
        assert snapshot.uptime == 0
        assert snapshot.ratio == 0
        assert snapshot.rates == snapshot.mean_rates == Rates()


def test_the_ratio_is_raw_for_each_wire_byte():
    """Ten thousand raw bytes in a thousand on the wire are 10."""
    metrics = ReceiverMetrics(now=0.0)
    receive(metrics)
    assert metrics.snapshot(1.0).ratio == 10.0


batches = st.lists(
    st.tuples(st.sampled_from(Algorithm), st.integers(1, 10**6), st.integers(2, 10**9), st.integers(5, 10**9)),
    max_size=30,
)


@given(batches, st.data())
def test_what_a_receiver_counts_adds_up(batches, data):
    """Received is stored, rejected and waiting; and it is the sum over the algorithms."""
    metrics = ReceiverMetrics(now=0.0)
    for algorithm, entries, raw_bytes, wire_bytes in batches:
        receive(metrics, entries=entries, raw_bytes=raw_bytes, wire_bytes=wire_bytes, algorithm=algorithm)
        outcome = data.draw(st.sampled_from(["stored", "rejected", "waiting"]))
        if outcome == "stored":
            metrics.stored_entries += entries
        elif outcome == "rejected":
            metrics.rejected_entries += entries
    snapshot = metrics.snapshot(1.0)
    assert snapshot.received.batches == len(batches)
    assert (
        snapshot.received.entries
        == snapshot.stored_entries + snapshot.rejected_entries + snapshot.duplicate_entries + snapshot.waiting_entries
        == sum(entries for _, entries, _, _ in batches)
    )
    assert snapshot.waiting_entries >= 0
    for field in ("batches", "entries", "raw_bytes", "wire_bytes"):
        of_all = getattr(snapshot.received, field)
        assert of_all == sum(getattr(totals, field) for totals in snapshot.by_algorithm.values())


def test_what_a_shipper_counts_adds_up():
    """What travelled, and the mean rates of it."""
    metrics = ShipperMetrics(now=0.0, algorithm="gzip", level=6)
    metrics.batch_sent(entries=50, raw_bytes=5_000, wire_bytes=500)
    metrics.batch_sent(entries=50, raw_bytes=5_000, wire_bytes=500)
    snapshot = metrics.snapshot(2.0)
    assert snapshot.sent == Totals(batches=2, entries=100, raw_bytes=10_000, wire_bytes=1_000)
    assert snapshot.mean_rates == Rates(50.0, 5_000.0, 500.0)


def test_the_first_connection_is_no_reconnect():
    """Connections after the first are."""
    metrics = ShipperMetrics(now=0.0)
    seen = []
    for connections in (0, 1, 2, 5):
        metrics.connections = connections
        seen.append(metrics.snapshot(1.0).reconnects)
    assert seen == [0, 0, 1, 4]


def test_a_refused_frame_is_counted_by_its_reason():
    """bad_frames is the sum of them; errors says which."""
    metrics = ReceiverMetrics(now=0.0)
    for reason in ("corrupt", "limit", "corrupt"):
        metrics.frame_refused(reason)
    snapshot = metrics.snapshot(1.0)
    assert snapshot.bad_frames == 3
    assert snapshot.errors == {"corrupt": 2, "limit": 1}


def test_a_snapshot_stays_as_it_was_taken():
    """Later batches change no number in it."""
    metrics = ReceiverMetrics(now=0.0)
    receive(metrics)
    metrics.frame_refused("corrupt")
    snapshot = metrics.snapshot(1.0)
    receive(metrics)
    metrics.frame_refused("corrupt")
    assert snapshot.received.entries == snapshot.by_algorithm["gzip"].entries == 100
    assert snapshot.errors == {"corrupt": 1}


@pytest.mark.parametrize("interval", [0.1, 0.5, 1.0, 2.5])
def test_rates_are_those_of_the_last_seconds(interval):
    """A stop shows as zero once the window has passed, however often somebody looks; the mean keeps its memory."""
    metrics = ReceiverMetrics(now=0.0)
    steps = round(30 / interval)
    for step in range(1, steps + 1):
        receive(metrics, entries=round(1000 * interval))
        busy = metrics.snapshot(step * interval)
    assert busy.rates.entries == pytest.approx(1000, rel=0.01)
    for step in range(1, round((RATE_WINDOW + 2 * max(interval, 1.0)) / interval) + 1):
        quiet = metrics.snapshot(30 + step * interval)
    assert quiet.rates == Rates()
    assert quiet.mean_rates.entries == pytest.approx(30_000 / quiet.uptime)


def test_several_readers_do_not_disturb_each_other():
    """A second snapshot at the same moment has the same rates."""
    metrics = ReceiverMetrics(now=0.0)
    for second in range(1, 20):
        receive(metrics)
        assert metrics.snapshot(float(second)).rates == metrics.snapshot(float(second)).rates
