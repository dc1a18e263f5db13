"""The API of a real receiver, asked while real shippers work: what they did is what it says, and it adds up."""

import contextlib
import json
import re
import socket
import time
import urllib.request
from itertools import pairwise
from urllib.error import HTTPError

from cli_process import logbale_run, receiver, running
from waiting import wait_until

from chaos.processes import free_port


@contextlib.contextmanager
def watched(directory, *arguments):
    """A receiver with its dashboard and metrics port; `get(path)` and `metrics()` ask them."""
    metrics_port = free_port()
    with receiver(
        directory, "--dashboard", "--dashboard-port", "0", "--metrics-port", metrics_port, *arguments
    ) as process:
        page = process.says(r"dashboard on (http://\S+?)/\s")[1]
        process.get = lambda path: json.loads(answer(page + path)[1])
        process.ready = lambda: answer(f"http://127.0.0.1:{metrics_port}/readyz")
        process.metrics = lambda: metrics(answer(f"http://127.0.0.1:{metrics_port}/metrics")[1].decode())
        yield process


def answer(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.status, response.read()
    except HTTPError as error:
        return error.code, error.read()


def metrics(text):
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*?\})?) (\S+)$", text, re.MULTILINE)}


LINES = [f"2026-11-26T08:00:00Z {'ERROR' if n % 10 == 0 else 'INFO'} request {n} took {n % 37} ms" for n in range(3000)]


def test_what_shippers_did_is_what_the_api_says(tmp_path):
    """Two of them, one ended: entries, bytes, levels and reports; the sums add up on both sides and over all ends."""
    log = tmp_path / "app.log"
    log.write_text("\n".join(LINES) + "\n")
    with watched(tmp_path) as server:
        wait_until(lambda: server.get("/api/history")["columns"]["time"])  # how long the first row took, none says
        command = ["ship", "--to", server.address, "--algorithm", "zstd"]
        shipped = logbale_run(*command, "--once", "--spool-dir", tmp_path / "once", log)
        assert shipped.returncode == 0, shipped.stderr
        follow = [*command, "--from-start", "--spool-dir", tmp_path / "follow", "--level", "3", log]
        with running(tmp_path, *follow):
            wait_until(lambda: server.get("/api/stats")["shippers"]["delivered_entries"] == 3000)
            stats, clients = server.get("/api/stats"), server.get("/api/clients")["clients"]
            here = next(client for client in clients if client["connected"])
            gone = next(client for client in clients if not client["connected"])
            assert (here["entries"], gone["entries"]) == (3000, 3000)
            assert (here["algorithm"], here["level"], here["report"]["delivered"]) == ("zstd", 3, 3000)
            assert here["host"] == socket.gethostname()
            assert here["agent"].startswith("logbale/")
            assert gone["report"]["ended"]
            assert (gone["report"]["read"], gone["report"]["delivered"], gone["lag_batches"]) == (3000, 3000, 0)
            assert gone["report"]["waiting_entries"] == gone["spool_bytes"] == gone["lag_seconds"] == 0
            assert sum(client["raw_bytes"] for client in clients) == stats["received"]["raw_bytes"]
            assert sum(client["wire_bytes"] for client in clients) == stats["received"]["wire_bytes"]
            assert stats["received"]["entries"] == stats["stored_entries"] == 6000
            assert stats["levels"] == {"INFO": 5400, "ERROR": 600}
            assert stats["latency"]["count"] == stats["received"]["batches"]
            assert 0 < stats["latency"]["p50"] <= stats["latency"]["p99"] < 10
            assert (stats["state"], stats["alarms"]) == ("OK", [])
            assert abs(stats["now"] - time.time()) < 60
            assert abs(stats["last_sync"] - time.time()) < 60
            assert 0 < stats["disk"]["free_bytes"] <= stats["disk"]["total_bytes"]
            columns = wait_until(lambda: server.get("/api/history")["columns"] if sum_of(server) == 6000 else None)
            assert columns["clients"][-1] == 1
            assert max(columns["errors"]) == 600
            found = server.metrics()
            assert found['logbale_receiver_ack_seconds_bucket{le="+Inf"}'] == stats["received"]["batches"]
            assert found['logbale_receiver_level_entries_total{level="ERROR"}'] == 600
            assert found['logbale_receiver_alarm{id="disk"}'] == 0
            assert server.ready() == (200, b"ready\n")


def sum_of(server):
    """Entries by the history: each second's rate is exact to a tenth."""
    columns = server.get("/api/history")["columns"]
    times = columns["time"]
    seconds = [1.0, *(after - before for before, after in pairwise(times))]
    return round(sum(rate * time for rate, time in zip(columns["entries"], seconds, strict=True)), -2)


def test_a_killed_shipper_is_seen_as_one_that_never_said_goodbye(tmp_path):
    """Its row stays, with its last report; a restart under the same spool has the same row."""
    log = tmp_path / "app.log"
    log.write_text("\n".join(LINES[:100]) + "\n")
    command = ["ship", "--from-start", "--spool-dir", tmp_path / "spool", "--name", "web"]
    with watched(tmp_path) as server:
        with running(tmp_path, *command, "--to", server.address, log) as shipper:
            wait_until(lambda: server.get("/api/stats")["stored_entries"] == 100)
            shipper.process.kill()
        (row,) = wait_until(lambda: [row for row in server.get("/api/clients")["clients"] if not row["connected"]])
        assert not row["report"]["ended"]
        with log.open("a") as file:
            file.write("one more\n")
        with running(tmp_path, *command, "--to", server.address, log):
            wait_until(lambda: server.get("/api/stats")["stored_entries"] == 101)
            (again,) = server.get("/api/clients")["clients"]
            assert (again["id"], again["reconnects"], again["connected"]) == (row["id"], 1, True)
            assert again["entries"] == 101


def test_a_shippers_metrics_have_the_times_of_its_batches(tmp_path):
    """Histograms of compression and of the way from reading to durable, whose counts are its batches."""
    port = free_port()
    with watched(tmp_path) as server:
        command = ["ship", "--demo", "--rate", "500", "--run-time", "0", "--to", server.address, "--metrics-port", port]
        with running(tmp_path, *command) as shipper:
            shipper.says("in session")
            found = wait_until(
                lambda: (
                    (page := metrics(answer(f"http://127.0.0.1:{port}/metrics")[1].decode()))[
                        "logbale_shipper_ack_seconds_count"
                    ]
                    >= 5
                    and page
                )
            )
            assert found['logbale_shipper_ack_seconds_bucket{le="+Inf"}'] == found["logbale_shipper_ack_seconds_count"]
            assert found["logbale_shipper_ack_seconds_sum"] > 0
            assert found["logbale_shipper_compress_seconds_count"] >= found["logbale_shipper_ack_seconds_count"]
