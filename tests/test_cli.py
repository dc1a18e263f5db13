"""The command line as its users meet it: real processes, their output, their exit codes."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
import time
from pathlib import Path

import click
import pytest
from cli_process import Process, entries, logbale_run, receiver, running
from waiting import wait_until

import logbale
from chaos.processes import fetch, free_port
from logbale.cli import app
from logbale.cli.running import summaries
from logbale.cli.ship import ship
from logbale.config import SETTINGS
from logbale.metrics import ReceiverMetrics
from logbale.spool import list_spools, spool_root

ROOT = Path(__file__).parent.parent


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


@pytest.mark.parametrize(
    ("environment", "used"),
    [
        ({}, "zstd 6"),
        ({"COMPRESSION_ALGORITHM": "gzip"}, "gzip 6"),
        ({"SESSION_MODE": "off"}, "gzip 6"),
    ],
)
def test_a_session_ships_with_zstd_where_nothing_says_otherwise(tmp_path, environment, used):
    """And the base protocol with gzip, as the settings say; the table at the end names it."""
    with receiver(tmp_path) as receiving:
        shipped = logbale_run("ship", "--demo", "--run-time", 0.1, "--to", receiving.address, **environment)
        assert shipped.returncode == 0
        assert receiving.end() == 0
    assert re.search(rf"compression +{used}\b", shipped.stderr)


def test_sigterm_delivers_what_was_read(tmp_path):
    """A follower's half-full batch leaves before the process does."""
    log, port = tmp_path / "app.log", free_port()
    log.write_text("old\n")
    options = ("--batch-interval", 600, "--batch-linger", 600, "--metrics-port", port)
    with (
        receiver(tmp_path) as receiving,
        running(tmp_path, "ship", log, "--to", receiving.address, *options) as shipping,
    ):
        shipping.says("reading .* from its end")
        with log.open("a") as growing:
            growing.write("new\n")
        shipping.until(lambda: "logbale_shipper_read_entries_total 1.0\n" in fetch(port, "/metrics")[1])
        assert shipping.end() == 0
        assert receiving.end(signal.SIGINT) == 0
    assert [entry["message"] for entry in entries(logbale_run("cat", tmp_path / "archive").stdout)] == ["new"]


def test_what_cannot_be_delivered_is_counted(tmp_path):
    """69, and by number what is left, once DRAIN_TIMEOUT is over."""
    (tmp_path / "app.log").write_text("one\ntwo\n")
    port = free_port()
    ended = logbale_run("ship", "--once", "--to", f":{port}", tmp_path / "app.log", DRAIN_TIMEOUT="0.2")
    assert ended.returncode == 69
    said = f"logbale: 2 entries in 1 batch were not delivered to 127.0.0.1:{port} (Connection refused); "
    said += "DRAIN_TIMEOUT is 0.2 s. They wait in "
    assert ended.stderr.splitlines()[-1].startswith(said)


def test_what_was_not_delivered_is_sent_by_the_same_command(tmp_path):
    """Nothing is read twice: after 69 the spool has it, and after 0 it is gone, so that the next run starts anew."""
    log = tmp_path / "app.log"
    log.write_text("one\ntwo\n")
    with receiver(tmp_path) as receiving:
        assert logbale_run("ship", "--once", "--to", f":{free_port()}", log, DRAIN_TIMEOUT="0.1").returncode == 69
        with log.open("a") as growing:
            growing.write("three\n")
        assert logbale_run("ship", "--once", "--to", receiving.address, log).returncode == 0
        stored = entries(logbale_run("cat", tmp_path / "archive").stdout)
        assert [entry["message"] for entry in stored] == ["one", "two", "three"]
        assert logbale_run("ship", "--once", "--to", receiving.address, log).returncode == 0
        assert len(entries(logbale_run("cat", tmp_path / "archive").stdout)) == 6


def test_a_follower_that_was_stopped_goes_on_where_it_was(tmp_path):
    """What was written meanwhile is shipped by its successor, whatever the file is called by then."""
    log = tmp_path / "app.log"
    log.write_text("old\n")
    with receiver(tmp_path) as receiving:
        for number in range(3):
            with running(tmp_path, "ship", log, "--to", receiving.address, "--batch-linger", 0.01) as shipping:
                shipping.says("in session")
                with log.open("a") as growing:
                    growing.write(f"while running {number}\n")
                wait_for_entries(tmp_path / "archive", 2 * number + 1)
                assert shipping.end() == 0
            with log.open("a") as growing:
                growing.write(f"while stopped {number}\n")
        assert logbale_run("ship", "--once", log, "--to", receiving.address).returncode == 0
        stored = [entry["message"] for entry in entries(logbale_run("cat", tmp_path / "archive").stdout)]
    assert stored == [f"while {what} {number}" for number in range(3) for what in ("running", "stopped")]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_file_that_was_idle_all_the_time_is_read_on_where_the_first_run_began(tmp_path, end):
    """No batch left that could take its cursor along: it is noted at the stop, and a second after the start."""
    log, later = tmp_path / "idle.log", tmp_path / "idle2.log"
    log.write_text("old\n")
    spools = tmp_path / "spools"
    with receiver(tmp_path) as receiving:
        command = ("ship", tmp_path / "idle*.log", "--to", receiving.address, "--spool-dir", spools)
        with running(tmp_path, *command) as shipping:
            shipping.says("in session")
            deadline = time.monotonic() + 60
            while end == signal.SIGKILL and not list(spools.glob("*/*.spool")):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            shipping.end(end)
        with log.open("a") as growing:
            growing.write("1\n2\n")
        later.write_text("3\n")
        with running(tmp_path, *command) as shipping:
            wait_for_entries(tmp_path / "archive", 3)
            assert shipping.end() == 0
        stored = [entry["message"] for entry in entries(logbale_run("cat", tmp_path / "archive").stdout)]
    assert sorted(stored) == ["1", "2", "3"]


def test_a_shipper_that_ships_its_own_messages_does_not_talk_to_itself(tmp_path):
    """Its messages lie where its pattern finds them: they are shipped, and shipping a line is no news."""
    log = tmp_path / "messages-app"
    log.write_text("")
    with receiver(tmp_path) as receiving:
        command = ("ship", tmp_path / "messages-*", "--to", receiving.address, "--batch-linger", 0, "--from-start")
        with running(tmp_path, *command, "--exclude", "messages-1") as shipping:
            shipping.says("in session")
            said = 0
            for number in range(10):
                with log.open("ab") as growing:
                    growing.write(b"line %d, not UTF-8: \xff\n" % number)
                wait_for_line(tmp_path / "archive", f"line {number},")
                if not number:
                    said = len(shipping.messages.read_text().splitlines())
            # A summary, every ten seconds, may have come between.
            assert len(shipping.messages.read_text().splitlines()) <= said + 4
            assert shipping.end() == 0
        assert "in session with" in logbale_run("cat", tmp_path / "archive").stdout


def wait_for_line(archive, text):
    """Returns once it is stored."""
    wait_until(lambda: text in logbale_run("cat", archive).stdout)


def wait_for_entries(archive, count):
    """Returns once so many are stored."""
    wait_until(lambda: len(logbale_run("cat", archive).stdout.splitlines()) >= count)


def test_a_second_signal_does_not_wait(tmp_path):
    """Whatever DRAIN_TIMEOUT says; what is left is counted all the same."""
    log = tmp_path / "app.log"
    log.write_text("one\n")
    port = free_port()
    spools = tmp_path / "spools"
    options = ("--from-start", "--drain-timeout", 600, "--batch-interval", 0.1, "--spool-dir", spools)
    with running(tmp_path, "ship", log, "--to", f":{port}", *options) as shipping:
        shipping.says("Connection refused")
        shipping.until(lambda: any(one.entries for one in list_spools(spools)))
        shipping.process.send_signal(signal.SIGTERM)
        shipping.says("SIGTERM: stopping; once more ends at once")
        assert shipping.end() == 69
        left = (
            rf"1 entry in 1 batch was not delivered to 127.0.0.1:{port} \(Connection refused\)\. "
            r"It waits in \S+, and the same command sends"
        )
        said = shipping.messages.read_text()
        assert re.search(left, said), said


def test_an_end_sums_up_now_and_then_and_not_twice(caplog):
    """A line every ten seconds (here: hundredths), and none where nothing has changed."""
    metrics = ReceiverMetrics(now=0.0)

    async def scenario():
        async with summaries(lambda: metrics.snapshot(1.0), interval=0.01), asyncio.timeout(60):
            for clients in (0, 1):
                metrics.clients = clients
                while len(caplog.messages) <= clients:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.1)  # ten times as long as for one more

    with caplog.at_level("INFO", logger="logbale"):
        asyncio.run(scenario())
    assert [line.rpartition(" from ")[2] for line in caplog.messages] == ["0 clients", "1 client"]


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


@pytest.mark.parametrize(
    "arguments",
    [
        ("nosuch.log",),
        (".",),
        ("app.log", "--multiline", "("),
        ("app.log", "--name", "mine", "--metrics-port", "TAKEN"),
        ("app.log", "--to", "two..dots:5000"),
    ],
)
def test_a_command_that_fails_leaves_no_empty_spool(tmp_path, arguments):
    """`spool ls` lists what somebody shipped."""
    (tmp_path / "app.log").write_text("one\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = [port if argument == "TAKEN" else argument for argument in arguments]
        ended = logbale_run("ship", "--once", *given, cwd=tmp_path, SPOOL_DIR=str(tmp_path / "spools"))
    assert ended.returncode not in (0, 1)
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("spools/*"))


def test_a_spool_with_something_in_it_survives_a_command_that_fails(tmp_path):
    """What waits, or how far a file was read."""
    log = tmp_path / "app.log"
    log.write_text("one\n")
    with receiver(tmp_path) as receiving:
        ship = ("ship", "--once", "--name", "mine", "--to", receiving.address, "--spool-dir", tmp_path / "spools")
        assert logbale_run(*ship, log).returncode == 0
        assert receiving.end() == 0
    assert logbale_run(*ship, tmp_path / "nosuch.log").returncode == 74
    assert (tmp_path / "spools" / "mine" / "stream").exists()


def test_wrong_settings_end_with_78_and_a_line_each():
    """Before anything is opened."""
    ended = logbale_run("ship", "--demo", "--to", "h:99999", "--level", 12, BATCH_SIZE="1e3")
    assert (ended.returncode, ended.stdout) == (78, "")
    assert ended.stderr.splitlines() == [
        "logbale: SERVER_PORT='99999': expected 0 to 65535 (from --to)",
        "logbale: BATCH_SIZE='1e3': expected a whole number in digits, 1 to 1000000000 (from the environment)",
        "logbale: COMPRESSION_LEVEL='12': expected 1 to 9 (from --level)",
    ]


def test_an_address_that_ends_with_a_colon_is_refused():
    """By the flag that has it; nothing goes to the default port instead."""
    ended = logbale_run("ship", "--demo", "--to", "127.0.0.1:")
    assert ended.returncode == 78
    assert ended.stderr == "logbale: --to '127.0.0.1:': expected a port behind the colon, or no colon\n"


def test_a_receiver_that_cannot_listen_leaves_nothing_behind(tmp_path):
    """One line says why, and nothing of what else might be wrong; no directory is made."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = logbale_run("receive", "--listen", f":{port}", "--archive", "made", cwd=tmp_path)
    assert ended.returncode in (69, 78)
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert f":{port}" in ended.stderr or str(port) in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["/", "//", "/.."])
def test_the_top_of_all_is_no_archive(path):
    """A slip, such as an empty variable before it, would fill it with days, and a lock."""
    ended = logbale_run("receive", "--listen", "127.0.0.1:0", "--archive", path)
    assert ended.returncode == 78
    assert f"ARCHIVE_DIR={path!r}: expected a directory of the archive's own" in ended.stderr


def test_files_that_cannot_be_measured_end_with_the_code_of_input():
    """As with every other command that reads files."""
    ended = logbale_run("bench", "/nofile")
    assert (ended.returncode, ended.stderr) == (
        74,
        "logbale: /nofile: No such file or directory; expected text log files\n",
    )


def test_a_receiver_that_only_shows_says_that_it_stores_nothing(tmp_path):
    """Who means null has said so; who leaves out `archive,` may not have meant it."""
    listen = "receive", "--listen", "127.0.0.1:0", "--sink"
    with running(tmp_path, *listen, "console") as process:
        process.says("SINK=console stores nothing: (.|\\n)*listening on ")
    with running(tmp_path, *listen, "console,null") as process:
        process.says("listening on ")
        assert "stores nothing" not in process.messages.read_text()


@pytest.mark.parametrize(("command", "flag"), [(["ship", "--demo"], "--to"), (["receive"], "--listen")])
def test_an_address_from_an_empty_variable_is_no_default(command, flag):
    """The default would be another receiver, or all of this host's addresses."""
    ended = logbale_run(*command, flag, "")
    assert ended.returncode == 78
    assert ended.stderr == f"logbale: {flag} '': expected HOST:PORT, HOST or :PORT\n"


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
        (["ship", "x.log", "--rate", "5", "--run-time", "1"], "--rate and --run-time are for --demo"),
        (["ship", "--demo", "--once"], "--demo ends by itself, after RUN_TIME: leave out --once"),
        (["ship", "--demo", "--name", "x", "--spool-dir", "y"], "leave out --name and --spool-dir"),
        (["ship", "--demo", "--max-line-bytes", "2000"], "--demo reads no lines"),
        (["ship", "x.log", "--exclude", "*.gz"], "--exclude is for what a GLOB finds, and there is none: quote it"),
        (["ship", "x.log", "--once", "--poll"], "--poll is for files that are followed"),
        (["ship", "x.log", "--name", "x", "--spool-dir", "off"], "--name is a spool's, and --spool-dir off keeps none"),
        (["cat", "--since", "yesterday"], "expected a time such as"),
        (["cat", ".", "--config", "x"], "--config is for ARCHIVE_DIR, where no PATH is given"),
        (["bench", "x.log", "--rate", "5"], "--rate is for generated entries"),
        (["top", "--once", "--interval", "1"], "--interval is between two looks, and --once looks once"),
        (["tail", "h:80", "--tls-ca-file", "x"], "--tls-ca-file is for https: leave it out, or write https://h:80"),
        (["spool", "verify", "./x", "--spool-dir", "y"], "--spool-dir is where a NAME is looked for"),
        (["bench", "--chart", "x.gif"], "expected a name that ends in .png or .svg"),
        (["bench", "--chart", "nowhere/x.png"], "there is no directory nowhere"),
        (["xyzzy"], "No such command 'xyzzy'. Try receive, ship, archive, tail,"),
        (["shp"], "No such command 'shp'. Did you mean ship?"),
        (["spool", "sl"], "Did you mean ls?"),
        (["dead-letters", "retyr"], "Did you mean retry?"),
        (["config", "chekc"], "Did you mean check?"),
        (["ship", "--levle", "3"], "'--level'"),
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
        (["ship", "--once", "nowhere.log"], 74, "nowhere.log: "),
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("receive", "--sink NAMES Where entries go; .*: archive, console, null, logbale://HOST:PORT, kafka://"),
        ("archive", "--archive-to, --to URL Where its segments go: file:///directory, s3://bucket/prefix"),
        ("ship", "default zstd; gzip without SESSION_MODE=on"),
        ("top", r"Between two looks; default 1 \[0.2 to 3600\]"),
        ("cat", r"The last N of them only \[0 or more\]"),
        ("certs", r"--days DAYS How long they are valid; default 365 \[1 to 3650\]"),
    ],
)
def test_help_says_what_values_may_be(arguments, said, capsys):
    """In words, also for what has a range, a list of names or a URL."""
    with pytest.raises(SystemExit):
        app([arguments, "--help"])
    assert re.search(said, " ".join(capsys.readouterr().out.split()))


@pytest.mark.parametrize(("command", "others"), [("receive", "The shipper"), ("archive", "The receiver|Both ends")])
def test_help_has_no_heading_of_another_end(command, others, capsys):
    """What a receiver shares with a shipper is a setting of its own there."""
    with pytest.raises(SystemExit):
        app([command, "--help"])
    assert not re.search(rf"^({others}).*:$", capsys.readouterr().out, re.MULTILINE)


def test_every_setting_has_a_flag_where_it_matters():
    """On the command, or commands, whose end reads it."""
    commands = {name: app.get_command(click.Context(app), name) for name in app.list_commands(click.Context(app))}
    flags = {name: {flag for option in command.params for flag in option.opts} for name, command in commands.items()}
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
    shown = logbale_run(
        "config", "show", "--config", "settings.toml", cwd=tmp_path, ADAPTIVE_ENABLED="yes", SPOOL_DIR=""
    )
    lines = dict(re.split(r" +# ", line) for line in shown.stdout.splitlines())
    assert shown.returncode == 0
    assert len(lines) == len(SETTINGS)
    assert lines["LOG_RATE=5.0"] == "settings.toml"
    assert lines["ADAPTIVE_ENABLED=true"] == "the environment"
    assert lines["BATCH_SIZE=50"] == "the default"
    assert lines[f"SPOOL_DIR={spool_root()}"] == "the default: where programs of this user keep their state"
    assert lines["COMPRESSION_ALGORITHM=zstd"].startswith("the default with SESSION_MODE=on: ")


@pytest.mark.parametrize(("context", "goes_on"), [("stream", True), ("batch", False)])
def test_config_show_says_of_zstd_what_is_true_of_this_context(context, goes_on):
    """It goes on from batch to batch where it does so; where each batch stands alone, it is faster, not far smaller."""
    shown = logbale_run("config", "show", COMPRESSION_CONTEXT=context).stdout
    line = next(line for line in shown.splitlines() if line.startswith("COMPRESSION_ALGORITHM=zstd "))
    assert "the default with SESSION_MODE=on: " in line
    assert ("goes on from batch to batch, far smaller than gzip" in line) == goes_on
    assert ("each batch on its own" in line and "a third of the CPU" in line) == (not goes_on)


def test_config_check_answers_with_its_exit_code(tmp_path):
    """0 and nothing on stdout, or 78 and what is wrong."""
    odd = logbale_run("config", "check", COMPRESION_LEVEL="5")
    assert odd.stderr.startswith("logbale: the environment has COMPRESION_LEVEL, which is no setting; is COMPRESSION_L")
    good = logbale_run("config", "check", BATCH_SIZE="5")
    assert (good.returncode, good.stdout) == (0, "")
    (tmp_path / "settings.toml").write_text("batchsize = 5\n")
    bad = logbale_run("config", "check", cwd=tmp_path, LOGBALE_CONFIG="settings.toml")
    assert (bad.returncode, bad.stderr) == (
        78,
        "logbale: 'batchsize': there is no such setting; did you mean batch_size? (from settings.toml)\n",
    )


PLAIN = {"SERVER_HOST": "127.0.0.1"}


@pytest.mark.parametrize(
    ("end", "settings", "code", "says"),
    [
        ((), {"TLS_KEY_FILE": "k.pem"}, 78, "TLS_KEY_FILE is set and TLS_CERT_FILE is not"),
        (
            (),
            {"TLS_CERT_FILE": "c.pem"},
            0,
            "`logbale ship` would not start with them: TLS_CERT_FILE is set and TLS_CA",
        ),
        ((), {"TLS_BIND_STREAMS": "on"}, 0, "`logbale receive` would not start with them: TLS_BIND_STREAMS is set"),
        ((), {"DASHBOARD_TLS": "on"}, 78, "DASHBOARD_TLS=on needs TLS_CERT_FILE"),
        (("receive",), {"TLS_CLIENT_CA_FILE": "ca.pem"}, 78, "TLS_CLIENT_CA_FILE is set and TLS_CERT_FILE is not"),
        (("receive",), {"TLS_CERT_FILE": "none.pem"}, 78, "TLS_CERT_FILE='none.pem': cannot be read: No such file"),
        (("receive",), {"TOKENS_FILE": "none"}, 78, "TOKENS_FILE='none': cannot read it: No such file"),
        (
            ("receive",),
            {"DASHBOARD_ENABLED": "on", "DASHBOARD_PORT": "0", "DASHBOARD_PASSWORD_FILE": "none"},
            78,
            "DASHBOARD_PASSWORD_FILE='none': cannot read it",
        ),
        (("receive",), {"SERVER_HOST": "0.0.0.0"}, 0, "SERVER_HOST=0.0.0.0 without TLS and tokens: whoever reaches"),
        (("receive",), {}, 0, "the settings are sound"),
        (("ship",), {"TLS_CERT_FILE": "c.pem"}, 78, "TLS_CERT_FILE is set and TLS_CA_FILE is not"),
        (("ship",), {"TLS_CA_FILE": "none.pem"}, 78, "TLS_CA_FILE='none.pem': cannot be read: No such file"),
        (("ship",), {"TOKEN_FILE": "none"}, 78, "TOKEN_FILE='none': cannot read it: No such file"),
        (("ship",), {"SERVER_PORT": "0"}, 78, "SERVER_PORT=0: expected the port of a receiver"),
        (("ship",), {"SERVER_HOST": "logs.example.org"}, 0, "the settings are sound"),
        (("receive",), {"TLS_BIND_STREAMS": "on"}, 78, "TLS_BIND_STREAMS is set and TLS_CERT_FILE is not"),
    ],
)
def test_config_check_judges_as_the_start_does(tmp_path, end, settings, code, says):
    """What an end would refuse at its start, `config check` refuses before; without an end, what neither would take."""
    judged = logbale_run("config", "check", *end, cwd=tmp_path, **PLAIN | settings)
    assert (judged.returncode, judged.stdout) == (code, "")
    assert says in judged.stderr
    if end == ("receive",) and code:
        started = logbale_run("receive", "--listen", "127.0.0.1:0", cwd=tmp_path, **PLAIN | settings)
        assert (started.returncode, started.stderr.splitlines()[-1]) == (78, judged.stderr.splitlines()[-1])


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
