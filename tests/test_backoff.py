"""How long a shipper waits before it tries again."""

from itertools import islice

from logbale.backoff import delays


def test_delays_double_from_the_first_to_the_longest():
    """One second, doubling, thirty at most."""
    assert list(islice(delays(first=1, longest=30, chance=lambda: 0.0), 7)) == [1, 2, 4, 8, 16, 30, 30]


def test_chance_lengthens_a_delay_by_up_to_a_quarter():
    """Shippers that lost the same receiver do not return in the same instant, and none returns early."""
    assert list(islice(delays(first=1, longest=4, chance=lambda: 1.0), 4)) == [1.25, 2.5, 5, 5]
