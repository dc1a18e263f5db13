"""ship --once that is stopped midway, real processes: the same command ships the rest, and nothing twice."""

import re
import signal
import subprocess

import pytest
from cli_process import CLEAN, LOGBALE, entries, logbale_run, receiver, running

from chaos.processes import free_port
from logbale.spool import list_spools

LINES = 400_000
"""So many take seconds, in small batches."""


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "app.log"
    path.write_text("".join(f"{number}\n" for number in range(LINES)))
    return path


def stop_midway(directory, *ship):
    """Starts it and stops it once something was shipped; its exit code and what it said."""
    with running(directory, *ship) as shipping:
        shipping.says("in session")
        code = shipping.end(signal.SIGTERM)
        return code, shipping.messages.read_text()


@pytest.mark.parametrize("name", [(), ("--name", "mine")])
def test_the_same_command_after_a_stop_ships_the_rest(tmp_path, lines, name):
    """All that was read is delivered, yet it is no success: 69, with what is left and where it goes on."""
    spools = ("--spool-dir", tmp_path / "spools")
    with receiver(tmp_path) as receiving:
        command = ("ship", "--once", "--to", receiving.address, *name, *spools, lines)
        code, said = stop_midway(tmp_path, *command, "--batch-size", 20)
        assert code == 69, said
        assert re.search(r"stopped before the end, with at least [\d,]+ bytes unread; what was read is delivered", said)
        assert f"How far it read is in {tmp_path / 'spools'}" in said
        assert logbale_run(*command, "--batch-size", 5000).returncode == 0
        assert receiving.end() == 0
    stored = [int(entry["message"]) for entry in entries(logbale_run("cat", tmp_path / "archive").stdout)]
    assert stored == list(range(LINES))
    # What came to its end is forgotten, unless it has a name.
    assert any((tmp_path / "spools").glob("*/stream")) == bool(name)


def test_without_a_spool_it_says_that_the_start_comes_again(tmp_path, lines):
    """Nothing knows how far it was."""
    with receiver(tmp_path) as receiving:
        command = ("ship", "--once", "--to", receiving.address, "--batch-size", 20, "--spool-dir", "off", lines)
        code, said = stop_midway(tmp_path, *command)
    assert code == 69, said
    assert "the same command begins at the start again" in said


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--once",), 69)])
def test_a_stop_is_how_a_pipe_that_never_ends_is_left(tmp_path, flags, code):
    """0 when everything that was read is delivered; with --once the end was asked for, and it has not come."""
    with receiver(tmp_path) as receiving:
        command = [*LOGBALE, "ship", *flags, "--to", receiving.address, "--batch-interval", "0.1", "-"]
        environ = CLEAN | {"SPOOL_DIR": str(tmp_path / "spools")}
        with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ship:
            ship.stdin.write("one\n")
            ship.stdin.flush()
            next(line for line in ship.stderr if "in session" in line)
            ship.send_signal(signal.SIGTERM)
            said = ship.stderr.read()
            assert ship.wait(60) == code, said
        assert receiving.end() == 0
    assert ("stopped before the end; what was read is delivered" in said) == bool(flags)


def test_two_signals_name_what_is_left_and_its_place_once(tmp_path, lines):
    """And no DRAIN_TIMEOUT: nothing was waited for."""
    spools = tmp_path / "spools"
    nowhere = f"127.0.0.1:{free_port()}"
    # A spool this small is full long before the end, with batches this small.
    bounds = ("--spool-dir", spools, "--spool-max-bytes", 1 << 20, "--batch-size", 20, "--drain-timeout", 600)
    with running(tmp_path, "ship", "--once", "--to", nowhere, *bounds, lines) as shipping:
        shipping.says("Connection refused")
        shipping.until(lambda: any(one.entries for one in list_spools(spools)))
        shipping.process.send_signal(signal.SIGTERM)
        shipping.says("SIGTERM: stopping")
        assert shipping.end() == 69
        (said,) = re.findall("logbale: (stopped .*)", shipping.messages.read_text())
    assert re.fullmatch(
        rf"stopped before the end, with at least [\d,]+ bytes unread; [\d,]+ entries in [\d,]+ batches were not "
        rf"delivered to {nowhere} \(Connection refused\)\. What waits, and how far it read, are in {spools}/\S+, and "
        r"the same command goes on from there",
        said,
    )
