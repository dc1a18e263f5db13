"""The benchmark of the whole pipeline: tiny here, so that it still works when somebody needs its figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from logbale.metrics import ReceiverMetrics
from logbale.protocol import Algorithm
from logbale.status import print_table

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def pipeline(*options):
    """The finished process."""
    command = [sys.executable, BENCHMARKS / "pipeline.py", "--rounds", "1", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def logs(directory):
    """Two, whose lines differ in length."""
    for name, line in (
        ("short", "12:00:00 INFO step {}\n"),
        ("long", "12:00:00 WARN request {} was slow" + "er" * 50 + "\n"),
    ):
        path = directory / f"{name}.log"
        path.write_text("".join(map(line.format, range(10_000, 10_020))))
        yield path


@pytest.mark.long
def test_every_log_is_measured_alone_and_with_the_others(tmp_path):
    """All entries of a round are archived; machine, commit and Python stand beside the figures; a chart is drawn."""
    out, chart = tmp_path / "new" / "out.json", tmp_path / "chart.svg"
    cases = ["--case", "level 2", "--case", "gzip 6, base frames of 50"]
    done = pipeline("--lines", "300", "--each", *cases, "--json", out, "--chart", chart, "--replay", *logs(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    start, *rows = found["results"]
    assert start["entries"] == 1
    assert [(row["lines"], row["case"], row["entries"]) for row in rows] == [
        (lines, case, 300) for lines in ("all logs", "short", "long") for case in cases[1::2]
    ]
    both, _, short, _, long, _ = rows
    assert short["source_bytes"] < both["source_bytes"] < long["source_bytes"]
    for row in rows:
        assert min(row["wire_bytes"], row["ship_cpu"], row["receive_cpu"], row["ship_memory"]) > 0
        assert row["wire_bytes"] == int(row["wire_bytes"])
        assert row["rounds"] == [round(row["entries_per_second"])]
    assert f"{found['machine']['cpu']}, {found['machine']['cores']} cores, load" in done.stdout
    assert f"commit {found['machine']['commit']}" in done.stdout
    assert "long, level 2" in done.stdout.split("against all logs together")[1]
    assert chart.read_bytes().startswith(b"<?xml")


def test_a_log_alone_is_compared_by_entries_by_bytes_and_by_cpu(monkeypatch):
    """Half the bytes a line at the same pace of entries: half the bytes a second, twice the CPU a byte."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from pipeline import compared

    mixed = {"entries_per_second": 100, "source_bytes": 1000, "seconds": 10, "ship_cpu": 1, "receive_cpu": 1}
    assert compared(mixed | {"source_bytes": 500}, mixed) == (0, -0.5, 1)
    assert compared(mixed | {"entries_per_second": 200, "seconds": 5}, mixed) == (1, 1, 0)


def test_wire_bytes_are_exact(monkeypatch, capsys):
    """To the byte, whatever the receiver's table rounds them to for people."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from pipeline import wire_bytes

    for number in (0, 7, 999, 1_000, 23_104_512, 4_000_000_001):
        metrics = ReceiverMetrics(now=0.0)
        metrics.batch_received(Algorithm.ZSTD, entries=50, raw_bytes=5_000_000_017, wire_bytes=number)
        print_table(metrics.snapshot(1.0))
        assert wire_bytes(capsys.readouterr().err) == number


def test_settings_of_the_environment_change_no_measurement(monkeypatch, tmp_path):
    """BATCH_SIZE=50 exactly means the benchmark's fifty."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from pipeline import environment

    for name in ("BATCH_SIZE", "LOGBALE_CONFIG", "COMPRESSION_LEVEL", "SPOOL_DIR"):
        monkeypatch.setenv(name, "7")
    kept = environment(tmp_path)
    assert {"BATCH_SIZE", "LOGBALE_CONFIG", "COMPRESSION_LEVEL"}.isdisjoint(kept)
    assert kept["SPOOL_DIR"] == str(tmp_path / "spools")


def test_each_log_alone_needs_logs():
    """--each without --replay says what is missing."""
    done = pipeline("--each")
    assert done.returncode == 2
    assert "--each: expected --replay LOG..." in done.stderr
