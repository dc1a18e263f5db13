"""A fleet over Kafka in which everything dies, pauses or is cut off: nothing is lost, nothing is archived twice."""

import re
import signal
import time

from chaos.fleet import SESSION_TIMEOUT, Fleet
from chaos.suite import Run, fault

MOVED = SESSION_TIMEOUT + 4
"""Seconds of a pause after which another archiver has the partitions."""


@fault("K1", "kill -9 of each kind in a fleet in turn", full=20, smoke=0)
def each_kind_killed(run: Run) -> None:
    fleet = Fleet(run)
    for (_, victim), _ in zip(fleet.victims(), range(run.times), strict=False):
        time.sleep(run.chance.uniform(0.5, 2.0))
        fleet.kill(victim)
        time.sleep(run.chance.uniform(0, 1.0))
        fleet.revive(victim)
        run.recovered(fleet.all_flow())
    fleet.finish()


@fault("K2", "kill -9 at random in a fleet, for five minutes: a million entries", full=300, smoke=0)
def killed_at_random(run: Run) -> None:
    """`times` are seconds; two kinds may be down at once."""
    fleet = Fleet(run, rate=900)
    until = time.monotonic() + run.times
    while time.monotonic() < until:
        victims = [
            run.chance.choice(fleet.of(kind)) for kind in run.chance.sample(_KINDS, run.chance.choice((1, 1, 2)))
        ]
        for victim in victims:
            fleet.kill(victim)
        time.sleep(run.chance.uniform(0, 2.0))
        for victim in victims:
            fleet.revive(victim)
        run.recovered(fleet.all_flow())
        time.sleep(run.chance.uniform(0, 1.5))
    fleet.finish()


@fault("K3", "one broker lost for a minute", full=60, smoke=0)
def broker_lost(run: Run) -> None:
    """`times` are seconds. The other two go on: entries are acknowledged and archived meanwhile."""
    fleet = Fleet(run)
    victim = run.chance.choice(fleet.cluster.nodes)
    fleet.kill(victim)
    until = time.monotonic() + run.times
    run.note(f"all flow {fleet.all_flow():.1f} s after the loss")
    while time.monotonic() < until:
        fleet.all_flow()
        time.sleep(0.5)
    fleet.revive(victim)
    fleet.finish()


@fault("K4", "a receiver silent for twenty seconds, and back with what it had in hand", full=3, smoke=0)
def receiver_cut_off(run: Run) -> None:
    fleet = Fleet(run)
    for _ in range(run.times):
        receiver = run.chance.choice(fleet.receivers)
        assert receiver.process is not None
        receiver.process.freeze()
        run.bite()
        began = time.monotonic()
        run.recovered(fleet.all_flow())
        time.sleep(max(0.0, 20 - (time.monotonic() - began)))
        receiver.process.signal(signal.SIGCONT)
        fleet.all_flow()
        time.sleep(run.chance.uniform(1, 3))
    fleet.finish()


@fault("K5", "an archiver paused until its partitions have moved, and awake again", full=5, smoke=0)
def archiver_paused(run: Run) -> None:
    fleet = Fleet(run)
    races = 0
    for _ in range(run.times):
        time.sleep(run.chance.uniform(0.5, 4.0))
        archiver = run.chance.choice(fleet.archivers)
        assert archiver.process is not None
        archiver.process.says("are ours")  # who has none yet has none to lose
        archiver.process.freeze()
        run.bite()
        time.sleep(MOVED)
        process = archiver.process
        process.signal(signal.SIGCONT)
        run.expect(
            process.says("were given to others"), "the archiver that slept did not find that it had lost anything"
        )
        if re.search("another archiver was first with", process.text):
            races += 1
        time.sleep(run.chance.uniform(0, 3.0))
        if archiver.process.ended:  # it may stop where it finds that it was declared dead
            archiver.spawn()
    run.note(f"{races} of {run.times} lost the race for a segment's name as well")
    fleet.finish()


_KINDS = ("receiver", "archiver", "broker", "shipper")
