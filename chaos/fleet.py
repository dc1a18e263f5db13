"""A fleet: Kafka brokers, receivers that keep nothing, archivers that share a directory, shippers that follow files.

The brokers are real ones (scripts/kafka_cluster.py). Whoever is killed is started again the same; a pause is SIGSTOP.
"""

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from chaos import oracle
from chaos.load import Load
from chaos.processes import LOGBALE, PATIENCE, End, Process, Receiver, Shipper
from chaos.suite import Run, Skipped

PARTITIONS = 6
SEGMENTS = {"ARCHIVE_SEGMENT_BYTES": "300000", "ARCHIVE_SEGMENT_SECONDS": "3"}
"""Small ones, so that every fault meets the end of one."""
SESSION_TIMEOUT = 6.0
"""Seconds after which the group takes an archiver for dead; as in archiver.properties below."""


class KafkaReceiver(Receiver):
    """`logbale receive` that publishes to the topic."""

    def __init__(self, directory: Path, sink: str) -> None:
        super().__init__(directory)
        self._sink = sink

    def command(self) -> list[str | Path]:
        return ["receive", "--listen", f"127.0.0.1:{self.port}", "--sink", self._sink]


class Archiver(End):
    """`logbale archive` from the topic into a directory."""

    def __init__(self, directory: Path, name: str, topic: str, store: Path) -> None:
        super().__init__(directory, name)
        self._topic = topic
        self._store = store
        self.environ = dict(SEGMENTS)

    def command(self) -> list[str | Path]:
        config = self.directory / "archiver.properties"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(f"session.timeout.ms={SESSION_TIMEOUT * 1000:.0f}\nheartbeat.interval.ms=1500\n")
        return ["archive", self._topic, "--to", f"file://{self._store}", "--kafka-config", config]


class Fleet:
    """All of it, running and well. Ended by the run."""

    def __init__(self, run: Run, *, shippers: int = 4, rate: int = 500, receivers: int = 2, archivers: int = 2) -> None:
        self.run = run
        place = run.place("fleet")
        self.store = place / "store"
        self.store.mkdir()
        self.cluster = _cluster(run, place / "kafka")
        self.cluster.create_topic("logs", PARTITIONS)
        topic = f"kafka://{self.cluster.bootstrap}/logs"
        self.receivers = [run.kept(KafkaReceiver(place / f"r{n}", topic)).start() for n in range(receivers)]
        self.archivers = [run.kept(Archiver(place, f"archiver-{n}", topic, self.store)) for n in range(archivers)]
        for archiver in self.archivers:
            archiver.spawn()
        self.loads = [Load(place / f"load-{n}.log", f"load-{n}", rate=rate) for n in range(shippers)]
        ports = [receiver.port for receiver in self.receivers]
        self.shippers: list[Shipper] = []
        for n, load in enumerate(self.loads):
            run.finally_do(load.stop)
            shipper = run.shipper(place / f"s{n}", ports, load.path, spool=place / f"s{n}" / "spool")
            shipper.spawn()
            self.shippers.append(shipper)
        for shipper in self.shippers:
            shipper.first_ack(above=0)

    def victims(self) -> Iterator[tuple[str, object]]:
        """Something of each kind in turn, for ever: a receiver, an archiver, a broker, a shipper."""
        for kind in itertools.cycle(("receiver", "archiver", "broker", "shipper")):
            yield kind, self.run.chance.choice(self.of(kind))

    def of(self, kind: str) -> list[object]:
        """All of a kind; brokers by their number."""
        kinds = {
            "receiver": self.receivers,
            "archiver": self.archivers,
            "broker": self.cluster.nodes,
            "shipper": self.shippers,
        }
        return list(kinds[kind])

    def kill(self, victim: object) -> None:
        """kill -9 of an end, or of the broker with this number."""
        if isinstance(victim, int):
            self.run.bite(self.cluster.pid(victim) is not None)
            self.cluster.kill(victim, signal.SIGKILL)
        else:
            assert isinstance(victim, End)
            self.run.bite(victim.kill())

    def revive(self, victim: object) -> None:
        """Starts again what was killed."""
        if isinstance(victim, int):
            self.cluster.restart(victim)
        elif isinstance(victim, Receiver):
            victim.start()
        else:
            assert isinstance(victim, End)
            victim.spawn()

    def all_flow(self) -> float:
        """Waits until every shipper has an ack for what it had not when this was called; the seconds that took."""
        began = time.monotonic()
        for shipper in self.shippers:
            shipper.first_ack(above=shipper.delivered)
        return time.monotonic() - began

    def finish(self) -> None:
        """Ends the loads, waits until all is archived, ends everything in the order of the flow, and judges."""
        expected = {load.stream: load.stop() for load in self.loads}
        total = sum(expected.values())
        deadline = time.monotonic() + 2 * PATIENCE
        while (now := oracle.count(self.store)) < total:
            if time.monotonic() > deadline:
                said = [_end_of(end.process) for end in (*self.shippers, *self.receivers, *self.archivers)]
                self.run.fail(f"{now} of {total} entries archived after {2 * PATIENCE:g} s; {said}")
                break
            time.sleep(0.5)
        for end in (*self.shippers, *self.receivers, *self.archivers):
            if end.process is not None and not end.process.ended:
                end.process.stop()
        self.run.judge(self.store, expected)
        verified = subprocess.run(
            [*LOGBALE, "verify", str(self.store)],
            capture_output=True,
            text=True,
            check=False,
        )
        self.run.expect(verified.returncode == 0, f"logbale verify: {verified.stdout[-500:]}{verified.stderr[-500:]}")


def _cluster(run: Run, directory: Path):  # type: ignore[no-untyped-def]  # kafka_cluster is a script, not a package
    """Three brokers. Raises Skipped where they cannot be had."""
    scripts = str(Path(__file__).parent.parent / "scripts")
    if scripts not in sys.path:
        sys.path.append(scripts)
    import kafka_cluster

    try:
        cluster = kafka_cluster.Cluster.start(directory)
    except kafka_cluster.Unavailable as why:
        raise Skipped(str(why)) from None
    run.finally_do(cluster.stop)
    return cluster


def _end_of(process: Process | None) -> str:
    return process.text[-400:] if process is not None else ""
