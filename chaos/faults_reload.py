"""Settings that change while entries flow: good ones and broken ones, in quick succession."""

import signal
import time
from random import Random

from chaos.faults_crash import finish
from chaos.load import Load
from chaos.suite import Run, fault

INTERVAL = 0.1
"""Seconds between two reloads."""

BROKEN = (
    "batch_size = 0\n",
    "no_such_setting = 1\n",
    "batch_size = \n",
    "adaptive_min_level = 9\nadaptive_max_level = 1\n",
)


def settings(chance: Random) -> str:
    """A settings file for either end: limits from far too small to usual, and everything about batches and levels."""
    lowest, highest = sorted((chance.randrange(1, 10), chance.randrange(1, 10)))
    values = {
        "batch_size": chance.choice((1, 7, 50, 1000)),
        "batch_linger": chance.choice((0.0, 0.01, 0.2)),
        "batch_interval": chance.choice((0.05, 5.0)),
        "batch_max_bytes": chance.choice((100, 10_000, 1 << 20)),
        "buffer_max_bytes": chance.choice((1000, 1 << 20, 32 << 20)),
        "spool_max_bytes": chance.choice((1 << 20, 64 << 20)),
        "window_bytes": chance.choice((1000, 2 << 20)),
        "bypass_threshold": chance.choice((0, 256, 1 << 20)),
        "compression_level": chance.randrange(1, 10),
        "adaptive_enabled": chance.choice(("true", "false")),
        "adaptive_policy": chance.choice(("'cpu'", "'balanced'")),
        "adaptive_min_level": lowest,
        "adaptive_max_level": highest,
        "archive_segment_bytes": chance.choice((10_000, 200_000, 64 << 20)),
        "archive_segment_seconds": chance.choice((1.0, 3600.0)),
        "max_in_flight_bytes": chance.choice((10_000, 256 << 20)),
        "max_connections": chance.choice((10, 10_000)),
        "message_level": chance.choice(("'debug'", "'info'")),
    }
    return "".join(f"{name} = {value}\n" for name, value in values.items())


@fault("F11", "SIGHUP every 0.1 s under load, both ends, every fourth with a broken file", full=600, smoke=40)
def reloaded(run: Run) -> None:
    place = run.place()
    file = place / "logbale.toml"
    file.write_text(settings(run.chance))
    receiver = run.receiver(place, LOGBALE_CONFIG=str(file)).start()
    load = Load(place / "load.log")
    run.finally_do(load.stop)
    shipper = run.shipper(place, receiver.port, load.path, spool=place / "spool", LOGBALE_CONFIG=str(file))
    shipper.spawn()
    shipper.first_ack(above=0)
    ends = [receiver.process, shipper.process]
    pids = [end.pid for end in ends]
    due = time.monotonic()
    for turn in range(run.times):
        file.write_text(run.chance.choice(BROKEN) if turn % 4 == 3 else settings(run.chance))
        for end in ends:
            end.signal(signal.SIGHUP)
        run.bite()
        due += INTERVAL
        time.sleep(max(0.0, due - time.monotonic()))
    for end, name in zip(ends, ("receiver", "shipper"), strict=True):
        run.expect(not end.ended and end.pid in pids, f"the {name} ended: {end.text[-500:]}")
        changed, refused = (end.text.count(f"SIGHUP: {what}") for what in ("changed: ", "nothing is changed: "))
        run.note(f"the {name} followed {changed} reloads and refused {refused}")
        run.expect(changed >= run.times / 4 and refused >= run.times / 16, f"the {name} heard too few of {run.times}")
    file.write_text("")  # back to what finish() can wait for
    for end in ends:
        end.signal(signal.SIGHUP)
    finish(run, receiver, shipper, load)
