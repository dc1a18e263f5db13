"""logbale cat, and what commands show on a terminal."""

import json
import os
import re
import signal
import subprocess

import msgspec
import pytest
from archive_batches import batch, lines_of, writer_of
from cli_process import CLEAN, LOGBALE, entries, logbale_run, receiver, running
from terminals import on_terminal

from logbale.cli import app


@pytest.fixture
def archive(tmp_path):
    """Entries 0 to 9 in two sealed segments of one archive; one a second from 2026-11-24T20:00:00Z on."""
    directory = tmp_path / "archive"
    for numbers in (range(5), range(5, 10)):
        writer = writer_of(directory)
        writer.commit([batch(*numbers)])
        writer.close()
    return directory


@pytest.fixture
def cat(capfd):
    """Runs `logbale cat` in this process; the numbers of the entries that it prints."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            app(["cat", *map(str, arguments)])
        printed = capfd.readouterr()
        assert (ended.value.code, printed.err) == (0, "")
        return [entry["n"] for entry in entries(printed.out)]

    return run


def test_cat_prints_entries_as_they_were_stored(archive):
    """Byte for byte, in order; ARCHIVE_DIR says which archive where no PATH does."""
    printed = logbale_run("cat", ARCHIVE_DIR=str(archive)).stdout.encode()
    assert printed == b"".join(line + b"\n" for line in lines_of(range(10)))


def test_cat_takes_a_span_of_time(archive, cat):
    """From `since` on, before `until`; with an offset or without."""
    assert cat(archive, "--since", "2026-11-24T20:00:03Z", "--until", "2026-11-24T21:00:05+01:00") == [3, 4]
    assert cat(archive, "--until", "2026-11-24T20:00:02") == [0, 1]
    assert cat(archive, "--since", "2026-11-25") == []


def test_what_is_named_twice_is_read_once(archive, cat, monkeypatch):
    """By the same path, another spelling, a link, a URL, and a day or a segment of it; in the order it was stored."""
    link, copy = archive.parent / "link", archive.parent / "copy"
    link.symlink_to(archive)
    [first, _] = sorted(archive.rglob("*.zst"))
    copy.mkdir()
    (copy / first.name).write_bytes(first.read_bytes())
    monkeypatch.chdir(archive)
    for again in (
        archive,
        ".",
        link,
        f"file://{archive}/",
        archive / "2026-11-24",
        copy / ".." / "archive",
    ):
        assert cat(archive, again) == cat(again, archive) == list(range(10))
    assert cat(first, archive) == cat(archive, first) == list(range(10))
    assert sorted(cat(archive, copy)) == sorted([*range(10), *range(5)])  # another file is another archive
    twice = logbale_run("verify", archive, link, ".", cwd=archive)
    assert twice.stdout.splitlines()[-1].startswith("2 segments, 10 sound entries")


def test_an_archive_may_be_named_by_the_url_that_archivers_take(archive, cat, tmp_path):
    """file:///, with what a URL escapes."""
    odd = tmp_path / "an archive%"
    archive.rename(odd)
    assert cat(f"file://{tmp_path}/an%20archive%25") == list(range(10))


@pytest.mark.parametrize("command", ["cat", "verify"])
@pytest.mark.parametrize(
    ("url", "instead"),
    [
        ("s3://bucket/prefix", "copy it first: aws s3 sync s3://bucket/prefix DIR"),
        ("gs://bucket/prefix", "copy it first: gcloud storage rsync --recursive gs://bucket/prefix DIR"),
        ("az://container/prefix", "copy it first, with azcopy or rclone"),
        ("kafka://b1,b2/logs", "archive it first: logbale archive kafka://b1,b2/logs --to file:///DIR"),
        ("https://logs.example.org/", "logbale tail https://logs.example.org/"),
        ("file://host/archive", "file:///DIR is the only URL that is one"),
    ],
)
def test_a_url_that_is_no_archive_here_is_shown_as_given_with_the_way_to_it(command, url, instead, capsys):
    """Usage; not s3:/bucket, which a path makes of it."""
    with pytest.raises(SystemExit) as ended:
        app([command, url])
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2
    assert f"{url}: expected a directory or a file; " in said
    assert instead in said


def test_cat_takes_the_last_ones(archive, cat):
    """After all other choices."""
    assert cat(archive, "-n", 2) == [8, 9]
    assert cat(archive, "-n", 0) == []
    assert cat(archive, "-n", 2, "--until", "2026-11-24T20:00:05Z") == [3, 4]


def write_entries(directory, *lines):
    """An archive with these lines, all of the same time."""
    time_of_all = "2026-11-24T20:00:00.000000Z"
    one = msgspec.structs.replace(
        batch(0), ndjson=b"".join(line + b"\n" for line in lines), count=len(lines), first=time_of_all, last=time_of_all
    )
    writer = writer_of(directory)
    writer.commit([one])
    writer.close()


def test_cat_chooses_by_level_and_text(tmp_path, cat):
    """Levels by any of their names; text however its writer escaped it."""
    write_entries(
        tmp_path / "archive",
        b'{"n":1,"level":"WARN","message":"caf\\u00e9 \\"x\\""}',
        b'{"n":2,"level":"error","message":"a\\/b"}',
        b'{"n":3,"level":7}',
        b'{"n":4,"message":"caf\xc3\xa9"}',
    )
    assert cat(tmp_path / "archive", "--level", "warning", "--level", "ERROR") == [1, 2]
    assert cat(tmp_path / "archive", "--grep", "café") == [1, 4]
    assert cat(tmp_path / "archive", "--grep", "a/b") == [2]
    assert cat(tmp_path / "archive", "--grep", '"x"') == [1]
    assert cat(tmp_path / "archive", "--grep", '"level":7') == [3]
    assert cat(tmp_path / "archive", "--grep", "café", "--level", "warn") == [1]


def test_cat_knows_the_other_names_of_a_level(tmp_path, cat):
    """What other loggers call it, though not over a `level`; the pretty form has it in its place."""
    write_entries(
        tmp_path / "archive",
        b'{"n":1,"severity":"ERROR"}',
        b'{"n":2,"levelname":"error"}',
        b'{"n":3,"lvl":"eror"}',
        b'{"n":4,"lvl":"err","level":null}',
        b'{"n":5,"level":"INFO","severity":"ERROR"}',
    )
    assert cat(tmp_path / "archive", "--level", "error") == [1, 2, 4]
    pretty = logbale_run("cat", tmp_path / "archive", "--pretty", "-n", 2).stdout
    assert pretty.splitlines() == ['- err      n=4 level=""', "- INFO     n=5 severity=ERROR"]


def test_a_level_that_nothing_has_is_a_mistake(tmp_path):
    """1, and the usual ones are named; one that is found, or usual, is none."""
    write_entries(tmp_path / "archive", b'{"n":1,"level":"AUDIT"}')
    ended = logbale_run("cat", tmp_path / "archive", "--level", "nonsense", "--level", "audit", "--level", "fatal")
    assert (ended.returncode, len(ended.stdout.splitlines())) == (1, 1)
    expected = "--level 'nonsense': no entry has it; the usual ones are debug, info, warning, error and critical"
    assert ended.stderr == f"logbale: {expected}\n"
    assert logbale_run("cat", tmp_path / "archive", "--level", "audit", "--level", "fatal").returncode == 0


def write_untimed(directory, *lines):
    """An archive with these lines as a receiver stores them where one of them has no `timestamp` that it can read."""
    one = msgspec.structs.replace(batch(0), ndjson=b"".join(line + b"\n" for line in lines), first="", last="")
    writer = writer_of(directory)
    writer.commit([msgspec.structs.replace(one, count=len(lines))])
    writer.close()


def test_cat_knows_the_other_names_of_a_time(tmp_path):
    """Without a `timestamp` that can be read; what has no time at all is not left out, and counted."""
    write_untimed(
        tmp_path / "archive",
        b'{"n":1,"@timestamp":"2026-11-24T20:00:01Z"}',
        b'{"n":2,"time":"2026-11-24 21:00:02.5+01:00"}',
        b'{"n":3,"ts":1795550403.25}',
        b'{"n":4,"timestamp":"2026-11-24 20:00:04,123"}',
        b'{"n":5,"time":1795550405000}',
        b'{"n":6,"ts":17955504060000000001}',
        b'{"n":7,"timestamp":"yesterday","time":12.5,"ts":null}',
        b'{"n":8,"timestamp":"2026-11-24T20:00:08Z","time":"2001-01-01"}',
    )
    span = ("--since", "2026-11-24T20:00:02Z", "--until", "2026-11-24T20:00:05Z")
    ended = logbale_run("cat", tmp_path / "archive", *span)
    assert [entry["n"] for entry in entries(ended.stdout)] == [2, 3, 4, 6, 7]
    said = "2 entries have no time that can be read, and passed --since and --until"
    assert (ended.returncode, ended.stderr) == (0, f"logbale: {said}\n")
    assert len(logbale_run("cat", tmp_path / "archive").stdout.splitlines()) == 8


def test_cat_goes_by_a_time_of_the_lines_own(tmp_path, cat):
    """Of lines that were read long after: whatever the archive knows of their blocks is no reason to pass one over."""
    for day in (1, 2, 3):
        write_entries(
            tmp_path / "archive",
            b'{"n":%d,"ts":"2026-01-0%dT12:00:00Z","timestamp":"2026-11-24T20:00:00Z"}' % (day, day),
        )
    own = (tmp_path / "archive", "--time-field", "ts")
    assert cat(tmp_path / "archive", "--until", "2026-01-03") == []
    assert cat(*own, "--since", "2026-01-02", "--until", "2026-01-03") == [2]
    assert logbale_run("cat", *own).returncode == 2


def test_cat_goes_by_timestamp_where_only_some_lines_have_a_time_of_their_own(tmp_path):
    """A line without it is neither always left out nor always printed, and how many there were is said."""
    write_untimed(
        tmp_path / "archive",
        b'{"n":1,"ts":"2026-01-02T12:00:00Z","timestamp":"2026-11-24T20:00:00Z"}',
        b'{"n":2,"timestamp":"2026-11-24T20:00:00Z"}',
        b'{"n":3,"ts":"soon","timestamp":"2026-01-02T20:00:00Z"}',
        b'{"n":4,"ts":"soon"}',
    )
    own = (tmp_path / "archive", "--time-field", "ts")
    ended = logbale_run("cat", *own, "--since", "2026-01-02", "--until", "2026-01-03")
    assert [entry["n"] for entry in entries(ended.stdout)] == [1, 3, 4]
    assert ended.stderr.splitlines() == [
        "logbale: 2 entries have no ts that is a time, and went by timestamp",
        "logbale: 1 entry has no time that can be read, and passed --since and --until",
    ]


def test_cat_and_verify_take_one_days_directory(archive, cat, monkeypatch):
    """As they take an archive or a file; from inside it too."""
    [day] = archive.glob("????-??-??")
    assert cat(day) == list(range(10))
    assert cat(day, "-n", 1) == [9]
    assert "2 segments, 10 sound entries, 0 places" in logbale_run("verify", day).stdout
    monkeypatch.chdir(day)
    assert cat(".") == list(range(10))


@pytest.mark.parametrize("command", ["cat", "verify"])
def test_what_is_no_archive_is_not_called_damaged(tmp_path, archive, command):
    """74, and the path is what to look at; a copy of a segment may have any name, and be damaged."""
    for name, content in (
        ("nosuch", None),
        ("notes.txt", b"hello\n"),
        ("other.zst", b"\x28\xb5\x2f\xfd"),
        ("none", b""),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        ended = logbale_run(command, path)
        assert (ended.returncode, ended.stdout) == (74, "")
        assert ended.stderr.startswith(f"logbale: {path}: ")
        assert ended.stderr.endswith("check the path; ARCHIVE_DIR names it where none is given\n")
        assert "damage" not in ended.stderr
    [first, _] = sorted(archive.glob("*/*.zst"))
    (tmp_path / "evidence").write_bytes(first.read_bytes())
    assert logbale_run(command, tmp_path / "evidence").returncode == 0
    (tmp_path / "evidence").write_bytes(b"\xff" + first.read_bytes()[1:])
    assert logbale_run(command, tmp_path / "evidence").returncode == 1


def test_cat_names_damage_and_goes_on(archive):
    """The sound segment is printed, the exit code is 1."""
    [first, _] = sorted(archive.glob("*/*.zst"))
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 0xFF
    first.write_bytes(content)
    ended = logbale_run("cat", archive)
    assert ended.returncode == 1
    assert [entry["n"] for entry in entries(ended.stdout)] == [5, 6, 7, 8, 9]
    assert ended.stderr.startswith(f"logbale: {first}: damaged at byte")


def test_cat_ends_quietly_where_nobody_reads_on(archive):
    """`logbale cat | head -1` is no error."""
    with subprocess.Popen(
        [*LOGBALE, "cat", archive], env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_cat_says_when_its_output_is_full(archive):
    """74, not a silent half."""
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*LOGBALE, "cat", archive], env=CLEAN, stdout=full, stderr=subprocess.PIPE, timeout=120, check=False
        )
    assert (ended.returncode, ended.stderr) == (74, b"logbale: standard output: No space left on device\n")


def test_cat_follows_until_it_is_interrupted(archive):
    """The last of what is there, then what comes; Ctrl-C ends it without a word."""
    with running(archive, "cat", archive, "-f", "-n", 1) as following:
        lines = following.process.stdout
        assert json.loads(lines.readline())["n"] == 9
        writer = writer_of(archive)
        for number in (10, 11):
            writer.commit([batch(number)])
            assert json.loads(lines.readline())["n"] == number
        writer.close()
        assert following.end(signal.SIGINT) == 130
        assert following.messages.read_text() == ""


# Terminals


def test_a_terminal_gets_colours_and_nothing_hostile(tmp_path):
    """NO_COLOR takes the colours away; JSON stays JSON, with what a terminal obeys escaped."""
    write_entries(tmp_path / "archive", b'{"level":"ERROR","message":"a \xc2\x9b31m \xe2\x80\xae b"}')
    shown, code = on_terminal("cat", tmp_path / "archive", "--pretty")
    assert code == 0
    assert shown == "\x1b[2m-\x1b[0m \x1b[31mERROR   \x1b[0m a \\x9b31m \\u202e b\r\n"
    shown, _ = on_terminal("cat", tmp_path / "archive", "--pretty", NO_COLOR="1")
    assert shown == "- ERROR    a \\x9b31m \\u202e b\r\n"
    shown, _ = on_terminal("cat", tmp_path / "archive")
    assert shown == '{"level":"ERROR","message":"a \\u009b31m \\u202e b"}\r\n'


def test_finite_work_shows_its_progress_on_a_terminal(tmp_path):
    """Share, entries, speed, ratio, what waits; the table follows."""
    with receiver(tmp_path) as receiving:
        shown, code = on_terminal("ship", "--demo", "--rate", 500, "--run-time", 0.8, "--to", receiving.address)
        assert receiving.end() == 0
    assert code == 0
    assert re.search(r"shipping .*\d+ %  [\d,]+ entries  [\d,.]+/s  [\d.]+×  \d+ waiting", shown)
    assert "entries delivered" in shown
