"""A relay as it is used: four shippers, a relay and the receiver upstream, in processes that die and come again."""

import contextlib
import json
import os
import random
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from certificates import Certificates
from cli_process import LOGBALE, Process, entries, logbale_run

sys.path.append(str(Path(__file__).parent.parent))

from chaos import load, oracle
from chaos.processes import free_port

pytestmark = pytest.mark.long

SHIPPERS = 4


class Ends:
    """Processes by name, each as it was begun, to be killed and begun again."""

    def __init__(self, directory):
        self.directory = directory
        self.commands = {}
        self.running = {}
        self.said = {}

    def start(self, name, *arguments, ready=None, **environ):
        self.commands[name] = (arguments, ready, environ)
        self.again(name)

    def again(self, name):
        arguments, ready, environ = self.commands[name]
        directory = self.directory / f"said-{name}"
        directory.mkdir(exist_ok=True)
        self.running[name] = process = Process(directory, *LOGBALE, *arguments, **environ)
        if ready:
            process.says(ready)
        return process

    def end(self, name, number=signal.SIGTERM):
        with self.running[name].process.stdout:
            return self.running[name].end(number)

    def kill(self, name):
        self.end(name, signal.SIGKILL)

    def close(self):
        for name, process in self.running.items():
            if process.process.poll() is None:
                self.kill(name)


@pytest.fixture
def ends(tmp_path):
    ends = Ends(tmp_path)
    with contextlib.closing(ends):
        yield ends


def receiver(ends, name, port, *arguments, **environ):
    listen = ("receive", "--listen", f"127.0.0.1:{port}", *arguments)
    ends.start(name, *listen, ready="listening on", **environ)


def chain(ends, tmp_path, *relays, **environ):
    """Upstream with an archive, and a relay to the one before for each name; the last one's port."""
    port = free_port()
    receiver(ends, "upstream", port, "--archive", tmp_path / "archive", ARCHIVE_SEGMENT_BYTES="200000")
    for name in relays:
        before, port = port, free_port()
        sink = f"logbale://127.0.0.1:{before}"
        receiver(ends, name, port, "--sink", sink, "--relay-dir", tmp_path / name, **environ)
    return port


def shippers(ends, tmp_path, port):
    """Four of them, each following a file of its own; the files grow."""
    loads = []
    for number in range(SHIPPERS):
        name = f"edge{number}"
        loads.append(load.Load(tmp_path / f"{name}.log", name, rate=1500))
        ends.start(
            name,
            *("ship", "--to", f"127.0.0.1:{port}", "--name", name, "--from-start", tmp_path / f"{name}.log"),
            SPOOL_DIR=str(tmp_path / "spools"),
        )
    return loads


def arrived(tmp_path, expected, *, within=60):
    """Waits until so many entries are in the archive; the verdict on them."""
    total, deadline = sum(expected.values()), time.monotonic() + within
    while oracle.count(tmp_path / "archive") < total and time.monotonic() < deadline:
        time.sleep(0.2)


def waiting(directory):
    found = logbale_run("spool", "ls", "--json", "--spool-dir", directory)
    return sum(one["entries"] for one in json.loads(found.stdout))


def finish(ends, tmp_path, loads, *relays):
    """All that was written is upstream, once and in order; nothing waits in between."""
    expected = {one.stream: one.stop() for one in loads}
    arrived(tmp_path, expected)
    for name in list(ends.running):
        assert ends.end(name) == 0, ends.running[name].messages.read_text()
    verdict = oracle.verdict(tmp_path / "archive", expected)
    assert verdict.clean, verdict
    assert verdict.stored == sum(expected.values()) > 0
    for name in relays:
        assert waiting(tmp_path / name) == 0
    return verdict


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("relays", [("relay",), ("near", "far")])
def test_whoever_dies_each_entry_is_upstream_once_and_in_order(tmp_path, ends, relays):
    """kill -9 of shippers, relays and upstream at any moment, and upstream away for a while."""
    times = int(os.environ.get("RELAY_KILLS", "8"))
    seed = int(os.environ.get("RELAY_SEED", random.randrange(10**6)))
    print("seed", seed)
    chance = random.Random(seed)
    loads = shippers(ends, tmp_path, chain(ends, tmp_path, *relays))
    kinds = ["edge0", *relays, "upstream"]
    for number in range(times):
        time.sleep(chance.uniform(0.05, 0.6))
        name = kinds[number % len(kinds)] if number < len(kinds) else chance.choice(list(ends.running))
        ends.kill(name)
        if number % 5 == 3:
            time.sleep(chance.uniform(0.5, 2.0))
        ends.again(name)
    ends.kill("upstream")
    time.sleep(3)
    ends.again("upstream")
    finish(ends, tmp_path, loads, *relays)


@pytest.mark.slow
def test_while_upstream_is_away_the_shippers_are_done_and_a_stop_says_what_is_left(tmp_path, ends):
    """Store: acknowledged by the relay alone. Forward: by the next start. In between the exit code is 0."""
    port = chain(ends, tmp_path, "relay", DRAIN_TIMEOUT="100")
    ends.kill("upstream")
    lines = tmp_path / "some.log"
    load.write(lines, "some", 3000)
    shipped = logbale_run("ship", "--once", "--to", f"127.0.0.1:{port}", lines)
    assert shipped.returncode == 0, shipped.stderr
    relay = ends.running["relay"]
    relay.says("no session with .* next try")
    began = time.monotonic()
    assert ends.end("relay") == 0
    assert time.monotonic() - began < 30
    assert "3,000 entries of 1 stream wait in" in relay.messages.read_text()
    assert waiting(tmp_path / "relay") == 3000
    assert logbale_run("spool", "verify", "--spool-dir", tmp_path / "relay").returncode == 0
    exported = logbale_run("spool", "export", "--spool-dir", tmp_path / "relay")
    assert len(entries(exported.stdout)) == 3000
    ends.again("upstream")
    assert "3,000 entries of 1 stream wait in" in ends.again("relay").messages.read_text()
    arrived(tmp_path, {"some": 3000})
    assert ends.end("relay") == ends.end("upstream") == 0
    verdict = oracle.verdict(tmp_path / "archive", {"some": 3000})
    assert verdict.clean, verdict


@pytest.mark.slow
def test_a_full_relay_holds_its_clients_up_and_goes_on_by_itself(tmp_path, ends):
    """SPOOL_MAX_BYTES over all streams: nothing is dropped, the shippers wait, /readyz and the log say why."""
    metrics = free_port()
    port = chain(ends, tmp_path, "relay", SPOOL_MAX_BYTES=str(1 << 20), METRICS_PORT=str(metrics))
    ends.kill("upstream")
    loads = shippers(ends, tmp_path, port)
    ends.running["relay"].says("cannot store now.*full.*SPOOL_MAX_BYTES is 1048576")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{metrics}/readyz", timeout=60)
    assert b"SPOOL_MAX_BYTES" in refused.value.read()
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=60) as page:
        text = page.read().decode()
    assert "logbale_relay_sessions 0.0" in text
    ends.again("upstream")
    ends.running["relay"].says("storing again")
    finish(ends, tmp_path, loads, "relay")


@pytest.mark.slow
def test_the_spool_commands_read_a_relays_directory(tmp_path, ends):
    """ls, verify and export as of any spool, also beside the relay; a dead letter says how it can be sent again."""
    port = chain(ends, tmp_path, "relay", MAX_BATCH_ENTRIES="100000")
    ends.end("upstream")
    upstream = ends.commands["upstream"]
    ends.commands["upstream"] = (upstream[0], upstream[1], upstream[2] | {"MAX_BATCH_ENTRIES": "10"})
    lines = tmp_path / "some.log"
    load.write(lines, "some", 100)
    shipped = logbale_run("ship", "--once", "--to", f"127.0.0.1:{port}", "--batch-size", "100", lines)
    assert shipped.returncode == 0, shipped.stderr
    where = ("--spool-dir", tmp_path / "relay")
    assert waiting(tmp_path / "relay") == 100
    assert len(entries(logbale_run("spool", "export", *where).stdout)) == 100
    ends.again("upstream")
    ends.running["relay"].says("upstream rejects what was acknowledged here")
    listed = logbale_run("dead-letters", "ls", *where)
    assert " 100 entries " in listed.stdout, listed.stderr
    file = listed.stdout.split()[-1]
    assert len(json.loads(Path(file).read_text())["batch"]) == 100
    retried = logbale_run("dead-letters", "retry", *where)
    assert retried.returncode == 78
    assert "jq -c '.batch[]'" in retried.stderr
    assert logbale_run("spool", "verify", *where).returncode == 0


@pytest.mark.slow
def test_tls_and_tokens_on_both_sides(tmp_path, ends):
    """The relay is a receiver with a certificate and tokens of its own, and shows others upstream."""
    files = Certificates(tmp_path / "tls")
    (tmp_path / "near").write_text("near-token-0123456789\n")
    (tmp_path / "far").write_text("far-token-0123456789\n")
    for file in ("near", "far"):
        (tmp_path / file).chmod(0o600)
    own, shown = files.receiver(file="receiver"), files.pair("relay", "relay1")
    ends.start(
        "upstream",
        *("receive", "--listen", "127.0.0.1:0", "--archive", tmp_path / "archive"),
        *("--tls-cert-file", own["tls_cert_file"], "--tls-key-file", own["tls_key_file"]),
        *("--tls-client-ca-file", files.trust()["tls_ca_file"], "--tokens-file", tmp_path / "far"),
        ready="listening on",
    )
    address = ends.running["upstream"].says(r"listening on (\S+)")[1]
    ends.start(
        "relay",
        *("receive", "--listen", "127.0.0.1:0", "--sink", f"logbale://{address}", "--relay-dir", tmp_path / "relay"),
        *("--tls-cert-file", own["tls_cert_file"], "--tls-key-file", own["tls_key_file"]),
        *("--tokens-file", tmp_path / "near", "--token-file", tmp_path / "far"),
        *("--tls-ca-file", files.trust()["tls_ca_file"]),
        *("--relay-cert-file", shown["tls_cert_file"], "--relay-key-file", shown["tls_key_file"]),
        ready="listening on",
    )
    near = ends.running["relay"].says(r"listening on (\S+)")[1]
    load.write(tmp_path / "some.log", "some", 1000)
    shipped = logbale_run(
        *("ship", "--once", "--to", near, "--token-file", tmp_path / "near"),
        *("--tls-ca-file", files.trust()["tls_ca_file"], tmp_path / "some.log"),
    )
    assert shipped.returncode == 0, shipped.stderr
    arrived(tmp_path, {"some": 1000})
    assert ends.end("relay") == ends.end("upstream") == 0
    verdict = oracle.verdict(tmp_path / "archive", {"some": 1000})
    assert verdict.clean, verdict
    said = "".join(process.messages.read_text() for process in ends.running.values())
    assert "token-0123456789" not in said
