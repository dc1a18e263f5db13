"""What `logbale tail` promises: what a real receiver stores is shown, or how much was skipped; and it ends well."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import threading

import pytest
from base_client import connect, finish, frame
from cli_process import CLEAN, LOGBALE, logbale_run, receiver, running
from terminals import Terminal
from test_terminal import obeyed

from chaos.processes import free_port
from logbale.cli import tail as cli_tail
from logbale.dashboard_client import DashboardClient
from logbale.errors import NoAnswerError, UnavailableError

HOSTILE = [
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "a\r\nb",
    "\u202egnp.exe",
    "\ud83d",
    "\x1b]8;;http://x\x1b\\",
    "\x00\x7f",
]


@contextlib.contextmanager
def watched(directory, *arguments):
    """A receiver with a dashboard: `dashboard` is its HOST:PORT, `store(*entries)` ships entries to it."""
    with receiver(directory, "--dashboard", "--dashboard-port", "0", *arguments) as process:
        process.dashboard = process.says(r"dashboard on http://(\S+)/")[1]
        yield process


def store(process, *objects):
    """Sends them as a client of its own, and returns when they are stored."""
    host, port = process.address.rsplit(":", 1)
    connection = connect((host, int(port)))
    connection.sendall(frame(list(objects), "raw"))
    finish(connection)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One receiver for all tests that only look."""
    with watched(tmp_path_factory.mktemp("receiver")) as process:
        yield process


def lines(process, count):
    return [json.loads(process.process.stdout.readline()) for _ in range(count)]


def test_what_is_stored_is_shown_as_it_is_stored(one, tmp_path):
    """The last ones first, then what comes; --json is what is in the archive; Ctrl-C ends it like every follower."""
    store(one, {"n": 1}, {"n": 2}, {"n": 3})
    with running(tmp_path, "tail", one.dashboard, "--json", "-n", 2) as tail:
        assert lines(tail, 2) == [{"n": 2}, {"n": 3}]
        store(one, {"n": 4, "message": "größer"})
        assert lines(tail, 1) == [{"n": 4, "message": "größer"}]
        assert tail.end(signal.SIGINT) == 130
        assert tail.messages.read_text() == ""


def test_filters_choose_at_the_receiver_and_a_regex_here(one, tmp_path):
    """By level under any name, by service, by text; the regex sees the line as it is printed."""
    fits = {"level": "err", "service": "web", "message": "GET /api/v2 took 12 ms"}
    info = fits | {"level": "INFO"}
    others = [fits | {"service": "db"}, fits | {"message": "POST /api/v2 took 13 ms"}, fits | {"level": "debug"}]
    query = ["tail", one.dashboard, "--level", "info,error", "--level", "warn", "--service", "web", "--grep", "GET /a"]
    store(one, info, fits)
    with (
        running(tmp_path, *query, "-n", 2, "--json") as by_receiver,
        running(tmp_path, *query, "-n", 2, "--regex", r"^\S+ err +web GET.* \d+ ms$") as by_line,
        running(tmp_path, *query, "-n", 2, "--json", "--regex", '"level": "INFO"') as by_json,
    ):
        assert lines(by_receiver, 2) == [info, fits]  # what it remembers shows that each is there
        assert by_line.process.stdout.readline() == "- err      web GET /api/v2 took 12 ms\n"
        assert lines(by_json, 1) == [info]
        store(one, *others, fits, info)
        assert lines(by_receiver, 2) == [fits, info]
        assert by_line.process.stdout.readline() == "- err      web GET /api/v2 took 12 ms\n"
        assert lines(by_json, 1) == [info]


def test_a_terminal_gets_colours_and_nothing_hostile(one):
    """What a terminal would obey is escaped in either format; NO_COLOR takes the colours away."""
    for text in HOSTILE:
        store(one, {"level": "ERROR", "service": text, "message": text, text: text})
    store(one, {"level": "ERROR", "message": "the end"})
    for options, expected in ((["--json"], r"\\u001b\[2J"), ([], r"\\x1b\[2J")):
        with Terminal("tail", one.dashboard, "-n", len(HOSTILE) + 1, *options) as terminal:
            terminal.shows(expected)
            terminal.shows("the end")
            shown = terminal.shown.replace("\r\n", "").replace("\t", "")
            assert obeyed(re.sub(r"\x1b\[(0|1;31|2|31|36)m", "", shown)) == []
            assert ("\x1b[31mERROR" in shown) is not bool(options)
            assert terminal.end(signal.SIGINT) == 130
    with Terminal("tail", one.dashboard, NO_COLOR="1") as terminal:
        terminal.shows("the end")
        assert "\x1b" not in terminal.shown


def test_it_ends_quietly_where_nobody_reads_on(one):
    """`logbale tail | head -1` is no error."""
    store(one, {"n": 1})
    with subprocess.Popen(
        [*LOGBALE, "tail", one.dashboard, "-n", "1"], env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline()
        process.stdout.close()
        store(one, {"n": 2})
        assert (process.wait(60), process.stderr.read()) == (0, b"")


def test_a_receiver_that_comes_back_is_found_again_and_said_once(tmp_path):
    """One line for the loss, one for the return, and one about what may be missing in between."""
    port = free_port()
    dashboard = f"127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        with watched(tmp_path, "--dashboard-port", port) as first:
            store(first, {"n": 1})
            tail = stack.enter_context(running(tmp_path, "tail", dashboard, "--json"))
            assert lines(tail, 1) == [{"n": 1}]
            assert first.end() == 0
        tail.says("trying again")
        with watched(tmp_path, "--dashboard-port", port) as second:
            tail.says(f"connected to http://{dashboard} again")
            store(second, {"n": 2})
            assert lines(tail, 1) == [{"n": 2}]
        assert tail.end(signal.SIGINT) == 130
        said = tail.messages.read_text()
    assert said.splitlines()[:3] == [  # the second one's end may be seen, too
        f"logbale: http://{dashboard} has ended the live tail; trying again",
        f"logbale: connected to http://{dashboard} again",
        "logbale: the receiver was restarted: entries may be missing here, the archive has them",
    ]


def test_an_outage_is_one_message_and_not_advice_for_a_first_try(monkeypatch, capsys):
    """However often nobody answers meanwhile; what else goes wrong is said."""
    answers = [[b"one"], NoAnswerError("no dashboard here"), NoAnswerError("nor now"), UnavailableError("429"), [], []]

    class Client:
        name = "http://logs"

        @contextlib.contextmanager
        def stream(self, *_):
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            yield answer

    monkeypatch.setattr(cli_tail.time, "sleep", lambda _: None)
    with pytest.raises(IndexError):
        list(cli_tail._events(Client(), {}))
    assert capsys.readouterr().err.splitlines() == [
        "logbale: http://logs has ended the live tail; trying again",
        "logbale: 429; trying again",
        "logbale: connected to http://logs again",
        "logbale: http://logs has ended the live tail; trying again",
        "logbale: connected to http://logs again",
        "logbale: http://logs has ended the live tail; trying again",
    ]


class FakeDashboard:
    """Answers each connection with the next of some pieces of text; a context manager."""

    def __init__(self, *answers):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.requests = []
        self._thread = threading.Thread(target=self._serve, args=(answers,))

    def _serve(self, answers):
        for answer in answers:
            connection, _ = self._listening.accept()
            with connection:
                self.requests.append(connection.recv(65536).decode())
                connection.sendall(answer.encode())

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join(60)
        self._listening.close()


STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def test_a_broken_connection_is_taken_up_where_it_was(tmp_path):
    """With the id of the last whole event; the query is the same."""
    shown = 'event: entries\nid: 7\ndata: ["{}"]\n\n'
    begun = 'event: entries\nid: 9\ndata: ["{'
    with (
        FakeDashboard(STREAM + shown + begun, STREAM + shown) as dashboard,
        running(tmp_path, "tail", f"http://{dashboard.address}/", "--grep", "a b&c", "--json") as tail,
    ):
        assert lines(tail, 2) == [{}, {}]
    first, second = dashboard.requests
    assert first.startswith("GET /api/tail?q=a+b%26c&last=10 HTTP/1.1\r\n")
    assert "Last-Event-ID" not in first
    assert second.split("\r\n")[0] == first.split("\r\n")[0]
    assert "Last-Event-ID: 7\r\n" in second


def test_skipped_entries_are_said_on_standard_error(tmp_path):
    """With their number, all of them in the end, and not a line for each event."""
    skips = "".join(f'event: skipped\ndata: {{"entries": {number}}}\n\n' for number in range(1, 101))
    with FakeDashboard(STREAM + skips) as dashboard, running(tmp_path, "tail", dashboard.address) as tail:
        tail.says("trying again")
        assert tail.end(signal.SIGINT) == 130
    said = re.findall(r"logbale: ([\d,]+) entr(?:y|ies) skipped", tail.messages.read_text())
    assert sum(int(number.replace(",", "")) for number in said) == 5050
    assert len(said) <= 4


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("HTTP/1.1 404 Not Found\r\n\r\nNot Found", r"answers 404: Not Found; is it the dashboard of a receiver"),
        ("HTTP/1.1 503 X\r\n\r\nno place\x1b[2J\nmore", r"answers 503: no place\\x1b\[2J\n"),
        (
            "HTTP/1.1 400 X\r\n\r\nThis port speaks HTTPS only.\n",
            r"answers 400: This port speaks HTTPS only\. Ask https://127\.0\.0\.1:\d+\n",
        ),
        ("HTTP/1.1 421 X\r\n\r\nnot me.", r"answers 421: not me\. From another host, go through ssh: `ssh -L "),
        ("\x00\x00\x00\x05\x80hello", r"speaks no HTTP: is it the port for shippers\?"),
        (
            "",
            r"ends the connection .* \(DASHBOARD_MAX_CONNECTIONS\), or is it the port for shippers",
        ),
        (STREAM + "event: entries\ndata: [1]\n\n", r"an event that no logbale of this version sends"),
        (STREAM + "event: skipped\ndata: {}\n\n", r"an event that no logbale of this version sends"),
        (STREAM + 'event: entries\ndata: ["\\ud800"]\n\n', r"an event that no logbale of this version sends"),
    ],
)
def test_what_is_no_live_tail_is_said_in_one_line(answer, says):
    """69, with what was asked, what it answered, and a way out."""
    with FakeDashboard(answer) as dashboard:
        ended = logbale_run("tail", dashboard.address)
    assert (ended.returncode, ended.stdout) == (69, "")
    assert re.search(says, ended.stderr)
    assert ended.stderr.startswith("logbale: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("when", ["connect", "send", "recv"])
@pytest.mark.parametrize("error", [ConnectionResetError, BrokenPipeError])
def test_a_dashboard_that_is_full_is_said_to_be_so_whenever_the_reset_shows(monkeypatch, when, error):
    """At the connect, at the question or at the answer: on one machine it is the one, on another the other."""

    class Socket:
        """One that is reset at this call."""

        def __getattr__(self, name):
            def call(*_, **__):
                if name == {"send": "sendall", "recv": "makefile"}.get(when):
                    raise error(1, "reset")

            return call

    def create_connection(*_, **__):
        if when == "connect":
            raise error(1, "reset")
        return Socket()

    monkeypatch.setattr("socket.create_connection", create_connection)
    client = DashboardClient("", host="logs.test", port=8080)
    with pytest.raises(NoAnswerError, match=r"http://logs\.test:8080 ends .*\(DASHBOARD_MAX_CONNECTIONS\)"):
        client.json("stats", dict)


@pytest.mark.parametrize("command", ["tail", "top"])
def test_without_an_address_the_settings_say_where_the_dashboard_is(command):
    """As the examples call it."""
    port = free_port()
    ended = logbale_run(command, DASHBOARD_PORT=str(port))
    assert ended.returncode == 69
    assert ended.stderr.startswith(f"logbale: no dashboard at http://127.0.0.1:{port} (Connection refused)")


def test_no_dashboard_says_how_to_have_one():
    """With the setting; from another host, with the way there."""
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    here = logbale_run("tail", f":{port}")
    assert here.returncode == 69
    assert here.stderr == (
        f"logbale: no dashboard at http://127.0.0.1:{port} (Connection refused): a receiver has one with --dashboard "
        "(DASHBOARD_ENABLED=true)\n"
    )
    there = logbale_run("tail", "name.invalid")
    assert there.returncode == 69
    assert "`ssh -L 8080:localhost:8080 name.invalid` leads there" in there.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ftp://x"], 78, "'ftp://x': expected the address of a dashboard, HOST:PORT or http://HOST:PORT/"),
        (["host:port"], 78, "expected the address of a dashboard"),
        (["host:"], 78, "expected the address of a dashboard"),
        (["http://a b/"], 78, "expected the address of a dashboard"),
        (["--regex", "("], 2, "missing ), unterminated subpattern"),
        (["--grep", "x" * 257], 2, "expected at most 256 characters"),
        (["--level", "a," * 64], 2, "expected at most 64 names"),
        (["-n", "1001"], 2, "1001 is not in the range"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_asked(arguments, code, says):
    """With what was expected."""
    ended = logbale_run("tail", *arguments)
    assert ended.returncode == code
    assert says in " ".join(ended.stderr.split())
