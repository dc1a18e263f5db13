"""The command line as its users meet it: real processes, their output, their exit codes."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import msgspec
import pytest
from archive_batches import batch, lines_of, writer_of

import logbale
from logbale.cli import app
from logbale.cli.ship import ship
from logbale.config import SETTINGS, Settings

ROOT = Path(__file__).parent.parent
LOGBALE = (sys.executable, "-m", "logbale")
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name not in {field.name.upper() for field in msgspec.structs.fields(Settings)} | {"LOGBALE_CONFIG", "NO_COLOR"}
}


def logbale_run(*arguments, command=LOGBALE, input=None, cwd=None, **environ):
    """The finished process, its output as text."""
    return subprocess.run(
        [*command, *map(str, arguments)],
        input=input,
        cwd=cwd,
        env=CLEAN | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Process:
    """A process that runs on; what it says on standard error is in a file."""

    def __init__(self, directory, *command, cwd=None, **environ):
        self.messages = directory / f"messages-{len(list(directory.glob('messages-*')))}"
        with self.messages.open("wb") as messages:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=cwd,
                env=CLEAN | environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
            )

    def says(self, pattern):
        """Waits until it has said something that matches; the match."""
        deadline = time.monotonic() + 30
        while (match := re.search(pattern, self.messages.read_text())) is None:
            assert self.process.poll() is None, self.messages.read_text()
            assert time.monotonic() < deadline, self.messages.read_text()
            time.sleep(0.01)
        return match

    def end(self, number=signal.SIGTERM):
        """Sends a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


@contextlib.contextmanager
def running(*arguments):
    process = Process(*arguments[:1], *LOGBALE, *arguments[1:])
    try:
        yield process
    finally:
        process.process.kill()
        process.process.communicate()


@contextlib.contextmanager
def receiver(directory, *arguments, host="127.0.0.1"):
    """A receiver with its archive in `directory`/archive; its `address` is HOST:PORT."""
    archive = directory / "archive"
    with running(directory, "receive", "--listen", f"{host}:0", "--archive", archive, *arguments) as process:
        process.address = process.says(r"listening on (\S+)")[1]
        yield process


def entries(text):
    return [json.loads(line) for line in text.splitlines()]


# From end to end


def test_a_file_is_shipped_stored_and_read_back(tmp_path):
    """receive, ship --once, cat: the same lines in the same order; data on stdout, messages on stderr; exit codes 0."""
    log = tmp_path / "app.log"
    log.write_text('ERROR out of stock\n{"message":"two","level":"WARN","order":7}\nplain \x1b[31mred\n')
    with receiver(tmp_path) as receiving:
        shipped = logbale_run("ship", "--once", "--to", receiving.address, "--field", "service=shop", log)
        assert (shipped.returncode, shipped.stdout) == (0, "")
        assert "entries delivered" in shipped.stderr
        stored = logbale_run("cat", tmp_path / "archive")  # beside the receiver
        assert receiving.end() == 0
        assert receiving.process.stdout.read() == ""
    assert (stored.returncode, stored.stderr) == (0, "")
    found = entries(stored.stdout)
    assert [entry["message"] for entry in found] == ["ERROR out of stock", "two", "plain \x1b[31mred"]
    assert {entry["service"] for entry in found} == {"shop"}
    assert (found[1]["level"], found[1]["order"]) == ("WARN", 7)
    pretty = logbale_run("cat", "--pretty", tmp_path / "archive").stdout
    assert r"plain \x1b[31mred" in pretty
    assert "\x1b" not in pretty


def test_ipv6_works_everywhere(tmp_path):
    """Brackets on the way in and on the way out."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with receiver(tmp_path, host="[::1]") as receiving:
        assert receiving.address.startswith("[::1]:")
        assert logbale_run("ship", "-q", "-", "--to", receiving.address, input="one\n").returncode == 0
        assert receiving.end() == 0
    assert len(entries(logbale_run("cat", tmp_path / "archive").stdout)) == 1


def test_the_demo_is_finite_and_reproducible(tmp_path):
    """LOG_RATE for RUN_TIME, the same entries for the same seed."""
    with receiver(tmp_path) as receiving:
        for _ in range(2):
            arguments = ("--demo", "--rate", 1000, "--run-time", 0.1, "--seed", 5)
            assert logbale_run("ship", *arguments, "--to", receiving.address).returncode == 0
        assert receiving.end() == 0
    messages = [entry["message"] for entry in entries(logbale_run("cat", tmp_path / "archive").stdout)]
    assert len(messages) == 200
    assert messages[:100] == messages[100:]


def test_sigterm_delivers_what_was_read(tmp_path):
    """A follower's half-full batch leaves before the process does."""
    log = tmp_path / "app.log"
    log.write_text("old\n")
    with (
        receiver(tmp_path) as receiving,
        running(tmp_path, "ship", log, "--to", receiving.address, "--batch-interval", 600) as shipping,
    ):
        shipping.says("reading .* from its end")
        with log.open("a") as growing:
            growing.write("new\n")
        time.sleep(0.6)  # two looks at the file: nothing announces that it has been read
        assert shipping.end() == 0
        assert receiving.end(signal.SIGINT) == 0
    assert [entry["message"] for entry in entries(logbale_run("cat", tmp_path / "archive").stdout)] == ["new"]


def test_what_cannot_be_delivered_is_counted(tmp_path):
    """69, and by number what is left, once DRAIN_TIMEOUT is over."""
    (tmp_path / "app.log").write_text("one\ntwo\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ended = logbale_run("ship", "--once", "--to", f":{port}", tmp_path / "app.log", DRAIN_TIMEOUT="0.2")
    assert ended.returncode == 69
    assert ended.stderr.splitlines()[-1] == (
        f"logbale: 2 entries in 1 batch were not delivered to 127.0.0.1:{port} within DRAIN_TIMEOUT, 0.2 s"
    )


def test_the_receiver_prints_entries_on_stdout(tmp_path):
    """With the console among its sinks; messages stay on stderr."""
    with receiver(tmp_path, "--sink", "archive,console") as receiving:
        assert logbale_run("ship", "-q", "-", "--to", receiving.address, input="one\n").returncode == 0
        assert receiving.end() == 0
        assert re.fullmatch(r"\S+Z - +stdin one host=\S+\n", receiving.process.stdout.read())


def test_the_entry_points_work_with_the_environment_alone(tmp_path):
    """server_main.py prints and stores, client_main.py generates; both end as the commands do."""
    with contextlib.ExitStack() as stack:
        settings = {"SERVER_HOST": "127.0.0.1", "SERVER_PORT": "0", "SINK": ""}
        server = Process(tmp_path, sys.executable, ROOT / "server_main.py", cwd=tmp_path, **settings)
        stack.callback(server.process.communicate)
        stack.callback(server.process.kill)
        port = server.says(r"listening on \S+:(\d+)")[1]
        client = (sys.executable, ROOT / "client_main.py")
        ended = logbale_run(command=client, SERVER_PORT=port, LOG_RATE="200", RUN_TIME="0.5")
        assert ended.returncode == 0
        assert server.end() == 0
        assert len(server.process.stdout.read().splitlines()) == 100
    assert len(entries(logbale_run("cat", cwd=tmp_path).stdout)) == 100
    assert logbale_run(command=client, SERVER_PORT="x").returncode == 78


# When it does not work


def test_an_address_that_is_taken_is_named_with_its_flag(tmp_path):
    """69, one line, and which option chooses another."""
    with receiver(tmp_path) as receiving:
        taken = receiving.address
        port = taken.rpartition(":")[2]
        for arguments, flag in (
            (("--listen", taken), "--listen (SERVER_HOST, SERVER_PORT)"),
            (
                ("--listen", "127.0.0.1:0", "--dashboard", "--dashboard-port", port),
                "--dashboard-port (DASHBOARD_PORT) and --dashboard-host (DASHBOARD_HOST)",
            ),
        ):
            ended = logbale_run("receive", *arguments, "--archive", tmp_path / "other", "-q")
            assert (ended.returncode, ended.stderr) == (
                69,
                f"logbale: cannot listen on {taken}: Address already in use; choose another address with {flag}\n",
            )


def test_an_archive_has_one_receiver(tmp_path):
    """78: the second is told who has it."""
    with receiver(tmp_path):
        ended = logbale_run("receive", "--listen", "127.0.0.1:0", "--archive", tmp_path / "archive", "-q")
        assert ended.returncode == 78
        assert "in use by process" in ended.stderr


def test_wrong_settings_end_with_78_and_a_line_each():
    """Before anything is opened."""
    ended = logbale_run("ship", "--demo", "--to", "h:99999", "--level", 12, BATCH_SIZE="1e3")
    assert (ended.returncode, ended.stdout) == (78, "")
    assert ended.stderr.splitlines() == [
        "logbale: SERVER_PORT='99999': expected 0 to 65535 (from --listen or --to)",
        "logbale: BATCH_SIZE='1e3': expected a whole number in digits, 1 to 1000000000 (from the environment)",
        "logbale: COMPRESSION_LEVEL='12': expected 1 to 9 (from --level)",
    ]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["ship"], "name files (PATH), standard input (-) or generated entries (--demo)"),
        (["ship", "x.log", "--demo"], "--demo makes its own entries"),
        (["ship", "-", "x.log"], "goes alone"),
        (["ship", "--once", "--from-end", "x.log"], "--once reads what is there"),
        (["ship", "-", "--from-start"], "are for files"),
        (["ship", "--demo", "--field", "a=b"], "--field goes with lines that are read"),
        (["ship", "x.log", "--seed", "1"], "--seed is for --demo"),
        (["ship", "x.log", "--field", "novalue"], "expected KEY=VALUE"),
        (["ship", "x.log", "--field", "message=x"], "a field of the entry's own"),
        (["ship", "x.log", "-v", "-q"], "give one of them"),
        (["cat", "--since", "yesterday"], "expected a time such as"),
        (["bench", "--chart", "x.gif"], "expected a name that ends in .png or .svg"),
        (["bench", "--chart", "nowhere/x.png"], "there is no directory nowhere"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(arguments, hint, capsys):
    """Usage, and the way out."""
    with pytest.raises(SystemExit) as ended:
        app(arguments)
    assert ended.value.code == 2
    assert hint in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["cat", "nowhere"], 74, "nowhere: there is no archive here"),
        (["ship", "--once", "nowhere.log"], 74, "nowhere.log: no such file"),
        (["ship", "--demo", "--to", ":0"], 78, "SERVER_PORT=0: expected the port of a receiver"),
        (["receive", "--config", "nowhere.toml"], 78, "nowhere.toml: cannot read the settings"),
    ],
)
def test_an_error_is_one_line_and_its_code(arguments, code, message, tmp_path):
    """No traceback for what can happen to anybody."""
    ended = logbale_run(*arguments, cwd=tmp_path)
    assert ended.returncode == code
    assert ended.stderr.startswith(f"logbale: {message}")
    assert ended.stderr.count("\n") == 1


# Help


@pytest.mark.parametrize(
    "arguments",
    [["receive"], ["ship"], ["bench"], ["cat"], ["config", "show"], ["config", "check"]],
    ids=" ".join,
)
def test_every_command_has_help_with_examples(arguments, capsys):
    """--help and -h; an example is a line that starts with what one would type."""
    with pytest.raises(SystemExit) as ended:
        app([*arguments, "-h"])
    assert ended.value.code == 0
    usage, _, examples = capsys.readouterr().out.partition("Examples:\n")
    assert usage.startswith("Usage: ")
    assert f"logbale {' '.join(arguments)}" in examples


def test_every_setting_has_a_flag_where_it_matters():
    """On the command, or commands, whose end reads it."""
    flags = {name: {flag for option in app.commands[name].params for flag in option.opts} for name in app.commands}
    for setting in SETTINGS.values():
        for command in setting.commands:
            if setting.is_address:
                assert flags[command] & {"--listen", "--to"}
            else:
                assert setting.flags[-1].split("/")[0] in flags[command]
    assert {option.name for option in ship.params} >= {"adaptive_enabled", "log_rate", "address"}


def test_the_version_is_the_packages(capsys):
    """And nothing else on the line."""
    with pytest.raises(SystemExit):
        app(["--version"], prog_name="logbale")
    assert capsys.readouterr().out == f"logbale {logbale.__version__}\n"


def test_the_public_names_are_there():
    """All of __all__, sorted; what is not there is an AttributeError."""
    assert all(getattr(logbale, name) for name in logbale.__all__)
    assert logbale.__all__ == sorted(logbale.__all__)
    assert not hasattr(logbale, "Nonsense")


# config


def test_config_show_prints_each_value_and_its_origin(tmp_path):
    """As one would set it, and after the # where it came from."""
    (tmp_path / "settings.toml").write_text("log_rate = 5\n")
    shown = logbale_run("config", "show", "--config", "settings.toml", cwd=tmp_path, ADAPTIVE_ENABLED="yes")
    lines = dict(re.split(r" +# ", line) for line in shown.stdout.splitlines())
    assert shown.returncode == 0
    assert len(lines) == len(SETTINGS)
    assert lines["LOG_RATE=5.0"] == "settings.toml"
    assert lines["ADAPTIVE_ENABLED=true"] == "the environment"
    assert lines["BATCH_SIZE=50"] == "the default"


def test_config_check_answers_with_its_exit_code(tmp_path):
    """0 and nothing on stdout, or 78 and what is wrong."""
    good = logbale_run("config", "check", BATCH_SIZE="5")
    assert (good.returncode, good.stdout) == (0, "")
    (tmp_path / "settings.toml").write_text("batchsize = 5\n")
    bad = logbale_run("config", "check", cwd=tmp_path, LOGBALE_CONFIG="settings.toml")
    assert (bad.returncode, bad.stderr) == (
        78,
        "logbale: 'batchsize': there is no such setting; did you mean batch_size? (from settings.toml)\n",
    )


# cat


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
        assert (process.wait(30), process.stderr.read()) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_cat_says_when_its_output_is_full(archive):
    """74, not a silent half."""
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*LOGBALE, "cat", archive], env=CLEAN, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
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


def on_terminal(*arguments, **environ):
    """What a command shows on a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        [*LOGBALE, *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=CLEAN | {"TERM": "xterm-256color"} | environ,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end has closed
        while select.select([ours], [], [], 30)[0] and (some := os.read(ours, 65536)):
            shown += some
    os.close(ours)
    return shown.decode(), process.wait(30)


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


# bench


def test_bench_ends_with_a_recommendation(tmp_path):
    """A table on stdout, and the two settings to take."""
    log = tmp_path / "app.log"
    log.write_text("".join(f"order {number} placed in {number % 7} ms\n" for number in range(2000)))
    table = logbale_run("bench", log, "--seconds", 0.5)
    assert (table.returncode, table.stderr) == (0, "")
    assert "zstd 3" in table.stdout
    assert re.search(r"^Recommended: COMPRESSION_ALGORITHM=\w+ COMPRESSION_LEVEL=\d$", table.stdout, re.MULTILINE)


def test_bench_prints_json_and_draws_a_chart(tmp_path):
    """From the entry point at the root too, on generated entries."""
    pytest.importorskip("matplotlib")
    chart = tmp_path / "bench.svg"
    ended = logbale_run(
        "--json", "--seconds", 0.5, "--chart", chart, command=(sys.executable, ROOT / "benchmark.py"), BATCH_SIZE="20"
    )
    assert ended.returncode == 0
    result = json.loads(ended.stdout)
    assert result["batch_size"] == 20
    assert {one["algorithm"] for one in result["measurements"]} == {"none", "gzip", "zlib", "zstd"}
    assert result["recommendation"]["reason"]
    assert chart.read_text().lstrip().startswith("<?xml")
    assert str(chart) in ended.stderr
