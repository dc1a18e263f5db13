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

from confluent_kafka import Producer

from logbale.kafka.message import encode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

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


def wait_until(is_so, seconds=60):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.1)


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
    topic = kafka_cluster.create_topic("once", 6)
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
