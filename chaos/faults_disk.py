"""Disks that are full: the receiver says busy and goes on by itself; the shipper's spool does what its policy says."""

import re
import time

from chaos import load, oracle
from chaos.disks import SmallDisk
from chaos.faults_crash import SMALL_SEGMENTS, finish
from chaos.processes import Failed, fetch, free_port
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
