"""How long to wait before trying again."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def delays(*, first: float, longest: float, chance: Callable[[], float], steady: float = 0.0) -> Iterator[float]:
    """Endless delays in seconds: `first`, doubling up to `longest`, each lengthened by up to a quarter.

    Before they grow, `first` is repeated for `steady` seconds.

    `chance` gives numbers from 0 to 1 (random.random, or a constant in a test). Without that jitter, a thousand
    shippers that lost the same receiver would all return in the same instant.
    """
    delay, waited = first, 0.0
    while True:
        yield delay * (1 + chance() / 4)
        waited += delay
        if waited >= steady:
            delay = min(2 * delay, longest)
