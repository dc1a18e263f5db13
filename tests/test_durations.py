"""What counted durations promise: percentiles within a bucket, of any stretch of time, and whole histograms."""

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.durations import BOUNDS, HISTOGRAM_BOUNDS, WINDOW, Distribution, Durations, Latency, LatencyWindow

seconds = st.floats(0.0, 1000.0)


def durations_of(values):
    durations = Durations()
    for value in values:
        durations.add(value)
    return durations


@given(st.lists(seconds, min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_in_the_bucket_of_the_true_one(values, part):
    """Not below the bound under it, not above the bound over it; beyond the last bound it is that bound."""
    true = sorted(values)[ceil(part * len(values)) - 1]
    low = max((bound for bound in (0.0, *BOUNDS) if bound < true), default=0.0)
    high = min((bound for bound in BOUNDS if bound >= true), default=BOUNDS[-1])
    found = durations_of(values).distribution().quantile(part)
    assert min(low, high) - 1e-12 <= found <= high + 1e-12


def test_bounds_are_near_enough_for_a_third():
    """As the docs say."""
    assert all(high / low < 1.34 for low, high in pairwise(BOUNDS))


def test_without_any_there_is_no_quantile():
    """Not 0: that would be a time."""
    assert Distribution().quantile(0.99) is None
    assert Latency.of(Distribution()) == Latency(None, None, 0)


@given(st.lists(seconds, max_size=100), st.lists(seconds, max_size=100))
def test_a_difference_is_what_came_between(before, after):
    """since() of two states is the distribution of what was added."""
    durations = durations_of(before)
    state = durations.distribution()
    for value in after:
        durations.add(value)
    found, expected = durations.distribution().since(state), durations_of(after).distribution()
    assert found.counts == expected.counts
    assert found.seconds == pytest.approx(expected.seconds, abs=1e-6)


@given(st.lists(seconds, max_size=100))
def test_a_histogram_counts_what_is_at_most_so_long(values):
    """Prometheus' buckets are cumulative, and their bounds inclusive."""
    buckets = dict(durations_of(values).distribution().buckets())
    assert tuple(buckets) == HISTOGRAM_BOUNDS
    assert buckets == {bound: sum(value <= bound for value in values) for bound in HISTOGRAM_BOUNDS}


def test_the_latency_is_that_of_the_last_minute():
    """What came before has no part in it, and a minute of nothing is None."""
    durations, window = Durations(), LatencyWindow(0.0)
    for second in range(1, 100):
        durations.add(10.0)
        slow = window.sample(durations.distribution(), float(second))
    assert slow.p50 == pytest.approx(10.0, rel=0.3)
    assert slow.count == pytest.approx(WINDOW, abs=1)
    for second in range(100, 165):
        durations.add(0.001)
        fast = window.sample(durations.distribution(), float(second))
    assert fast.p99 == pytest.approx(0.001, rel=0.3)
    for second in range(165, 230):
        none = window.sample(durations.distribution(), float(second))
    assert none == Latency()
