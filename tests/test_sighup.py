"""SIGHUP at both ends, real processes: the settings file is read again, as one transaction, and the log says which."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import base_client
from cli_process import CLEAN, LOGBALE, logbale_run, running
from test_signals import nobody_listens


def hup(process, pattern):
    """Sends SIGHUP; what it says from then on up to what matches."""
    before = len(process.messages.read_text())
    process.process.send_signal(signal.SIGHUP)
    end = process.says(pattern, after=before).end()
    return process.messages.read_text()[before:end]


@contextlib.contextmanager
def receiver(directory, file):
    """A receiver with that settings file, on a port of the system's choice."""
    listen = ("--listen", "127.0.0.1:0", "--archive", directory / "archive")
    with running(directory, "receive", "--config", file, *listen) as process:
        host, port = process.says(r"listening on (\S+):(\d+)").groups()
        process.address = (host, int(port))
        yield process


def handles(process, number):
    """Whether it has a handler of its own for a signal."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1


def is_closed(connection):
    """Whether the other end has closed it; it never writes to a base client."""
    connection.settimeout(10)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def is_refused(address):
    """Whether who connects is turned away, be it before connect() has returned."""
    try:
        connection = base_client.connect(address)
    except ConnectionResetError:
        return True
    with connection:
        return is_closed(connection)


def test_new_limits_are_for_new_connections(tmp_path):
    """A connection keeps those that it began with; one that comes after the reload has the new ones."""
    file = tmp_path / "logbale.toml"
    file.write_text("max_frame_bytes = 1000\n")
    large = base_client.frame([{"message": "x" * 200}], "raw")
    with receiver(tmp_path, file) as process:
        with base_client.connect(process.address) as before:
            before.sendall(large)
            process.says("connected")
            file.write_text("max_frame_bytes = 100\n")
            hup(process, "SIGHUP: changed: MAX_FRAME_BYTES")
            with base_client.connect(process.address) as after:
                after.sendall(large)
                assert is_closed(after)
            before.sendall(large)
            base_client.finish(before)
        assert process.end() == 0
    assert logbale_run("cat", tmp_path / "archive").stdout.count("\n") == 2


def test_a_wrong_setting_changes_nothing(tmp_path):
    """Though the others beside it are sound; each wrong one is named, and the process goes on as it was."""
    file = tmp_path / "logbale.toml"
    file.write_text("max_connections = 100\n")
    with receiver(tmp_path, file) as process:
        file.write_text("max_connections = 1\nmax_frame_bytes = 0\nno_such = 1\n")
        said = hup(process, r"MAX_FRAME_BYTES=0: expected .*")
        assert "SIGHUP: nothing is changed: 'no_such': there is no such setting" in said
        file.unlink()
        hup(process, "SIGHUP: nothing is changed: .*cannot read the settings")
        file.write_text("max_connections = ")
        hup(process, "SIGHUP: nothing is changed: .*not a TOML file")
        first, second = (base_client.connect(process.address) for _ in range(2))
        for connection in (first, second):  # were there room for one only, the second would be refused
            connection.sendall(base_client.frame([{"message": "taken"}], "raw"))
            base_client.finish(connection)
        file.write_text("max_connections = 1\n")
        hup(process, "SIGHUP: changed: MAX_CONNECTIONS\n")
        with base_client.connect(process.address):
            assert is_refused(process.address)
        assert process.end() == 0


def test_what_needs_a_restart_is_named_and_the_rest_changes(tmp_path):
    """Again at each reload, so that nobody takes it for done."""
    file = tmp_path / "logbale.toml"
    file.write_text("")
    with receiver(tmp_path, file) as process:
        for changed in ("changed: MAX_CONNECTIONS", "no setting is changed"):
            file.write_text("sink = 'null'\nmax_connections = 7\n")
            assert "SIGHUP: needs a restart: SINK" in hup(process, f"SIGHUP: {changed}")


def test_flags_and_environment_beat_the_file_at_a_reload_too(tmp_path):
    """As they did at the start."""
    file = tmp_path / "logbale.toml"
    file.write_text("max_connections = 7\n")
    with running(tmp_path, "receive", "--config", file, "--listen", "127.0.0.1:0", "--sink", "null") as process:
        process.says("listening on")
        file.write_text("max_connections = 7\nsink = 'archive'\nserver_host = '127.0.0.9'\n")
        assert "restart" not in hup(process, "SIGHUP: no setting is changed")


def test_a_new_level_of_messages_holds_at_once(tmp_path):
    """More of them, and fewer."""
    file = tmp_path / "logbale.toml"
    file.write_text("message_level = 'warning'\n")
    archive = tmp_path / "archive"
    with running(tmp_path, "receive", "--config", file, "--listen", "127.0.0.1:0", "--archive", archive) as process:
        while not handles(process, signal.SIGHUP):
            time.sleep(0.01)
        file.write_text("message_level = 'info'\n")
        assert "MESSAGE_LEVEL" in hup(process, "SIGHUP: changed: .*")
        assert "listening on" not in process.messages.read_text()


def test_a_shipper_passes_on_sooner_what_waits(tmp_path):
    """What is in its buffer when the interval becomes shorter has not to wait for the longer one."""
    file, log = tmp_path / "logbale.toml", tmp_path / "app.log"
    file.write_text("batch_interval = 3600\nbatch_linger = 3600\n")
    log.write_text("one\n")
    (tmp_path / "toml").write_text("")
    with receiver(tmp_path, tmp_path / "toml") as receiving:
        to = f"127.0.0.1:{receiving.address[1]}"
        with running(tmp_path, "ship", log, "--config", file, "--from-start", "--to", to) as shipping:
            shipping.says("in session with")
            file.write_text("batch_interval = 3600\nbatch_linger = 0.1\ncompression_level = 3\n")
            assert "BATCH_LINGER, COMPRESSION_LEVEL" in hup(shipping, "SIGHUP: changed: .*")
            while logbale_run("cat", tmp_path / "archive").stdout.count("\n") < 1:
                assert shipping.process.poll() is None
            assert shipping.end() == 0


def test_a_reload_while_it_ends_does_not_end_it_at_once(tmp_path):
    """The default of SIGHUP would: whoever reloads does not know that a stop is under way."""
    file, log = tmp_path / "logbale.toml", tmp_path / "app.log"
    file.write_text("drain_timeout = 60\n")
    log.write_text("one\n")
    with running(tmp_path, "ship", log, "--config", file, "--from-start", "--to", f":{nobody_listens()}") as shipping:
        shipping.says("no session")
        shipping.process.send_signal(signal.SIGTERM)
        shipping.says("SIGTERM: stopping")
        file.write_text("drain_timeout = 0.1\n")
        hup(shipping, "SIGHUP: changed: DRAIN_TIMEOUT")
        assert shipping.process.wait(30) == 69


ON_ITS_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_process_whose_terminal_has_gone_ends(tmp_path):
    """That is what SIGHUP says then: it ends as at SIGTERM, with that exit code, and does not live on unseen."""
    log = tmp_path / "app.log"
    log.write_text("one\n")
    terminal, end = pty.openpty()
    command = [*LOGBALE, "ship", log, "--from-start", "--to", f":{nobody_listens()}", "--drain-timeout", 0.1]
    shipping = subprocess.Popen(
        [sys.executable, "-c", ON_ITS_TERMINAL, *map(str, command)],
        env=CLEAN,
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
    )
    os.close(end)
    said = b""
    while b"no session" not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert shipping.wait(30) == 69
