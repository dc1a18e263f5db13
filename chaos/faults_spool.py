"""A spool that is not what was written: a flipped bit, a hole, a torn end, a segment gone or swapped, an empty file."""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from chaos import load, oracle
from chaos.processes import PATIENCE, Failed, Shipper
from chaos.suite import Run, fault

LINES = 40_000
QUOTA = 1 << 20
"""Bytes: so small that a backlog of so many lines has several segments."""

Harm = Callable[[list[Path], random.Random], None]


def _flip(segments: list[Path], chance: random.Random) -> None:
    path = chance.choice(segments)
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _zero(segments: list[Path], chance: random.Random) -> None:
    path = chance.choice(segments)
    data = bytearray(path.read_bytes())
    at = chance.randrange(max(1, len(data) - 512))
    data[at : at + 512] = bytes(len(data[at : at + 512]))
    path.write_bytes(data)


def _truncate(segments: list[Path], chance: random.Random) -> None:
    path = segments[-1]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - chance.randrange(1, min(6000, len(data)))])


def _delete(segments: list[Path], chance: random.Random) -> None:
    chance.choice(segments[1:-1]).unlink()


def _swap(segments: list[Path], chance: random.Random) -> None:
    one, other = chance.sample(segments, 2)
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _empty_state(segments: list[Path], chance: random.Random) -> None:
    (segments[0].parent / "stream").write_bytes(b"")


HARMS: dict[str, Harm] = {
    "flip": _flip,
    "zero": _zero,
    "truncate": _truncate,
    "delete": _delete,
    "swap": _swap,
    "empty": _empty_state,
}


@fault("F25", "a spool flipped, holed, torn, short of a segment", full=120, smoke=6)
def spool_damaged(run: Run) -> None:
    """What is missing is what was counted as such: no more, nothing twice, nothing else harmed."""
    seen: dict[str, int] = {}

    def once(turn: int) -> None:
        harm = list(HARMS)[turn % len(HARMS)]
        chance = random.Random(f"{run.seed} F25 {turn}")
        place = run.place(harm)
        shutil.copytree(whole / "spool", place / "spool")
        segments = sorted((place / "spool").rglob("*.spool"))
        HARMS[harm](segments, chance)
        receiver = run.receiver(place).start()
        shipper = run.shipper(place, receiver.port, whole / "some.log", spool=place / "spool")
        shipper.spawn()
        began = time.monotonic()
        shipper.first_ack(above=0)
        run.recovered(time.monotonic() - began)
        _wait_for_rest(shipper)
        counted = int(receiver.metric("logbale_receiver_skipped_entries"))
        for end in (shipper, receiver):
            end.process.stop()
        run.bite()
        verdict = oracle.verdict(receiver.archive, {"spooled": LINES})
        run.result.stored += verdict.stored
        run.result.duplicated += verdict.duplicated
        clean = not (verdict.duplicated or verdict.out_of_order or verdict.damaged)
        run.expect(clean, f"{harm} {turn}: {verdict}")
        run.expect(verdict.lost == counted, f"{harm} {turn}: {counted} entries counted as skipped, but {verdict}")
        seen[harm] = seen.get(harm, 0) + verdict.lost

    whole = run.place("whole")
    load.write(whole / "some.log", "spooled", LINES)
    _fill(run, whole)
    run.each(range(run.times), once, at_a_time=3)
    run.note("entries damaged and counted: " + ", ".join(f"{harm} {lost}" for harm, lost in sorted(seen.items())))


def _fill(run: Run, whole: Path) -> None:
    """A backlog in several segments: no receiver is there to take it."""
    down = run.receiver(whole)
    shipper = run.shipper(
        whole,
        down.port,
        whole / "some.log",
        spool=whole / "spool",
        SPOOL_MAX_BYTES=str(QUOTA),
        DRAIN_TIMEOUT="0.5",
        BATCH_SIZE="100",
    )
    shipper.spawn()
    deadline = time.monotonic() + PATIENCE
    while shipper.metric("logbale_shipper_read_entries") < LINES:
        if time.monotonic() > deadline:
            raise Failed(f"the backlog is not complete: {shipper.process.text[-500:]}")
        time.sleep(0.1)
    time.sleep(0.5)
    shipper.kill()
    segments = sorted((whole / "spool").rglob("*.spool"))
    run.expect(len(segments) >= 3, f"only {len(segments)} segments: no middle one to take away")
    run.note(f"a backlog of {sum(path.stat().st_size for path in segments)} bytes in {len(segments)} segments")


def _wait_for_rest(shipper: Shipper) -> None:
    """Until nothing waits any more and nothing more comes."""
    deadline = time.monotonic() + 30
    quiet = 0
    while quiet < 5:
        quiet = 0 if shipper.metric("logbale_shipper_waiting_entries") else quiet + 1
        if time.monotonic() > deadline:
            raise Failed(f"entries still wait after 30 s: {shipper.process.text[-500:]}")
        time.sleep(0.1)
