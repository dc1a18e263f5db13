"""Whoever may make files where a shipper looks can have their own lines shipped, and do nothing else to it."""

import asyncio
import json
import logging
import os
import stat

import pytest
from cli_process import logbale_run
from test_sources import read_once
from test_tail import Run, append, scenario

from logbale.cli.output import _Formatter
from logbale.errors import StorageError
from logbale.sources.tail import files as tail_files
from logbale.sources.tail.identity import FileName, Identity
from logbale.sources.tail.links import planted_link
from logbale.terminal import escape

STRANGER = 54_321

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make links that belong to others")

FORGED = "2026-11-26T11:00:00.000Z ERROR    logbale the disk is on fire"
NAMES = [
    b"new\nline.log",
    b"return\r.log",
    b"\x1b[2J\x1b]0;owned\x07.log",
    b"\x01\x02\x7f.log",
    b"\xff\xfe\x80.log",
    b"half \xed\xa0\x80.log",
    "c1 \x9b31m.log".encode(),
    "\u202egol.log".encode(),
    "\u2028line\u2029.log".encode(),
    f"x\n{FORGED}.log".encode(),
    b"quote\"'`$(id)\\.log",
    b"[a-z]*?.log",
    b"a:b:c.log",
    b" .log",
    b"-n.log",
    b"\xc3\xa9" * 125 + b"x.log",
    b"n" * 251 + b".log",
    b"\xff" * 251 + b".log",
]


@pytest.fixture
def said(monkeypatch):
    """What is logged, as the command line says it. Not caplog: xdist cannot send on what is no character."""
    lines = []

    class Said(logging.Handler):
        def emit(self, record):
            lines.append(_Formatter().format(record))

    logger = logging.Logger("logbale.tail", logging.INFO)  # of no family: pytest hears nothing of it
    logger.addHandler(Said())
    monkeypatch.setattr(tail_files, "log", logger)
    return lines


def test_files_of_any_name_are_read_and_named_in_their_entries(tmp_path, said):
    """Each line is there once; what is no character of a name stands in the entry as \\xff; messages stay one line."""
    for number, name in enumerate(NAMES):
        assert len(name) <= 255
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b'plain %d\n{"message":"object %d"}\n' % (number, number))
    lines, chunks, source = read_once(tmp_path / "*.log")
    assert sorted(lines) == sorted(f"{kind} {n}" for kind in ("plain", "object") for n in range(len(NAMES)))
    entries = [json.loads(entry) for chunk in chunks for entry in chunk.entries]
    shown = {os.path.join(os.fsencode(tmp_path), name).decode("utf-8", "backslashreplace") for name in NAMES}
    assert {entry["file"] for entry in entries} == shown
    for chunk in chunks:
        assert FileName.parse(chunk.source) is not None
        assert len(chunk.source.encode()) <= 512
    assert len(said) == len(NAMES)
    assert all(line.isprintable() and line.count(" logbale reading ") == 1 for line in said)
    assert not any(line.startswith(FORGED) for line in said)
    assert source.counts() == {"invalid_utf8": 0, "split_line": 0}


@scenario
async def test_files_of_any_name_go_on_where_they_were(tmp_path, polling):
    """Their cursors are found again by the next run, whatever is in the name."""
    paths = [os.fsdecode(os.path.join(os.fsencode(tmp_path), name)) for name in NAMES]
    for path in paths:
        append(path, "before")
    async with Run(tmp_path / "*.log", polling=polling) as run:
        await run.expect(*["before"] * len(NAMES))
    for path in paths:
        append(path, "after")
    async with Run(tmp_path / "*.log", cursors=run.cursors, polling=polling) as again:
        await again.expect(*["after"] * len(NAMES))


def test_an_error_about_a_file_is_one_line_whatever_its_name(tmp_path):
    """The command's last word, too, cannot be made to look like two."""
    path = tmp_path / f"x\nlogbale: everything was delivered\x1b[2J\n{FORGED}"
    ended = logbale_run("ship", "--once", "--to", "127.0.0.1:9", path, SPOOL_DIR="off")
    assert ended.returncode == 74
    assert (
        ended.stderr == f"logbale: {escape(str(path))}: no file matches; check the pattern, or leave out "
        "--once to wait\n"
    )


def test_what_is_no_file_is_left_out_and_never_waited_for(tmp_path, caplog):
    """A FIFO without a writer, a socket, a device: said once each; the files beside them are read."""
    os.mkfifo(tmp_path / "fifo.log")
    if os.geteuid() == 0:
        os.mknod(tmp_path / "zero.log", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (tmp_path / "dev.log").symlink_to("/dev/zero")
    (tmp_path / "nowhere.log").symlink_to(tmp_path / "missing")
    (tmp_path / "loop.log").symlink_to(tmp_path / "loop.log")
    (tmp_path / "dir.log").mkdir()
    append(tmp_path / "real.log", "read")
    assert read_once(tmp_path / "*.log")[0] == ["read"]
    left_out = {record.args[0] for record in caplog.records if "is left out" in record.message}
    assert left_out == {str(path) for path in tmp_path.glob("*.log") if path.stem in ("fifo", "zero", "dev")}


@scenario
async def test_a_file_that_becomes_something_else_between_two_looks_is_not_opened(tmp_path, polling):
    """Followed, and then a FIFO or a device under the same name: no reader hangs, the others go on."""
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    append(one, "1")
    append(two, "2")
    async with Run(tmp_path / "*.log", polling=polling) as run:
        await run.expect("1", "2")
        one.unlink()
        os.mkfifo(one)
        append(two, "3")
        await run.expect("1", "2", "3")


def link(path, target, owner=STRANGER):
    os.symlink(target, path)
    os.lchown(path, owner, -1)


def identity(path):
    return Identity.of(os.stat(path))


@pytest.fixture
def secret(tmp_path):
    """A file that a stranger may not read."""
    path = tmp_path / "etc" / "secret"
    path.parent.mkdir()
    append(path, "the secret")
    path.chmod(0o600)
    return path


@as_root
def test_a_planted_link_is_not_followed(tmp_path, secret, caplog):
    """Its owner could not read what it leads to, and would find it in the archive. Said once, with the way out."""
    logs = tmp_path / "logs"
    logs.mkdir()
    link(logs / "app.log", secret)
    append(tmp_path / "etc/other", "another")
    link(logs / "up.log", "../etc/other")
    append(logs / "real.log", "read")
    assert read_once(logs / "*.log")[0] == ["read"]
    said = [record.message for record in caplog.records if "is left out" in record.message]
    assert len(said) == 2
    assert all("links of root, of our own user and of the file's owner are followed" in line for line in said)
    link(logs / "hop.log", "app.log")
    for named in ("app.log", "up.log", "hop.log"):
        with pytest.raises(StorageError, match="leads to a file of another user"):
            read_once(logs / named)


@as_root
def test_a_planted_link_does_not_hide_the_file_that_it_leads_to(tmp_path):
    """Found first, and refused: the file itself is in the pattern too, and so is a sound link to it."""
    append(tmp_path / "m.log", "direct")
    append(tmp_path / "elsewhere", "linked")
    (tmp_path / "n.log").symlink_to("elsewhere")
    link(tmp_path / "a.log", "m.log")
    link(tmp_path / "b.log", "elsewhere")
    assert sorted(read_once(tmp_path / "*.log")[0]) == ["direct", "linked"]


@as_root
def test_a_planted_directory_is_not_followed_either(tmp_path, secret):
    """On the way to a file, and behind a link that is sound itself."""
    link(tmp_path / "logs", tmp_path / "etc")
    assert planted_link(str(tmp_path / "logs/secret"), identity(secret)) == str(tmp_path / "logs")
    (tmp_path / "current").symlink_to(tmp_path / "logs/secret")
    assert planted_link(str(tmp_path / "current"), identity(secret)) == str(tmp_path / "logs")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/rel").symlink_to("../logs/../etc/./secret")
    assert planted_link(str(tmp_path / "beside/rel"), identity(secret)) == str(tmp_path / "logs")


@as_root
def test_links_of_root_and_of_the_files_owner_are_followed(tmp_path, secret):
    """As Kubernetes, logrotate and administrators make them, and as a user links their own files."""
    (tmp_path / "roots.log").symlink_to(secret)
    own = tmp_path / "own"
    append(own, "mine")
    os.chown(own, STRANGER, -1)
    link(tmp_path / "own.log", "own")
    link(tmp_path / "twice.log", "own.log")
    assert sorted(read_once(tmp_path / "*.log")[0]) == ["mine", "the secret"]


@as_root
@scenario
async def test_a_file_that_becomes_a_planted_link_is_not_read(tmp_path, polling):
    """Followed since long, then replaced by a link: the old file is read to its end, the link's target never."""
    (tmp_path / "logs").mkdir()
    secret, log, other = tmp_path / "secret", tmp_path / "logs/app.log", tmp_path / "logs/other.log"
    append(secret, "the secret")
    append(log, "1")
    append(other, "2")
    async with Run(tmp_path / "logs/*.log", polling=polling) as run:
        await run.expect("1", "2")
        append(log, "3")
        link(tmp_path / "logs/new", secret)
        os.replace(tmp_path / "logs/new", log)
        append(other, "4")
        await run.until(lambda: sorted(run.lines) == ["1", "2", "3", "4"])
        await asyncio.sleep(0.2)
        assert sorted(run.lines) == ["1", "2", "3", "4"]


def test_a_way_that_leads_elsewhere_by_now_is_refused(tmp_path, secret):
    """Whoever swaps a directory while we open: what was opened must be what the way leads to, without any such link."""
    append(tmp_path / "harmless", "nothing")
    assert planted_link(str(tmp_path / "harmless"), identity(secret)) == str(tmp_path / "harmless")
    assert planted_link(str(tmp_path / "harmless"), identity(tmp_path / "harmless")) is None
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        planted_link(str(tmp_path / "loop"), identity(secret))
