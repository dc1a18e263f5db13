"""What the sink for Kafka promises: stored is what all in-sync replicas have, whatever the brokers do meanwhile."""

import asyncio
import contextlib
import json
import time

import msgspec
import pytest
from archive_batches import batch

from logbale.errors import StorageError
from logbale.kafka.address import KafkaTopic
from logbale.kafka.assembly import Assembler
from logbale.kafka.message import decode
from logbale.sinks import Rejected, RejectedSequence, SkippedRange, Stored

pytest.importorskip("confluent_kafka", reason="logbale[kafka] is not installed")

from confluent_kafka import KafkaError, KafkaException
from kafka_mock import MockCluster, read_topic

from logbale.kafka.topic import TopicFacts
from logbale.sinks.kafka import KafkaSink


@pytest.fixture
def mock(monkeypatch):
    monkeypatch.setattr("logbale.kafka.topic.DESCRIBE_TIMEOUT", 0.1)  # its brokers never tell settings
    with MockCluster() as cluster:
        cluster.create_topic("logs")
        yield cluster


@contextlib.asynccontextmanager
async def sink_of(mock, *, limit=1_000_000, patience=20.0, as_lines=False, settings=None):
    """A sink for the topic `logs`."""
    facts = TopicFacts(6, 3, {"max.message.bytes": str(limit)})
    topic = KafkaTopic(mock.bootstrap, "logs")
    sink = KafkaSink(topic, facts, settings or {}, as_lines=as_lines, patience=patience)
    try:
        yield sink
    finally:
        await sink.close()


def numbered(sequence, stream="a:1", padding=0):
    """The batch with this sequence, of one entry with that number."""
    return msgspec.structs.replace(batch(sequence, stream=stream, padding=padding), base=1)


def items_in(mock) -> list:
    """What an archiver would take out of the topic, partition by partition."""
    assemblers = {}
    items = []
    for message in read_topic(mock.bootstrap, "logs"):
        assembler = assemblers.setdefault(message.partition(), Assembler())
        part = decode(message.headers(), message.value())
        assert (message.key() or b"").decode() == part.item.stream
        whole = assembler.add(part, offset=message.offset())
        if whole is not None:
            items.append(whole.item)
    return items


def sequences_in(mock, stream="a:1") -> list[int]:
    return [item.last_sequence for item in items_in(mock) if item.stream == stream]


async def stored(sink, group):
    """Asks again until it is, as the committer does."""
    while True:
        with contextlib.suppress(StorageError):
            return await sink.commit(group)


def commit(mock, *groups, after=lambda number: None, **options):
    """What a sink made of groups of items; `after` is called behind each."""

    async def scenario():
        async with sink_of(mock, **options) as sink:
            for number, group in enumerate(groups):
                outcomes.append(await sink.commit(list(group)))
                after(number)

    outcomes = []
    asyncio.run(scenario())
    return outcomes


def test_what_is_stored_is_in_the_topic_in_the_order_of_its_stream(mock):
    """Batches, rejects and skips of several streams: each stream in one partition, each message under its name."""
    group = []
    for number in range(1, 101):
        group += [numbered(number, f"host{n}:1") for n in range(8)]
    group += [RejectedSequence("host1:1", 101, "why", 7, 1), SkippedRange("host2:1", 101, 105, 12, "damaged", 1)]
    outcomes = commit(mock, group[:500], group[500:])
    assert outcomes == [[Stored()] * 500, [Stored()] * 302]
    items = items_in(mock)
    for n in range(8):
        expected = [item for item in group if item.stream == f"host{n}:1"]
        found = [item for item in items if item.stream == f"host{n}:1"]
        assert [item.last_sequence for item in found] == [item.last_sequence for item in expected]
        assert [item.lines() for item in found[:100]] == [item.ndjson for item in expected[:100]]


def test_a_base_clients_batches_go_anywhere_without_a_key(mock):
    """They have no order to keep."""
    assert commit(mock, [batch(1), batch(2)]) == [[Stored()] * 2]
    assert sorted(item.lines() for item in items_in(mock)) == [batch(1).ndjson, batch(2).ndjson]


def test_a_large_batch_goes_in_parts_of_the_topics_limit(mock):
    """Which is what the brokers take; what comes out is the batch."""
    large = numbered(1, padding=40_000)
    assert commit(mock, [large, numbered(2)], limit=4096) == [[Stored()] * 2]
    messages = read_topic(mock.bootstrap, "logs")
    assert len(messages) > 5
    assert max(len(message.value()) for message in messages) < 4096
    assert [item.lines() for item in items_in(mock)] == [large.ndjson, numbered(2).ndjson]


def test_ndjson_is_one_plain_message_an_entry(mock):
    """Under the stream's name, in its order; rejects and skips are nobody's business there."""
    many = batch(*range(1, 50), stream="a:1")
    group = [many, RejectedSequence("a:1", 50, "why"), SkippedRange("a:1", 51, 52, 1, "why"), batch(53, stream="a:1")]
    assert commit(mock, group, as_lines=True) == [[Stored()] * 4]
    messages = read_topic(mock.bootstrap, "logs")
    assert [json.loads(message.value())["n"] for message in messages] == [*range(1, 50), 53]
    assert {(message.key(), message.headers() and 1) for message in messages} == {(b"a:1", None)}


def test_more_entries_than_librdkafkas_queue_holds_take_their_turn(mock):
    """A queue of ten messages and two hundred to be sent: it waits for room instead of failing."""
    settings = {"queue.buffering.max.messages": "10"}
    assert commit(mock, [batch(*range(1, 201), stream="a:1")], as_lines=True, settings=settings) == [[Stored()]]
    assert [json.loads(m.value())["n"] for m in read_topic(mock.bootstrap, "logs")] == list(range(1, 201))


@pytest.mark.parametrize(
    "error",
    [
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REQUEST_TIMED_OUT,
    ],
)
def test_what_passes_by_itself_is_waited_for(mock, error):
    """A broker that is behind, or leads no more: librdkafka tries again, and nothing is doubled."""
    mock.fail(error, error)
    assert commit(mock, [numbered(1), numbered(2)]) == [[Stored()] * 2]
    assert sequences_in(mock) == [1, 2]


def test_without_brokers_nothing_is_stored_and_later_it_is_once(mock):
    """The clients hear soon that they wait. What is on its way stays so: it is not published again when they return."""

    async def scenario():
        async with sink_of(mock, patience=1.0) as sink:
            assert await stored(sink, [numbered(1)]) == [Stored()]
            mock.lose()
            group = [numbered(2), numbered(3)]
            for _ in range(2):
                with pytest.raises(StorageError, match=r"topic logs: 2 of 2 messages are not delivered after 1 s \("):
                    await sink.commit(group)
            mock.restore()
            assert await stored(sink, group) == [Stored()] * 2
            assert await stored(sink, [numbered(4)]) == [Stored()]

    asyncio.run(scenario())
    assert sequences_in(mock) == [1, 2, 3, 4]


def test_where_no_new_producer_can_be_made_it_is_tried_again(mock, monkeypatch):
    """A certificate that is being replaced, or no free descriptor, is an outage, and no end of the receiver."""

    def refuse(*arguments, **settings):
        raise KafkaException(KafkaError(KafkaError._INVALID_ARG, "ssl.ca.location failed"))

    async def scenario():
        settings = {"message.timeout.ms": "500"}
        async with sink_of(mock, settings=settings) as sink:
            mock.lose()
            group = [numbered(1), numbered(2)]
            with monkeypatch.context() as patch:
                patch.setattr("logbale.kafka.publisher.Producer", refuse)
                for _ in range(2):
                    with pytest.raises(StorageError, match=r"ssl\.ca\.location failed"):
                        await sink.commit(group)
            settings["message.timeout.ms"] = "60000"
            mock.restore()
            assert await stored(sink, group) == [Stored()] * 2

    asyncio.run(scenario())
    assert sequences_in(mock)[-2:] == [1, 2]


def test_what_timed_out_is_published_again_in_order(mock):
    """librdkafka gives up after message.timeout.ms, five minutes by default; the sink does not."""

    async def scenario():
        # librdkafka asks for a producer's number every half second: so long a slow machine needs a second look.
        settings = {"message.timeout.ms": "2000"}
        async with sink_of(mock, settings=settings) as sink:
            assert await stored(sink, [numbered(1)]) == [Stored()]
            mock.lose()
            group = [numbered(2), numbered(3)]
            with pytest.raises(StorageError, match="2 messages were not delivered: Local: Message timed out"):
                await sink.commit(group)
            settings["message.timeout.ms"] = "60000"
            mock.restore()
            assert await stored(sink, group) == [Stored()] * 2

    asyncio.run(scenario())
    assert sequences_in(mock)[0] == 1
    assert sequences_in(mock)[-2:] == [2, 3]


def test_a_topic_that_has_got_more_partitions_is_an_error_that_is_said_once(mock, caplog):
    """Streams are in other partitions than before: their order and their duplicates are lost on whoever reads."""

    async def scenario():
        topic = KafkaTopic(mock.bootstrap, "logs")
        sink = KafkaSink(topic, TopicFacts(1, 3, {}), {}, patience=20.0)  # it had one when it was looked at
        for number in (1, 2, 3):
            await sink.commit([numbered(number, f"host{n}:1") for n in range(40)])
        await sink.close()

    asyncio.run(scenario())
    (error,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert error.startswith("topic logs has got more partitions (6 by now)")


def test_what_failed_is_published_again_with_all_that_came_with_it(mock):
    """Then a stream is in order again behind the failure, and whoever reads drops what it has already."""

    async def scenario():
        async with sink_of(mock) as sink:
            group = [numbered(n) for n in (1, 2, 3)]
            mock.fail(KafkaError.TOPIC_AUTHORIZATION_FAILED)
            with pytest.raises(StorageError, match=r"messages were not delivered: Broker: Topic authorization failed"):
                await sink.commit(group)
            assert await sink.commit(group) == [Stored()] * 3

    asyncio.run(scenario())
    assert sequences_in(mock)[-3:] == [1, 2, 3]


def test_a_message_that_a_broker_refuses_is_rejected_and_leaves_a_note_in_its_place(mock):
    """Sequences after it would look like a gap to an archiver; those published before the refusal come again."""
    group = [numbered(1), numbered(2), numbered(3)]
    too_large = KafkaError.MSG_SIZE_TOO_LARGE
    mock.fail(too_large, too_large)  # all of them, as one request; then the first one alone
    (outcomes,) = commit(mock, group, settings={"linger.ms": "300"})
    assert outcomes == [Rejected("Kafka refuses it: Broker: Message size too large"), Stored(), Stored()]
    note, second, third = items_in(mock)
    assert note == RejectedSequence("a:1", 1, "Kafka refuses it: Broker: Message size too large", group[0].crc, 1)
    assert (second.lines(), third.lines()) == (group[1].ndjson, group[2].ndjson)


def test_neighbours_of_a_refused_message_are_not_refused(mock):
    """A request is refused as a whole: one by one they pass."""
    mock.fail(KafkaError.MSG_SIZE_TOO_LARGE)
    assert commit(mock, [numbered(1), numbered(2)], settings={"linger.ms": "300"}) == [[Stored()] * 2]
    assert sequences_in(mock) == [1, 2]


def test_an_entry_of_a_base_client_over_the_limit_is_rejected(mock):
    """It would never pass; its neighbours in the group do."""
    ((first, large, last),) = commit(mock, [batch(1), batch(2, padding=20_000), batch(3)], limit=4096)
    assert (first, last) == (Stored(), Stored())
    assert "the topic's limit is 4096" in large.reason
    assert sorted(item.lines() for item in items_in(mock)) == [batch(1).ndjson, batch(3).ndjson]


def test_a_producer_that_librdkafka_gives_up_is_replaced(mock):
    """An error that it calls fatal ends the producer, not the receiver."""

    async def scenario():
        async with sink_of(mock) as sink:
            assert await sink.commit([numbered(1)]) == [Stored()]
            session = sink._publisher.session
            mock.fail(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
            group = [numbered(2), numbered(3)]
            with pytest.raises(StorageError):
                await sink.commit(group)
            assert await sink.commit(group) == [Stored()] * 2
            assert sink._publisher.session != session

    asyncio.run(scenario())
    assert sequences_in(mock)[-2:] == [2, 3]


def test_closing_does_not_wait_for_brokers_that_are_gone(mock):
    """Nobody was told that it is stored: the shippers keep it."""

    async def scenario():
        async with sink_of(mock) as sink:
            mock.lose()
            waiting = asyncio.ensure_future(sink.commit([numbered(1)]))
            await asyncio.sleep(0.1)
            began = time.monotonic()
        with pytest.raises(StorageError):
            await waiting
        assert time.monotonic() - began < 30

    asyncio.run(scenario())


def test_the_loop_runs_while_kafka_works(mock):
    """Whatever the brokers do, other connections are served."""

    async def scenario():
        async with sink_of(mock) as sink:
            mock.lose()
            waiting = asyncio.ensure_future(sink.commit([numbered(1)]))
            for _ in range(10):
                await asyncio.sleep(0.01)
            assert not waiting.done()
            mock.restore()
            assert await waiting == [Stored()]

    asyncio.run(scenario())


def test_what_is_delivered_is_counted(mock):
    """Messages, bytes of their values, and how long it took."""

    async def scenario():
        async with sink_of(mock) as sink:
            await sink.commit([numbered(1), numbered(2)])
            assert sink.published.messages == 2
            assert sink.published.bytes == sum(len(m.value()) for m in read_topic(mock.bootstrap, "logs"))
            distribution = sink.published.durations.distribution()
            assert distribution.count == 1
            assert distribution.seconds > 0

    asyncio.run(scenario())


def test_it_knows_no_stream_and_admits_all():
    """Another receiver may have gone on with a stream: only its shipper knows how far it is."""
    assert KafkaSink.mark(object.__new__(KafkaSink), "a:1") is None
    assert KafkaSink.can_admit(object.__new__(KafkaSink), "a:1")
