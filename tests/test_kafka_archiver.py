"""What an archiver promises, on librdkafka's mock cluster: stored once, whatever else is in the topic or in its way."""

import json
import logging
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from test_kafka_message import batch_of, compress

pytest.importorskip("confluent_kafka", reason="logbale[kafka] is not installed")

from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from kafka_mock import MockCluster
from test_segment_store import s3
from waiting import wait_until

from logbale.archive import reader, verify
from logbale.archive.format import BlockEncoder
from logbale.errors import StorageError
from logbale.kafka.address import kafka_topic
from logbale.kafka.archiver import Archiver
from logbale.kafka.chain import Place
from logbale.kafka.looking import Looking
from logbale.kafka.message import encode
from logbale.kafka.partition import Limits
from logbale.kafka.saying import Saying
from logbale.kafka.segment import SegmentBuilder
from logbale.segment_store.directory import DirectoryStore
from logbale.segment_store.opening import open_store

pytestmark = pytest.mark.long  # groups of consumers take their time

SOON = Limits(segment_bytes=1 << 20, segment_seconds=0.2)
NEVER = Limits(segment_bytes=1 << 30, segment_seconds=1e9)
PARTITIONS = 3


@pytest.fixture(scope="module")
def mock():
    with MockCluster() as cluster:
        yield cluster


@pytest.fixture
def topic(mock, request):
    """A topic of the test's own."""
    return Topic(mock, mock.create_topic(request.node.name.replace("[", "-").strip("]")[:100], PARTITIONS))


class Topic:
    """Where a test produces."""

    def __init__(self, mock, name):
        self.name = name
        self.bootstrap = mock.bootstrap
        self.address = kafka_topic(f"kafka://{mock.bootstrap}/{name}")
        self._producer = Producer({"bootstrap.servers": mock.bootstrap, "linger.ms": 1, "log_level": 0})

    def produce(self, *items, partition=0, session="sink"):
        """Items as a receiver would publish them; a test says to which partition."""
        for item in items:
            for message in encode(item, limit=1 << 20, session=session, compress=compress):
                self.produce_raw(message.value, message.headers, partition=partition)
        assert self._producer.flush(30) == 0

    def produce_raw(self, value, headers=(), partition=0):
        self._producer.produce(self.name, value, headers=list(headers), partition=partition)


def numbered(stream, first, last):
    return [batch_of([f"{stream} {n}"], stream=stream, sequence=n, base=1, crc=n) for n in range(first, last + 1)]


@contextmanager
def archiving(topic, store, limits=SOON, *, group="archivers", settings=None, drain_timeout=10.0):
    """An archiver that runs; it has stopped at the end of this."""
    quick = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 200, "log_level": 0}
    archiver = Archiver(
        topic.address, store, quick | (settings or {}), limits, group=group, drain_timeout=drain_timeout
    )
    failed = []

    def run():
        try:
            archiver.run()
        except BaseException as error:  # it is raised where the test can see it
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield archiver
    finally:
        archiver.stop()
        thread.join(60)
        assert not thread.is_alive()
        assert failed == []


def texts(directory):
    """The entries of an archive, which is whole."""
    assert [damage for segment in verify.verify(directory) for damage in segment.damage] == []
    return [json.loads(line)["m"] for line in reader.lines(directory)]


class Moody(DirectoryStore):
    """A directory that does not answer while it is told so."""

    is_down = False

    def last(self, folder):
        self._check()
        return super().last(folder)

    def put(self, name, body):
        self._check()
        return super().put(name, body)

    def _check(self):
        if self.is_down:
            raise StorageError("the store is down")


def test_what_is_in_the_topic_is_stored_once(topic, tmp_path):
    """Streams in order without their duplicates, base clients' batches, and nothing that is not ours."""
    topic.produce(*numbered("s", 1, 40), *numbered("s", 30, 60), partition=0)
    topic.produce(*numbered("t", 1, 5), batch_of(["base"]), partition=1)
    topic.produce_raw(b'{"somebody": "else"}', partition=1)
    topic.produce_raw(b"rubbish", [("v", b"1"), ("kind", b"batch")], partition=1)
    topic.produce(*numbered("t", 6, 9), partition=1)
    with archiving(topic, DirectoryStore(tmp_path)) as archiver:
        wait_until(lambda: archiver.snapshot().stored.entries == 70)
        wait_until(lambda: archiver.snapshot().lag == dict.fromkeys(range(PARTITIONS), 0))
        snapshot = archiver.snapshot()
    assert texts(tmp_path) == [f"s {n}" for n in range(1, 61)] + [
        *(f"t {n}" for n in range(1, 6)),
        "base",
        *(f"t {n}" for n in range(6, 10)),
    ]
    found = {name: number for name, number in snapshot.messages.items() if number}
    assert found == {"batch": 70, "duplicate": 11, "foreign": 1, "malformed": 1}
    assert (snapshot.waiting_entries, snapshot.problem) == (0, "")


def test_a_header_whose_name_is_no_text_is_not_ours(topic, mock, tmp_path):
    """Who may write to the topic can give a header any bytes for a name; that is one foreign message, and no end.

    Also among many, when the interpreter has specialized the call and asks less.
    """
    topic.produce(*numbered("s", 1, 100))
    for _ in range(3):
        mock.produce_named(topic.name, b"v\xff", b"rubbish")
    topic.produce(*numbered("s", 101, 105))
    with archiving(topic, DirectoryStore(tmp_path)) as archiver:
        wait_until(lambda: archiver.snapshot().stored.entries == 105)
        assert archiver.snapshot().messages["foreign"] == 3
    assert texts(tmp_path) == [f"s {n}" for n in range(1, 106)]


def test_the_group_hears_how_far_it_is_for_those_who_watch_the_lag(topic, tmp_path):
    """The offsets that are committed are where the chains end, after a put."""
    topic.produce(*numbered("s", 1, 7))
    with archiving(topic, DirectoryStore(tmp_path), group="watched") as archiver:
        wait_until(lambda: archiver.snapshot().stored.entries == 7)
    admin = AdminClient({"bootstrap.servers": topic.bootstrap, "log_level": 0})
    asked = ConsumerGroupTopicPartitions("watched", [TopicPartition(topic.name, 0)])
    [answer] = admin.list_consumer_group_offsets([asked])["watched"].result(60).topic_partitions
    assert answer.offset == 7


def test_a_stop_puts_what_there_is_and_the_next_goes_on(topic, tmp_path):
    """Segments that were due in a year are put before the end; nobody stores anything twice after that."""
    topic.produce(*numbered("s", 1, 10))
    with archiving(topic, DirectoryStore(tmp_path), NEVER) as archiver:
        wait_until(lambda: archiver.snapshot().waiting_entries == 10)
        assert texts(tmp_path) == []
    assert len(texts(tmp_path)) == 10
    assert archiver.snapshot().waiting_entries == 0
    topic.produce(*numbered("s", 8, 20))
    with archiving(topic, DirectoryStore(tmp_path), NEVER) as archiver:
        wait_until(lambda: archiver.snapshot().waiting_entries == 10)
        assert archiver.snapshot().messages["duplicate"] == 3
    assert texts(tmp_path) == [f"s {n}" for n in range(1, 21)]


def test_a_store_that_is_down_loses_nothing(topic, tmp_path):
    """It is said and tried again; what was read waits, and Kafka holds the rest."""
    store = Moody(tmp_path)
    store.is_down = True
    topic.produce(*numbered("s", 1, 10))
    with archiving(topic, store) as archiver:
        wait_until(lambda: archiver.snapshot().errors.get("store", 0) >= PARTITIONS)
        assert "the store is down" in archiver.ready()[1]
        store.is_down = False
        wait_until(lambda: archiver.snapshot().stored.entries == 10)
        assert archiver.ready() == (True, "")
        store.is_down = True
        topic.produce(*numbered("s", 11, 30))
        wait_until(lambda: archiver.ready()[0] is False)
        store.is_down = False
        wait_until(lambda: archiver.snapshot().stored.entries == 30)
    assert texts(tmp_path) == [f"s {n}" for n in range(1, 31)]


def test_a_stop_does_not_wait_for_a_store_that_is_down(topic, tmp_path):
    """It ends in its time, and the next archiver stores what this one could not."""
    store = Moody(tmp_path)
    topic.produce(*numbered("s", 1, 10))
    with archiving(topic, store, NEVER, drain_timeout=1.0) as archiver:
        wait_until(lambda: archiver.snapshot().waiting_entries == 10)
        store.is_down = True
    assert texts(tmp_path) == []
    assert archiver.snapshot().waiting_entries == 10
    store.is_down = False
    with archiving(topic, store) as archiver:
        wait_until(lambda: archiver.snapshot().stored.entries == 10)
    assert texts(tmp_path) == [f"s {n}" for n in range(1, 11)]


def test_a_stop_does_not_wait_for_brokers_that_are_gone(tmp_path):
    """What there is is put, and the group finds out by itself, which takes it 45 s as a rule."""
    cluster = MockCluster()
    topic = Topic(cluster, cluster.create_topic("gone", PARTITIONS))
    topic.produce(*numbered("s", 1, 10))
    settings = {"session.timeout.ms": 45_000}
    with archiving(topic, DirectoryStore(tmp_path), NEVER, settings=settings, drain_timeout=1.0) as archiver:
        wait_until(lambda: archiver.snapshot().waiting_entries == 10)
        cluster.lose()
        began = time.monotonic()
    assert time.monotonic() - began < 30
    assert texts(tmp_path) == [f"s {n}" for n in range(1, 11)]


def test_a_bucket_is_a_store_too(topic, tmp_path, monkeypatch):
    """The same against an S3, two groups racing for its names; the objects are segments."""
    obstore = pytest.importorskip("obstore.store", reason="obstore is not installed")
    with s3(monkeypatch) as url:
        store = open_store(url)
        with archiving(topic, store, group="one") as one, archiving(topic, store, group="other") as other:
            for first in range(1, 100, 10):
                topic.produce(*numbered("s", first, first + 9))
                time.sleep(0.1)
            wait_until(lambda: one.snapshot().stored.entries + other.snapshot().stored.entries == 100)
            wait_until(lambda: one.snapshot().races_lost + other.snapshot().races_lost > 0)
        bucket = obstore.from_url(url)
        for page in bucket.list():
            for found in page:
                path = tmp_path / found["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bucket.get(found["path"]).bytes())
    assert texts(tmp_path) == [f"s {n}" for n in range(1, 101)]


def test_two_that_both_believe_in_their_partitions_store_each_batch_once(topic, tmp_path):
    """Two groups on one store: every name is a race, and whoever loses one reads again behind it."""
    store = DirectoryStore(tmp_path)
    with archiving(topic, store, group="one") as one, archiving(topic, store, group="other") as other:
        for first in range(1, 200, 10):
            for partition in range(PARTITIONS):
                topic.produce(*numbered(f"s{partition}", first, first + 9), partition=partition)
            time.sleep(0.1)
        wait_until(lambda: len(list(reader.lines(tmp_path))) >= 200 * PARTITIONS)
        wait_until(lambda: one.snapshot().races_lost + other.snapshot().races_lost > 0)
    assert texts(tmp_path) == [f"s{partition} {n}" for partition in range(PARTITIONS) for n in range(1, 201)]


@pytest.mark.slow
def held(archiver):
    """Entries that it has stored, or read and not given up: what is handed over may have been read by both."""
    snapshot = archiver.snapshot()
    return snapshot.stored.entries + snapshot.waiting_entries


def test_members_of_a_group_share_the_partitions(topic, tmp_path):
    """A second archiver takes some over, and hands them back when it ends; each batch is stored once."""
    store = DirectoryStore(tmp_path)

    def produce(first, last):
        for partition in range(PARTITIONS):
            topic.produce(*numbered(f"s{partition}", first, last), partition=partition)

    with archiving(topic, store, NEVER) as one:
        produce(1, 10)
        wait_until(lambda: one.snapshot().waiting_entries == 10 * PARTITIONS)
        with archiving(topic, store, NEVER) as other:
            wait_until(lambda: one.snapshot().partitions and other.snapshot().partitions)
            produce(11, 20)
            wait_until(lambda: one.snapshot().partitions + other.snapshot().partitions == PARTITIONS)
            wait_until(lambda: held(one) + held(other) == 20 * PARTITIONS)
        wait_until(lambda: one.snapshot().partitions == PARTITIONS)
        produce(21, 30)
        wait_until(lambda: held(one) + other.snapshot().stored.entries == 30 * PARTITIONS)
        assert other.snapshot().stored.entries > 0
    assert texts(tmp_path) == [f"s{partition} {n}" for partition in range(PARTITIONS) for n in range(1, 31)]


def test_a_topic_that_was_made_anew_is_not_archived_into_the_old_chain(topic, tmp_path, caplog):
    """Where the archive has come further than the topic, that partition is refused; the others go on."""
    store = DirectoryStore(tmp_path)
    segment = SegmentBuilder(BlockEncoder(1)).finish(topic.name, 0, 0, Place(1000, 1000))
    segment.body.seek(0)
    assert store.put(segment.name, segment.body)
    segment.body.close()
    topic.produce(*numbered("s", 1, 10), partition=0)
    topic.produce(*numbered("t", 1, 10), partition=1)
    with archiving(topic, store) as archiver:
        wait_until(lambda: archiver.snapshot().stored.entries == 10)
        wait_until(lambda: archiver.snapshot().errors.get("refused") == 1)
        assert "come to offset 1000, the topic ends at 10" in archiver.snapshot().problem
    assert texts(tmp_path) == [f"t {n}" for n in range(1, 11)]
    assert "partition 0 is not archived" in caplog.text


def test_what_is_lost_is_said(topic, tmp_path, caplog):
    """Batches that were acknowledged and that the topic has not, or not whole: an ERROR says how many, once."""
    later = [batch_of([f"s {n}"], stream="s", sequence=n, base=5, crc=n) for n in (5, 6)]
    topic.produce(*numbered("s", 1, 2), *later)
    [message] = encode(later[0], limit=1 << 20, session="a", compress=compress)
    spoilt = {"sequence": b"7", "base": b"7", "count": b"2"}
    topic.produce_raw(message.value, [(name, spoilt.get(name, value)) for name, value in message.headers])
    with archiving(topic, DirectoryStore(tmp_path)) as archiver:
        wait_until(lambda: archiver.snapshot().stored.entries == 4)
        wait_until(lambda: archiver.snapshot().messages["damaged"] == 1)
    assert caplog.text.count("1 batches in the topic cannot be read, and 2 that were acknowledged are not in it") == 1


def test_a_message_of_a_later_version_is_waited_for(topic, tmp_path):
    """It is not passed over: what is before it is stored, and this partition goes on with a newer logbale."""
    topic.produce(*numbered("s", 1, 5), partition=0)
    topic.produce_raw(b"", [("v", b"2")], partition=0)
    topic.produce(*numbered("s", 6, 9), partition=0)
    topic.produce(*numbered("t", 1, 5), partition=1)
    with archiving(topic, DirectoryStore(tmp_path)) as archiver:
        wait_until(lambda: archiver.snapshot().stored.entries == 10)
        assert "offset 5: version 2" in archiver.snapshot().problem
    assert texts(tmp_path) == [f"s {n}" for n in range(1, 6)] + [f"t {n}" for n in range(1, 6)]


def test_a_full_temporary_directory_costs_another_reading(topic, tmp_path, monkeypatch):
    """What could not be built is read again from Kafka once there is room."""
    is_full = threading.Event()
    is_full.set()
    add = SegmentBuilder.add

    def failing(self, item):
        if is_full.is_set():
            raise OSError(28, "No space left on device")
        add(self, item)

    monkeypatch.setattr(SegmentBuilder, "add", failing)
    topic.produce(*numbered("s", 1, 10))
    with archiving(topic, DirectoryStore(tmp_path)) as archiver:
        wait_until(lambda: archiver.snapshot().errors.get("temporary_file", 0) >= 2)
        wait_until(lambda: "TMPDIR" in archiver.ready()[1])
        is_full.clear()
        wait_until(lambda: archiver.snapshot().stored.entries == 10)
    assert texts(tmp_path) == [f"s {n}" for n in range(1, 11)]


def test_the_same_is_said_once_a_minute(caplog):
    """However often it happens; then with how often it came meanwhile."""
    saying = Saying(logging.getLogger("logbale.archiver"))
    for second in range(61):
        saying.warning("no broker answers", now=float(second))
    saying.warning("something else", now=60.0)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["no broker answers", "no broker answers (59 times more in between)", "something else"]


@pytest.mark.slow
def test_brokers_that_are_away_for_a_while_cost_time(mock, topic, tmp_path):
    """Every broker is lost and comes back: it goes on by itself, and says what it waited for."""
    topic.produce(*numbered("s", 1, 10))
    with archiving(topic, DirectoryStore(tmp_path), settings={"reconnect.backoff.max.ms": 500}) as archiver:
        wait_until(lambda: archiver.snapshot().stored.entries == 10)
        mock.lose()
        wait_until(lambda: archiver.snapshot().errors.get("kafka", 0) > 0)
        mock.restore()
        topic.produce(*numbered("s", 11, 20))
        wait_until(lambda: archiver.snapshot().stored.entries == 20, 90)
    assert texts(tmp_path) == [f"s {n}" for n in range(1, 21)]


class Leaderless:
    """An admin client while a partition's leader is away: it says no error, and OFFSET_INVALID."""

    def __init__(self, *arguments):
        pass

    def list_offsets(self, asked, **_):
        future = Future()
        future.set_result(SimpleNamespace(offset=-1001))
        return {partition: future for partition in asked}


def test_an_offset_that_kafka_does_not_know_is_no_end_of_the_topic(tmp_path, monkeypatch):
    """Taken for one, the topic would be shorter than its archive, and refused, where it is only to be tried again."""
    monkeypatch.setattr("logbale.kafka.looking.admin_client", Leaderless)
    looking = Looking(kafka_topic("kafka://b/logs"), DirectoryStore(tmp_path), {})
    with pytest.raises(StorageError, match="it has no leader now"):
        looking.look(3)
