"""What settings for Kafka promise: addresses and files that are wrong are refused before a broker is asked."""

import sys

import pytest
from cli_process import logbale_run

from logbale.config import sink_names
from logbale.errors import ConfigError
from logbale.kafka.address import KafkaTopic, kafka_topic
from logbale.kafka.client_settings import PRODUCER_OWN, client_settings


@pytest.mark.parametrize(
    ("text", "brokers", "topic"),
    [
        ("kafka://b1/logs", "b1", "logs"),
        ("kafka://b1:9092,b2:9092/logs.app-1_x", "b1:9092,b2:9092", "logs.app-1_x"),
        ("kafka://[::1]:9092, 10.0.0.1/t", "[::1]:9092,10.0.0.1", "t"),
    ],
)
def test_an_address_names_brokers_and_a_topic(text, brokers, topic):
    """As many brokers as there are; the port is librdkafka's default where it is left out."""
    assert kafka_topic(text) == KafkaTopic(brokers, topic)


@pytest.mark.parametrize(
    "text",
    [
        "kafka://",
        "kafka://b1",
        "kafka:///logs",
        "kafka://b1/",
        "kafka://b1/a/b",
        "kafka://b1/..",
        "kafka://b1,/t",
        "b1/t",
        "kafka://b1:x/t",
        "kafka://b1/" + "t" * 250,
        "kafka://b1/a b",
        "kafka://user:secret@b1/t",
    ],
)
def test_other_addresses_are_refused(text):
    """Before anything is asked for them."""
    with pytest.raises(ValueError, match=r"kafka://BROKER"):
        kafka_topic(text)


def test_a_topic_stands_beside_the_views_as_the_other_sinks_do():
    """Commas part brokers before the slash, and sinks behind it."""
    assert sink_names("kafka://b1,b2:9092/logs, console") == ["kafka://b1,b2:9092/logs", "console"]
    assert sink_names("console,kafka://b1/logs") == ["console", "kafka://b1/logs"]
    for both in ("kafka://b1/logs,archive", "null,kafka://b1/logs", "kafka://b1/a,kafka://b1/b"):
        with pytest.raises(ValueError, match=r"one of archive, null, logbale:.* and kafka"):
            sink_names(both)


def test_without_the_extra_it_says_what_to_install(tmp_path):
    """Exit code 78, and nothing else of logbale needs it."""
    (tmp_path / "confluent_kafka.py").write_text("raise ImportError('not here')")
    ended = logbale_run("receive", "--sink", "kafka://127.0.0.1:1/logs", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 78
    assert f"needs confluent-kafka (not here): {sys.executable} -m pip install 'logbale[kafka]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_settings_for_librdkafka_come_from_a_file(tmp_path):
    """Lines of name=value, `#` for comments; a value may hold what it likes."""
    file = tmp_path / "kafka"
    file.write_text("# ours\nsecurity.protocol=SASL_SSL\n\nsasl.password = a=b #c\n")
    file.chmod(0o600)
    assert client_settings(str(file), PRODUCER_OWN) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b #c"}
    assert client_settings("", PRODUCER_OWN) == {}


@pytest.mark.parametrize("name", PRODUCER_OWN)
def test_settings_that_a_promise_rests_on_are_refused(tmp_path, name):
    """With the reason, and never with the value."""
    file = tmp_path / "kafka"
    file.write_text(f"{name}=hidden-1\nno equals hidden-2\nsasl.password=hidden-3\nsasl.password=hidden-4\n")
    with pytest.raises(ConfigError) as error:
        client_settings(str(file), PRODUCER_OWN)
    assert f"leave {name} out: {PRODUCER_OWN[name]}" in str(error.value)
    assert "expected name=value" in str(error.value)
    assert "sasl.password is given twice" in str(error.value)
    assert "hidden" not in str(error.value)
