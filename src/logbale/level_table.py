"""What each compression level costs here and now: a prior for each algorithm, corrected by the batches themselves.

No clock, no compressing: the shell says what its batches took. The levels are those of the settings, 1 to 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, isfinite, log

import msgspec

from logbale.protocol import Algorithm

GENERAL_DRIFT = 0.02
"""Standard deviation, as a fraction, by which the content and the machine change in a second."""

UNKNOWN_GENERAL = 1.0
UNKNOWN_OWN = 0.15
"""How far, as fractions, the prior may be off before anything is measured: in all levels alike, and in one of them."""

KNOWN_OWN = 0.02
"""A level's own deviation is never known better than so: it depends on the content a little."""

NOISE = 0.1
"""Standard deviation, as a fraction, of what NOISE_BYTES of batches tell. More of them tell it more exactly."""

NOISE_BYTES = 256 * 1024

MAX_CORRECTION = 6.0
"""In natural logarithms (a factor of 400): what is beyond it is no measurement."""


class Work(msgspec.Struct):
    """What compressing some batches took, at one level."""

    raw_bytes: int = 0
    wire_bytes: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    def add(self, raw_bytes: int, wire_bytes: int, cpu_seconds: float, wall_seconds: float) -> None:
        """One batch more."""
        self.raw_bytes += raw_bytes
        self.wire_bytes += wire_bytes
        self.cpu_seconds += cpu_seconds
        self.wall_seconds += wall_seconds


_DEFLATE = [
    (1.1, 6.01),
    (2.7, 6.16),
    (3.4, 6.45),
    (3.9, 7.04),
    (4.2, 7.38),
    (5.5, 7.52),
    (13.9, 7.99),
    (13.9, 7.99),
    (13.9, 7.99),
]
_ZSTD = [
    (1.0, 4.23),
    (1.3, 7.11),
    (4.3, 8.04),
    (4.7, 8.27),
    (5.0, 8.34),
    (5.4, 8.47),
    (9.0, 8.80),
    (10.5, 8.91),
    (71.5, 9.30),
]

PRIORS: Mapping[Algorithm, list[tuple[float, float]]] = {
    Algorithm.NONE: _DEFLATE,
    Algorithm.GZIP: _DEFLATE,
    Algorithm.ZLIB: _DEFLATE,
    Algorithm.ZSTD: _ZSTD,
}
"""For levels 1 to 9: nanoseconds of CPU for each raw byte, and the ratio. Generated entries, 500 a batch, one context;
`benchmarks/adaptive_simulation.py --measure` prints them."""


class LevelTable:
    """CPU seconds and wire bytes for each raw byte, by level."""

    def __init__(self, prior: list[tuple[float, float]]) -> None:
        self._cpu = _Estimates([nanoseconds / 1e9 for nanoseconds, _ in prior])
        self._size = _Estimates([1 / ratio for _, ratio in prior])

    def cpu(self, level: int) -> float:
        """CPU seconds for each raw byte."""
        return self._cpu.value(level)

    def size(self, level: int) -> float:
        """Wire bytes for each raw byte."""
        return self._size.value(level)

    def age(self, seconds: float) -> None:
        """So long nothing was learned."""
        self._cpu.age(seconds)
        self._size.age(seconds)

    def learn(self, level: int, work: Work) -> None:
        """Takes what some batches at this level took; what cannot be true is not believed."""
        if work.raw_bytes > 0:
            self._cpu.learn(level, work.cpu_seconds / work.raw_bytes, work.raw_bytes)
            self._size.learn(level, work.wire_bytes / work.raw_bytes, work.raw_bytes)


class _Estimates:
    """One figure for each level: the prior, times a factor that all levels share, times the level's own factor.

    The shared one is the machine and the content, and changes with them; so a measurement at one level corrects all.
    A Kalman filter on logarithms: each of the two takes as much of an error as it was uncertain.
    """

    def __init__(self, prior: list[float]) -> None:
        self._prior = [log(value) for value in prior]
        self._general = 0.0
        self._general_variance = UNKNOWN_GENERAL**2
        self._own = [0.0] * len(prior)
        self._own_variance = [UNKNOWN_OWN**2] * len(prior)

    def value(self, level: int) -> float:
        return exp(self._prior[level - 1] + self._general + self._own[level - 1])

    def age(self, seconds: float) -> None:
        self._general_variance = min(UNKNOWN_GENERAL**2, self._general_variance + GENERAL_DRIFT**2 * seconds)

    def learn(self, level: int, measured: float, raw_bytes: int) -> None:
        index = level - 1
        if not (isfinite(measured) and measured > 0):
            return
        expected = self._prior[index] + self._general + self._own[index]
        error = min(MAX_CORRECTION, max(-MAX_CORRECTION, log(measured) - expected))
        noise = NOISE**2 * max(0.05, NOISE_BYTES / raw_bytes)
        total = self._general_variance + self._own_variance[index] + noise
        general, own = self._general_variance / total, self._own_variance[index] / total
        self._general = min(MAX_CORRECTION, max(-MAX_CORRECTION, self._general + general * error))
        self._own[index] = min(1.0, max(-1.0, self._own[index] + own * error))
        self._general_variance *= 1 - general
        self._own_variance[index] = max(KNOWN_OWN**2, self._own_variance[index] * (1 - own))
