"""The units in deploy/systemd: confined, in step with the command line and the settings, and understood by systemd."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from logbale.cli import app
from logbale.config import SETTINGS, Settings
from logbale.descriptors import BESIDES

UNITS = Path(__file__).parent.parent / "deploy" / "systemd"
NAMES = ["logbale-receive.service", "logbale-ship@.service"]
MOST_EXPOSED = 2.0
"""By systemd-analyze, which has 10 for a service that is not confined at all."""

VERSION = re.search(
    r"systemd (\d+)",
    subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=False).stdout
    if shutil.which("systemd-analyze")
    else "",
)
needs_systemd = pytest.mark.skipif(
    VERSION is None or int(VERSION[1]) < 250, reason="needs systemd-analyze 250 or newer (in Debian's package systemd)"
)


def assignments(name):
    """What a unit says, by key, in its order; lines that end in a backslash are not in use here."""
    found = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (UNITS / name).read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def installed(directory, name):
    """The unit as a file that systemd takes, with a program that is there."""
    text = (UNITS / name).read_text().replace("/opt/logbale/bin/logbale", sys.executable)
    path = directory / name.replace("@", "@web")
    path.write_text(text)
    return path


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_a_service_is_confined(tmp_path, name):
    """Whoever takes it over gets little: systemd's own measure says so."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED * 10:.0f}"]
    done = subprocess.run([*command, installed(tmp_path, name)], capture_output=True, text=True, check=False)
    exposure = float(re.search(r"Overall exposure level .*: ([\d.]+)", done.stdout)[1])
    assert (done.returncode, exposure <= MOST_EXPOSED) == (0, True), done.stdout


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_systemd_understands_a_unit(tmp_path, name):
    """Every key and every value."""
    command = ["systemd-analyze", "verify", "--man=no", installed(tmp_path, name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_starts_a_command_that_there_is(name):
    """With flags that it has; what systemd puts in begins with % or $."""
    [start] = assignments(name)["ExecStart"]
    program, subcommand, *words = shlex.split(start)
    assert program == "/opt/logbale/bin/logbale"
    command = app.get_command(click.Context(app), subcommand)
    known = {flag for option in command.params for flag in option.opts}
    assert {word for word in words if word.startswith("-")} <= known
    for line in assignments(name).get("Environment", []):
        assert line.split("=")[0].lower() in SETTINGS


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_says_what_the_service_can(name):
    """It tells systemd that it is ready and alive, reloads on SIGHUP, and has the time that a stop may take."""
    unit = assignments(name)
    assert unit["Type"] == ["notify"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert int(unit["WatchdogSec"][0]) > 10
    assert int(unit["TimeoutStopSec"][0]) > 2 * Settings().drain_timeout
    assert unit["RestartPreventExitStatus"] == ["2 78"]
    assert unit["LoadCredential"] == ["secrets:/etc/logbale/secrets"]
    assert unit["User"] == ["logbale"]
    assert "u logbale " in (UNITS / "logbale.conf").read_text()


def test_the_receiver_may_open_as_many_files_as_it_takes_connections():
    """Or it would refuse clients before its own limit does."""
    assert int(assignments("logbale-receive.service")["LimitNOFILE"][0]) >= Settings().max_connections + BESIDES


def test_both_services_keep_what_they_have_where_they_may_write():
    """Below the state directory, which is theirs alone."""
    units = receiver, shipper = [assignments(name) for name in NAMES]
    [place] = [line.removeprefix("SPOOL_DIR=%S/") for line in shipper["Environment"] if line.startswith("SPOOL_DIR")]
    assert place in shipper["StateDirectory"][0].split()
    assert receiver["WorkingDirectory"] == ["%S/logbale"]
    assert {"logbale", f"logbale/{Settings().archive_dir}"} <= set(receiver["StateDirectory"][0].split())
    assert {unit["StateDirectoryMode"][0] for unit in units} == {"0700"}


def test_both_services_are_confined_alike():
    """From User= on they differ by the groups whose logs a shipper may read, and nothing else."""
    ends = [re.search(r"^UMask=.*?(?=^\[)", (UNITS / name).read_text(), re.DOTALL | re.MULTILINE)[0] for name in NAMES]
    assert ends[0] == ends[1]
