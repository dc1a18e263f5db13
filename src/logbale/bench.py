"""Every algorithm at every level on the same batches: what it saves, what CPU time it takes, and which one to take.

Measured is what the shipper does: whole batches through CompressionHandler and back through decompress(), each round
trip compared. The network, the disk and the building of the JSON are not in it (benchmarks/ has those).
"""

from __future__ import annotations

import platform
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from time import perf_counter, thread_time

import msgspec

from logbale.bench_corpus import Corpus
from logbale.compression import Compressed, CompressionHandler, decompress, library, zstd
from logbale.errors import DecompressionError
from logbale.protocol import HEADER_BYTES, Algorithm

DEFAULT_SECONDS = 20.0
QUICK_SECONDS = 4.0

CPU_WORTH = 2_000_000
"""Bytes of wire that one CPU second is worth (the k in cost = wire bytes + k · CPU seconds).

At cloud list prices a second of one core costs as much as 0.1 to 0.6 MB of traffic; on a gigabit LAN, where traffic is
free, it moves 125 MB. 2 MB leans to the wire, but counts CPU several times its price: it is taken from the services
whose logs these are.
"""

METERED_CPU_WORTH = 200_000
"""The same where each byte is paid for: the price alone."""

TIE = 0.02
"""Costs closer than this are equal, and the faster setting wins: timing is no more exact."""

BASELINE = (Algorithm.GZIP.label, 6)
"""The default without a session, where each batch stands alone, as here: what everything is compared with."""

DEFAULTS = {BASELINE: "default", (Algorithm.ZSTD.label, 6): "default (session)"}
"""Remarks for the settings that nobody has to choose."""

ROUGH_BATCHES = 100
"""With fewer the processor's caches see the same bytes again and again, and a few odd batches tilt the ratio."""

MIN_ROUNDS = 5
MAX_ROUNDS = 15
_WARM_UP_BYTES = 128 * 1024

SETTINGS = [(Algorithm.NONE, 0)] + [
    (algorithm, level) for algorithm in (Algorithm.GZIP, Algorithm.ZLIB, Algorithm.ZSTD) for level in range(1, 10)
]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One algorithm at one level. Speeds are raw megabytes (10^6) a CPU second of one core; None for `none`."""

    algorithm: str
    level: int
    library: str
    """Which library does it, and what it calls the level: `zlib-ng 6`."""
    ratio: float
    """Raw bytes for each wire byte."""
    wire_bytes: int
    """Payloads and frame headers."""
    saved_bytes: int
    compress_mb_per_s: float | None
    decompress_mb_per_s: float | None
    cpu_seconds: float
    """Compressing and decompressing all that was measured, once."""

    @property
    def name(self) -> str:
        """As the texts call it: `zstd 3`."""
        return _name(self.algorithm, self.level)

    def cost(self, cpu_worth: float) -> float:
        """Wire bytes, and CPU seconds in wire bytes."""
        return self.wire_bytes + cpu_worth * self.cpu_seconds


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """Which setting to take, and the two that other circumstances ask for."""

    algorithm: str
    level: int
    reason: str
    metered: str
    """Where traffic is paid by the byte."""
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
    measurements: list[Measurement]
    recommendation: Recommendation
    notes: list[str]
    """What limits the figures."""
    environment: dict[str, str]

    def to_json(self) -> bytes:
        """One JSON object, indented."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


def measure(
    corpus: Corpus,
    *,
    seconds: float = DEFAULT_SECONDS,
    cpu_worth: float = CPU_WORTH,
    bypass_threshold: int = 256,
    progress: Callable[[float], None] = lambda fraction: None,
) -> BenchResult:
    """Measures all SETTINGS within about `seconds`; medians over rounds in which each setting has its turn.

    `progress` is told the fraction done. Raises DecompressionError where a batch does not come back as it was.
    """
    started = perf_counter()
    trials = [_Trial(algorithm, level, bypass_threshold) for algorithm, level in SETTINGS]
    sample = _affordable(corpus, trials, seconds)
    rounds, longest = 0, 0.0
    while rounds == 0 or (rounds < MAX_ROUNDS and perf_counter() - started + longest <= seconds):
        round_started = perf_counter()
        turn = rounds % len(trials)  # each round starts elsewhere: nobody always follows the same neighbour
        for trial in trials[turn:] + trials[:turn]:
            trial.run(sample.batches)
            progress(min(1.0, (perf_counter() - started) / seconds))
        longest = max(longest, perf_counter() - round_started)
        rounds += 1
    progress(1.0)
    measurements = [trial.result(sample.raw_bytes) for trial in trials]
    return BenchResult(
        corpus=corpus.description,
        entries=sample.entries,
        batches=len(sample.batches),
        batch_size=corpus.batch_size,
        raw_bytes=sample.raw_bytes,
        rounds=rounds,
        seconds=perf_counter() - started,
        measurements=measurements,
        recommendation=recommend(measurements, cpu_worth=cpu_worth),
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


class _Trial:
    """One setting, its handler (kept, as the shipper keeps it) and its times."""

    def __init__(self, algorithm: Algorithm, level: int, bypass_threshold: int) -> None:
        self._algorithm = algorithm
        self._level = level
        self._name = _name(algorithm.label, level)
        self._handler = CompressionHandler(algorithm, level, bypass_threshold=bypass_threshold)
        self._compressed: list[Compressed] = []
        self._times: list[tuple[float, float]] = []

    def run(self, batches: Sequence[bytes], *, keep: bool = True) -> None:
        """One pass there and back. CPU time of this thread: what else the machine does is not in it."""
        start = thread_time()
        compressed = [self._handler.compress(raw) for raw in batches]
        middle = thread_time()
        try:
            restored = [
                decompress(batch.algorithm, batch.payload, max_raw=len(raw))
                for batch, raw in zip(compressed, batches, strict=True)
            ]
        except DecompressionError as error:
            raise DecompressionError(error.reason, f"{self._name}: a batch did not come back: {error}") from error
        end = thread_time()
        for index, (raw, back) in enumerate(zip(batches, restored, strict=True)):
            if raw != back:
                raise DecompressionError("corrupt", f"{self._name}: batch {index} came back different")
        if keep:
            self._compressed = compressed
            self._times.append((middle - start, end - middle))

    def result(self, raw_bytes: int) -> Measurement:
        wire_bytes = sum(HEADER_BYTES + len(batch.payload) for batch in self._compressed)
        there, back = (median(times) for times in zip(*self._times, strict=True))
        idle = self._algorithm is Algorithm.NONE
        return Measurement(
            algorithm=self._algorithm.label,
            level=self._level,
            library=library(self._algorithm, self._level),
            ratio=raw_bytes / wire_bytes,
            wire_bytes=wire_bytes,
            saved_bytes=raw_bytes - wire_bytes,
            compress_mb_per_s=None if idle else raw_bytes / 1e6 / max(there, 1e-9),
            decompress_mb_per_s=None if idle else raw_bytes / 1e6 / max(back, 1e-9),
            cpu_seconds=0.0 if idle else there + back,
        )


def _affordable(corpus: Corpus, trials: Sequence[_Trial], seconds: float) -> Corpus:
    """As much of the corpus as MIN_ROUNDS rounds can treat in time, judged by the warm-up."""
    warm_up = corpus.sample(_WARM_UP_BYTES)
    start = perf_counter()
    for trial in trials:
        trial.run(warm_up.batches, keep=False)
    bytes_per_second = warm_up.raw_bytes / (perf_counter() - start)
    return corpus.sample(0.9 * seconds * bytes_per_second / MIN_ROUNDS)


def _notes(available: int, measured: int, rounds: int, seconds: float) -> list[str]:
    notes = [
        "each batch is on its own, as SESSION_MODE=off sends it; a session goes on from batch to batch: zstd gains most"
    ]
    if measured < available:
        notes.append(f"{measured:,} of {available:,} batches, evenly spaced, were measured: what {seconds:g} s allow")
    if measured < ROUGH_BATCHES:
        notes.append(f"only {measured} batches: below {ROUGH_BATCHES} the figures are rough")
    if rounds < MIN_ROUNDS:
        notes.append(f"only {rounds} rounds: the machine is busy, the speeds are rough")
    return notes


def _name(algorithm: str, level: int) -> str:
    return f"{algorithm} {level}" if level else algorithm


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


def recommend(measurements: Sequence[Measurement], *, cpu_worth: float = CPU_WORTH) -> Recommendation:
    """The setting of the lowest cost = wire bytes + cpu_worth · CPU seconds of both ends.

    So a higher level must save in bytes what it takes in CPU: 1 % smaller at three times the CPU never wins.
    """
    baseline = next(one for one in measurements if (one.algorithm, one.level) == BASELINE)
    best = cheapest(measurements, cpu_worth)
    metered = cheapest(measurements, METERED_CPU_WORTH)
    fastest = pareto(measurements)[0]
    reason = (
        f"{best.name}: the lowest wire bytes + CPU, at {cpu_worth / 1e6:g} MB of wire for a CPU second of either end. "
        + ("It is the default." if best is baseline else f"It {compared(best, baseline)}.")
    )
    return Recommendation(
        algorithm=best.algorithm,
        level=best.level,
        reason=reason,
        metered=f"Where traffic is paid by the byte: {_beside(metered, best)}.",
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
