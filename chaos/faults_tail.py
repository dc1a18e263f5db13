"""Files as applications and logrotate leave them: renamed, copied and cut, short, alike, unfinished, and many."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from chaos import load, oracle
from chaos.faults_crash import finish
from chaos.oracle import line
from chaos.processes import Receiver, Shipper
from chaos.suite import Run, fault

SETTLE = 0.6
"""Seconds: a little more than two looks at the file names."""


@fault("F32-rename", "rotation by rename under load", full=40, smoke=4)
def renamed(run: Run) -> None:
    place = run.place()
    receiver, shipper, growing = _following(run, place, rate=3000)
    for turn in range(run.times):
        time.sleep(run.chance.uniform(0.3, 1.0))
        growing.rotate(f"load.log.{turn}")
        run.bite()
    finish(run, receiver, shipper, growing)


@fault("F32-kill", "rotation by rename, the shipper killed at it", full=40, smoke=4)
def renamed_and_killed(run: Run) -> None:
    place = run.place()
    receiver, shipper, growing = _following(run, place, rate=3000, spool=True)
    for turn in range(run.times):
        time.sleep(run.chance.uniform(0.5, 1.0))
        steps: list[Callable[[], object]] = [lambda turn=turn: growing.rotate(f"load.log.{turn}"), shipper.kill]
        run.chance.shuffle(steps)
        for step in steps:
            step()
        shipper.spawn()
        shipper.first_ack()
        run.bite()
    finish(run, receiver, shipper, growing)


@fault("F32-copytruncate", "copytruncate: its unavoidable window, measured", full=20, smoke=2)
def copied_and_truncated(run: Run) -> None:
    """The copy itself loses what is written between the last read and the cut: never more than that, and no other."""
    place = run.place()
    path = place / "load.log"
    path.touch()
    receiver = run.receiver(place).start()
    shipper = run.shipper(place, receiver.port, path, spool=place / "spool")
    shipper.spawn()
    shipper.process.says(r"reading .*load\.log")
    written = 0
    at_risk = []
    for _ in range(run.times):
        for _ in range(run.chance.randrange(20, 60)):
            load.write(path, "cut", 5, start=written)
            written += 5
            time.sleep(0.01)
        before = shipper.metric("logbale_shipper_read_entries")
        at_risk.append(written - int(before))
        os.truncate(path, 0)
        time.sleep(SETTLE)
        run.bite()
    load.write(path, "cut", 5, start=written)
    written += 5
    time.sleep(SETTLE + 1)
    shipper.process.stop()
    receiver.process.stop()
    verdict = oracle.verdict(receiver.archive, {"cut": written})
    run.result.stored += verdict.stored
    clean = not (verdict.duplicated or verdict.out_of_order or verdict.damaged)
    run.expect(clean, f"{verdict}")
    run.expect(verdict.lost <= sum(at_risk), f"{verdict}, though only {sum(at_risk)} were unread at the cuts")
    run.note(
        f"{verdict.lost} of {written} lines written at 500 a second were unread when the file was cut, in {run.times} "
        f"cuts: a window of {verdict.lost / run.times / 500 * 1000:.0f} ms each; rotate by rename instead"
    )


@fault("F32-inode", "deleted and made anew, often with the same inode", full=40, smoke=4)
def same_inode(run: Run) -> None:
    place = run.place()
    path = place / "app.log"
    path.touch()
    receiver = run.receiver(place).start()
    shipper = run.shipper(place, receiver.port, path, spool=place / "spool")
    shipper.spawn()
    shipper.process.says(r"reading .*app\.log")
    written = same = 0
    for turn in range(run.times):
        load.write(path, "inode", 20, start=written)
        written += 20
        run.wait_until_stored(receiver.archive, written)
        before = path.stat().st_ino
        if turn % 2:  # while nobody looks, so that the number is free again
            shipper.process.stop()
        path.unlink()
        if turn % 2:
            _take_inode(path, before)
        load.write(path, "inode", 25, start=written)
        written += 25
        same += path.stat().st_ino == before
        if turn % 2:
            shipper.spawn()
        run.bite()
        run.wait_until_stored(receiver.archive, written)
    shipper.process.stop()
    receiver.process.stop()
    run.expect(same, "no new file had the inode of the old one")
    run.note(f"{same} of {run.times} new files had the inode of the old one")
    run.judge(receiver.archive, {"inode": written})


def _take_inode(path: Path, inode: int) -> None:
    """An empty file with the inode number that was just freed, where the file system hands it out again."""
    others = []
    for number in range(300):
        candidate = path.with_name(f"aside-{number}")
        candidate.touch()
        if candidate.stat().st_ino == inode:
            candidate.rename(path)
            break
        others.append(candidate)
    for other in others:
        other.unlink()


@fault("F32-shapes", "short, alike, unfinished, byte by byte, endless", full=5, smoke=1)
def shapes(run: Run) -> None:
    """Files under 1 KiB, with one first KiB, without a last newline, written byte by byte; found by a glob."""
    for _ in range(run.times):
        place = run.place()
        receiver = run.receiver(place).start()
        shipper = run.shipper(place, receiver.port, f"{place}/*.log", spool=place / "spool")
        shipper.spawn()
        _writing(run, place, receiver, shipper)
        run.bite()


def _writing(run: Run, place: Path, receiver: Receiver, shipper: Shipper) -> None:
    expected = {}
    for name in ("short", "shorter"):
        (place / f"{name}.log").write_text(line(name, 0) + "\n")
        expected[name] = 1
    # Two files whose first 2 KiB are the same: those lines count as a stream that comes twice, in two halves.
    head = "#" * 2000 + "\n"
    for name in ("twin-a", "twin-b"):
        (place / f"{name}.log").write_text(head + "".join(line(name, n) + "\n" for n in range(50)))
        expected[name] = 50
    with (place / "bytes.log").open("wb", buffering=0) as file:
        for byte in "".join(line("bytes", n) + "\n" for n in range(10)).encode():
            file.write(bytes([byte]))
            time.sleep(0.001)
    expected["bytes"] = 10
    (place / "long.log").write_text(line("long", 0, "x" * 900_000) + "\n" + line("long", 1) + "\n")
    expected["long"] = 2
    run.wait_until_stored(receiver.archive, sum(expected.values()) + 2)
    # Restarts, between which a file grows, another appears, and a third ends without a newline.
    shipper.process.stop()
    load.write(place / "short.log", "short", 40, start=1)
    expected["short"] = 41
    (place / "late.log").write_text(line("late", 0) + "\n" + line("late", 1))
    expected["late"] = 2
    shipper.spawn()
    run.wait_until_stored(receiver.archive, sum(expected.values()) + 2 - 1)
    with (place / "late.log").open("a") as file:
        file.write("\n" + line("late", 2) + "\n")
    expected["late"] = 3
    run.wait_until_stored(receiver.archive, sum(expected.values()) + 2)
    shipper.process.stop()
    receiver.process.stop()
    entries = [raw for raw in oracle.read(receiver.archive) if b"######" not in raw]
    verdict = oracle.judge(entries, expected)
    run.result.stored += verdict.stored
    run.result.lost += verdict.lost
    run.result.duplicated += verdict.duplicated
    run.expect(verdict.clean, str(verdict))


@fault("F32-many", "a thousand files at once, with a restart", full=3, smoke=1)
def many_files(run: Run) -> None:
    for turn in range(run.times):
        place = run.place()
        receiver = run.receiver(place).start()
        files = place / "files"
        files.mkdir()
        chance = random.Random(run.seed + turn)
        expected = {f"file-{i}": chance.randrange(1, 40) for i in range(1000)}
        for name, count in expected.items():
            load.write(files / f"{name}.log", name, count)
        shipper = run.shipper(place, receiver.port, f"{files}/*.log", spool=place / "spool")
        shipper.spawn()
        shipper.first_ack(above=0)
        shipper.kill()
        run.bite()
        for name in list(expected)[::3]:
            load.write(files / f"{name}.log", name, 5, start=expected[name])
            expected[name] += 5
        began = time.monotonic()
        shipper.spawn()
        run.wait_until_stored(receiver.archive, sum(expected.values()), timeout=60)
        run.recovered(time.monotonic() - began)
        shipper.process.stop()
        receiver.process.stop()
        run.judge(receiver.archive, expected)


@fault("F32-line", "a line of 100 MB", full=1, smoke=1)
def endless_line(run: Run) -> None:
    """It comes in pieces, all of it; its neighbours are untouched, and memory stays bounded."""
    place = run.place()
    megabytes = 100
    with (place / "huge.log").open("w") as file:
        file.write(line("huge", 0) + "\n")
        for _ in range(megabytes):
            file.write("y" * (1 << 20))
        file.write("\n" + line("huge", 1) + "\n")
    receiver = run.receiver(place).start()
    shipper = run.shipper(place, receiver.port, place / "huge.log", once=True)
    process = shipper.spawn()
    most = 0
    while not process.ended:
        try:
            most = max(most, process.resident_bytes)
        except (OSError, IndexError):
            break
        time.sleep(0.02)
    run.expect(process.wait(60) == 0, process.text[-500:])
    receiver.process.stop()
    entries = list(oracle.read(receiver.archive))
    run.bite(sum(b"yyyyyyyy" in raw for raw in entries) > 1)
    letters = sum(raw.count(b"y" * 1024) for raw in entries) * 1024
    run.expect(
        abs(letters - (megabytes << 20)) < (megabytes << 20) * 0.01, f"{letters} of {megabytes << 20} bytes came"
    )
    run.expect(most < 400 << 20, f"the shipper took {most >> 20} MiB")
    run.note(f"the shipper took {most >> 20} MiB at most")
    verdict = oracle.judge([raw for raw in entries if b"yyyyyyyy" not in raw], {"huge": 2})
    run.result.stored += verdict.stored
    run.expect(verdict.clean, str(verdict))


def _following(run: Run, place: Path, *, rate: int, spool: bool = False) -> tuple[Receiver, Shipper, load.Load]:
    receiver = run.receiver(place).start()
    growing = load.Load(place / "load.log", rate=rate)
    run.finally_do(growing.stop)
    shipper = run.shipper(place, receiver.port, f"{place}/load.log*", spool=place / "spool" if spool else None)
    shipper.spawn()
    shipper.first_ack(above=0)
    return receiver, shipper, growing
