"""What a receiver whose sink is Kafka promises its shippers, and whoever starts it."""

import asyncio
import contextlib
import io
import json

import base_client
import pytest
from test_delivery import Numbers, at_once, shipper

pytest.importorskip("confluent_kafka", reason="logbale[kafka] is not installed")

from kafka_mock import MockCluster, read_topic
from waiting import eventually

from logbale.config import Settings
from logbale.errors import ConfigError, UnavailableError
from logbale.kafka import topic as topics
from logbale.kafka.message import decode
from logbale.log_receiver import LogReceiver
from logbale.sinks import ReceivedBatch
from logbale.sinks import kafka as kafka_sink
from logbale.sinks.kafka import open_kafka

__all__ = ["at_once"]  # a fixture that holds here too


@pytest.fixture
def mock(monkeypatch):
    monkeypatch.setattr(topics, "DESCRIBE_TIMEOUT", 0.1)  # its brokers never tell settings
    with MockCluster() as cluster:
        yield cluster


@contextlib.asynccontextmanager
async def running(mock, topic="logs", **settings):
    """A receiver whose sink is a topic of the mock cluster."""
    sink = f"kafka://{mock.bootstrap}/{topic}"
    given = {"server_host": "127.0.0.1", "server_port": 0, "sink": sink, "drain_timeout": 1.0} | settings
    logs = LogReceiver(Settings(**given), out=io.StringIO())
    task = asyncio.ensure_future(logs.run())
    try:
        await asyncio.wait({task, asyncio.ensure_future(logs.started.wait())}, return_when=asyncio.FIRST_COMPLETED)
        yield logs
    finally:
        logs.stop()
        await task


def numbers_in(mock):
    return [json.loads(line)["n"] for item in batches_in(mock) for line in item.lines().splitlines()]


def batches_in(mock) -> list[ReceivedBatch]:
    return [decode(message.headers(), message.value()).item for message in read_topic(mock.bootstrap, "logs")]


def test_what_a_shipper_hears_acknowledged_is_in_the_topic(run, mock):
    """Ship, receive, read: every entry once, in order, in one partition; the batches say where they belong."""
    mock.create_topic("logs")

    async def scenario():
        async with running(mock) as logs:
            report = await shipper(logs.address[1], Numbers(200)).run()
            assert report.delivered
            snapshot = logs.snapshot()
            assert (snapshot.stored_entries, snapshot.published_messages) == (200, len(batches_in(mock)))
        batches = batches_in(mock)
        assert [batch.sequence for batch in batches] == list(range(1, len(batches) + 1))
        assert all(1 <= batch.base <= batch.sequence for batch in batches)
        assert numbers_in(mock) == list(range(200))

    run(scenario)


def test_a_base_client_is_served_too(run, mock):
    """Best effort, as ever: its entries have no stream, and their messages no key."""
    mock.create_topic("logs")

    async def scenario():
        async with running(mock) as logs:
            _, writer = await asyncio.open_connection(*logs.address)
            writer.write(base_client.frame([{"n": 1}, {"n": 2}], "gzip"))
            await eventually(lambda: logs.snapshot().stored_entries == 2)
            writer.transport.abort()
        (batch,) = batches_in(mock)
        assert (batch.stream, batch.sequence, batch.count) == ("", 0, 2)

    run(scenario)


def test_the_console_shows_what_is_in_the_topic(run, mock):
    """A view beside the topic, as beside an archive."""
    mock.create_topic("logs")

    async def scenario():
        async with running(mock, "logs,console") as logs:
            assert (await shipper(logs.address[1], Numbers(20)).run()).delivered
        shown = logs._out.getvalue()
        assert all(f"n={number}" in shown for number in range(20))

    run(scenario)


def test_a_stop_without_brokers_says_what_is_left(mock):
    """Within DRAIN_TIMEOUT and a moment; nobody was told that it is stored."""
    mock.create_topic("logs")

    async def scenario():
        sink = f"kafka://{mock.bootstrap}/logs"
        settings = Settings(server_host="127.0.0.1", server_port=0, sink=sink, drain_timeout=0.5)
        logs = LogReceiver(settings, out=io.StringIO())
        await logs.start()
        running = asyncio.ensure_future(logs.run())
        mock.lose()
        _, writer = await asyncio.open_connection(*logs.address)
        writer.write(base_client.frame([{"n": 1}, {"n": 2}], "gzip"))
        await eventually(lambda: logs.snapshot().waiting_entries == 2)
        logs.stop()
        async with asyncio.timeout(60):
            assert await running == 2
        writer.transport.abort()

    asyncio.run(scenario())


def test_while_no_broker_answers_clients_wait_and_then_it_goes_on(run, mock, monkeypatch, caplog):
    """Not ready, and why; no entry is lost, rejected or stored twice, and nobody has to do anything."""
    monkeypatch.setattr(kafka_sink, "PATIENCE", 0.3)
    monkeypatch.setattr("logbale.committer.STORAGE_RETRY", 0.05)
    mock.create_topic("logs")

    async def scenario():
        async with running(mock) as logs:
            assert logs._ready() == (True, "listening, storing")
            mock.lose()
            shipping = asyncio.ensure_future(shipper(logs.address[1], Numbers(50)).run())
            await eventually(lambda: not logs._ready()[0])
            assert "Kafka topic logs: 1 of 1 messages are not delivered after 0.3 s" in logs._ready()[1]
            mock.restore()
            assert (await shipping).delivered
            assert logs._ready() == (True, "listening, storing")
        assert numbers_in(mock) == list(range(50))
        assert "cannot store now, the clients wait: Kafka topic logs" in caplog.text

    run(scenario)


def test_brokers_that_do_not_answer_at_the_start_end_it_with_their_names(mock, monkeypatch):
    """After START_TIMEOUT, which is said at once: no receiver pretends to store."""
    monkeypatch.setattr(topics, "START_TIMEOUT", 1.5)
    mock.lose()

    async def scenario():
        with pytest.raises(UnavailableError, match=f"no broker of {mock.bootstrap} answered within 1.5 s: .*refused"):
            async with running(mock):
                pass

    asyncio.run(scenario())


def test_a_stop_ends_a_start_that_waits_for_brokers(mock, monkeypatch):
    """Not half a minute later: nothing has been received that could be lost."""
    monkeypatch.setattr(topics, "START_TIMEOUT", 4.0)  # asyncio.run() waits for the thread
    mock.lose()

    async def scenario():
        sink = f"kafka://{mock.bootstrap}/logs"
        logs = LogReceiver(Settings(server_host="127.0.0.1", server_port=0, sink=sink), out=io.StringIO())
        starting = asyncio.ensure_future(logs.start())
        await asyncio.sleep(0.05)
        logs.stop()
        with pytest.raises(UnavailableError, match="stopped before a broker"):
            async with asyncio.timeout(60):
                await starting

    asyncio.run(scenario())


def test_a_missing_topic_is_refused_with_the_command_that_makes_it(mock):
    """It is not made by us: how many partitions it has holds for ever."""

    async def scenario():
        async with running(mock, "missing"):
            pass

    with pytest.raises(ConfigError, match=r"no topic missing .* --create --topic missing --partitions 12"):
        asyncio.run(scenario())
    mock.create_topic("logs")
    assert read_topic(mock.bootstrap, "logs") == []


def test_a_topic_that_can_lose_what_was_acknowledged_is_warned_about_once(mock, monkeypatch, caplog):
    """Each reason by name; it is the operator's to decide."""
    mock.create_topic("logs", replicas=1)
    risky = {"min.insync.replicas": "1", "unclean.leader.election.enable": "true", "max.message.bytes": "100000"}
    monkeypatch.setattr(topics, "topic_settings", lambda *_: risky)

    async def scenario():
        sink = await open_kafka(f"kafka://{mock.bootstrap}/logs", Settings())
        await sink.close()

    asyncio.run(scenario())
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for reason in ("1 replicas: expected 3", "min.insync.replicas=1", "unclean.leader.election.enable=true"):
        assert reason in warning


@pytest.mark.parametrize(
    ("setting", "why"),
    [({"cleanup.policy": "compact"}, "keep only the last batch"), ({"max.message.bytes": "1000"}, "expected 4096")],
)
def test_a_topic_that_cannot_keep_batches_is_refused(mock, monkeypatch, setting, why):
    """A compacted topic would throw away all but the last message of each key, which is a stream."""
    mock.create_topic("logs")
    monkeypatch.setattr(topics, "topic_settings", lambda *_: setting)
    with pytest.raises(ConfigError, match=why):
        asyncio.run(open_kafka(f"kafka://{mock.bootstrap}/logs", Settings()))


def test_what_librdkafka_does_not_take_is_a_wrong_setting(mock, tmp_path):
    """Exit code 78 and its own words, at the start."""
    mock.create_topic("logs")
    file = tmp_path / "kafka"
    file.write_text("no.such.setting=1\n")
    with pytest.raises(ConfigError, match=r"librdkafka says: No such configuration property: \"no.such.setting\""):
        asyncio.run(open_kafka(f"kafka://{mock.bootstrap}/logs", Settings(kafka_config_file=str(file))))


def test_a_password_that_travels_in_plain_is_warned_about(mock, tmp_path, caplog, monkeypatch):
    """SASL PLAIN without TLS; the file itself may be readable for its owner only."""
    monkeypatch.setattr(topics, "START_TIMEOUT", 0.3)
    file = tmp_path / "kafka"
    file.write_text("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=u\nsasl.password=hidden\n")
    with contextlib.suppress(UnavailableError, ConfigError):
        asyncio.run(open_kafka(f"kafka://{mock.bootstrap}/logs", Settings(kafka_config_file=str(file))))
    assert "whoever is on the way can read the password" in caplog.text
    assert "everybody on this host can read it" in caplog.text
    assert "hidden" not in caplog.text
