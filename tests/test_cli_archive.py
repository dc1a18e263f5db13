"""`logbale archive` as its users run it: what it refuses, says, serves and leaves in the store."""

import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from certificates import Certificates
from cli_process import logbale_run, running

pytest.importorskip("confluent_kafka", reason="logbale[kafka] is not installed")

from kafka_mock import MockCluster
from test_kafka_archiver import Topic, numbered
from waiting import wait_until

from chaos.processes import free_port


@pytest.fixture(scope="module")
def mock():
    with MockCluster() as cluster:
        yield cluster


@pytest.fixture
def topic(mock, request):
    return Topic(mock, mock.create_topic(request.node.name[:100], 2))


def url(topic):
    return f"kafka://{topic.bootstrap}/{topic.name}"


QUICK = """
from logbale.kafka import topic
topic.DESCRIBE_TIMEOUT = 0.1  # the mock's brokers never tell settings
from logbale.cli import main
main()
"""


def archiving(directory, *arguments):
    return running(directory, "archive", *arguments, command=(sys.executable, "-c", QUICK))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no topic is given.*\n.*no store is given: --to"),
        (["kafka://b/logs"], "no store is given: --to"),
        (["b:9092/logs", "--to", "file:///tmp/x"], "ARCHIVE_TOPIC='b:9092/logs': expected kafka://"),
        (["kafka://b/logs", "--to", "/tmp/x"], "ARCHIVE_TO='/tmp/x': expected file:///directory"),
        (["kafka://b/logs", "--to", "s3://key:secret@bucket"], "credentials come from the environment"),
        (["kafka://b/logs", "--to", "file:///tmp/x", "--group", ""], "ARCHIVE_GROUP='': expected a name"),
        (["kafka://b/logs", "--to", "file:///tmp/x", "--kafka-config", "/nowhere"], "KAFKA_CONFIG_FILE"),
    ],
)
def test_what_is_missing_or_wrong_is_said(arguments, said):
    """Exit code 78 and what was expected, before anything is connected."""
    ended = logbale_run("archive", *arguments)
    assert ended.returncode == 78, ended.stderr
    assert re.search(said, ended.stderr)


@pytest.mark.parametrize("name", ["group.id", "enable.auto.commit", "auto.offset.reset"])
def test_what_the_promise_rests_on_is_not_anybodys_to_set(tmp_path, name):
    """KAFKA_CONFIG_FILE is refused with the reason."""
    config = tmp_path / "kafka.conf"
    config.write_text(f"{name}=x\n")
    ended = logbale_run("archive", "kafka://b/logs", "--to", f"file://{tmp_path}", "--kafka-config", config)
    assert (ended.returncode, f"leave {name} out: " in ended.stderr) == (78, True), ended.stderr


def test_a_missing_topic_is_an_error_with_the_way_out(topic, tmp_path):
    """The brokers make none by themselves: who does, decides on its partitions."""
    ended = logbale_run("archive", f"kafka://{topic.bootstrap}/nothing-here", "--to", f"file://{tmp_path}")
    assert ended.returncode == 78
    assert "kafka-topics.sh" in ended.stderr


def test_a_store_that_cannot_be_used_is_an_error_at_the_start(topic, tmp_path):
    """A file where a directory should be: exit code 74, with the path."""
    (tmp_path / "file").write_bytes(b"")
    ended = logbale_run("archive", url(topic), "--to", f"file://{tmp_path}/file/below")
    assert ended.returncode == 74
    assert f"{tmp_path}/file" in ended.stderr


def test_it_stores_serves_and_ends(topic, tmp_path):
    """Segments that every reader reads, numbers for machines and people, and an orderly end."""
    topic.produce(*numbered("s", 1, 10), *numbered("s", 5, 20), partition=1)
    topic.produce_raw(b"somebody else's", partition=1)
    topic.produce()
    store = tmp_path / "store"
    port = free_port()
    arguments = [url(topic), "--to", f"file://{store}", "--group", topic.name]
    with archiving(tmp_path, *arguments, "--archive-segment-seconds", "0.2", "--metrics-port", port) as process:
        process.says("partitions 0, 1 are ours")

        def asked(path):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                    return answer.read().decode()
            except (urllib.error.URLError, ConnectionError):
                return ""

        wait_until(lambda: "logbale_archiver_stored_entries_total 20.0" in asked("/metrics"))
        numbers = asked("/metrics")
        assert 'logbale_archiver_messages_total{outcome="duplicate"} 6.0' in numbers
        assert 'logbale_archiver_messages_total{outcome="foreign"} 1.0' in numbers
        assert re.search(r'logbale_archiver_lag_messages{partition="1"} \d', numbers)
        assert (asked("/healthz"), asked("/readyz")) == ("ok\n", "ready\n")
        assert process.end() == 0
        assert re.search(r"entries stored +20\n", process.messages.read_text())
    shown = logbale_run("cat", store)
    assert [json.loads(line)["m"] for line in shown.stdout.splitlines()] == [f"s {n}" for n in range(1, 21)]
    assert logbale_run("verify", store).returncode == 0
    if shutil.which("zstdcat"):
        files = sorted(store.rglob("*.zst"))
        plain = subprocess.run(["zstdcat", *files], capture_output=True, text=True, check=True).stdout
        assert plain == shown.stdout


def test_sighup_changes_when_segments_are_cut(topic, tmp_path):
    """ARCHIVE_SEGMENT_SECONDS holds from the reload on, also for what is being built."""
    config = tmp_path / "logbale.toml"
    config.write_text("archive_segment_seconds = 3600\n")
    topic.produce(*numbered("s", 1, 10))
    arguments = [url(topic), "--to", f"file://{tmp_path}/store", "--group", topic.name, "--config", config]
    with archiving(tmp_path, *arguments) as process:
        process.says("partitions 0, 1 are ours")
        config.write_text("archive_segment_seconds = 0.1\n")
        process.process.send_signal(signal.SIGHUP)
        process.says("SIGHUP: changed: ARCHIVE_SEGMENT_SECONDS")
        wait_until(lambda: list((tmp_path / "store").rglob("*.zst")))
        assert process.end() == 0


def test_its_metrics_are_served_over_tls_where_that_is_asked_for(topic, tmp_path):
    """In plain nobody is answered; a certificate that was renewed is the one shown from SIGHUP on."""
    files = Certificates(tmp_path / "tls")
    pair = files.receiver()
    port = free_port()
    arguments = [url(topic), "--to", f"file://{tmp_path}/store", "--group", topic.name]
    arguments += ["--metrics-port", port, "--dashboard-tls", "on"]
    arguments += [one for name, path in pair.items() for one in (f"--{name.replace('_', '-')}", path)]

    def shown():
        with urllib.request.urlopen(
            f"https://localhost:{port}/readyz", timeout=60, context=files.client_context()
        ) as got:
            assert got.read() == b"ready\n"
        return ssl.get_server_certificate(("127.0.0.1", port))

    with archiving(tmp_path, *arguments) as process:
        process.says("partitions 0, 1 are ours")
        first = shown()
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60)
        files.receiver()
        process.process.send_signal(signal.SIGHUP)
        process.says("the TLS files are loaded anew")
        assert shown() != first
        assert process.end() == 0


def test_metrics_over_tls_need_a_certificate(tmp_path):
    """What would only look safe does not start."""
    arguments = ["--to", f"file://{tmp_path}", "--metrics-port", "1", "--dashboard-tls", "on"]
    ended = logbale_run("archive", "kafka://127.0.0.1:1/logs", *arguments)
    assert (ended.returncode, "DASHBOARD_TLS=on needs TLS_CERT_FILE" in ended.stderr) == (78, True), ended.stderr


def test_a_readable_line_tells_how_it_is(topic, tmp_path):
    """Every ten seconds what was stored, of how many partitions, and what is not as it should be."""
    from logbale.kafka.metrics import ArchiverMetrics
    from logbale.status import status, summary

    metrics = ArchiverMetrics(now=0.0)
    metrics.partitions = 3
    metrics.put(batches=2, entries=1000, raw_bytes=100_000, size=10_000)
    assert summary(metrics.snapshot(1.0)) == (
        "stored 1,000 entries in 1 segment, 100.0 kB raw, 10.0 kB stored (10.0×), of 3 partitions"
    )
    assert status(metrics.snapshot(1.0))[:2] == ("good", "3 partitions")
    metrics.counts["foreign"] = 4
    metrics.lost_offsets = 17
    assert summary(metrics.snapshot(1.0)).endswith("; 4 foreign; 17 lost offsets")
    metrics.problem = "partition 1: the store is down"
    assert status(metrics.snapshot(1.0))[:2] == ("bad", "partition 1: the store is down")
