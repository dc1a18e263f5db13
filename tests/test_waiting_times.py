"""What waiting times promise: an exact oldest, each batch told once when it is acknowledged, and bounded memory."""

from logbale.waiting_times import MAX_MARKS, WaitingTimes


def test_an_acknowledgement_covers_what_is_before_it():
    """Each batch is told once."""
    times = WaitingTimes()
    for sequence in range(1, 6):
        times.add(sequence, 10.0 * sequence)
    assert times.take(1, 3) == [10.0, 20.0, 30.0]
    assert times.take(1, 3) == []
    assert times.oldest(1) == 40.0


def test_what_was_dropped_is_not_told():
    """A batch below the first one that waits was never acknowledged."""
    times = WaitingTimes()
    for sequence in range(1, 6):
        times.add(sequence, float(sequence))
    assert times.oldest(3) == 3.0
    assert times.take(5, 9) == [5.0]
    assert times.oldest(6) is None


def test_a_long_outage_keeps_a_part_and_the_oldest():
    """A million waiting batches take no more than so many marks; the oldest is exact, and the others are spread."""
    times = WaitingTimes()
    for sequence in range(1, 200_001):
        times.add(sequence, float(sequence))
    assert times.oldest(1) == 1.0
    taken = times.take(1, 200_000)
    assert MAX_MARKS / 4 < len(taken) <= MAX_MARKS
    assert taken == sorted(taken)
    assert taken[-1] > 190_000
