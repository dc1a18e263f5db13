"""What each fixed level and both adaptive policies cost in simulated scenes, and over a day that mixes them.

    .venv/bin/python benchmarks/adaptive_simulation.py [--table zstd] [--measure]

cost = seconds behind + wire bytes / 10 MB + CPU seconds of compression. The shipper is behind while an entry that is
read now waits for longer than a second; sending waits for the compressor, which gets `share` of a core, or for the
link. What each level takes was measured (--measure measures anew): the policy does not know it, it has its prior and
what it observes, with noise. Times are simulated, so nothing here depends on the machine.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from logbale.adaptive import AdaptiveCompression, Policy, Sample
from logbale.adaptive_balanced import BEHIND_BYTES, RESTART_BYTES, SECOND_WORTH, BalancedCompression
from logbale.level_table import PRIORS, Work
from logbale.protocol import Algorithm

MB = 1e6
STEP = 0.5
"""Seconds: also how often the shipper looks while it is behind."""

INTERVAL = 5.0
REST = 10e-9
"""Seconds of a core for each raw byte that a shipper spends beside compression."""

Table = list[tuple[float, float]]


def _rows(nanoseconds: list[float], ratios: list[float]) -> Table:
    return list(zip(nanoseconds, ratios, strict=True))


TABLES: dict[str, tuple[Algorithm, Table]] = {
    # Nanoseconds a raw byte and ratio of levels 1 to 9; generated entries, 2.8 MB; two-core x86-64, CPython 3.11.
    "gzip": (  # 50 entries a batch, one context
        Algorithm.GZIP,
        _rows(
            [1.8, 3.3, 4.2, 4.7, 5.1, 6.4, 14.7, 14.8, 14.8],
            [5.83, 5.96, 6.26, 6.81, 7.11, 7.24, 7.69, 7.69, 7.69],
        ),
    ),
    "gzip-batch": (  # 500 entries a batch, each on its own
        Algorithm.GZIP,
        _rows(
            [1.0, 2.5, 3.4, 3.9, 4.2, 5.2, 11.8, 11.9, 11.9],
            [5.81, 5.93, 6.17, 6.64, 6.99, 7.08, 7.46, 7.46, 7.46],
        ),
    ),
    "zlib": (
        Algorithm.ZLIB,
        _rows(
            [1.8, 3.2, 4.2, 4.8, 5.1, 6.4, 15.1, 15.1, 15.4],
            [5.83, 5.96, 6.26, 6.81, 7.11, 7.24, 7.69, 7.69, 7.69],
        ),
    ),
    "zstd": (
        Algorithm.ZSTD,
        _rows(
            [1.4, 1.9, 4.9, 5.3, 5.7, 6.0, 9.8, 11.6, 74.7],
            [4.13, 6.70, 7.55, 7.75, 7.82, 7.92, 8.26, 8.35, 8.73],
        ),
    ),
    "zstd-batch": (
        Algorithm.ZSTD,
        _rows(
            [0.9, 1.1, 3.7, 4.1, 4.2, 4.8, 7.1, 8.0, 60.6],
            [3.97, 6.73, 7.41, 7.61, 7.62, 7.77, 7.95, 8.01, 8.28],
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """So many seconds under the same conditions."""

    seconds: float
    arrive: float
    """Raw bytes a second."""
    link: float = 125 * MB
    """Wire bytes a second; 0 is an outage."""
    share: float = 1.0
    """The part of a core that the shipper gets."""
    others: float = 5.0
    """Percent of the machine that is busy with other things."""
    at_once: float = 0.0
    """Raw bytes that are there at the beginning: a file to be shipped."""
    size: float = 1.0
    """Of the content: wire bytes for each that the table says."""


def day() -> list[Phase]:
    """All scenes, one after the other, with content that changes."""
    one = [phase for name in SCENES for phase in SCENES[name]]
    return one + [Phase(**{**phase.__dict__, "size": 1.5}) for phase in reversed(one)]


MINUTE = 60.0
SCENES: dict[str, list[Phase]] = {
    "idle, fast link": [Phase(10 * MINUTE, 1 * MB)],
    "trickle": [Phase(10 * MINUTE, 0.005 * MB, link=0.125 * MB)],
    "1 Mbit/s, a file": [Phase(2 * MINUTE, 0, link=0.125 * MB, at_once=200 * MB)],
    "1 Mbit/s, half used": [Phase(10 * MINUTE, 0.4 * MB, link=0.125 * MB)],
    "1 Mbit/s, nearly full": [Phase(60 * MINUTE, 0.80 * MB, link=0.125 * MB)],
    "10 Mbit/s, a file": [Phase(2 * MINUTE, 0, link=1.25 * MB, at_once=1000 * MB)],
    "100 Mbit/s, a file": [Phase(MINUTE, 0, link=12.5 * MB, at_once=4000 * MB)],
    "1 Gbit/s, a file": [Phase(MINUTE, 0, at_once=5000 * MB)],
    "starved CPU, a file": [Phase(2 * MINUTE, 0, share=0.1, others=99, at_once=400 * MB)],
    "starved CPU, steady": [Phase(10 * MINUTE, 2 * MB, share=0.1, others=99)],
    "bursts": [Phase(20, 12 * MB, link=1.25 * MB), Phase(60, 0.2 * MB, link=1.25 * MB)] * 8,
    "outage, then drain": [
        Phase(MINUTE, 2 * MB, link=1.25 * MB),
        Phase(3 * MINUTE, 2 * MB, link=0),
        Phase(6 * MINUTE, 2 * MB, link=1.25 * MB),
    ],
}


@dataclass
class Cost:
    """What a run cost."""

    behind: float = 0.0
    wire: float = 0.0
    cpu: float = 0.0
    changes: int = 0
    levels: list[int] = field(default_factory=list)

    @property
    def total(self) -> float:
        """In seconds."""
        return self.behind + self.wire / SECOND_WORTH + self.cpu


def steps(phases: Sequence[Phase]) -> Iterator[tuple[Phase, float]]:
    """Each step's phase and what arrives at once in it; after the last phase, more of it until told to stop."""
    for phase in phases:
        for number in range(int(phase.seconds / STEP)):
            yield phase, phase.at_once if number == 0 else 0.0
    last = phases[-1]
    while True:
        yield Phase(STEP, 0, last.link, last.share, last.others, 0, last.size), 0.0


def simulate(phases: Sequence[Phase], table: Table, policy: Policy | int, *, seed: int = 0) -> Cost:
    """Runs until the phases are over and nothing is left; `policy` may be a fixed level."""
    chance = random.Random(seed)
    cost = Cost()
    backlog = 0.0
    length = sum(int(phase.seconds / STEP) for phase in phases)
    level = policy if isinstance(policy, int) else policy.level
    seen = _Seen()
    for number, (phase, at_once) in enumerate(steps(phases)):
        if number >= length and backlog < 1:
            return cost
        nanoseconds, ratio = table[level - 1]
        cpu, size = nanoseconds * 1e-9, phase.size / ratio
        arrived = at_once + phase.arrive * STEP
        backlog += arrived
        busy = (cpu + REST) / phase.share
        each = max(busy, size / phase.link) if phase.link else float("inf")
        sent = min(backlog, STEP / each)
        backlog -= sent
        cost.behind += STEP * (backlog * each > 1.0)
        cost.wire += sent * size
        cost.cpu += sent * cpu
        cost.levels.append(level)
        if isinstance(policy, int):
            continue
        noise = chance.gauss(1, 0.05)
        seen.add(
            arrived, sent, sent * size, sent * cpu * noise, sent * cpu / phase.share * noise,
            max(0.0, STEP - sent * busy) if backlog and phase.link else 0.0,
        )  # fmt: skip
        due = INTERVAL if backlog < BEHIND_BYTES or not isinstance(policy, BalancedCompression) else STEP
        if seen.seconds >= due:
            own = 50 * sent * (cpu + REST) / STEP
            policy.observe(seen.sample(level, backlog, min(100, phase.others + own) * chance.gauss(1, 0.03)))
            decision = policy.decide()
            if decision.changed:
                cost.changes += 1
                cost.wire += RESTART_BYTES
            level = decision.level
            seen = _Seen()
    raise AssertionError("steps() never ends")


@dataclass
class _Seen:
    """What the shipper saw since the last sample."""

    seconds: float = 0.0
    arrived: float = 0.0
    raw: float = 0.0
    wire: float = 0.0
    cpu: float = 0.0
    wall: float = 0.0
    stalled: float = 0.0

    def add(self, arrived: float, raw: float, wire: float, cpu: float, wall: float, stalled: float) -> None:
        self.seconds += STEP
        self.arrived += arrived
        self.raw += raw
        self.wire += wire
        self.cpu += cpu
        self.wall += wall
        self.stalled += stalled

    def sample(self, level: int, backlog: float, percent: float) -> Sample:
        return Sample(
            cpu_percent=percent,
            seconds=self.seconds,
            read_bytes=self.arrived,
            backlog_bytes=backlog,
            wire_bytes=self.wire,
            stalled=self.stalled,
            work={level: Work(int(self.raw), int(self.wire), self.cpu, self.wall)} if self.raw >= 1 else {},
        )


def policies(algorithm: Algorithm) -> dict[str, Policy]:
    """Both, as a shipper starts them."""
    return {
        "cpu": AdaptiveCompression(1, 9, level=6),
        "balanced": BalancedCompression(1, 9, prior=PRIORS[algorithm]),
    }


def compare(phases: Sequence[Phase], table_name: str, *, seed: int = 0) -> tuple[dict[int, Cost], dict[str, Cost]]:
    """The cost of each fixed level, and of each policy."""
    algorithm, table = TABLES[table_name]
    fixed = {level: simulate(phases, table, level) for level in range(1, 10)}
    return fixed, {name: simulate(phases, table, policy, seed=seed) for name, policy in policies(algorithm).items()}


def measure(rounds: int = 3) -> None:
    """Prints what each level takes on this machine, as TABLES and level_table.PRIORS have it: medians of the rounds."""
    from logbale.bench_corpus import generated
    from logbale.compression import CompressionHandler
    from logbale.config import Settings
    from logbale.context import ContextCompressor
    from logbale.context_budget import WINDOW_LOGS

    for size in (50, 500):
        corpus = generated(Settings(batch_size=size), entries=20_000)
        times: dict[tuple[Algorithm, str, int], list[float]] = {}
        ratios: dict[tuple[Algorithm, str, int], float] = {}
        for _ in range(rounds):
            for algorithm in (Algorithm.GZIP, Algorithm.ZLIB, Algorithm.ZSTD):
                for kind, level in ((kind, level) for kind in ("stream", "batch") for level in range(1, 10)):
                    context = ContextCompressor(algorithm, level, window_log=max(WINDOW_LOGS))
                    handler = CompressionHandler(algorithm, level)
                    start, wire = time.thread_time(), 0
                    for raw in corpus.batches:
                        wire += len(context.compress(raw) if kind == "stream" else handler.compress(raw).payload)
                    taken = (time.thread_time() - start) * 1e9 / corpus.raw_bytes
                    times.setdefault((algorithm, kind, level), []).append(taken)
                    ratios[algorithm, kind, level] = corpus.raw_bytes / wire
        for algorithm, kind in dict.fromkeys(key[:2] for key in times):
            row = [
                (round(statistics.median(times[algorithm, kind, level]), 1), round(ratios[algorithm, kind, level], 2))
                for level in range(1, 10)
            ]
            print(f"{algorithm.label} {kind}, {size} entries a batch: {row}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=[*TABLES], action="append")
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args()
    if options.measure:
        measure()
        return
    for table in options.table or TABLES:
        print(
            f"{table:<24}" + "".join(f"{level:>8}" for level in range(1, 10)) + "     cpu  balanced  of best  changes"
        )
        for name, phases in {**SCENES, "the mixed day": day()}.items():
            fixed, adaptive = compare(phases, table)
            best = min(cost.total for cost in fixed.values())
            balanced = adaptive["balanced"]
            print(
                f"{name:<24}"
                + "".join(f"{cost.total:>8.1f}" for cost in fixed.values())
                + f"{adaptive['cpu'].total:>8.1f}{balanced.total:>10.1f}"
                + f"{balanced.total / best - 1:>+9.1%}{balanced.changes:>9}"
            )
        print()


if __name__ == "__main__":
    main()
