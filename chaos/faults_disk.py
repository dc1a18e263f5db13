"""Disks that are full: the receiver says busy and goes on by itself; the shipper's spool does what its policy says."""

import itertools
import os
import re
import shutil
import signal
import time
from collections.abc import Callable

from chaos import load, oracle
from chaos.disks import FewInodes, SmallDisk
from chaos.faults_crash import SMALL_SEGMENTS, finish
from chaos.processes import PATIENCE, Failed, Receiver, Shipper, fetch, free_port
from chaos.strace import inject
from chaos.suite import Run, fault

RESUMES = 5.0
"""Seconds after space returns within which an ack must have come."""


@fault("F20", "the archive's disk full", full=10, smoke=2, tools=("mount",))
def archive_disk_full(run: Run) -> None:
    place = run.place()
    disk = SmallDisk(run, place)
    page = free_port()
    receiver = run.receiver(
        place, disk.path / "archive", **SMALL_SEGMENTS, DASHBOARD_ENABLED="true", DASHBOARD_PORT=str(page)
    ).start()
    growing = load.Load(place / "load.log", rate=1000)
    run.finally_do(growing.stop)
    shipper = run.shipper(place, receiver.port, growing.path)
    shipper.spawn()
    shipper.first_ack(above=0)
    for _ in range(run.times):
        time.sleep(run.chance.uniform(0.2, 0.6))
        disk.fill()
        deadline = time.monotonic() + 30
        while (ready := fetch(receiver.metrics_port, "/readyz"))[0] != 503:
            if time.monotonic() > deadline:
                raise Failed(f"/readyz still says {ready} on a full disk")
            time.sleep(0.05)
        run.bite()
        time.sleep(1)
        run.expect(fetch(page, "/")[0] == 200, "the dashboard does not answer while the disk is full")
        run.expect(shipper.metric("logbale_shipper_connected"), "the shipper's session ended while the disk was full")
        acknowledged = shipper.delivered
        disk.free()
        run.recovered(shipper.first_ack(above=acknowledged), within=RESUMES)
        time.sleep(0.2)
        run.expect(fetch(receiver.metrics_port, "/readyz")[0] == 200, "/readyz is not 200 again")
    finish(run, receiver, shipper, growing)


@fault("F24", "no inodes, a read-only disk, the archive deleted", full=5, smoke=1, tools=("mkfs.ext4", "mount"))
def archive_impossible(run: Run) -> None:
    """Each says what is wrong and the way out; nothing is acknowledged meanwhile; nothing is lost that was not deleted.

    `times` are rounds of all three.
    """
    place = run.place()
    disk = FewInodes(run, place)
    # A new segment every few moments: only making a file takes an inode.
    receiver = run.receiver(place, disk.path / "archive", ARCHIVE_SEGMENT_BYTES="20000").start()
    growing = load.Load(place / "load.log", rate=1000)
    run.finally_do(growing.stop)
    shipper = run.shipper(place, receiver.port, growing.path)
    shipper.spawn()
    shipper.first_ack(above=0)
    archives = []
    for turn in range(run.times):
        disk.use_up()
        _says(receiver, r"cannot store now.*no inode is left")
        acknowledged = shipper.delivered
        disk.free()
        run.recovered(shipper.first_ack(above=acknowledged), within=RESUMES)
        disk.fail(receiver)
        # What the kernel says first is EIO, and then that the disk is read-only.
        _says(receiver, r"cannot store now.*(check the disk|read-only: remount it)")
        _wait(lambda: "read-only" in fetch(receiver.metrics_port, "/readyz")[1], "/readyz says that it is read-only")
        run.expect(_stands_still(shipper), "entries were acknowledged on a read-only disk")
        receiver.kill()
        refused = receiver.spawn()
        run.expect(refused.wait() not in (0, 1), "a receiver began on a read-only disk")
        run.expect("read-only: remount it" in refused.text, f"it does not say why: {refused.text}")
        disk.mend()
        receiver.start()
        acknowledged = shipper.delivered
        shipper.first_ack(above=acknowledged)
        # What is deleted keeps a second name, also for a commit that is under way: the oracle judges both. The lock's
        # file does not: it must be missed.
        receiver.process.freeze()
        archives.append(disk.path / f"deleted-{turn}")
        for segment in oracle.segments(receiver.archive):
            kept = archives[-1] / segment.relative_to(receiver.archive)
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.link(segment, kept)
        shutil.rmtree(receiver.archive)
        receiver.process.signal(signal.SIGCONT)
        _says(receiver, r"cannot store now.*delete.* in use.*restart this")
        run.expect(_stands_still(shipper), "entries were acknowledged after the archive was deleted")
        receiver.kill()
        receiver.start()
        acknowledged = shipper.delivered
        shipper.first_ack(above=acknowledged)
        run.bite(3)
    expected = {growing.stream: growing.stop()}
    _wait(lambda: shipper.delivered >= expected[growing.stream], "everything acknowledged")
    shipper.process.stop()
    receiver.process.stop()
    entries = itertools.chain.from_iterable(map(oracle.read, [*archives, receiver.archive]))
    verdict = oracle.judge(entries, expected)
    run.result.stored += verdict.stored
    run.result.lost += verdict.lost
    # An archive that knows nothing any more cannot know what it had stored and not yet acknowledged.
    run.note(f"{verdict.duplicated} stored twice, after the archive that knew of them was deleted")
    run.expect(not (verdict.lost or verdict.damaged), str(verdict))


def _says(receiver: Receiver, pattern: str) -> None:
    """Since it was started last."""
    if receiver.process.says(pattern, timeout=30) is None:
        raise Failed(
            f"ended with {receiver.process.wait()} before it said {pattern!r}: {receiver.process.text[-1500:]}"
        )


def _stands_still(shipper: Shipper) -> bool:
    before = shipper.delivered
    time.sleep(1)
    return shipper.delivered == before


def _wait(condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"not within {timeout:g} s: {what}")
        time.sleep(0.1)


@fault("F26", "every fdatasync takes 200 ms", full=3, smoke=1, tools=("strace",))
def slow_disk(run: Run) -> None:
    """More entries a commit, and a fifth of the throughput or more. Both by a traced receiver, as the tracer costs."""
    lines = 500_000
    for _ in range(run.times):
        speeds, groups = [], []
        for delay in (1, 200_000):
            place = run.place()
            load.write(place / "some.log", "some", lines)
            receiver = run.receiver(place)
            receiver.start(under=inject("fdatasync", f"delay_enter={delay}", log=place / "trace"))
            shipper = run.shipper(place, receiver.port, place / "some.log")
            shipper.spawn()
            shipper.first_ack(above=0)
            began, before = time.monotonic(), shipper.delivered
            _wait(lambda shipper=shipper: shipper.delivered >= lines, f"{lines} entries acknowledged", 300)
            speeds.append((lines - before) / (time.monotonic() - began))
            groups.append(lines / (place / "trace").read_text().count("fdatasync("))
            shipper.process.stop()
            receiver.process.stop()
            run.judge(receiver.archive, {"some": lines})
        run.bite(groups[1] > groups[0])
        run.expect(speeds[1] >= 0.2 * speeds[0], f"{speeds[1]:,.0f} entries a second, {speeds[0]:,.0f} without it")
        run.note(
            f"{speeds[1]:,.0f} of {speeds[0]:,.0f} entries a second ({speeds[1] / speeds[0]:.0%}); "
            f"{groups[1]:,.0f} entries a commit, {groups[0]:,.0f} without it"
        )


@fault("F21", "the spool's disk full", full=10, smoke=2, tools=("mount",))
def spool_disk_full(run: Run) -> None:
    place = run.place()
    disk = SmallDisk(run, place)
    receiver = run.receiver(place, **SMALL_SEGMENTS).start()
    growing = load.Load(place / "load.log", rate=1000)
    run.finally_do(growing.stop)
    shipper = run.shipper(place, receiver.port, growing.path, spool=disk.path / "spool", SPOOL_MAX_BYTES="8000000")
    shipper.spawn()
    shipper.first_ack(above=0)
    for _ in range(run.times):
        time.sleep(run.chance.uniform(0.2, 0.6))
        disk.fill()
        time.sleep(1.5)
        before = oracle.count(receiver.archive)
        time.sleep(1)
        run.bite(oracle.count(receiver.archive) == before)
        run.expect(not shipper.process.ended, "the shipper ended on a full disk")
        acknowledged = shipper.delivered
        disk.free()
        run.recovered(shipper.first_ack(above=acknowledged), within=RESUMES)
    finish(run, receiver, shipper, growing)


@fault("F21-quota", "the spool's quota used up, each policy", full=5, smoke=1)
def spool_quota(run: Run) -> None:
    """block loses nothing; the others lose what they say they dropped, and nothing else."""
    for turn in range(run.times):
        for policy in ("block", "drop_oldest", "drop_newest"):
            place = run.place(policy)
            stream = f"{policy}-{turn}"
            lines, quota = 120_000, 1 << 20
            load.write(place / "some.log", stream, lines, seed=run.seed + turn)
            receiver = run.receiver(place)
            shipper = run.shipper(
                place,
                receiver.port,
                place / "some.log",
                spool=place / "spool",
                SPOOL_MAX_BYTES=str(quota),
                SPOOL_POLICY=policy,
            )
            shipper.spawn()
            _wait_for_quiet(shipper)
            disk_bytes = sum(path.stat().st_size for path in (place / "spool").rglob("*.spool"))
            run.expect(disk_bytes <= quota, f"{policy}: the spool takes {disk_bytes:,} bytes of {quota:,}")
            receiver.start()
            began = time.monotonic()
            shipper.first_ack(above=0)
            run.recovered(time.monotonic() - began)
            dropped = _dropped(shipper)
            _wait_for_all(run, receiver, shipper, lines)
            dropped = _dropped(shipper)
            for end in (shipper, receiver):
                end.process.stop()
            verdict = oracle.verdict(receiver.archive, {stream: lines})
            run.bite()
            run.result.stored += verdict.stored
            clean = not (verdict.duplicated or verdict.out_of_order or verdict.damaged)
            expected = 0 if policy == "block" else dropped
            run.expect(clean and verdict.lost == expected, f"{policy}: {dropped} dropped, but {verdict}")
            run.expect(policy == "block" or dropped, f"{policy}: nothing was dropped")
            run.note(f"{policy}: {verdict.stored} stored, {dropped} dropped and counted")


def _dropped(shipper) -> int:
    text = fetch(shipper.metrics_port, "/metrics")[1]
    found = re.findall(r"^logbale_shipper_dropped_entries_total\{.*\} ([\d.e+]+)$", text, re.M)
    return int(sum(map(float, found)))


def _wait_for_quiet(shipper) -> None:
    """Until nothing more is read or dropped."""
    last, since, deadline = (-1.0, -1.0), time.monotonic(), time.monotonic() + 30
    while time.monotonic() - since < 1.5:
        now = (shipper.metric("logbale_shipper_read_entries"), _dropped(shipper))
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() > deadline:
            raise Failed(f"still reading after 30 s: {now}")
        time.sleep(0.1)


def _wait_for_all(run, receiver, shipper, lines: int) -> None:
    deadline = time.monotonic() + 40
    while oracle.count(receiver.archive) + _dropped(shipper) < lines:
        if time.monotonic() > deadline:
            text = shipper.process.text[-500:]
            raise Failed(f"{oracle.count(receiver.archive)} stored, {_dropped(shipper)} dropped of {lines}: {text}")
        time.sleep(0.2)
