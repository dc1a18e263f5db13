"""What a topic of three brokers takes through one receiver, beside its archive: entries/s, CPU of each part.

    .venv/bin/python benchmarks/kafka_sink.py FILE [--rounds 3] [--ship FLAGS]

Shipper, receiver and all brokers (scripts/kafka_cluster.py) share this machine; the rounds of the sinks take turns, and
medians are printed. The time is that from the start of the shipper's process to its end, when all is acknowledged. The
entries are counted in the topic and in the archive.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import machine
from pipeline import Row, count_lines, environment, usage
from receiving import LOGBALE, receiving

sys.path.append(str(Path(__file__).parent.parent / "scripts"))
from kafka_cluster import Cluster  # no package

TICKS = os.sysconf("SC_CLK_TCK")
SINKS = ("archive", "kafka", "kafka ndjson")


def brokers_cpu(cluster: Cluster) -> float:
    """CPU seconds of all brokers since their start."""
    seconds = 0.0
    for node in cluster.nodes:
        fields = Path(f"/proc/{cluster.pid(node)}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / TICKS
    return seconds


def entries_in_topic(cluster: Cluster, topic: str) -> int:
    """By the headers of the messages, or one each where they have none."""
    from confluent_kafka import Consumer, TopicPartition

    settings = {"bootstrap.servers": cluster.bootstrap, "group.id": "count", "enable.partition.eof": True}
    consumer = Consumer(settings)
    partitions = list(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    entries = ended = 0
    while ended < len(partitions):
        for message in consumer.consume(10_000, 1.0):
            if message.error() is not None:
                ended += 1
            else:
                entries += int(dict(message.headers() or [("count", b"1")])["count"])
    consumer.close()
    return entries


def entries_in_archive(directory: Path) -> int:
    with subprocess.Popen([*LOGBALE, "cat", str(directory / "archive")], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        return sum(1 for _ in cat.stdout)


def run(lines: Path, flags: list[str], directory: Path, cluster: Cluster, sink: str) -> Row:
    """One round."""
    directory.mkdir()
    environ = environment(directory)
    theirs: list[str] = []
    counted: Callable[[], int] = lambda: entries_in_archive(directory)  # noqa: E731  # the other one is a lambda too
    if sink != "archive":
        topic = cluster.create_topic(directory.name.replace(" ", "-"), 6)
        theirs = ["--sink", f"kafka://{cluster.bootstrap}/{topic}"]
        theirs += ["--format", "ndjson"] if "ndjson" in sink else []
        counted = lambda: entries_in_topic(cluster, topic)  # noqa: E731
    with receiving(directory, environ=environ, flags=theirs) as (receiver, address):
        command = [*LOGBALE, "ship", "--once", "--to", address, *flags, str(lines)]
        before, start = brokers_cpu(cluster), time.monotonic()
        with (directory / "shipper").open("wb") as messages:
            shipper = subprocess.Popen(command, stderr=messages, env=environ)
        ship_cpu, _ = usage(shipper)
        seconds = time.monotonic() - start
        kafka_cpu = brokers_cpu(cluster) - before
        receiver.terminate()
        receive_cpu, _ = usage(receiver)
    if shipper.returncode or (entries := counted()) < count_lines(lines):
        raise SystemExit(f"{sink}: not all has arrived:\n{(directory / 'shipper').read_text()}")
    return {
        "seconds": seconds,
        "entries": entries,
        "ship_cpu": ship_cpu,
        "receive_cpu": receive_cpu,
        "kafka_cpu": kafka_cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ship", default="--level 2", metavar="FLAGS")
    parser.add_argument("--dir", type=Path, help="where to work: the disk to measure")
    options = parser.parse_args()
    made_on = machine.describe()
    rounds: dict[str, list[Row]] = {sink: [] for sink in SINKS}
    with tempfile.TemporaryDirectory(prefix="logbale-kafka-", dir=options.dir) as name:
        directory = Path(name)
        one = directory / "one.log"
        one.write_text("one line\n")
        cluster = Cluster.start(directory / "kafka")
        try:
            for sink in SINKS:
                run(one, [], directory / f"warm {sink}", cluster, sink)
            for number in range(options.rounds):
                for sink, rows in rounds.items():
                    place = directory / f"{number} {sink}"
                    rows.append(run(options.file, options.ship.split(), place, cluster, sink))
        finally:
            cluster.stop()
    entries = rounds["archive"][0]["entries"]
    print(
        f"{entries:,.0f} entries, {options.file.stat().st_size / 1e6:.1f} MB of lines; `ship --once {options.ship}`; ",
        end="",
    )
    print(f"medians of {options.rounds} rounds in turn")
    print(machine.sentence(made_on))
    print("sink           seconds  entries/s  CPU s ship + receive + brokers  rounds' seconds")
    for sink, rows in rounds.items():
        row = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        print(
            f"{sink:<12}  {row['seconds']:>8.2f} {row['entries'] / row['seconds']:>10,.0f}"
            f"  {row['ship_cpu']:>10.2f} + {row['receive_cpu']:>7.2f} + {row['kafka_cpu']:>7.2f}"
            f"  {', '.join(format(row['seconds'], '.2f') for row in rows)}"
        )


if __name__ == "__main__":
    main()
