"""Archivers on a real cluster, as processes: whatever ends or stops them, each batch is in the store once."""

import json
import re
import signal
import threading
import time
from collections import defaultdict

import pytest
from cli_process import LOGBALE, Process, logbale_run
from test_kafka_message import batch_of, compress

pytest.importorskip("confluent_kafka", reason="logbale[kafka] is not installed")

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from test_kafka_archiver import Moody, Topic, archiving
from waiting import wait_until

from logbale.archive import reader, verify
from logbale.errors import StorageError
from logbale.kafka.address import kafka_topic
from logbale.kafka.looking import Looking, LookUp
from logbale.kafka.message import encode
from logbale.kafka.partition import Limits
from logbale.segment_store.directory import DirectoryStore

# One cluster for all of them.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("kafka"), pytest.mark.timeout(400)]

STREAMS = [f"host{number}" for number in range(12)]
LONG = "x" * 20
FAST = "session.timeout.ms=6000\nheartbeat.interval.ms=500\n"
"""A member that is silent for six seconds is dead: the cluster allows that, and a test should not wait longer."""


class Traffic:
    """Numbered batches of some streams, each produced by two sinks, one of which lags behind by some batches."""

    def __init__(self, bootstrap, topic, *, pause=0.05):
        self.topic = topic
        self.pause = pause
        self.produced = 0
        """Batches of each stream."""
        self._ended = threading.Event()
        self._producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 5})
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Returns once all is delivered."""
        self._ended.set()
        self._thread.join()
        assert self._producer.flush(60) == 0

    def _run(self):
        while not self._ended.is_set():
            self.produced += 1
            for stream in STREAMS:
                self._produce(stream, self.produced, "quick")
                if self.produced > 5:
                    self._produce(stream, self.produced - 5, "late")
            self._producer.poll(0)
            self._ended.wait(self.pause)

    def _produce(self, stream, number, session):
        texts = [f"{stream} {number} {part} {LONG}" for part in range(3)]
        item = batch_of(texts, stream=stream, sequence=number, base=1, crc=number)
        for message in encode(item, limit=1 << 20, session=session, compress=compress):
            self._producer.produce(self.topic, message.value, message.key, headers=message.headers)


def archiver(directory, cluster, topic, *more):
    config = directory / "kafka.conf"
    config.write_text(FAST)
    config.chmod(0o600)
    return Process(
        directory,
        *LOGBALE,
        "archive",
        f"kafka://{cluster.bootstrap}/{topic}",
        "--to",
        f"file://{directory}/store",
        "--kafka-config",
        config,
        "--group",
        topic,
        "--archive-segment-seconds",
        "1",
        *more,
    )


def partitions_of(process):
    """Those that it has, by what it says."""
    mine = set()
    for line in process.messages.read_text().splitlines():
        if found := re.search(r"partitions ([\d, ]+) (are ours|go to another|were given)", line):
            numbers = set(map(int, found[1].split(",")))
            mine = mine | numbers if found[2] == "are ours" else mine - numbers
    return mine


def stored(directory):
    """The batches in the store, by stream, as often and in the order in which they are there; three entries each."""
    ended = logbale_run("cat", directory / "store")
    assert ended.returncode == 0, ended.stderr
    numbers = defaultdict(list)
    for line in ended.stdout.splitlines():
        stream, number, part, _ = json.loads(line)["m"].split()
        numbers[stream].append((int(number), int(part)))
    return numbers


def expected(last):
    return {stream: [(number, part) for number in range(1, last + 1) for part in range(3)] for stream in STREAMS}


def test_each_batch_is_stored_once_whatever_ends_or_stops_an_archiver(kafka_cluster, tmp_path):
    """kill -9 of one, SIGSTOP of another until its partitions have moved, SIGCONT: each once, in order."""
    topic = kafka_cluster.create_topic("archived-once", 6)
    processes = []

    def begin():
        processes.append(archiver(tmp_path, kafka_cluster, topic))
        return processes[-1]

    try:
        with Traffic(kafka_cluster.bootstrap, topic) as traffic:
            first, second = begin(), begin()
            wait_until(lambda: partitions_of(first) and partitions_of(second))
            wait_until(lambda: partitions_of(first) | partitions_of(second) == set(range(6)))
            time.sleep(3)  # so that there is something to lose
            first.end(signal.SIGKILL)
            wait_until(lambda: partitions_of(second) == set(range(6)))
            third = begin()
            wait_until(lambda: partitions_of(third))
            time.sleep(2)
            second.process.send_signal(signal.SIGSTOP)
            wait_until(lambda: partitions_of(third) == set(range(6)))
            time.sleep(3)
            second.process.send_signal(signal.SIGCONT)
            second.says("were given to others|another archiver was first")
            time.sleep(3)
            traffic.end()
            last = traffic.produced
        wait_until(lambda: sum(map(len, stored(tmp_path).values())) >= 3 * last * len(STREAMS))
        assert [process.end() for process in (second, third)] == [0, 0]
        assert stored(tmp_path) == expected(last)
        verified = logbale_run("verify", tmp_path / "store")
        assert verified.returncode == 0, verified.stdout
    finally:
        for process in processes:
            process.process.kill()
            process.process.communicate()
            print(process.messages.read_text())


def produce(cluster, topic, first, last):
    """Batches of one stream as a receiver would publish them that stores each before the next."""
    producer = Producer({"bootstrap.servers": cluster.bootstrap})
    for number in range(first, last + 1):
        item = batch_of([f"s {number}"], stream="s", sequence=number, base=number, crc=number)
        for message in encode(item, limit=1 << 20, session="sink", compress=compress):
            producer.produce(topic, message.value, message.key, headers=message.headers, partition=0)
        assert producer.flush(30) == 0


def delete_before(cluster, topic, offset):
    """What retention does in its time."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    place = TopicPartition(topic, 0, offset)
    assert admin.delete_records([place])[place].result(30).low_watermark == offset


def numbers_in(directory):
    return [int(json.loads(line)["m"].split()[1]) for line in reader.lines(directory)]


def skips_in(directory):
    return [(skip.first, skip.last) for block in reader.blocks(directory) for skip in block.header.skips]


def test_what_retention_took_is_counted_said_and_noted(kafka_cluster, tmp_path, caplog):
    """An archiver that was away for too long goes on behind the hole; the lost numbers are in the archive, as lost."""
    topic = Topic(kafka_cluster, kafka_cluster.create_topic("retention", 1))
    store = DirectoryStore(tmp_path)
    produce(kafka_cluster, topic.name, 1, 30)
    with archiving(topic, store, group="retention") as archiver:
        wait_until(lambda: archiver.snapshot().stored.entries == 30)
    produce(kafka_cluster, topic.name, 31, 100)
    delete_before(kafka_cluster, topic.name, 60)
    with archiving(topic, store, group="retention") as archiver:
        wait_until(lambda: archiver.snapshot().stored.entries == 40)
        assert archiver.snapshot().lost_offsets == 30
        assert archiver.snapshot().noticed["missing_sequences"] == 30
    assert numbers_in(tmp_path) == [*range(1, 31), *range(61, 101)]
    assert skips_in(tmp_path) == [(31, 60)]
    assert "30 offsets (30 to 59) were deleted by Kafka before they were archived" in caplog.text
    assert [damage for segment in verify.verify(tmp_path) for damage in segment.damage] == []


def test_retention_may_outrun_an_archiver_that_runs(kafka_cluster, tmp_path):
    """While the store is down: what was read in time is stored, then it goes on behind the hole."""
    topic = Topic(kafka_cluster, kafka_cluster.create_topic("outrun", 1))
    store = Moody(tmp_path)
    with archiving(topic, store, Limits(1 << 20, 0.5), group="outrun") as archiver:
        wait_until(lambda: archiver.snapshot().partitions == 1)
        wait_until(lambda: archiver.snapshot().lag == {0: 0})
        store.is_down = True
        produce(kafka_cluster, topic.name, 1, 20)
        wait_until(lambda: archiver.snapshot().errors.get("store", 0) > 1)
        produce(kafka_cluster, topic.name, 21, 60)
        time.sleep(2)  # the second segment is due too, and the partition paused
        produce(kafka_cluster, topic.name, 61, 100)
        delete_before(kafka_cluster, topic.name, 80)
        store.is_down = False
        wait_until(lambda: archiver.snapshot().waiting_entries == 0 and numbers_in(tmp_path)[-1:] == [100], 90)
        assert archiver.snapshot().lost_offsets > 0
    found = numbers_in(tmp_path)
    [(first, last)] = skips_in(tmp_path)
    assert (found, last) == ([*range(1, first), *range(81, 101)], 80)
    assert [damage for segment in verify.verify(tmp_path) for damage in segment.damage] == []


def test_an_archive_may_begin_with_an_old_topic(kafka_cluster, tmp_path):
    """Its first segment is named 0 whatever Kafka still has, and streams begin where they are met."""
    topic = Topic(kafka_cluster, kafka_cluster.create_topic("old", 1))
    produce(kafka_cluster, topic.name, 1, 50)
    delete_before(kafka_cluster, topic.name, 20)
    with archiving(topic, DirectoryStore(tmp_path), group="old") as archiver:
        wait_until(lambda: archiver.snapshot().stored.entries == 30)
    assert numbers_in(tmp_path) == list(range(21, 51))
    assert [path.name for path in tmp_path.rglob("*.zst")] == [f"{0:020}.ndjson.zst"]


def test_a_broker_that_is_killed_costs_an_archiver_seconds(kafka_cluster, tmp_path):
    """Its partitions have new leaders, and each batch is stored once."""
    topic = Topic(kafka_cluster, kafka_cluster.create_topic("broker", 6))
    with (
        Traffic(kafka_cluster.bootstrap, topic.name) as traffic,
        archiving(topic, DirectoryStore(tmp_path / "store"), Limits(1 << 20, 0.5), group="broker") as archiver,
    ):
        wait_until(lambda: archiver.snapshot().stored.entries > 500)
        kafka_cluster.kill(1)
        try:
            before = archiver.snapshot().stored.entries
            wait_until(lambda: archiver.snapshot().stored.entries > before + 2000, 90)
        finally:
            kafka_cluster.restart(1)
        traffic.end()
        total = 3 * traffic.produced * len(STREAMS)
        wait_until(lambda: archiver.snapshot().stored.entries == total, 90)
    assert stored(tmp_path) == expected(traffic.produced)


def test_new_leaders_are_asked_after_brokers_came_back(kafka_cluster, tmp_path):
    """Who asked the ones before takes a refusal of theirs for no answer: partitions are looked up again and again."""
    topic = kafka_cluster.create_topic("renewed", 6)
    (tmp_path / "store").mkdir()
    looking = Looking(kafka_topic(f"kafka://{kafka_cluster.bootstrap}/{topic}"), DirectoryStore(tmp_path / "store"), {})
    for number in range(6):
        assert looking.look(number) == LookUp(None, 0, 0)
    for node in kafka_cluster.nodes:
        kafka_cluster.kill(node)
        kafka_cluster.restart(node)
    for number in range(6):
        wait_until(lambda number=number: _answers(looking, number))


def _answers(looking, number):
    try:
        return looking.look(number) == LookUp(None, 0, 0)
    except StorageError:  # no leader yet
        return False


def leader_of(cluster, topic):
    """The broker that leads its first partition, and the file of that on its disk."""
    metadata = AdminClient({"bootstrap.servers": cluster.bootstrap}).list_topics(topic, timeout=10)
    node = metadata.topics[topic].partitions[0].leader
    return node, cluster._home(node) / "log" / f"{topic}-0" / f"{0:020}.log"


def spoil(path, number):
    """Flips the bits of the last byte of a batch in a broker's file, the first one being 0."""
    with path.open("r+b") as file:
        at = 0
        for _ in range(number + 1):
            file.seek(at + 8)  # behind its offset stands its length
            at += 12 + int.from_bytes(file.read(4), "big")
        file.seek(at - 1)
        (byte,) = file.read(1)
        file.seek(at - 1)
        file.write(bytes([byte ^ 0xFF]))


def test_what_a_leaders_disk_has_spoilt_is_waited_for(kafka_cluster, tmp_path):
    """It was acknowledged, and others have it: what is before it is stored, and the rest once another one leads."""
    topic = Topic(kafka_cluster, kafka_cluster.create_topic("spoilt", 1))
    produce(kafka_cluster, topic.name, 1, 20)
    leader, path = leader_of(kafka_cluster, topic.name)
    spoil(path, 9)
    with archiving(topic, DirectoryStore(tmp_path), Limits(1 << 20, 1e9), group="spoilt") as archiver:
        wait_until(lambda: archiver.snapshot().errors.get("unreadable", 0) >= 3)
        assert archiver.snapshot().stored.entries == 9
        said = "partition 0: offset 9 cannot be read from the broker that leads: MessageSet at offset 9"
        wait_until(lambda: said in archiver.ready()[1])
        assert archiver.snapshot().errors["kafka"] == 0  # of what comes behind it nothing is believed, nor said
        kafka_cluster.kill(leader)
        try:
            wait_until(lambda: archiver.snapshot().waiting_entries == 11, 90)
            wait_until(lambda: archiver.ready() == (True, ""))
        finally:
            kafka_cluster.restart(leader)
    assert numbers_in(tmp_path) == list(range(1, 21))
    assert skips_in(tmp_path) == []


def test_what_no_replica_can_read_is_given_up_by_deleting_it(kafka_cluster, tmp_path):
    """What the message says: it goes on behind it, and what was lost is counted and noted."""
    topic = Topic(kafka_cluster, kafka_cluster.create_topic("spoilt-for-good", 1))
    produce(kafka_cluster, topic.name, 1, 20)
    spoil(leader_of(kafka_cluster, topic.name)[1], 9)
    with archiving(topic, DirectoryStore(tmp_path), Limits(1 << 20, 0.5), group="given-up") as archiver:
        wait_until(lambda: archiver.snapshot().errors.get("unreadable", 0))
        delete_before(kafka_cluster, topic.name, 10)
        wait_until(lambda: archiver.snapshot().stored.entries == 19)
        assert archiver.snapshot().lost_offsets == 1
    assert numbers_in(tmp_path) == [*range(1, 10), *range(11, 21)]
    assert skips_in(tmp_path) == [(10, 10)]
