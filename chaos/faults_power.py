"""The power fails: what the page cache held is gone, and so are names that no directory fsync made durable."""

import time

from chaos import oracle
from chaos.disks import PowerDisk
from chaos.faults_crash import SMALL_SEGMENTS, finish
from chaos.load import Load
from chaos.processes import LOGBALE, TAMPERED, Failed
from chaos.strace import sweep
from chaos.suite import Run, fault

TOOLS = ("mkfs.ext4", "mount")
UNSYNCED = {"CHAOS_TAMPER": "unsynced"}


@fault("F7", "power cut under the archive", full=200, smoke=4, tools=TOOLS)
def archive_loses_power(run: Run) -> None:
    _archive_loses_power(run, control=False)


@fault("F7-control", "the same without fsync: must lose", full=10, smoke=3, tools=TOOLS)
def archive_loses_power_unsynced(run: Run) -> None:
    _archive_loses_power(run, control=True)


@fault("F8", "power cut under the spool", full=100, smoke=4, tools=TOOLS)
def spool_loses_power(run: Run) -> None:
    _spool_loses_power(run, control=False)


@fault("F8-control", "the same without fsync: must double or lose", full=10, smoke=3, tools=TOOLS)
def spool_loses_power_unsynced(run: Run) -> None:
    _spool_loses_power(run, control=True)


@fault("F9", "power cut at every rename and fsync of the archive", full=200, smoke=6, tools=(*TOOLS, "strace"))
def between_rename_and_fsync(run: Run) -> None:
    sweep(run, "receiver", ("rename", "fsync", "fdatasync", "unlink"), power=True)


@fault("F9-spool", "power cut at every rename and fsync of the spool", full=200, smoke=6, tools=(*TOOLS, "strace"))
def between_rename_and_fsync_of_the_spool(run: Run) -> None:
    sweep(run, "shipper", ("rename", "fsync", "fdatasync", "unlink"), power=True)


def _archive_loses_power(run: Run, *, control: bool) -> None:
    program, environ = (TAMPERED, UNSYNCED) if control else (LOGBALE, {})
    place = run.place()
    disk = PowerDisk(run, place)
    receiver = run.receiver(place, disk.path / "archive", **SMALL_SEGMENTS, **environ).start(program=program)
    load = Load(place / "load.log", rate=2000)
    run.finally_do(load.stop)
    shipper = run.shipper(place, receiver.port, load.path)
    shipper.spawn()
    shipper.first_ack(above=0)
    for _ in range(run.times):
        time.sleep(run.chance.uniform(0.05, 0.5))
        match run.chance.randrange(3):
            case 0:  # at work
                disk.cut_power(receiver)
                receiver.kill()
            case 1:  # dead already, with unsynced bytes in the page cache
                receiver.kill()
                disk.cut_power()
            case 2:  # just after a start that has read such bytes
                receiver.kill()
                receiver.start(program=program)
                disk.cut_power(receiver)
                receiver.kill()
        run.bite()
        disk.restore()
        acknowledged = shipper.delivered
        receiver.start(program=program)
        run.recovered(shipper.first_ack(above=acknowledged))
    if not control:
        finish(run, receiver, shipper, load)
        return
    _wait_until_delivered(shipper, load.stop())
    for end in (shipper, receiver):
        end.process.stop()
    _must_fail(run, oracle.verdict(receiver.archive, {load.stream: load.count}))


def _spool_loses_power(run: Run, *, control: bool) -> None:
    program, environ = (TAMPERED, UNSYNCED) if control else (LOGBALE, {})
    place = run.place()
    disk = PowerDisk(run, place)
    receiver = run.receiver(place, **SMALL_SEGMENTS).start()
    load = Load(place / "load.log", rate=2000)
    run.finally_do(load.stop)
    shipper = run.shipper(place, receiver.port, load.path, spool=disk.path / "spool", **environ)
    shipper.spawn(program=program)
    shipper.first_ack(above=0)
    for _ in range(run.times):
        time.sleep(run.chance.uniform(0.05, 0.5))
        steps = [lambda: disk.cut_power(shipper), shipper.kill]
        run.chance.shuffle(steps)
        for step in steps:
            step()
        run.bite()
        disk.restore()
        began = time.monotonic()
        shipper.spawn(program=program)
        shipper.first_ack()
        run.recovered(time.monotonic() - began)
    if not control:
        finish(run, receiver, shipper, load)
        return
    load.stop()
    time.sleep(2)
    for end in (shipper, receiver):
        end.kill()
    receiver.start().process.stop()
    _must_fail(run, oracle.verdict(receiver.archive, {load.stream: load.count}))


def _wait_until_delivered(shipper, entries: int) -> None:
    deadline = time.monotonic() + 60
    while shipper.delivered < entries:
        if time.monotonic() > deadline:
            raise Failed(f"{shipper.delivered:.0f} of {entries} entries acknowledged after 60 s")
        time.sleep(0.1)


def _must_fail(run: Run, verdict: oracle.Verdict) -> None:
    """A control's verdict: what it shows is that the cuts cut, and that the oracle sees it."""
    run.result.lost, run.result.duplicated = verdict.lost, verdict.duplicated
    run.result.stored, run.result.damaged = verdict.stored, verdict.damaged
    run.result.out_of_order = verdict.out_of_order
    run.expect(not verdict.clean, "the control lost and doubled nothing: the power cuts cut nothing")
