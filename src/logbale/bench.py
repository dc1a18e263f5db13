"""Every algorithm at every level on the same batches: what it saves, what CPU time it takes, and which one to take.

Measured is what the two ends do: in a session each batch goes on from the one before, without one it stands alone; each
round trip is compared. The network, the disk and the building of the JSON are not in it (benchmarks/ has those).
"""

from __future__ import annotations

import platform
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter

import msgspec

from logbale.bench_corpus import Corpus
from logbale.bench_trial import Measurement, Trial
from logbale.compression import zstd
from logbale.models import json_array
from logbale.protocol import Algorithm

DEFAULT_SECONDS = 20.0
QUICK_SECONDS = 4.0

CPU_WORTH = 2_000_000
"""Bytes of wire that one CPU second is worth (the k in cost = wire bytes + k · CPU seconds).

At cloud list prices a second of one core costs as much as 0.1 to 0.6 MB of traffic; on a gigabit LAN, where traffic is
free, it moves 125 MB. 2 MB leans to the wire, but counts CPU several times its price: it is taken from the services
whose logs these are.
"""

TIE = 0.02
"""Costs closer than this are equal, and the faster setting wins: timing is no more exact."""

BASELINE = (Algorithm.GZIP.label, 6)
"""The default without a session: what everything is compared with there."""

SESSION_BASELINE = (Algorithm.ZSTD.label, 6)
"""The same in a session."""

ROUGH_BATCHES = 100
"""With fewer the processor's caches see the same bytes again and again, and a few odd batches tilt the ratio."""

MIN_ROUNDS = 5
MAX_ROUNDS = 15
_WARM_UP_BYTES = 128 * 1024

SETTINGS = [(Algorithm.NONE, 0)] + [
    (algorithm, level) for algorithm in (Algorithm.GZIP, Algorithm.ZLIB, Algorithm.ZSTD) for level in range(1, 10)
]


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """Which setting to take, and the two that other circumstances ask for."""

    algorithm: str
    level: int
    reason: str
    metered: str
    """Where traffic is paid by the byte: the smallest."""
    fastest: str
    """Where CPU time is short and the network is not."""
    cpu_worth: float
    """Bytes of wire that one CPU second was worth."""


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run found."""

    corpus: str
    entries: int
    batches: int
    batch_size: int
    raw_bytes: int
    rounds: int
    seconds: float
    """What the whole measurement took."""
    in_session: bool
    """Whether each batch went on from the one before, as a session has it by default, or stood alone."""
    measurements: list[Measurement]
    """Of all SETTINGS, that way: the recommendation is for it."""
    alone: list[Measurement]
    """The same batches each on its own, as the base protocol has them; empty where that is `measurements`."""
    recommendation: Recommendation
    notes: list[str]
    """What limits the figures."""
    environment: dict[str, str]

    @property
    def baseline(self) -> Measurement:
        """The default, this way."""
        return find(self.measurements, _baseline(self.in_session))

    def to_json(self) -> bytes:
        """One JSON object, indented."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


def measure(
    corpus: Corpus,
    *,
    seconds: float = DEFAULT_SECONDS,
    cpu_worth: float = CPU_WORTH,
    bypass_threshold: int = 256,
    in_session: bool = True,
    progress: Callable[[float], None] = lambda fraction: None,
) -> BenchResult:
    """Measures all SETTINGS within about `seconds`; medians over rounds in which each setting has its turn.

    `in_session`: in context, from the first batch on, and alone as well. `progress` is told the fraction done. Raises
    DecompressionError where a batch does not come back as it was.
    """
    started = perf_counter()
    ways = [True, False] if in_session else [False]
    trials = [
        Trial(algorithm, level, bypass_threshold=bypass_threshold, in_session=way)
        for way in ways
        for algorithm, level in SETTINGS
    ]
    sample = _affordable(corpus, trials, seconds)
    carried = _carried(sample)
    rounds, longest = 0, 0.0
    while rounds == 0 or (rounds < MAX_ROUNDS and perf_counter() - started + longest <= seconds):
        round_started = perf_counter()
        turn = rounds % len(trials)  # each round starts elsewhere: nobody always follows the same neighbour
        for trial in trials[turn:] + trials[:turn]:
            trial.run(carried[trial.in_session])
            progress(min(1.0, (perf_counter() - started) / seconds))
        longest = max(longest, perf_counter() - round_started)
        rounds += 1
    progress(1.0)
    results = [trial.result(carried[trial.in_session]) for trial in trials]
    measurements, alone = results[: len(SETTINGS)], results[len(SETTINGS) :]
    return BenchResult(
        corpus=corpus.description,
        entries=sample.entries,
        batches=len(sample.batches),
        batch_size=corpus.batch_size,
        raw_bytes=sum(map(len, carried[in_session])),
        rounds=rounds,
        seconds=perf_counter() - started,
        in_session=in_session,
        measurements=measurements,
        alone=alone,
        recommendation=recommend(measurements, cpu_worth=cpu_worth, baseline=_baseline(in_session)),
        notes=_notes(len(corpus.batches), len(sample.batches), rounds, seconds),
        environment={
            "python": platform.python_version(),
            "zlib": zlib.ZLIB_RUNTIME_VERSION,
            "isal": _version("isal"),
            "zlib-ng": _version("zlib-ng"),
            "zstd": zstd.zstd_version,
            "machine": platform.platform(),
        },
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _carried(corpus: Corpus) -> dict[bool, list[bytes]]:
    """The batches as each way has them, by whether it is a session: lines, or a JSON array."""
    return {True: corpus.batches, False: [json_array(raw) for raw in corpus.batches]}


def _affordable(corpus: Corpus, trials: Sequence[Trial], seconds: float) -> Corpus:
    """As much of the corpus as MIN_ROUNDS rounds can treat in time, judged by the warm-up."""
    warm_up = corpus.sample(_WARM_UP_BYTES)
    carried = _carried(warm_up)
    start = perf_counter()
    for trial in trials:
        trial.run(carried[trial.in_session], keep=False)
    bytes_per_second = warm_up.raw_bytes / (perf_counter() - start)
    return corpus.sample(0.9 * seconds * bytes_per_second / MIN_ROUNDS)


def _notes(available: int, measured: int, rounds: int, seconds: float) -> list[str]:
    notes = []
    if measured < available:
        notes.append(f"{measured:,} of {available:,} batches, evenly spaced, were measured: what {seconds:g} s allow")
    if measured < ROUGH_BATCHES:
        notes.append(f"only {measured} batches: below {ROUGH_BATCHES} the figures are rough")
    if rounds < MIN_ROUNDS:
        notes.append(f"only {rounds} rounds: the machine is busy, the speeds are rough")
    return notes


def pareto(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Those that no other beats in both ratio and compression speed, the fastest first. `none` has no speed."""
    front: list[Measurement] = []
    for one in sorted(
        (one for one in measurements if one.compress_mb_per_s is not None),
        key=lambda one: (-(one.compress_mb_per_s or 0), -one.ratio),
    ):
        if not front or one.ratio > front[-1].ratio:
            front.append(one)
    return front


def cheapest(measurements: Sequence[Measurement], cpu_worth: float) -> Measurement:
    """The setting of the lowest cost; among equals (see TIE) the one that takes the least CPU."""
    least = min(one.cost(cpu_worth) for one in measurements)
    return min(
        (one for one in measurements if one.cost(cpu_worth) <= least * (1 + TIE)), key=lambda one: one.cpu_seconds
    )


def _baseline(in_session: bool) -> tuple[str, int]:
    return SESSION_BASELINE if in_session else BASELINE


def find(measurements: Sequence[Measurement], setting: tuple[str, int]) -> Measurement:
    """The one of this algorithm and level."""
    return next(one for one in measurements if (one.algorithm, one.level) == setting)


def recommend(
    measurements: Sequence[Measurement], *, cpu_worth: float = CPU_WORTH, baseline: tuple[str, int] = BASELINE
) -> Recommendation:
    """The setting of the lowest cost = wire bytes + cpu_worth · CPU seconds of both ends.

    So a higher level must save in bytes what it takes in CPU: 1 % smaller at three times the CPU never wins.
    """
    default = find(measurements, baseline)
    best = cheapest(measurements, cpu_worth)
    smallest = min(measurements, key=lambda one: (one.wire_bytes, one.cpu_seconds))
    fastest = pareto(measurements)[0]
    reason = (
        f"{best.name}: the lowest wire bytes + CPU, at {cpu_worth / 1e6:g} MB of wire for a CPU second of either end. "
        + ("It is the default." if best is default else f"It {compared(best, default)}.")
    )
    return Recommendation(
        algorithm=best.algorithm,
        level=best.level,
        reason=reason,
        metered=f"Where traffic is paid by the byte: {_beside(smallest, best)}.",
        fastest=f"Where the shipper's CPU is all that is short: {_beside(fastest, best)}.",
        cpu_worth=cpu_worth,
    )


def _beside(one: Measurement, best: Measurement) -> str:
    return f"{one.name}, too" if one is best else f"{one.name}, which {compared(one, best)}"


def compared(one: Measurement, other: Measurement) -> str:
    """`sends 12 % less than gzip 6, at 0.31 × the CPU`: the CPU is that of both ends."""
    difference = one.wire_bytes / other.wire_bytes - 1
    size = f"{abs(difference) * 100:.0f} % {'less than' if difference < 0 else 'more than'}"
    if abs(difference) < 0.005:
        size = "as much as"
    times = f"at {one.cpu_seconds / other.cpu_seconds:.2g} × the CPU" if other.cpu_seconds else "for CPU that it takes"
    return f"sends {size} {other.name}, {times}"
