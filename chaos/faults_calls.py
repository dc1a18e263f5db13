"""A crash, an error or half a success at an exact system call."""

import re
import time
from pathlib import Path

from chaos import load
from chaos.faults_crash import SMALL_SEGMENTS, finish, under_load
from chaos.processes import TAMPERED, Failed
from chaos.strace import inject, sweep
from chaos.suite import Run, fault

CALLS = ("pwrite64", "write", "fdatasync", "fsync", "rename", "unlink", "ftruncate")
TOOLS = ("strace",)


@fault("F4", "the receiver killed at every write, sync, rename …", full=1000, smoke=9, tools=TOOLS)
def receiver_killed_at_a_call(run: Run) -> None:
    sweep(run, "receiver", CALLS)


@fault("F5", "the shipper killed at every write, sync, rename …", full=1000, smoke=9, tools=TOOLS)
def shipper_killed_at_a_call(run: Run) -> None:
    sweep(run, "shipper", CALLS)


@fault("F6", "killed during recovery, twice in a row", full=50, smoke=3, tools=TOOLS)
def killed_during_recovery(run: Run) -> None:
    receiver, shipper, growing = under_load(run)
    for _ in range(run.times):
        time.sleep(run.chance.uniform(0.1, 0.4))
        receiver.kill()
        _tear(receiver.archive)
        for _ in range(2):
            call = run.chance.choice(("ftruncate", "fsync", "fsync", "pwrite64"))
            # The first ftruncate and pwrite64 are the lock's.
            n = run.chance.choice((1, 2)) if call in ("fsync", "ftruncate") else 1
            process = receiver.spawn(under=inject(call, f"signal=SIGKILL:when={n}"))
            if process.says(r"listening on \S+") is None:
                run.bite()
            receiver.kill()
        acknowledged = shipper.delivered
        receiver.start()
        run.recovered(shipper.first_ack(above=acknowledged))
    finish(run, receiver, shipper, growing)


@fault("F22", "EIO from fdatasync at the receiver", full=20, smoke=2, tools=TOOLS)
def sync_fails_at_the_receiver(run: Run) -> None:
    def once(n: int) -> None:
        place = run.place()
        log = place / "calls"
        load.write(place / "some.log", "eio", 500)
        receiver = run.receiver(place, **SMALL_SEGMENTS).start(
            under=inject("fdatasync", f"error=EIO:when={n}", log=log, trace=("ftruncate", "close", "openat"))
        )
        shipper = run.shipper(place, receiver.port, place / "some.log", once=True, BATCH_SIZE="5", WINDOW_BYTES="2000")
        if code := shipper.spawn().wait(60):
            raise Failed(f"the shipper ended with {code}: {shipper.process.text[-800:]}")
        receiver.process.stop()
        run.bite(log.read_text().count("(INJECTED)"))
        run.expect(not _synced_again(log), f"fdatasync was tried again after EIO: {_synced_again(log)}")
        run.judge(receiver.archive, {"eio": 500})

    run.each([1 + i for i in range(run.times)], once)


@fault("F22-spool", "EIO from fdatasync at the spool", full=20, smoke=2, tools=TOOLS)
def sync_fails_at_the_spool(run: Run) -> None:
    def once(n: int) -> None:
        place = run.place()
        log = place / "calls"
        load.write(place / "some.log", "eio", 500)
        receiver = run.receiver(place).start()
        shipper = run.shipper(
            place, receiver.port, place / "some.log", once=True, spool=place / "spool", BATCH_SIZE="5"
        )
        process = shipper.spawn(
            under=inject("fdatasync", f"error=EIO:when={n}", log=log, trace=("ftruncate", "close", "openat"))
        )
        if code := process.wait(60):
            raise Failed(f"the shipper ended with {code}: {process.text[-800:]}")
        receiver.process.stop()
        run.bite(log.read_text().count("(INJECTED)"))
        run.expect(not _synced_again(log), f"fdatasync was tried again after EIO: {_synced_again(log)}")
        run.judge(receiver.archive, {"eio": 500})

    run.each([1 + i for i in range(run.times)], once)


@fault("F23", "EINTR from every second call", full=10, smoke=1, tools=TOOLS)
def interrupted_calls(run: Run) -> None:
    for _ in range(run.times):
        call = run.chance.choice(("pwrite64", "fdatasync", "fsync", "ftruncate"))
        place = run.place()
        load.write(place / "some.log", "eintr", 500)
        receiver = run.receiver(place, ARCHIVE_SEGMENT_BYTES="5000").start(
            under=inject(call, "error=EINTR:when=1+2", log=place / "calls")
        )
        shipper = run.shipper(place, receiver.port, place / "some.log", once=True, BATCH_SIZE="20")
        if code := shipper.spawn().wait(60):
            raise Failed(f"{call}: the shipper ended with {code}: {shipper.process.text[-800:]}")
        receiver.process.stop()
        run.bite((place / "calls").read_text().count("(INJECTED)"))
        run.judge(receiver.archive, {"eintr": 500}, about=call)


@fault("F23-short", "writes that write a part, at both ends", full=20, smoke=2)
def short_writes(run: Run) -> None:
    def once(turn: int) -> None:
        place = run.place()
        lines = 2000
        load.write(place / "some.log", "short", lines)
        receiver = run.receiver(place, **SMALL_SEGMENTS).start(program=TAMPERED, CHAOS_TAMPER="short")
        shipper = run.shipper(place, receiver.port, place / "some.log", once=True, spool=place / "spool")
        if code := shipper.spawn(program=TAMPERED, CHAOS_TAMPER="short").wait(60):
            raise Failed(f"the shipper ended with {code}: {shipper.process.text[-800:]}")
        receiver.process.stop()
        run.bite()
        run.judge(receiver.archive, {"short": lines})

    run.each(range(run.times), once)


def _tear(archive: Path) -> None:
    """A block that was cut short at the end of the open segment, as a power cut may leave it."""
    for part in sorted(archive.rglob("*.part"))[-1:]:
        data = part.read_bytes()
        with part.open("ab") as file:
            file.write(data[: min(200, len(data) // 2)])


def _synced_again(log: Path) -> str:
    """The call that syncs a file whose sync had failed, with neither a cut nor a close between; "" where none does."""
    failed: set[str] = set()
    for text in log.read_text().splitlines():
        if (match := re.search(r"(\w+)\((\d+)", text)) is None:
            continue
        call, fd = match.groups()
        if call == "fdatasync" and "EIO" in text:
            failed.add(fd)
        elif call == "fdatasync" and fd in failed:
            return text
        elif call in ("close", "ftruncate"):
            failed.discard(fd)
    return ""
