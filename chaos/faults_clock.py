"""Clocks that step while entries flow: back two hours, a year ahead, to 1970."""

import glob
import time
from pathlib import Path

from chaos import load, oracle
from chaos.faults_crash import finish
from chaos.suite import HOW_TO_GET, Run, Skipped, fault

STEPS = ("-2h", "+0", "+1y", "+0", "@1970-01-01 00:00:10", "+0")
"""As libfaketime has them, one after the other; each is a step, the way back too."""


@fault("F31", "the clock steps: -2 h, +1 year, 1970, and back", full=24, smoke=6, tools=("faketime",))
def clock_steps(run: Run) -> None:
    """Nothing is lost, and a step costs one segment at most. The receiver's clock, then the shipper's, in turns."""
    clocks = {}
    place = run.place()
    for name in ("receiver", "shipper"):
        clocks[name] = place / f"{name}.clock"
        clocks[name].write_text("+0")
    receiver = run.receiver(place, **_faked(clocks["receiver"])).start()
    growing = load.Load(place / "load.log", rate=2000)
    run.finally_do(growing.stop)
    shipper = run.shipper(place, receiver.port, growing.path, spool=place / "spool", **_faked(clocks["shipper"]))
    shipper.spawn()
    shipper.first_ack(above=0)
    turns = 0
    for number in range(run.times):
        name = ("receiver", "shipper")[number // len(STEPS) % 2]
        clocks[name].write_text(STEPS[number % len(STEPS)])
        turns += name == "receiver"
        began = time.monotonic()
        run.recovered(shipper.first_ack(above=shipper.delivered))
        time.sleep(max(0.0, 2.5 - (time.monotonic() - began)))  # the writer looks at the age of a segment each second
        run.bite()
    days = {path.parent.name[:4] for path in oracle.segments(receiver.archive)}
    segments = len(oracle.segments(receiver.archive))
    run.expect(segments <= 1 + turns, f"{segments} segments after {turns} steps of the receiver's clock")
    run.note(f"{segments} segments after {turns} steps, begun in the years {', '.join(sorted(days))}")
    finish(run, receiver, shipper, growing)


def _faked(clock: Path) -> dict[str, str]:
    """Settings of a process whose clock is what a file says. Its monotonic clock is the system's."""
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not found:
        raise Skipped(f"no libfaketimeMT.so.1: {HOW_TO_GET['faketime']}")
    return {
        "LD_PRELOAD": found[0],
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
