"""Which receiver is tried next, and when: delays of each one's own, one round for all, and looks at what is better."""

import pytest

from logbale.failover import REMEMBERED, Failover


def failover(*receivers, interval=30.0, steady=30.0):
    made = Failover(chance=lambda: 0.0, steady=steady, return_interval=interval)
    made.offer(receivers or ("a", "b", "c"))
    return made


def test_the_first_choice_comes_first_and_at_once():
    """As long as nothing is known against it."""
    assert failover().next(0.0) == ("a", 0.0)


def test_where_one_fails_the_next_is_tried_at_once():
    """In the stream's order, and nobody waits for the delay of the one that failed."""
    choice = failover()
    choice.failed("a", 10.0)
    assert choice.next(10.0) == ("b", 0.0)
    choice.failed("b", 10.1)
    assert choice.next(10.1) == ("c", 0.0)


def test_none_is_tried_twice_before_each_was_tried_once():
    """Though the delay of the first is over by the time that the second has not answered."""
    choice = failover()
    choice.failed("a", 0.0)
    choice.failed("b", 10.0)
    assert choice.next(10.0) == ("c", 0.0)
    choice.failed("c", 20.0)
    assert choice.next(20.0) == ("a", 0.0)


def test_where_all_fail_they_wait_and_make_one_round():
    """A second after the first one failed it is tried, and then the others with it: one wait, not three."""
    choice = failover()
    for n, name in enumerate("abc"):
        choice.failed(name, n / 10)
    name, wait = choice.next(0.2)
    assert (name, wait) == ("a", pytest.approx(0.8))
    for name in "abc":
        assert choice.next(1.0) == (name, 0.0)
        choice.failed(name, 1.0)
    assert choice.next(1.0) == ("a", pytest.approx(1.0))


def test_one_receiver_alone_is_tried_as_it_always_was():
    """Every second for thirty, then less and less often, to once in thirty seconds."""
    choice, now, waits = failover("a"), 0.0, []
    for _ in range(38):
        choice.failed("a", now)
        _, wait = choice.next(now)
        waits.append(round(wait, 6))
        now += wait
    assert waits == [1.0] * 30 + [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]


def test_each_receiver_has_its_own_delays():
    """One that has been away for a minute is not tried in the second in which another one fails."""
    choice, now = failover(), 0.0
    for _ in range(40):
        choice.failed("a", now)
        now += 30.0
    choice.failed("a", now)
    choice.failed("b", now + 1)
    assert choice.next(now + 1) == ("c", 0.0)
    choice.failed("c", now + 1)
    assert choice.next(now + 1) == ("b", pytest.approx(1.0))


def test_a_session_that_opened_makes_the_delays_begin_anew():
    """What is lost now was there a moment ago."""
    choice, now = failover("a"), 0.0
    for _ in range(40):
        choice.failed("a", now)
        now += choice.next(now)[1]
    choice.opened("a", now)
    choice.failed("a", now + 5)
    assert choice.next(now + 5) == ("a", pytest.approx(1.0))


def test_a_refusal_is_repeated_less_and_less_often():
    """From the first on, so that a receiver need not lock the address out."""
    choice, now, waits = failover("a"), 0.0, []
    for _ in range(6):
        choice.failed("a", now, refused=True)
        waits.append(round(choice.next(now)[1], 6))
        now += waits[-1]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]


def test_where_another_would_do_no_better_the_same_one_is_asked_again():
    """A batch that did not decode, or a token file that cannot be read, is no fault of the receiver's."""
    choice = failover()
    choice.failed("a", 0.0, stay=True)
    assert choice.next(0.0) == ("a", pytest.approx(1.0))
    assert choice.next(5.0) == ("a", 0.0)
    choice.failed("a", 5.0)
    assert choice.next(5.0) == ("b", 0.0)


def test_what_is_better_than_the_one_in_use_is_looked_at_after_the_interval():
    """Only what the stream wants more, and not in the moment in which it failed."""
    choice = failover()
    choice.failed("a", 0.0)
    choice.opened("b", 0.0)
    assert choice.better("b", 29.0) == []
    assert choice.better("b", 30.0) == ["a"]
    assert choice.better("c", 30.0) == ["a", "b"]
    assert choice.better("a", 1e9) == []
    choice.is_back("a")
    choice.left("b")
    assert choice.next(30.0) == ("a", 0.0)


def test_a_receiver_that_stays_away_is_looked_at_every_interval():
    """However long: when it is back, its streams are too."""
    choice, now = failover(), 0.0
    choice.failed("a", now)
    choice.opened("b", now)
    for _ in range(100):
        assert choice.better("b", now + 29.9) == []
        now += 30.0
        assert choice.better("b", now) == ["a"]
        choice.failed("a", now)


def test_a_receiver_that_loses_us_again_and_again_is_left_alone_for_longer():
    """Twice as long each time, to sixteen intervals; once a session there has stood, as at first."""
    choice, now, waits = failover(), 0.0, []
    for _ in range(6):
        choice.opened("a", now)
        choice.failed("a", now)
        choice.opened("b", now)
        start = now
        while not choice.better("b", now):
            now += 1.0
        waits.append(now - start)
    assert waits == [30.0, 60.0, 120.0, 240.0, 480.0, 480.0]
    choice.opened("a", now)
    choice.failed("a", now + 150.0)
    assert choice.better("b", now + 180.0) == ["a"]


def test_who_is_offered_again_is_not_due_before_its_delay_is_over():
    """A resolver may name a few of many each time: where all are away, none of them is tried without a pause."""
    choice, tried = failover(), []
    for now in range(1000):
        choice.offer(("a", "b") if now % 2 else ("c", "d"))
        name, wait = choice.next(now / 1000)
        if not wait:
            tried.append(name)
            choice.failed(name, now / 1000)
    assert len(tried) < 12


def test_of_those_that_are_offered_no_more_only_so_many_are_remembered():
    """Machines get new addresses for years."""
    choice = failover()
    for number in range(1000):
        choice.offer((f"{number}",))
    assert len(choice._known) == REMEMBERED + 1


def test_what_is_no_longer_offered_is_no_choice_any_more():
    """Whoever is on a receiver that was taken out of the names is there until something better answers."""
    choice = failover()
    choice.failed("a", 0.0)
    choice.offer(("b", "c"))
    assert choice.next(0.0) == ("b", 0.0)
    assert choice.choice("a") == 3
    assert choice.better("a", 0.0) == ["b", "c"]
    choice.offer(("a", "b", "c"))
    assert choice.next(1.0) == ("a", 0.0)
