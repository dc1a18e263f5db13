"""Processes that die at any moment, and those that are asked to end."""

import itertools
import signal
import time

from chaos.load import Load
from chaos.processes import Receiver, Shipper
from chaos.suite import Run, fault

FIRST_ACK = 2.0
"""Seconds after a receiver listens again within which an ack must have come."""
SMALL_SEGMENTS = {"ARCHIVE_SEGMENT_BYTES": "200000"}
"""So that crashes meet sealing too."""
DRAIN_TIMEOUT = 10.0
AT_ONCE = 0.5
"""Seconds in which a second signal ends a process."""


@fault("F1", "kill -9 the receiver under load", full=100, smoke=4)
def receiver_killed(run: Run) -> None:
    receiver, shipper, load = under_load(run)
    for _ in range(run.times):
        time.sleep(run.chance.uniform(0.05, 0.6))
        run.bite(receiver.kill())
        acknowledged = shipper.delivered
        receiver.start()
        run.recovered(shipper.first_ack(above=acknowledged), within=FIRST_ACK)
    finish(run, receiver, shipper, load)


@fault("F2", "kill -9 the shipper with its spool", full=100, smoke=4)
def shipper_killed(run: Run) -> None:
    receiver, shipper, load = under_load(run, spool=True)
    for _ in range(run.times):
        time.sleep(run.chance.uniform(0.05, 0.6))
        run.bite(shipper.kill())
        began = time.monotonic()
        shipper.spawn()
        shipper.first_ack()
        run.recovered(time.monotonic() - began)
    finish(run, receiver, shipper, load)


@fault("F3", "kill -9 both ends at once", full=50, smoke=3)
def both_killed(run: Run) -> None:
    receiver, shipper, load = under_load(run, spool=True)
    for _ in range(run.times):
        time.sleep(run.chance.uniform(0.05, 0.6))
        ends = [receiver, shipper]
        run.chance.shuffle(ends)
        run.bite(sum([end.kill() for end in ends]) == 2)
        began = time.monotonic()
        shipper.spawn()
        receiver.start()
        shipper.first_ack()
        run.recovered(time.monotonic() - began)
    finish(run, receiver, shipper, load)


@fault("F10", "SIGTERM under load, either end", full=50, smoke=4)
def terminated(run: Run) -> None:
    receiver, shipper, load = under_load(run, spool=True)
    for turn in range(run.times):
        time.sleep(run.chance.uniform(0.2, 0.6))
        end: Receiver | Shipper = (receiver, shipper)[turn % 2]
        process = end.process
        assert process is not None
        if turn % 4 < 2:
            run.expect_within(process.stop(), DRAIN_TIMEOUT, f"the {end.directory.name} ended after SIGTERM")
        else:
            process.signal(signal.SIGTERM)
            time.sleep(run.chance.uniform(0, 0.05))
            began = time.monotonic()
            process.signal(run.chance.choice((signal.SIGTERM, signal.SIGINT)))
            process.wait()
            run.expect_within(
                time.monotonic() - began, AT_ONCE, f"the {end.directory.name} ended after a second signal"
            )
        run.bite()
        began = time.monotonic()
        if end is receiver:
            acknowledged = shipper.delivered
            receiver.start()
            run.recovered(shipper.first_ack(above=acknowledged))
        else:
            shipper.spawn()
            shipper.first_ack()
            run.recovered(time.monotonic() - began)
    finish(run, receiver, shipper, load)


def under_load(run: Run, *, spool: bool = False, **environ: str) -> tuple[Receiver, Shipper, Load]:
    """A receiver, a shipper that follows a growing file, and that file; all going well."""
    place = run.place()
    receiver = run.receiver(place, **SMALL_SEGMENTS).start()
    load = Load(place / "load.log")
    run.finally_do(load.stop)
    shipper = run.shipper(place, receiver.port, load.path, spool=place / "spool" if spool else None, **environ)
    shipper.spawn()
    shipper.first_ack(above=0)
    return receiver, shipper, load


def finish(run: Run, receiver: Receiver, shipper: Shipper, *loads: Load) -> None:
    """Ends the load, waits for it to be stored, ends both ends in order, and judges."""
    expected = {load.stream: load.stop() for load in loads}
    run.wait_until_stored(receiver.archive, sum(expected.values()), timeout=60)
    for end in itertools.chain((shipper, receiver)):
        assert end.process is not None
        end.process.stop()
    run.judge(receiver.archive, expected)
