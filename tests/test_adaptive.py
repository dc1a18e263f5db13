"""The level follows the CPU: soon down, patiently up, and never to and fro."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.adaptive import BUSY, IDLE, MAX_PATIENCE, PATIENCE, AdaptiveCompression, Decision, Sample


def feed(adaptive: AdaptiveCompression, *readings: float) -> list[Decision]:
    decisions = []
    for reading in readings:
        adaptive.observe(Sample(cpu_percent=reading))
        decisions.append(adaptive.decide())
    return decisions


def levels(decisions: list[Decision]) -> list[int]:
    return [decision.level for decision in decisions]


def test_sustained_load_brings_the_lowest_level_within_eight_readings():
    """From idle at level 9 a CPU at 100 % is answered to the full, two levels at a time once it is saturated."""
    adaptive = AdaptiveCompression(1, 9, level=9)
    feed(adaptive, *[0] * 5)
    assert levels(feed(adaptive, *[100] * 9)) == [9, 9, 9, 8, 7, 5, 3, 1, 1]


def test_sustained_idleness_brings_the_highest_level():
    """One level up for every two idle readings."""
    adaptive = AdaptiveCompression(1, 9, level=1)
    decisions = feed(adaptive, *[0] * 18)
    assert {decision.cause for decision in decisions} == {"cpu_idle"}
    assert levels(decisions) == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 9]


def test_a_load_between_the_thresholds_moves_nothing():
    """Between IDLE and BUSY the level stays wherever it is."""
    for level in range(1, 10):
        adaptive = AdaptiveCompression(1, 9, level=level)
        decisions = feed(adaptive, *[IDLE, 65, BUSY] * 20)
        assert {(decision.level, decision.cause) for decision in decisions} == {(level, "cpu_between")}


def test_one_hot_reading_moves_nothing():
    """A burst of one interval on a quiet machine is smoothed away."""
    adaptive = AdaptiveCompression(1, 9, level=9)
    feed(adaptive, *[20] * 10)
    assert not any(decision.changed for decision in feed(adaptive, 100, 20, 20, 20))


def test_readings_that_alternate_around_a_threshold_do_not_move_the_level_to_and_fro():
    """Noise of ten points about either threshold changes the level in one direction only."""
    for threshold in (IDLE, BUSY):
        adaptive = AdaptiveCompression(1, 9, level=5)
        visited = levels(feed(adaptive, *[threshold - 10, threshold + 10] * 100))
        assert visited in (sorted(visited), sorted(visited, reverse=True))


def test_a_level_whose_own_cost_makes_the_cpu_busy_is_tried_ever_more_seldom():
    """Where level 6 costs 90 % and level 5 costs 40 %, the level does not swing: at most one move in 16 readings."""
    adaptive = AdaptiveCompression(1, 9, level=5)
    moves = 0
    for step in range(10_000):
        [decision] = feed(adaptive, 90 if adaptive.level >= 6 else 40)
        moves += decision.changed and step > 200
        assert 5 <= adaptive.level <= 6
    assert moves <= 10_000 / MAX_PATIENCE * 2


def test_a_regretted_rise_is_forgiven_when_the_load_has_gone():
    """However patient it has become, idleness brings the highest level within 82 readings."""
    adaptive = AdaptiveCompression(1, 9, level=5)
    for _ in range(1000):
        feed(adaptive, 90 if adaptive.level >= 6 else 40)
    feed(adaptive, *[0] * (2 * MAX_PATIENCE + 9 * PATIENCE))
    assert adaptive.level == 9


def check_each_step(adaptive: AdaptiveCompression, readings) -> int:
    """The number of reversals; every step stays in bounds and within one level up or two down."""
    reversals, direction, before = 0, 0, adaptive.level
    for reading in readings:
        [decision] = feed(adaptive, reading)
        assert adaptive.min_level <= decision.level <= adaptive.max_level
        assert -2 <= decision.level - before <= 1
        assert decision.changed == (decision.level != before)
        if decision.changed:
            reversals += (decision.level - before) * direction < 0
            direction = decision.level - before
        before = decision.level
    return reversals


def test_no_periodic_load_turns_the_level_more_than_once_in_six_readings():
    """A load that really comes and goes is followed, but each turn takes the whole way through the hysteresis."""
    for busy in range(1, 8):
        for idle in range(1, 16):
            load = ([100.0] * busy + [0.0] * idle) * (1000 // (busy + idle))
            turns = check_each_step(AdaptiveCompression(1, 9, level=5), load)
            assert turns <= len(load) / 6 + 1


@pytest.mark.parametrize("seed", range(3))
def test_a_random_walk_of_100_000_readings_stays_in_bounds_and_seldom_turns(seed):
    """A load that wanders is followed: under one change of direction in 20 readings."""
    chance = random.Random(seed)

    def walk():
        load = 50.0
        for _ in range(100_000):
            load = min(100.0, max(0.0, load + chance.gauss(0, 8)))
            yield load

    assert check_each_step(AdaptiveCompression(1, 9, level=6), walk()) < 5_000


@pytest.mark.parametrize("seed", range(3))
def test_100_000_readings_of_pure_noise_stay_in_bounds_and_seldom_turn(seed):
    """Readings without any sense cannot shake the level: under one change of direction in 20."""
    chance = random.Random(seed)
    readings = (chance.choice((0.0, 100.0, chance.uniform(0, 100))) for _ in range(100_000))
    assert check_each_step(AdaptiveCompression(1, 9, level=6), readings) < 5_000


def test_an_adversary_who_sees_the_level_cannot_make_it_swing():
    """The worst load, 100 % after each rise and 0 % after each fall, turns it at most once in 16 readings."""
    adaptive = AdaptiveCompression(1, 9, level=5)

    def worst():
        last = adaptive.level
        reading = 0.0
        for _ in range(100_000):
            if adaptive.level != last:
                reading = 100.0 if adaptive.level > last else 0.0
                last = adaptive.level
            yield reading

    assert check_each_step(adaptive, worst()) <= 2 * 100_000 / MAX_PATIENCE


@given(
    bounds=st.tuples(st.integers(1, 9), st.integers(1, 9)).map(sorted),
    start=st.integers(0, 20),
    readings=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=200),
)
def test_no_reading_moves_the_level_out_of_its_bounds(bounds, start, readings):
    """Whatever is read, and wherever it starts: min ≤ level ≤ max, then the lowest under load, the highest at rest."""
    low, high = bounds
    adaptive = AdaptiveCompression(low, high, level=start)
    assert all(low <= level <= high for level in levels(feed(adaptive, *readings)))
    feed(adaptive, *[100] * 12)
    assert adaptive.level == low
    feed(adaptive, *[0] * (4 + 2 * MAX_PATIENCE + 9 * PATIENCE))
    assert adaptive.level == high


def test_equal_bounds_fix_the_level():
    """min == max is a fixed level, at any load."""
    adaptive = AdaptiveCompression(4, 4, level=6)
    decisions = feed(adaptive, *[100] * 10, *[0] * 10)
    assert set(levels(decisions)) == {4}
    assert not any(decision.changed for decision in decisions)


def test_bounds_the_wrong_way_round_are_refused():
    """min > max names both."""
    with pytest.raises(ValueError, match=r"min_level=7: expected at most max_level=3"):
        AdaptiveCompression(7, 3, level=5)


def test_asking_twice_does_not_move_twice():
    """A decision takes a reading: how often somebody asks changes nothing."""
    adaptive = AdaptiveCompression(1, 9, level=9)
    assert not adaptive.decide().changed
    feed(adaptive, 100, 100)
    assert adaptive.level == 8
    again = adaptive.decide()
    assert (again.level, again.changed, again.reason) == (8, False, "no new CPU reading: stays at 8")


def test_the_reason_has_the_figures():
    """Each kind of decision can be understood from its log line alone."""
    adaptive = AdaptiveCompression(2, 7, level=7)
    assert [decision.reason for decision in feed(adaptive, *[100] * 7, *[20] * 6)] == [
        "CPU 79.0 % (smoothed), between 50 % and 80 %: stays at 7",
        "CPU 87.4 % (smoothed), above 80 %: 7 → 6",
        "CPU 92.4 % (smoothed), above 80 %: 6 → 5",
        "CPU 95.5 % (smoothed), above 95 %: 5 → 3",
        "CPU 97.3 % (smoothed), above 95 %: 3 → 2",
        "CPU 98.4 % (smoothed), above 95 %, at its lowest: stays at 2",
        "CPU 99.0 % (smoothed), above 95 %, at its lowest: stays at 2",
        "CPU 67.4 % (smoothed), between 50 % and 80 %: stays at 2",
        "CPU 48.4 % (smoothed), below 50 % for 1 of 2 readings: stays at 2",
        "CPU 37.1 % (smoothed), below 50 %: 2 → 3",
        "CPU 30.2 % (smoothed), below 50 % for 1 of 2 readings: stays at 3",
        "CPU 26.1 % (smoothed), below 50 %: 3 → 4",
        "CPU 23.7 % (smoothed), below 50 % for 1 of 2 readings: stays at 4",
    ]
    [_, highest] = feed(AdaptiveCompression(1, 9, level=9), 2, 2)
    assert highest.reason == "CPU 24.7 % (smoothed), below 50 %, at its highest: stays at 9"
