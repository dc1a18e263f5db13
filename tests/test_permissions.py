"""Whoever may not read what a command reads is told so: one line, exit code 74, and no call for the right to write."""

import os
import shutil

import pytest
from archive_batches import batch, writer_of
from cli_process import CLEAN, LOGBALE, logbale_run

from logbale.spool import DiskSpool

if os.geteuid() == 0 and shutil.which("setpriv") is None:  # pragma: no cover
    pytest.skip("needs setpriv to be somebody else than root", allow_module_level=True)


@pytest.fixture
def as_nobody():
    """Runs the command line as a user who is not root."""
    other = ("setpriv", "--inh-caps=-all", "--bounding-set=-all") if os.geteuid() == 0 else ()
    # Root without its capabilities meets the permissions of its own files, and can still read this checkout.
    return lambda *arguments: logbale_run(*arguments, command=[*other, *LOGBALE], **CLEAN)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "archive"
    writer = writer_of(path)
    writer.commit([batch(1)])
    writer.close()
    return path


@pytest.fixture
def spools(tmp_path):
    spool = DiskSpool(tmp_path / "spools" / "one", max_bytes=1 << 24)
    spool.open()
    spool.close()
    return tmp_path / "spools"


@pytest.mark.parametrize("hides", ["", "the day", "the file", "above"])
@pytest.mark.parametrize("command", [["cat"], ["cat", "-f"], ["verify"]], ids=" ".join)
def test_an_archive_that_may_not_be_read_is_said_in_one_line(tmp_path, as_nobody, archive, command, hides):
    """Whatever of it is not readable."""
    [day] = [path for path in archive.iterdir() if path.is_dir()]
    closed = {"": archive, "the day": day, "the file": next(day.iterdir()), "above": tmp_path}[hides]
    rights = closed.stat().st_mode
    closed.chmod(0)
    try:
        done = as_nobody(*command, archive)
    finally:
        closed.chmod(rights)
    assert done.returncode == 74
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "Permission denied" in lines[0]
    assert "read it" in lines[0]
    assert "write" not in lines[0]


@pytest.mark.parametrize("hides", ["", "one"])
@pytest.mark.parametrize(
    "command",
    [["spool", "ls"], ["spool", "verify"], ["spool", "export"], ["dead-letters", "ls"]],
    ids=" ".join,
)
def test_a_spool_that_may_not_be_read_is_said_in_one_line(as_nobody, spools, command, hides):
    """All of them, or one."""
    closed = spools / hides
    closed.chmod(0)
    try:
        done = as_nobody(*command, "--spool-dir", spools)
    finally:
        closed.chmod(0o700)
    assert done.returncode == 74
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "Permission denied" in lines[0]
    assert "write" not in lines[0]
