"""The balanced policy by itself: what each observation does to the level, and that nothing makes it swing."""

import random
from math import inf
from unittest.mock import ANY

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from logbale.adaptive import Decision, Sample
from logbale.adaptive_balanced import (
    BEHIND_BYTES,
    MAX_CHANGES,
    SAMPLES_PER_CHANGE,
    BalancedCompression,
)
from logbale.level_table import PRIORS, LevelTable, Work
from logbale.protocol import Algorithm

PRIOR = PRIORS[Algorithm.GZIP]
ZSTD = PRIORS[Algorithm.ZSTD]
MB = 1_000_000


def policy(low=1, high=9, level=6, *, prior=PRIOR) -> BalancedCompression:
    return BalancedCompression(low, high, level=level, prior=prior)


def work(level, raw=MB, *, slower=1.0, prior=PRIOR):
    """What the prior says that compressing takes."""
    nanoseconds, ratio = prior[level - 1]
    cpu = raw * nanoseconds * 1e-9
    return {level: Work(raw, int(raw / ratio), cpu, cpu * slower)}


def sample(
    adaptive,
    *,
    wire=0.12 * MB,
    stalled=0.0,
    blocked=0.0,
    backlog=0,
    read=MB,
    seconds=0.5,
    slower=1.0,
    raw=MB,
    percent=10.0,
    prior=PRIOR,
):
    return Sample(
        cpu_percent=percent,
        seconds=seconds,
        read_bytes=read,
        backlog_bytes=backlog,
        wire_bytes=wire,
        stalled=stalled,
        blocked=blocked,
        work=work(adaptive.level, raw, slower=slower, prior=prior) if raw else {},
    )


def feed(adaptive, count=10, **figures):
    """Decisions after so many like samples."""
    decisions = []
    for _ in range(count):
        adaptive.observe(sample(adaptive, **figures))
        decisions.append(adaptive.decide())
    return decisions


SLOW_LINK = {"wire": 0.06 * MB, "stalled": 0.45, "backlog": 50 * MB, "raw": MB // 2}
STARVED = {"wire": 0.3 * MB, "backlog": 50 * MB, "slower": 30.0, "raw": 2 * MB}
SLOW_RECEIVER = {"wire": 0.03 * MB, "blocked": 0.45, "backlog": 50 * MB, "raw": MB // 4, "read": MB // 4}
IDLE = {"wire": 0.12 * MB}


def test_a_slow_link_raises_the_level():
    """While sends stall and a backlog waits, time is bytes: the highest level that is worth it, within a second."""
    adaptive = policy()
    first, second = feed(adaptive, 2, **SLOW_LINK)
    assert not first.changed
    assert second.changed
    assert second.level == 7  # 8 and 9 are the same
    assert second.cause == "link"
    assert adaptive.bandwidth == pytest.approx(0.12 * MB)


def test_a_moment_that_looks_like_a_full_link_changes_nothing():
    """A session begins with small batches, and TCP holds acknowledgements back: fast links look full for a moment."""
    adaptive = policy(level=2, prior=ZSTD)
    moment = {"wire": 0.02 * MB, "stalled": 0.08, "backlog": 5 * MB, "seconds": 0.2, "prior": ZSTD}
    fast = {"wire": 4 * MB, "backlog": 50 * MB, "raw": 60 * MB, "read": 60 * MB, "prior": ZSTD}
    for _ in range(3):
        decisions = feed(adaptive, 1, **moment, raw=MB // 5) + feed(adaptive, 10, **fast)
        assert {decision.level for decision in decisions} == {2}


def test_a_starved_cpu_lowers_the_level():
    """While compression gets a thirtieth of a core and a backlog waits, time is CPU."""
    adaptive = policy()
    decisions = feed(adaptive, **STARVED)
    assert adaptive.level == 1
    assert {decision.cause for decision in decisions if decision.changed} == {"ends"}


@pytest.mark.parametrize("prior", [PRIOR, ZSTD])
@pytest.mark.parametrize("level", [1, 9])
def test_a_slow_receiver_leaves_only_bytes_and_cpu_to_save(level, prior):
    """It sets the pace at any level, so neither bytes nor CPU cost time: the level is that of an idle machine."""
    adaptive, idle = policy(level=level, prior=prior), policy(level=level, prior=prior)
    decisions = feed(adaptive, 100, **SLOW_RECEIVER, prior=prior)
    feed(idle, 100, **IDLE, prior=prior)
    assert adaptive.level == idle.level
    assert {decision.cause for decision in decisions if decision.changed} <= {"cheapest"}
    assert decisions[-1].reason.startswith("the receiver is what everything waits for")


def test_an_idle_machine_with_a_fast_link_stays_cheap():
    """Nothing waits: no CPU is spent on bytes that cost nobody time, however idle it is."""
    adaptive = policy(level=9)
    decisions = feed(adaptive, **IDLE)
    assert adaptive.level <= 5
    assert [decision.cause for decision in decisions if decision.changed] == ["cheapest"]


def test_a_busy_machine_makes_cpu_dearer_also_where_nothing_waits():
    """The neighbours wait for the CPU then: never a higher level than on an idle one."""
    idle, busy = policy(), policy()
    feed(idle, 100, **IDLE)
    feed(busy, 100, **IDLE, percent=100.0)
    assert busy.level <= idle.level


def test_what_arrives_must_leave():
    """Where nothing waits yet but the cheapest level would not keep up with what arrives, a higher one is kept."""
    adaptive = policy()
    feed(adaptive, 3, **SLOW_LINK)  # 0.12 MB/s
    feed(adaptive, 60, wire=0.06 * MB, read=0.45 * MB, raw=450_000)  # 0.9 MB/s: at level 3, 0.143 MB/s
    assert adaptive.level >= 5


def test_an_outage_changes_nothing():
    """While nothing leaves there is nothing to learn, however much waits; and the bandwidth is remembered."""
    adaptive = policy()
    feed(adaptive, 5, **SLOW_LINK)
    level, bandwidth = adaptive.level, adaptive.bandwidth
    assert not any(d.changed for d in feed(adaptive, 100, wire=0, stalled=0.5, backlog=100 * MB, raw=0))
    assert (adaptive.level, adaptive.bandwidth) == (level, bandwidth)


def test_batches_that_leave_in_lumps_are_one_rate():
    """Large batches leave one in two samples; the samples without any are part of the time, not an outage."""
    adaptive = policy()
    for _ in range(20):
        feed(adaptive, 1, **{**SLOW_LINK, "wire": 0, "raw": 0})
        feed(adaptive, 1, **{**SLOW_LINK, "wire": 0.12 * MB})
    assert adaptive.bandwidth == pytest.approx(0.12 * MB, rel=0.05)


def test_a_link_that_has_become_faster_is_noticed():
    """While a backlog waits and sends do not stall any more, within ten seconds; with nothing waiting, in minutes."""
    waiting, resting = policy(), policy()
    for adaptive in (waiting, resting):
        feed(adaptive, 5, **SLOW_LINK)
    feed(waiting, 20, wire=MB, backlog=50 * MB, raw=6 * MB)
    assert waiting.bandwidth > 2 * MB
    feed(resting, 600, wire=0.05 * MB, raw=400_000)
    assert resting.bandwidth > 0.24 * MB


def test_a_change_must_be_worth_a_new_context():
    """A trickle stays where it is: what a change saves in minutes is less than the new context's first bytes."""
    adaptive = policy(level=9)
    decisions = feed(adaptive, 50, read=500, raw=500, wire=60, seconds=5.0)
    assert not any(decision.changed for decision in decisions)
    assert "would save too little" in decisions[-1].reason


def test_a_small_backlog_is_none():
    """A batch or two always wait; behind begins at BEHIND_BYTES and ends well below."""
    adaptive = policy()
    feed(adaptive, 1, backlog=BEHIND_BYTES - 1)
    assert not adaptive.is_behind
    feed(adaptive, 1, backlog=BEHIND_BYTES)
    feed(adaptive, 1, backlog=BEHIND_BYTES // 2)
    assert adaptive.is_behind
    feed(adaptive, 1, backlog=BEHIND_BYTES // 10)
    assert not adaptive.is_behind


def test_the_reason_has_the_figures():
    """A decision can be understood from its log line alone."""
    adaptive = policy()
    early, decision = feed(adaptive, 2, **SLOW_LINK)
    assert early.reason == "sends stall, and it is too early to say that the link is why: stays at 6"
    assert decision.reason == (
        "the link is what everything waits for (0.19 MB/s arrive, 50.0 MB wait, CPU 21 %, 100 % of a core, "
        "link 0.12 MB/s): 6 → 7"
    )
    again = adaptive.decide()
    assert again.reason == "nothing new was seen: stays at 7"
    assert [each.cause for each in (early, decision, again)] == ["too_early", "link", "idle"]
    assert feed(adaptive, 2, **SLOW_LINK)[-1] == Decision(7, ANY, changed=False, cause="link")


def test_bounds_hold_and_equal_ones_fix_the_level():
    """ADAPTIVE_MIN_LEVEL and ADAPTIVE_MAX_LEVEL, whatever is best."""
    low, high, fixed = policy(4, 6), policy(4, 6), policy(5, 5, level=1)
    feed(low, 20, **STARVED)
    feed(high, 20, **SLOW_LINK)
    assert (low.level, high.level) == (4, 6)
    assert not any(decision.changed for figures in (STARVED, SLOW_LINK) for decision in feed(fixed, 20, **figures))
    assert fixed.level == 5
    with pytest.raises(ValueError, match=r"min_level=7: expected at most max_level=3"):
        policy(7, 3)


# F33


def check_each_step(adaptive, samples):
    """The number of changes; every step stays in bounds."""
    changes, before = 0, adaptive.level
    for one in samples:
        adaptive.observe(one)
        decision = adaptive.decide()
        assert adaptive.min_level <= decision.level == adaptive.level <= adaptive.max_level
        assert decision.changed == (decision.level != before)
        changes += decision.changed
        before = decision.level
    return changes


@pytest.mark.parametrize("prior", [PRIOR, ZSTD])
def test_an_adversary_who_sees_the_level_cannot_make_it_swing(prior):
    """F33: 100,000 samples, each the worst for the level of the moment: at most one change in eight of them."""
    adaptive = policy(level=5, prior=prior)

    def worst():
        for _ in range(100_000):
            yield sample(adaptive, **(SLOW_LINK if adaptive.level <= 5 else STARVED), seconds=5.0, prior=prior)

    assert check_each_step(adaptive, worst()) <= 100_000 / SAMPLES_PER_CHANGE + MAX_CHANGES


@pytest.mark.parametrize("prior", [PRIOR, ZSTD])
@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_noise_about_a_tie_does_not_move_the_level_to_and_fro(spread, prior):
    """F33: 100,000 noisy samples of a link at which several levels cost the same: one change in 200 at most."""
    chance = random.Random(0)
    adaptive = policy(prior=prior)

    def noisy():
        for _ in range(100_000):
            rate = 1.5 * MB * chance.lognormvariate(0, spread)
            seconds = 0.5
            raw = int(rate * seconds * prior[adaptive.level - 1][1])
            stalled = max(0.0, seconds - raw * prior[adaptive.level - 1][0] * 1e-9) * chance.uniform(0.5, 1)
            yield sample(adaptive, wire=rate * seconds, stalled=stalled, backlog=100 * MB, raw=raw, prior=prior)

    assert check_each_step(adaptive, noisy()) <= 500


def test_100_000_samples_without_any_sense_stay_in_bounds():
    """F33: whatever is observed, the level stays in bounds and changes at most once in eight samples."""
    chance = random.Random(1)
    adaptive = policy(2, 8)

    def nonsense():
        for _ in range(100_000):
            yield Sample(
                cpu_percent=chance.uniform(-50, 200),
                seconds=chance.choice((0.5, 5.0)),
                read_bytes=chance.choice((0.0, 10 ** chance.uniform(0, 9))),
                backlog_bytes=chance.choice((0.0, 10 ** chance.uniform(0, 10))),
                wire_bytes=chance.choice((0.0, 10 ** chance.uniform(0, 9))),
                stalled=chance.uniform(0, 5),
                blocked=chance.uniform(0, 5),
                work={
                    chance.randint(1, 9): Work(
                        chance.randint(0, MB), chance.randint(0, MB), chance.random(), chance.random()
                    )
                },
            )

    assert check_each_step(adaptive, nonsense()) <= 100_000 / SAMPLES_PER_CHANGE + MAX_CHANGES


anything = st.floats(allow_nan=True, allow_infinity=True)


def instant(seconds, stalled):
    return Sample(cpu_percent=0.0, seconds=seconds, wire_bytes=1.0, stalled=stalled)


works = st.builds(Work, st.integers(-5, 2**40), st.integers(-5, 2**40), anything, anything)


@example(bounds=[1, 1], samples=[instant(1.0, 0.0), instant(2.2e-313, 1.0)])  # seen: a bandwidth that is no number
@given(
    bounds=st.tuples(st.integers(1, 9), st.integers(1, 9)).map(sorted),
    samples=st.lists(
        st.builds(
            Sample,
            cpu_percent=anything,
            seconds=anything,
            read_bytes=anything,
            backlog_bytes=anything,
            wire_bytes=anything,
            stalled=anything,
            blocked=anything,
            work=st.dictionaries(st.integers(1, 9), works, max_size=2),
        ),
        max_size=30,
    ),
)
@example(bounds=[1, 1], samples=[Sample(cpu_percent=0.0, seconds=2.0, wire_bytes=5e-324, stalled=1.0)])
def test_no_sample_breaks_it(bounds, samples):
    """Nonsense from the shell (a clock that jumps, a counter that wraps) is bent to what can be."""
    low, high = bounds
    adaptive = policy(low, high)
    check_each_step(adaptive, samples)
    assert 0 < adaptive.share <= 1
    assert 0 < adaptive.bandwidth <= inf
    feed(adaptive, 300, **SLOW_LINK)
    assert low <= adaptive.level <= high


# The table


def test_a_measurement_at_one_level_corrects_all():
    """A machine twice as slow is so at each level, before the others are ever tried."""
    table = LevelTable(PRIOR)
    for _ in range(5):
        table.learn(6, Work(MB, MB // 10, 2 * PRIOR[5][0] * 1e-9 * MB, 1.0))
    for level in (1, 6, 9):
        assert table.cpu(level) == pytest.approx(2 * PRIOR[level - 1][0] * 1e-9, rel=0.1)
    assert table.size(6) == pytest.approx(0.1, rel=0.03)


def test_a_level_unlike_its_prior_does_not_spoil_the_others():
    """Once the machine is known, a surprise at one level is that level's own."""
    table = LevelTable(PRIOR)
    for _ in range(20):
        table.learn(6, Work(MB, int(MB / PRIOR[5][1]), PRIOR[5][0] * 1e-9 * MB, 1.0))
    for _ in range(20):
        table.learn(9, Work(MB, int(MB / PRIOR[8][1]), 1.4 * PRIOR[8][0] * 1e-9 * MB, 1.0))
    assert table.cpu(9) == pytest.approx(1.4 * PRIOR[8][0] * 1e-9, rel=0.05)
    assert table.cpu(6) == pytest.approx(PRIOR[5][0] * 1e-9, rel=0.08)


def test_content_that_changes_is_followed():
    """Hours later the same level means other bytes: ten megabytes of them are believed."""
    table = LevelTable(PRIOR)
    for ratio in (10.0, 4.0):
        for _ in range(10):
            table.age(60.0)
            table.learn(3, Work(MB, int(MB / ratio), 0.004, 0.004))
        assert table.size(3) == pytest.approx(1 / ratio, rel=0.1)
