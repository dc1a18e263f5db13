"""What a receiver promises whose sink is a topic of three real brokers, while brokers and receivers are killed.

Read back by a consumer that knows what docs/decisions/0013-kafka-messages.md says, and shares no code with the sink.
"""

import contextlib
import json
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from random import Random

import msgspec
import pytest
from cli_process import LOGBALE, Process, logbale_run, running

pytest.importorskip("confluent_kafka", reason="logbale[kafka] is not installed")

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from kafka_mock import read_topic
from waiting import wait_until

from chaos.processes import fetch, free_port

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# One cluster for all of them.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("kafka"), pytest.mark.timeout(300)]

PATIENCE = 120.0
"""Seconds for what takes ten on a machine that does nothing else."""


@contextlib.contextmanager
def receiving(directory, cluster, topic, *arguments, listen="127.0.0.1:0"):
    """A receiver into a topic."""
    sink = f"kafka://{cluster.bootstrap}/{topic}"
    with running(directory, "receive", "--listen", listen, "--sink", sink, *arguments) as process:
        process.address = process.says(r"listening on (\S+)")[1]
        yield process


def written(path, numbers, padding=0):
    """A log of numbered entries, as JSON lines, the longer ones incompressible."""
    with path.open("a") as file:
        for number in numbers:
            entry = {"n": number, "message": f"request {number}", "pad": Random(number).randbytes(padding).hex()}
            file.write(json.dumps(entry) + "\n")


@contextlib.contextmanager
def growing(directory, address, streams=3, chunks=120):
    """Shippers that follow logs, one each, which grow for some seconds; yields the logs' names.

    At the end all of them have delivered what was written.
    """
    logs = [directory / f"app{n}.log" for n in range(streams)]
    for log in logs:
        log.touch()
    ports = [free_port() for _ in logs]
    shippers = [
        Process(
            directory,
            *(*LOGBALE, "ship", "--from-start", log, "--to", address, "--name", log.stem, "--spool-dir", directory),
            *("--drain-timeout", "60", "--metrics-port", port),
        )
        for log, port in zip(logs, ports, strict=True)
    ]

    def write():
        for chunk in range(chunks):
            for log in logs:
                written(log, range(chunk * 50, chunk * 50 + 50))
            time.sleep(0.05)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield logs
        writing.join()
        for port in ports:  # what is followed is read, or a stop would leave it
            all_read = f"logbale_shipper_read_entries_total {chunks * 50}.0\n"
            wait_until(lambda port=port, all_read=all_read: all_read in fetch(port, "/metrics")[1], PATIENCE)
        for shipper in shippers:
            shipper.process.send_signal(signal.SIGTERM)
        for shipper in shippers:
            assert shipper.process.wait(90) == 0, shipper.messages.read_text()
    finally:
        writing.join()
        for shipper in shippers:
            shipper.process.kill()
            shipper.process.communicate()


def headers_of(message):
    return {name: value.decode() for name, value in message.headers() or []}


def streams_in(cluster, topic) -> dict[str, list[tuple[int, int, bytes]]]:
    """Of each stream what its messages say, in their order: sequence, base, lines. Parts are put together."""
    found = {}
    partitions = {}
    parts = {}
    for message in read_topic(cluster.bootstrap, topic):
        headers = headers_of(message)
        stream = headers["stream"]
        assert message.key().decode() == stream
        assert partitions.setdefault(stream, message.partition()) == message.partition()
        assert (headers["v"], headers["kind"], headers["algorithm"]) == ("1", "batch", "zstd")
        index, count = map(int, headers.get("part", "1/1").split("/"))
        key = message.partition(), headers["session"]
        parts[key] = [*(parts.get(key, []) if index > 1 else []), message.value()]
        if index == count and len(parts[key]) == count:  # or else it is what a sink left when it began again
            lines = zstd.decompress(b"".join(parts.pop(key)))
            assert lines.count(b"\n") == int(headers["count"])
            assert len(lines) == int(headers["raw"])
            found.setdefault(stream, []).append((int(headers["sequence"]), int(headers["base"]), lines))
    return found


def archived(batches) -> list[int]:
    """The entries that an archiver would take: the next sequence, or a session's first, and nothing else."""
    mark, numbers = 0, []
    for sequence, base, lines in batches:
        if sequence == max(mark + 1, base):
            mark = sequence
            numbers += [json.loads(line)["n"] for line in lines.splitlines()]
    return numbers


def stored_entries(directory, receiver) -> int:
    """As the last summary of a receiver that has ended says."""
    return int(receiver.says(r"entries stored\D+([\d,]+)")[1].replace(",", ""))


def test_every_entry_is_in_the_topic_once_and_in_order(tmp_path, kafka_cluster):
    """Ship, receive, read: every sequence of every stream once; what the receiver counts is what is there."""
    topic = kafka_cluster.create_topic("once")
    with receiving(tmp_path, kafka_cluster, topic) as receiver:
        for n in range(4):
            written(tmp_path / f"app{n}.log", range(20_000))
            shipped = logbale_run(
                *("ship", "--once", tmp_path / f"app{n}.log", "--to", receiver.address, "--spool-dir", tmp_path)
            )
            assert shipped.returncode == 0, shipped.stderr
        assert receiver.end() == 0
        assert stored_entries(tmp_path, receiver) == 80_000
    streams = streams_in(kafka_cluster, topic)
    assert len(streams) == 4
    for batches in streams.values():
        assert [sequence for sequence, *_ in batches] == list(range(1, len(batches) + 1))
        assert archived(batches) == list(range(20_000))


def test_a_broker_that_is_killed_costs_nothing(tmp_path, kafka_cluster):
    """The others go on with what it had acknowledged; no entry is missing, and no client is told an error."""
    topic = kafka_cluster.create_topic("broker-killed")
    try:
        with receiving(tmp_path, kafka_cluster, topic) as receiver:
            with growing(tmp_path, receiver.address) as logs:
                time.sleep(2.0)
                kafka_cluster.kill(2)
            assert receiver.end() == 0
    finally:
        kafka_cluster.restart(2)
    streams = streams_in(kafka_cluster, topic)
    assert len(streams) == len(logs)
    for batches in streams.values():
        assert archived(batches) == list(range(6000))


def test_a_receiver_that_is_killed_costs_duplicates_in_kafka_and_no_entry(tmp_path, kafka_cluster):
    """Another one on its address knows nothing, and need not: the shippers send what was not acknowledged."""
    topic = kafka_cluster.create_topic("receiver-killed")
    with contextlib.ExitStack() as receivers:
        address = f"127.0.0.1:{free_port()}"

        def another():
            return receivers.enter_context(receiving(tmp_path, kafka_cluster, topic, listen=address))

        receiver = another()
        with growing(tmp_path, address) as logs:
            for _ in range(3):
                time.sleep(1.0)
                receiver.process.kill()
                receiver.process.wait()
                receiver = another()
    streams = streams_in(kafka_cluster, topic)
    assert len(streams) == len(logs)
    for batches in streams.values():
        assert archived(batches) == list(range(6000))


def test_too_few_brokers_make_clients_wait_and_the_receiver_unready(tmp_path, kafka_cluster):
    """One of three must not acknowledge (min.insync.replicas=2); when they are back, all goes on by itself."""
    topic = kafka_cluster.create_topic("too-few")
    log = tmp_path / "app.log"
    written(log, range(10))
    metrics = ("--metrics-port", str(free_port()))

    def ready():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics[1]}/readyz", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    try:
        with receiving(tmp_path, kafka_cluster, topic, *metrics) as receiver:
            arguments = ("--from-start", log, "--to", receiver.address, "--spool-dir", tmp_path)
            with running(tmp_path, "ship", *arguments, "--drain-timeout", "60") as shipper:
                wait_until(lambda: streams_in(kafka_cluster, topic), PATIENCE)
                assert ready()[0] == 200
                for node in (2, 3):
                    kafka_cluster.kill(node, signal.SIGSTOP)
                written(log, range(10, 20))
                status, why = wait_until(lambda: (found := ready())[0] != 200 and found, PATIENCE)
                assert status == 503
                assert "not delivered after 5 s" in why
                shipper.says("the receiver cannot store now, everything waits: Kafka topic too-few")
                for node in (2, 3):
                    kafka_cluster.kill(node, signal.SIGCONT)
                wait_until(lambda: ready()[0] == 200, PATIENCE)
                assert shipper.end() == 0
            assert receiver.end() == 0
    finally:
        for node in (2, 3):
            kafka_cluster.kill(node, signal.SIGCONT)
        kafka_cluster.wait_until_ready()
    (batches,) = streams_in(kafka_cluster, topic).values()
    assert archived(batches) == list(range(20))


def test_batches_over_the_topics_limit_go_in_parts(tmp_path, kafka_cluster):
    """Whatever the topic takes; and where it takes less from one day on, so do the parts."""
    topic = kafka_cluster.create_topic("small-messages", max_message_bytes=20_000)
    written(tmp_path / "before.log", range(10), padding=20_000)
    written(tmp_path / "after.log", range(10, 15), padding=20_000)
    with receiving(tmp_path, kafka_cluster, topic) as receiver:
        ship = ("ship", "--once", "--to", receiver.address, "--spool-dir", tmp_path)
        assert logbale_run(*ship, tmp_path / "before.log").returncode == 0
        admin = AdminClient({"bootstrap.servers": kafka_cluster.bootstrap})
        lower = ConfigEntry("max.message.bytes", "10000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[lower])
        admin.incremental_alter_configs([resource])[resource].result(30)
        assert logbale_run(*ship, tmp_path / "after.log").returncode == 0
        assert receiver.end() == 0
    messages = read_topic(kafka_cluster.bootstrap, topic)
    assert 10_000 < max(len(message.value()) for message in messages) < 20_000
    newest = headers_of(max(messages, key=lambda message: message.timestamp()))["session"]
    after = [message for message in messages if headers_of(message)["session"] == newest]
    assert max(len(message.value()) for message in after) < 10_000
    assert len(after) > 10
    numbers = [number for batches in streams_in(kafka_cluster, topic).values() for number in archived(batches)]
    assert sorted(numbers) == list(range(15))


def test_ndjson_is_for_consumers_that_know_nothing_of_us(tmp_path, kafka_cluster):
    """A message an entry: its value the line, its key the stream, in the stream's order; no header to be understood."""
    topic = kafka_cluster.create_topic("plain")
    log = tmp_path / "app.log"
    written(log, range(5000))
    with receiving(tmp_path, kafka_cluster, topic, "--format", "ndjson") as receiver:
        shipped = logbale_run("ship", "--once", log, "--to", receiver.address, "--spool-dir", tmp_path)
        assert shipped.returncode == 0, shipped.stderr
        assert receiver.end() == 0
    messages = read_topic(kafka_cluster.bootstrap, topic)
    assert [msgspec.json.decode(message.value())["n"] for message in messages] == list(range(5000))
    assert len({message.key() for message in messages}) == 1
    assert {message.headers() for message in messages} == {None}


def test_a_missing_topic_is_not_made_and_ends_the_start(tmp_path, kafka_cluster):
    """Exit code 78, with the command that makes it."""
    sink = f"kafka://{kafka_cluster.bootstrap}/never-made"
    ended = logbale_run("receive", "--listen", "127.0.0.1:0", "--sink", sink)
    assert ended.returncode == 78
    assert "kafka-topics.sh --bootstrap-server" in ended.stderr
    admin = AdminClient({"bootstrap.servers": kafka_cluster.bootstrap})
    assert "never-made" not in admin.list_topics(timeout=60).topics


def test_what_a_topic_risks_is_read_from_the_brokers(tmp_path, kafka_cluster):
    """One warning with each of its weaknesses; a topic that would be compacted is refused."""
    weak = {"replication_factor": 1, "min_insync_replicas": 1, "unclean_leader_election_enable": "true"}
    with receiving(tmp_path, kafka_cluster, kafka_cluster.create_topic("weak", 1, **weak)) as receiver:
        said = receiver.says("topic weak can lose what was acknowledged: .*")[0]
        for part in ("1 replicas: expected 3", "min.insync.replicas=1", "unclean.leader.election.enable=true"):
            assert part in said
    compacted = kafka_cluster.create_topic("compacted", 1, cleanup_policy="compact")
    sink = f"kafka://{kafka_cluster.bootstrap}/{compacted}"
    ended = logbale_run("receive", "--listen", "127.0.0.1:0", "--sink", sink)
    assert ended.returncode == 78
    assert "cleanup.policy=compact: expected delete" in ended.stderr
