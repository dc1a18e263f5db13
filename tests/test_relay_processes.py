"""A relay as it is used: four shippers, a relay and the receiver upstream, in processes that die and come again."""

import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cli_process import LOGBALE, Process, entries, logbale_run

sys.path.append(str(Path(__file__).parent.parent))

from chaos import load, oracle

SHIPPERS = 4


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


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
    port = chain(ends, tmp_path, "relay")
    ends.kill("upstream")
    lines = tmp_path / "some.log"
    load.write(lines, "some", 3000)
    shipped = logbale_run("ship", "--once", "--to", f"127.0.0.1:{port}", lines)
    assert shipped.returncode == 0, shipped.stderr
    began = time.monotonic()
    relay = ends.running["relay"]
    relay.says("no session with .* next try")
    assert ends.end("relay") == 0
    assert time.monotonic() - began < 5
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
        urllib.request.urlopen(f"http://127.0.0.1:{metrics}/readyz", timeout=10)
    assert b"SPOOL_MAX_BYTES" in refused.value.read()
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as page:
        text = page.read().decode()
    assert "logbale_relay_sessions 0.0" in text
    ends.again("upstream")
    ends.running["relay"].says("storing again")
    finish(ends, tmp_path, loads, "relay")
