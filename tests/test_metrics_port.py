"""What machines get from METRICS_PORT at either end: numbers that Prometheus reads, life and readiness."""

import math
import re
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import get, served

from logbale import __version__
from logbale.adaptive import CAUSES
from logbale.alarms import ALARMS, Alarm, Disk
from logbale.clients import Clients
from logbale.durations import Durations, Latency
from logbale.exposition import MAX_REASONS, Exposition
from logbale.metrics import LevelInputs, Rates, ReceiverSnapshot, RelaySnapshot, ShipperSnapshot, Totals
from logbale.metrics_server import MetricsServer
from logbale.monitor import Overview


def distribution(*values):
    durations = Durations()
    for value in values:
        durations.add(value)
    return durations.distribution()


RECEIVER = ReceiverSnapshot(
    uptime=101.5,
    clients=103,
    connections=107,
    received=Totals(batches=6, entries=8, raw_bytes=10, wire_bytes=12),
    ratio=10 / 12,
    rates=Rates(1.0, 2.0, 3.0),
    mean_rates=Rates(4.0, 5.0, 6.0),
    by_algorithm={
        "gzip": Totals(batches=2, entries=3, raw_bytes=4, wire_bytes=5),
        "zstd": Totals(batches=4, entries=5, raw_bytes=6, wire_bytes=7),
    },
    stored_entries=109,
    duplicate_entries=111,
    rejected_entries=113,
    skipped_entries=115,
    lost_batches=116,
    waiting_entries=127,
    in_flight_bytes=131,
    sessions=133,
    context_bytes=135,
    window_log=14,
    bad_frames=137,
    errors={"corrupt": 139, "limit": 149},
    certificate_expires=1764144000.5,
    latency=Latency(0.001, 0.002, 3),
    ack_durations=distribution(0.0007, 0.3, 0.3, 200.0),
    levels={"ERROR": 151, "": 157},
    relay=RelaySnapshot(
        upstream="far.example.org:5000",
        sessions=251,
        last_error="",
        streams=257,
        taken_entries=263,
        waiting_streams=269,
        waiting_entries=271,
        waiting_batches=277,
        oldest_waiting=281.5,
        spool_bytes=283,
        max_spool_bytes=293,
        forwarded_entries=307,
        rejected_entries=311,
        dropped={"dropped_drop_oldest": 313},
        sent=Totals(batches=317, entries=331, raw_bytes=337, wire_bytes=347),
        errors={"connect": 349},
    ),
    published_messages=179,
    published_bytes=181,
    publish_durations=distribution(0.02, 0.5, 191.5),
)
OVERVIEW = Overview(
    now=1_764_144_000.0,
    shippers=Clients().reported(),
    alarms=[Alarm("disk", "warning", "9 % free", "free some space", 1_764_143_000.0)],
    disk=Disk("/srv", 163, 167),
    last_sync=1_764_143_999.5,
    damaged_blocks=173,
)
SHIPPER = ShipperSnapshot(
    uptime=201.5,
    connected=True,
    read_entries=211,
    delivered_entries=213,
    dropped={"rejected": 217},
    waiting_batches=223,
    waiting_entries=227,
    sent=Totals(batches=229, entries=233, raw_bytes=239, wire_bytes=241),
    ratio=239 / 241,
    rates=Rates(1.0, 2.0, 3.0),
    mean_rates=Rates(4.0, 5.0, 6.0),
    bypassed=251,
    compress_seconds=257.25,
    algorithm="gzip",
    level=7,
    level_reason="fixed",
    level_changes={"link": 271},
    backlog_bytes=277,
    stalled_seconds=281.5,
    reconnects=263,
    receiver="b:5000",
    receiver_choice=2,
    receivers=3,
    failovers=307,
    errors={"connect": 269},
    certificate_expires=1764144001.5,
    latency=Latency(0.001, 0.002, 3),
    ack_durations=distribution(0.02, 0.02),
    compress_durations=distribution(0.0004, 257.0),
    spool_bytes=283,
    oldest_waiting=293.5,
    cpu_percent=37.5,
    level_cause="cheapest",
    level_inputs=LevelInputs(link=353.5, core_share=0.625, arrivals=359.5, is_behind=True),
)


def samples(snapshot):
    """What Prometheus would store: (name, labels) to value."""
    overview = (lambda: OVERVIEW) if isinstance(snapshot, ReceiverSnapshot) else None
    text = Exposition(lambda: snapshot, overview).text().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_receivers_numbers_arrive_under_their_names():
    """Every number of the snapshot has a sample; those by algorithm add up to what was received."""
    found = samples(RECEIVER)
    assert found["logbale_build_info", ("end", "receiver"), ("version", __version__)] == 1
    assert found["logbale_receiver_uptime_seconds",] == 101.5
    assert found["logbale_receiver_clients",] == 103
    assert found["logbale_receiver_connections_total",] == 107
    assert found["logbale_receiver_stored_entries_total",] == 109
    assert found["logbale_receiver_duplicate_entries_total",] == 111
    assert found["logbale_receiver_rejected_entries_total",] == 113
    assert found["logbale_receiver_skipped_entries_total",] == 115
    assert found["logbale_receiver_lost_batches_total",] == 116
    assert found["logbale_receiver_waiting_entries",] == 127
    assert found["logbale_receiver_in_flight_bytes",] == 131
    assert found["logbale_receiver_sessions",] == 133
    assert found["logbale_receiver_context_bytes",] == 135
    assert found["logbale_receiver_window_log",] == 14
    assert found["logbale_receiver_bad_frames_total",] == 137
    assert found["logbale_receiver_errors_total", ("reason", "corrupt")] == 139
    assert found["logbale_receiver_errors_total", ("reason", "limit")] == 149
    assert found["logbale_receiver_level_entries_total", ("level", "ERROR")] == 151
    assert found["logbale_receiver_level_entries_total", ("level", "none")] == 157
    assert found["logbale_receiver_published_messages_total",] == 179
    assert found["logbale_receiver_published_bytes_total",] == 181
    assert found["logbale_receiver_publish_seconds_count",] == 3
    assert {name: found["logbale_receiver_alarm", ("id", name)] for name in ALARMS} == {
        name: name == "disk" for name in ALARMS
    }
    assert found["logbale_receiver_damaged_blocks_total",] == 173
    assert found["logbale_receiver_disk_free_bytes",] == 163
    assert found["logbale_receiver_disk_total_bytes",] == 167
    assert found["logbale_receiver_last_sync_timestamp_seconds",] == 1_764_143_999.5
    for field in ("batches", "entries", "raw_bytes", "wire_bytes"):
        by_algorithm = {
            name: found[f"logbale_receiver_received_{field}_total", ("algorithm", name)]
            for name in ("none", "gzip", "zlib", "zstd")
        }
        assert by_algorithm["gzip"] == getattr(RECEIVER.by_algorithm["gzip"], field)
        assert by_algorithm["none"] == 0
        assert sum(by_algorithm.values()) == getattr(RECEIVER.received, field)


def test_a_shippers_numbers_arrive_under_their_names():
    """Every number of the snapshot has a sample."""
    found = samples(SHIPPER)
    assert found["logbale_build_info", ("end", "shipper"), ("version", __version__)] == 1
    assert found["logbale_shipper_uptime_seconds",] == 201.5
    assert found["logbale_shipper_connected",] == 1
    assert found["logbale_shipper_read_entries_total",] == 211
    assert found["logbale_shipper_delivered_entries_total",] == 213
    assert found["logbale_shipper_dropped_entries_total", ("reason", "rejected")] == 217
    assert found["logbale_shipper_waiting_batches",] == 223
    assert found["logbale_shipper_waiting_entries",] == 227
    assert found["logbale_shipper_sent_batches_total",] == 229
    assert found["logbale_shipper_sent_entries_total",] == 233
    assert found["logbale_shipper_sent_raw_bytes_total",] == 239
    assert found["logbale_shipper_sent_wire_bytes_total",] == 241
    assert found["logbale_shipper_bypassed_batches_total",] == 251
    assert found["logbale_shipper_compress_seconds_sum",] == 257.0004
    assert found["logbale_shipper_compress_seconds_count",] == 2
    assert found["logbale_shipper_ack_seconds_count",] == 2
    assert found["logbale_shipper_spool_bytes",] == 283
    assert found["logbale_shipper_oldest_waiting_seconds",] == 293.5
    assert found["logbale_shipper_compression_level", ("algorithm", "gzip")] == 7
    assert found["logbale_shipper_level_changes_total", ("reason", "link")] == 271
    assert found["logbale_shipper_backlog_bytes",] == 277
    assert found["logbale_shipper_stalled_seconds_total",] == 281.5
    assert {cause: found["logbale_shipper_level_reason", ("reason", cause)] for cause in CAUSES} == {
        cause: cause == "cheapest" for cause in CAUSES
    }
    assert found["logbale_shipper_cpu_ratio",] == 0.375
    assert found["logbale_shipper_link_bytes_per_second",] == 353.5
    assert found["logbale_shipper_core_ratio",] == 0.625
    assert found["logbale_shipper_arrivals_bytes_per_second",] == 359.5
    assert found["logbale_shipper_behind",] == 1
    assert found["logbale_shipper_reconnects_total",] == 263
    assert found["logbale_shipper_receivers",] == 3
    assert found["logbale_shipper_receiver_choice",] == 2
    assert found["logbale_shipper_failovers_total",] == 307
    assert found["logbale_shipper_errors_total", ("reason", "connect")] == 269


def test_what_no_policy_weighs_has_no_series():
    """No policy, no believed bandwidth, and no 0 in its place; a link that is not the limit takes infinitely much."""
    without = samples(msgspec.structs.replace(SHIPPER, level_inputs=None, cpu_percent=None, level_cause="fixed"))
    assert not {"link_bytes_per_second", "core_ratio", "arrivals_bytes_per_second", "behind", "cpu_ratio"} & {
        name.removeprefix("logbale_shipper_") for name, *_ in without
    }
    assert without["logbale_shipper_level_reason", ("reason", "fixed")] == 1
    inputs = msgspec.structs.replace(SHIPPER.level_inputs, link=math.inf)
    found = samples(msgspec.structs.replace(SHIPPER, level_inputs=inputs))
    assert found["logbale_shipper_link_bytes_per_second",] == math.inf


def test_a_histogram_has_its_buckets():
    """Cumulative, with a bound that is inclusive; the sum and the count beside them."""
    found = samples(RECEIVER)
    name = "logbale_receiver_ack_seconds"
    buckets = [found[f"{name}_bucket", ("le", le)] for le in ("0.0005", "0.001", "0.25", "0.5", "100.0", "+Inf")]
    assert buckets == [0, 1, 1, 3, 3, 4]
    assert (found[f"{name}_count",], found[f"{name}_sum",]) == (4, pytest.approx(200.6007))


COMPUTED = {"ratio", "rates", "mean_rates", "received", "latency", "compress_seconds"}
"""What Prometheus computes from the others: rate(), histogram_quantile() and sums over labels."""

OTHERWISE = {"ack_durations", "compress_durations", "publish_durations", "cpu_percent"}
"""Histograms, whose samples are others, and the machine's CPU, of which the machine's exporter knows more."""


@pytest.mark.parametrize("snapshot", [RECEIVER, SHIPPER], ids=["receiver", "shipper"])
def test_no_field_of_a_snapshot_is_forgotten(snapshot):
    """A number that is added to a snapshot is exported too, or is one that can be computed."""

    def numbers(value):
        if isinstance(value, dict):
            return [number for item in value.values() for number in numbers(item)]
        return [] if isinstance(value, str) else [value]

    fields = msgspec.to_builtins(snapshot)
    exported = list(samples(snapshot).values())
    for name in fields.keys() - COMPUTED - OTHERWISE:
        assert all(number in exported for number in numbers(fields[name])), name


@pytest.mark.parametrize("snapshot", [RECEIVER, SHIPPER], ids=["receiver", "shipper"])
def test_every_name_is_documented_and_every_documented_name_exists(snapshot):
    """docs/api.md and /metrics name the same series."""
    end = "receiver" if snapshot is RECEIVER else "shipper"
    page = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
    documented = set(re.findall(rf"`(logbale_{end}_[a-z_]+)", page))
    assert documented == {name for name, *_ in samples(snapshot) if name.startswith(f"logbale_{end}_")}


def test_a_relays_series_are_there_at_a_relay_only():
    """Named in docs/api.md like the others."""
    page = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
    found = {name for name, *_ in samples(RECEIVER) if name.startswith("logbale_relay_")}
    assert found == set(re.findall(r"`(logbale_relay_[a-z_]+)", page))
    without = samples(msgspec.structs.replace(RECEIVER, relay=None))
    assert not any(name.startswith("logbale_relay_") for name, *_ in without)


def test_names_follow_the_conventions_of_prometheus():
    """Counters end in _total, units are seconds and bytes, every family has a help text."""
    for snapshot in (RECEIVER, SHIPPER):
        text = Exposition(lambda snapshot=snapshot: snapshot).text().decode()
        for family in text_string_to_metric_families(text):
            assert family.documentation
            assert not re.search(r"millis|_ms\b|kilo|mega|_mb\b|percent", family.name)
            for sample in family.samples:
                assert (family.type == "counter") == sample.name.endswith("_total")


def test_the_number_of_series_is_bounded():
    """However many reasons there are, the series stay few, keep their names, and add up; levels are bounded before."""
    many = {f"reason_{index}": 1 for index in range(10_000)}
    found = samples(msgspec.structs.replace(RECEIVER, errors=many, relay=None))
    by_reason = {labels[0][1]: value for (name, *labels), value in found.items() if name.endswith("_errors_total")}
    assert len(by_reason) == MAX_REASONS + 1
    assert by_reason["reason_0"] == 1
    assert sum(by_reason.values()) == len(many)


@pytest.mark.parametrize("reason", ['a"b', "a\\b", "a\nb", "é\u202e", ""])
def test_a_reason_cannot_break_the_format(reason):
    """Quotes, backslashes and newlines in a label come out as they went in."""
    found = samples(msgspec.structs.replace(RECEIVER, errors={reason: 3}))
    assert found["logbale_receiver_errors_total", ("reason", reason)] == 3


@pytest.mark.parametrize("accept", ["", "*/*", "application/openmetrics-text; version=x", "text/plain; version=,,;="])
def test_metrics_come_in_the_text_format_whatever_is_asked(accept):
    """The plainest format, which every scraper reads, also to a malformed question."""
    with served(MetricsServer(lambda: RECEIVER, lambda: (True, ""), host="127.0.0.1", port=0)) as server:
        status, headers, body = get(server, "/metrics", headers={"Accept": accept})
    assert status == 200
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"\nlogbale_receiver_clients 103.0\n" in body
    assert b"\nprocess_cpu_seconds_total " in body


def test_readiness_says_why_not():
    """/readyz follows the end's own word; /healthz only says that the process answers."""
    state = {"ready": (True, "listening")}
    with served(MetricsServer(lambda: RECEIVER, lambda: state["ready"], host="127.0.0.1", port=0)) as server:
        assert get(server, "/readyz")[::2] == (200, b"ready\n")
        state["ready"] = False, "no space left on the archive's disk"
        assert get(server, "/readyz")[::2] == (503, b"no space left on the archive's disk\n")
        assert get(server, "/healthz")[::2] == (200, b"ok\n")


def test_machines_may_use_any_name_and_only_read():
    """A scraper's Host is not checked; other methods and paths are refused."""
    with served(MetricsServer(lambda: SHIPPER, lambda: (True, ""), host="127.0.0.1", port=0)) as server:
        assert get(server, "/metrics", host="web-7.pod.cluster.example:9100")[0] == 200
        assert get(server, "/readyz", method="POST")[0] == 405
        assert get(server, "/")[0] == 404
        assert get(server, "/healthz", method="HEAD")[::2] == (200, b"")
