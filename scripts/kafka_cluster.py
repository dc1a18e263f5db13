"""A Kafka cluster on this machine, for tests and benchmarks: three brokers (KRaft) on loopback, in a directory.

    kafka_cluster.py fetch                           the jars, from Maven's repository (once; 60 MB)
    kafka_cluster.py start DIR                       prints the brokers' addresses; again: starts those that do not run
    kafka_cluster.py topic DIR NAME [PARTITIONS] [name=value ...]
    kafka_cluster.py status DIR                      each broker's pid: kill -9, kill -STOP as you like
    kafka_cluster.py stop DIR

It needs Java 17 and Maven (sudo apt-get install default-jre-headless maven), and confluent-kafka.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

KAFKA = "4.1.1"
BROKERS = 3
JARS = Path(__file__).parent.parent / ".kafka"
"""Where the list of jars is; they themselves are in Maven's own repository."""

_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>logbale</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""

_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={directory}/log
auto.create.topics.enable=false
unclean.leader.election.enable=false
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=3
transaction.state.log.num.partitions=3
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
replica.lag.time.max.ms=6000
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=2097152
log.cleaner.threads=1
"""


class Unavailable(Exception):
    """No cluster can be had here; the text says what is missing."""


def classpath(timeout: float = 200.0) -> str:
    """The server's jars, fetched where they are not there yet. Raises Unavailable."""
    _require("java")
    known = JARS / f"classpath-{KAFKA}"
    with contextlib.suppress(OSError):
        jars = known.read_text()
        if jars and all(map(os.path.exists, jars.split(":"))):
            return jars
    _require("mvn")
    JARS.mkdir(exist_ok=True)
    (JARS / "pom.xml").write_text(_POM)
    output = JARS / f"classpath-{os.getpid()}"
    command = ["mvn", "-B", "-q", "-f", str(JARS / "pom.xml"), "dependency:build-classpath"]
    command += [f"-Dmdep.outputFile={output}", "-Dmdep.includeScope=runtime"]
    said = f"not within {timeout:g} s"
    for how in (["-o"], []):  # what is there already needs no network
        with contextlib.suppress(subprocess.TimeoutExpired):
            ended = subprocess.run([*command, *how], capture_output=True, text=True, check=False, timeout=timeout)
            if ended.returncode == 0:
                output.rename(known)
                return known.read_text()
            said = (ended.stdout + ended.stderr).strip()[:300] or f"exit code {ended.returncode}"
    raise Unavailable(f"Maven did not get Kafka {KAFKA}: {said}")


def _require(program: str) -> None:
    if shutil.which(program) is None:
        raise Unavailable(f"no {program}: sudo apt-get install default-jre-headless maven")


class Cluster:
    """Brokers 1 to BROKERS. What is known of them is in the directory, so another process can go on with it."""

    def __init__(self, directory: Path) -> None:
        """One that was started in this directory before."""
        self.directory = directory.resolve()
        self._ports: list[list[int]] = json.loads((self.directory / "ports.json").read_text())

    @classmethod
    def start(cls, directory: Path) -> Cluster:
        """One that runs, new or as it was; returns once every broker answers. Raises Unavailable."""
        jars = classpath()
        if not (directory / "ports.json").exists():
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "ports.json").write_text(json.dumps(_free_ports()))
        cluster = cls(directory)
        for node in cluster.nodes:
            if cluster.pid(node) is None:
                cluster._run(node, jars)
        try:
            cluster.wait_until_ready()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @property
    def nodes(self) -> list[int]:
        """The brokers' numbers."""
        return list(range(1, len(self._ports) + 1))

    @property
    def bootstrap(self) -> str:
        """All their addresses, as librdkafka and `--sink kafka://…/topic` take them."""
        return ",".join(f"127.0.0.1:{port}" for port, _ in self._ports)

    def address(self, node: int) -> str:
        """One broker's."""
        return f"127.0.0.1:{self._ports[node - 1][0]}"

    def pid(self, node: int) -> int | None:
        """Its process; None where it does not run."""
        try:
            pid = int((self._home(node) / "pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return None
        # Without a command line it is a zombie, or so young that it has none yet.
        is_ours = str(self._home(node)).encode() in command or not command
        return pid if is_ours and state not in "ZX" else None

    def kill(self, node: int, number: int = signal.SIGKILL) -> None:
        """Sends it a signal; after SIGKILL it is gone on return."""
        pid = self.pid(node)
        if pid is None:
            return
        os.kill(pid, number)
        if number == signal.SIGKILL:
            _wait(lambda: self.pid(node) is None, 30, f"broker {node} did not die")

    def restart(self, node: int) -> None:
        """Starts a broker that does not run; returns once all answer."""
        if self.pid(node) is None:
            self._run(node, classpath())
        self.wait_until_ready()

    def create_topic(self, name: str, partitions: int = 6, **config: object) -> str:
        """A topic on all brokers, its name returned. `config` has `_` for `.`: max_message_bytes=65536."""
        from confluent_kafka.admin import NewTopic

        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        replicas = int(settings.pop("replication.factor", len(self.nodes)))
        topic = NewTopic(name, num_partitions=partitions, replication_factor=replicas, config=settings)
        admin = self._admin()
        admin.create_topics([topic], operation_timeout=30)[name].result(60)
        _wait(lambda: self._leaders(admin, name) == partitions, 60, f"topic {name} has no leaders")
        return name

    def wait_until_ready(self, timeout: float = 120.0) -> None:
        """Returns once every broker answers, and each knows all of them."""

        def all_answer() -> bool:
            if None in map(self.pid, self.nodes):
                raise Unavailable(f"a broker has ended: see {self.directory}/*/output")
            with contextlib.suppress(Exception):  # whatever it is: not ready
                known = [self._admin(node).list_topics(timeout=2).brokers for node in self.nodes]
                return all(set(brokers) == set(self.nodes) for brokers in known)
            return False

        _wait(all_answer, timeout, f"the brokers are not ready after {timeout:g} s: see {self.directory}/*/output")

    def stop(self) -> None:
        """Ends every broker, at once: the data is not meant to be kept."""
        for node in self.nodes:
            self.kill(node)

    def _admin(self, node: int | None = None) -> AdminClient:
        """By one broker or all of them; says nothing of brokers that do not answer."""
        from confluent_kafka.admin import AdminClient

        servers = self.bootstrap if node is None else self.address(node)
        return AdminClient({"bootstrap.servers": servers, "log_level": 0})

    def _leaders(self, admin: AdminClient, name: str) -> int:
        with contextlib.suppress(Exception):
            partitions = admin.list_topics(name, timeout=2).topics[name].partitions
            return sum(partition.leader > 0 for partition in partitions.values())
        return 0

    def _home(self, node: int) -> Path:
        return self.directory / f"broker-{node}"

    def _run(self, node: int, jars: str) -> None:
        home = self._home(node)
        if not (home / "log" / "meta.properties").exists():
            self._format(node)
        command = ["java", "-Xmx256m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", jars]
        with (home / "output").open("ab") as output:
            process = subprocess.Popen(
                [*command, "kafka.Kafka", str(home / "properties")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C at the terminal ends what uses the cluster, not the cluster
            )
        _children.append(process)
        (home / "pid").write_text(str(process.pid))

    def _format(self, node: int) -> None:
        """What kafka-storage.sh format writes, without a Java machine for each broker."""
        home = self._home(node)
        (home / "log").mkdir(parents=True, exist_ok=True)
        port, controller = self._ports[node - 1]
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, (_, port) in enumerate(self._ports, 1))
        text = _PROPERTIES.format(node=node, voters=voters, port=port, controller=controller, directory=home)
        (home / "properties").write_text(text)
        cluster = uuid.uuid5(uuid.NAMESPACE_URL, str(self._ports))
        meta = f"version=1\ncluster.id={_short(cluster)}\nnode.id={node}\ndirectory.id={_short(uuid.uuid4())}\n"
        (home / "log" / "meta.properties").write_text(meta)


_children: list[subprocess.Popen[bytes]] = []


def _wait(is_so: Callable[[], bool], timeout: float, otherwise: str) -> None:
    deadline = time.monotonic() + timeout
    while not is_so():
        if time.monotonic() > deadline:
            raise Unavailable(otherwise)
        time.sleep(0.1)
        for child in _children:
            child.poll()  # what has ended is no zombie


def _short(number: uuid.UUID) -> str:
    return base64.urlsafe_b64encode(number.bytes).rstrip(b"=").decode()


def _free_ports() -> list[list[int]]:
    """Two a broker, below the range of outgoing connections: those would take them while a broker is away."""
    ports: list[int] = []
    for port in random.sample(range(10_000, 30_000), 1000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == 2 * BROKERS:
            break
    return [ports[start : start + 2] for start in range(0, len(ports), 2)]


def main(arguments: list[str]) -> None:
    match arguments:
        case ["fetch"]:
            print(len(classpath(timeout=1800.0).split(":")), "jars for Kafka")
        case ["start", directory]:
            print(Cluster.start(Path(directory)).bootstrap)
        case ["status", directory]:
            cluster = Cluster(Path(directory))
            for node in cluster.nodes:
                print(f"broker {node}: {cluster.address(node)}, pid {cluster.pid(node) or '-'}")
        case ["topic", directory, name, *rest]:
            partitions = int(rest.pop(0)) if rest and rest[0].isdecimal() else 6
            config = dict(setting.split("=", 1) for setting in rest)
            Cluster(Path(directory)).create_topic(name, partitions, **config)
        case ["stop", directory]:
            Cluster(Path(directory)).stop()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Unavailable as unavailable:
        sys.exit(f"kafka_cluster: {unavailable}")
