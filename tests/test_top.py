"""What `logbale top` promises: the receiver's numbers, readable at any size, harmless whatever the names are."""

import io
import re
import signal
import unicodedata

import msgspec
import pytest
from base_client import connect, finish, frame
from cli_process import logbale_run
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from terminals import Terminal
from test_cli_tail import FakeDashboard, watched
from test_terminal import BIDI

from chaos.processes import free_port
from logbale.clients import Row
from logbale.top.answers import ORDERS, Alarm, Client, Clients, Latency, Rates, Shippers, Stats, Totals, ordered
from logbale.top.screen import Look, short, whole

CLIENTS = [
    Client(
        stream="web-1:3f2a",
        host="web-1",
        connected=True,
        last_seen=99.5,
        entries_per_second=50,
        ratio=8,
        level=6,
        algorithm="zstd",
        lag_seconds=0.3,
        spool_bytes=1500,
        wire_bytes=3000,
        dropped={"rejected": 2},
    ),
    Client(
        stream="db:77",
        host="db",
        connected=True,
        last_seen=99,
        entries_per_second=4800,
        ratio=12,
        level=2,
        algorithm="zstd",
        lag_seconds=70,
        spool_bytes=5_000_000,
        wire_bytes=9_000_000,
    ),
    Client(address="192.0.2.7:4242", connected=True, last_seen=90, entries_per_second=7, ratio=5, algorithm="gzip"),
    Client(stream="old:1", host="old", connected=False, last_seen=40, ratio=20, wire_bytes=70_000_000),
]
STATS = Stats(
    end="receiver", version="1.2.3", host="logs-1", state="OK", now=100.0, uptime=4321.0, clients=3, ratio=9.1,
    received=Totals(360_400, 82_892_000, 9_111_600), rates=Rates(4857.0, 1.1e6, 1.2e5), stored_entries=360_350,
    duplicate_entries=20, rejected_entries=10, waiting_entries=20, latency=Latency(0.004, 0.012), last_sync=99.0,
    shippers=Shippers(2, 200, 150, 10, {"dropped_oldest": 30}, 10), levels={"INFO": 5, "ERROR": 2, "": 1, "ODD": 3},
)  # fmt: skip


def screen(stats=STATS, clients=CLIENTS, *, width=80, height=24, look=None, trouble="", color=False):
    """The lines that a terminal of this size shows."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=color, no_color=not color, _environ={})
    console.print(
        whole(stats, Clients(100.0, list(clients)), look or Look(), "http://logs-1:8080", console, trouble=trouble)
    )
    return out.getvalue().splitlines()


def find(lines, pattern):
    [found] = [line for line in lines if re.search(pattern, line)]
    return found


def test_everything_fits_on_eighty_columns():
    """One screen, no line too long, each number under its name."""
    lines = screen()
    assert len(lines) == 24
    assert max(map(cell_len, lines)) <= 80
    assert re.search(r"^logs-1  receiver 1\.2\.3  up 72 min  http://logs-1:8080 +OK ?$", lines[0])
    assert re.search(r"entries/s +4,857 +raw +1\.1 MB/s +wire +120\.0 kB/s", lines[2])
    assert re.search(r"ratio +9\.1× +received raw +82\.9 MB +saved +73\.8 MB", lines[3])
    assert re.search(r"durable p50 +4 ms +durable p99 +12 ms +synced +1\.0 s ago", lines[4])
    assert find(lines, "^levels").split() == ["levels", "ERROR", "2", "INFO", "5", "none", "1", "ODD", "3"]
    assert find(lines, "^db:77").split() == [
        "db:77",
        "4,800",
        "9.0",
        "MB",
        "12.0×",
        "zstd",
        "2",
        "70",
        "s",
        "5.0",
        "MB",
        "0",
        "now",
    ]
    assert lines[-1] == "sort entries/s ratio lag spool wire drops name time seen · quit"


def test_sixty_columns_show_fewer_numbers_and_cut_none():
    """The sums stand side by side; of the clients, only a name may be cut."""
    lines = screen(width=60, height=30)
    assert max(map(cell_len, lines)) <= 60
    assert find(lines, "^in  +2").split() == ["in", "200", "360,400"]
    assert find(lines, "^waiting").split() == ["waiting", "10", "20"]
    table = lines[lines.index(find(lines, "^client")) :][:5]
    assert not any("…" in line[16:] for line in table), table
    assert find(lines, "^db").split()[1:] == ["4,800", "9.0", "MB", "12.0×", "70", "s", "5.0", "MB", "now"]


def test_wide_terminals_show_more_of_each_client():
    """Its address, raw bytes and reconnects."""
    narrow, wide = (find(screen(width=width), r"^client .*entries").split() for width in (80, 160))
    assert set(narrow) < set(wide)
    assert {"address", "identity", "raw", "again"} <= set(wide)


@pytest.mark.parametrize(
    ("key", "names"),
    [("e", "db:77 web-1:3f2a 192"), ("r", "db:77 web-1:3f2a 192"), ("l", "db:77 web-1:3f2a 192"),
     ("s", "db:77 web-1:3f2a 192"), ("w", "db:77 web-1:3f2a 192"), ("d", "web-1:3f2a 192 db:77"),
     ("n", "192 db:77 web-1:3f2a"), ("t", "web-1:3f2a db:77 192")],
)  # fmt: skip
def test_clients_can_be_sorted_by_what_matters(key, names):
    """Either way round; those who have gone come last."""
    [order] = [order for order in ORDERS if order.key == key]
    for reverse, expected in ((False, names.split()), (True, names.split()[::-1])):
        found = [client.label.split(".")[0] for client in ordered(CLIENTS, order, reverse=reverse)]
        if key != "d":  # two of them have dropped nothing
            assert found == [*expected, "old:1"]
        assert found[-1] == "old:1"


def test_a_sum_that_does_not_add_up_is_seen():
    """In red, with a sign before its name."""
    lines = screen(color=True)
    assert "≠" not in "".join(lines)
    off = msgspec.structs.replace(STATS, stored_entries=360_349)
    [line] = [line for line in screen(off, color=True) if "≠" in line]
    assert line.startswith("\x1b[1;31m≠ receiver")


def test_alarms_say_what_to_do():
    """Each with its advice; why the receiver is degraded only once."""
    low, full = (
        Alarm("warning", "8 % of the disk is free", "free some space"),
        Alarm("critical", "the disk is full", ""),
    )
    lines = screen(msgspec.structs.replace(STATS, state="DEGRADED", why="the disk is full", alarms=[low, full]))
    assert "DEGRADED" in lines[0]
    assert lines[1:3] == ["▲ 8 % of the disk is free → free some space", "▲ the disk is full"]
    worded = [Alarm("critical", "nothing can be stored: the disk is full", "")]
    lines = screen(msgspec.structs.replace(STATS, state="DEGRADED", why="the disk is full", alarms=worded))
    assert (lines[1], lines[2]) == ("▲ nothing can be stored: the disk is full", "")
    lines = screen(msgspec.structs.replace(STATS, state="DEGRADED", why="starting"))
    assert lines[1] == "▲ starting"


def test_old_numbers_are_not_shown_as_new_ones():
    """While nobody answers."""
    lines = screen(trouble="no answer for 7 s")
    assert "NO ANSWER" in lines[0]
    assert "OK" not in lines[0]
    assert lines[1] == "▲ no answer for 7 s"


def test_more_clients_than_fit_can_be_scrolled():
    """The screen keeps its size, says which part is shown, and stops at either end."""
    many = [Client(stream=f"host-{number:03}:x", connected=True, last_seen=100) for number in range(200)]
    by_name = ORDERS[6]
    for first in (0, 150, 900):
        lines = screen(clients=many, look=Look(by_name, first=first))
        rows = [line.split(":")[0] for line in lines if line.startswith("host-")]
        begin = min(first, 200 - len(rows))
        assert len(lines) == 24
        assert rows == [f"host-{number:03}" for number in range(begin, begin + len(rows))]
        assert lines[-2] == f"{begin + 1} to {begin + len(rows)} of 200 clients"


def test_shippers_of_one_host_are_told_apart_by_their_names():
    """Host and name come first: of the stream there may be no room for more than a beginning that all share."""
    streams = {name: f"vm:{number}{'0' * 31}" for number, name in enumerate(("app-log", "web-log"))}
    clients = [Client(stream=stream, host="vm", name=name, connected=True) for name, stream in streams.items()]
    lines = screen(clients=clients, width=80)
    assert [line.split()[:2] for line in lines if line.startswith("vm ")] == [["vm", "app-log"], ["vm", "web-log"]]
    assert ordered(clients, ORDERS[6], reverse=True) == clients[::-1]


HOSTILE_TEXT = st.text(max_size=60) | st.sampled_from(
    ["\x1b[2J", "\u202egnp", "[bold]x[/]", "a\tb\nc", "\x9b31m", "x" * 300]
)


@given(HOSTILE_TEXT, st.integers(20, 200), st.integers(3, 60), st.integers(0, 2**53), st.floats(0, 1e15))
def test_no_name_and_no_number_breaks_the_screen(text, width, height, number, duration):
    """Nothing in it that a terminal would obey; no line is wider than the terminal."""
    client = Client(
        stream=text, name=text, host=text, address=text, agent=text, identity=text, connected=bool(number % 2),
        algorithm=text, level=number, lag_seconds=duration, spool_bytes=number, wire_bytes=number, raw_bytes=number,
        dropped={text: number}, entries_per_second=duration, ratio=duration, reconnects=number,
    )  # fmt: skip
    stats = Stats(
        end=text, version=text, host=text, state=text, why=text, now=duration, uptime=duration, received=Totals(number),
        rates=Rates(duration, duration, duration), latency=Latency(duration, None), levels={text: number},
        alarms=[Alarm(text, text, text)], shippers=Shippers(number, number, dropped={text: number}), last_sync=0.0,
    )  # fmt: skip
    lines = screen(stats, [client], width=width, height=height, trouble=text)
    for line in lines:
        assert cell_len(line) <= width
        assert not [char for char in line if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in BIDI]


def test_a_receiver_that_says_less_or_more_is_understood():
    """Another version's fields are passed over, missing ones have a default."""
    assert msgspec.json.decode(b'{"end":"receiver","news":[1]}', type=Stats).host == ""
    assert msgspec.json.decode(b'{"clients":[{"stream":"x","news":{}}]}', type=Clients).clients[0].label == "x"


def test_every_field_that_is_read_of_a_client_is_one_that_a_receiver_sends():
    """The names and the types are those of /api/clients."""
    ours = {field.name: field.type for field in msgspec.structs.fields(Client)}
    theirs = {field.name: field.type for field in msgspec.structs.fields(Row)}
    assert set(ours) <= set(theirs)
    assert {name: theirs[name] for name in ours} == ours


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.004, "4 ms"), (3.24, "3.2 s"), (42, "42 s"), (150, "2 min"), (7000, "2 h"), (400_000, "5 d")],
)
def test_a_short_duration_has_one_unit(seconds, shown):
    """It stands in a table."""
    assert short(seconds) == shown


# The command


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A receiver that has got entries of a base client."""
    with watched(tmp_path_factory.mktemp("receiver")) as process:
        host, port = process.address.rsplit(":", 1)
        connection = connect((host, int(port)))
        connection.sendall(frame([{"level": "ERROR"}] * 30, "gzip"))
        finish(connection)
        yield process


def test_in_a_pipe_it_prints_once(busy):
    """All of it, without colours and without a footer; as wide as COLUMNS says."""
    ended = logbale_run("top", busy.dashboard)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout
    assert re.search(r"^receiver +30 +30 ", ended.stdout, re.MULTILINE)
    assert "levels  ERROR 30" in ended.stdout
    assert "quit" not in ended.stdout
    narrow = logbale_run("top", busy.dashboard, "--once", COLUMNS="80").stdout
    assert max(map(len, narrow.splitlines())) <= 80


def test_it_watches_obeys_keys_and_gives_the_terminal_back(busy):
    """The other screen while it runs; keys without an echo; the terminal's settings as before."""
    with Terminal("top", busy.dashboard, columns=80, lines=24) as terminal:
        terminal.shows(r"entries/s▼")
        assert terminal.shown.startswith("\x1b[?1049h")
        terminal.shows(r"ratio▼", terminal.type("r"))
        terminal.shows(r"ratio▲", terminal.type("r"))
        terminal.shows(r"client▲", terminal.type("n"))
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.shown.endswith("\x1b[?1049l\x1b[?25h") or terminal.shown.endswith("\x1b[?25h\x1b[?1049l")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_gives_the_terminal_back_too(busy, number, code):
    """Ctrl-C and SIGTERM alike."""
    with Terminal("top", busy.dashboard) as terminal:
        terminal.shows(r"entries/s▼")
        assert terminal.end(number) == code
        assert "\x1b[?1049l" in terminal.shown[-40:]
        assert "\x1b[?25h" in terminal.shown[-40:]


def test_another_size_is_another_screen_at_once(busy):
    """Without waiting for the next numbers."""
    with Terminal("top", busy.dashboard, "--interval", "3600", columns=80, lines=24) as terminal:
        terminal.shows(r"entries/s▼")
        since = len(terminal.shown)
        terminal.resize(160, 40)
        terminal.shows(r"address +identity", since)
        terminal.type("q")
        assert terminal.end() == 0


def test_a_receiver_that_goes_and_comes_back_is_shown_as_such(tmp_path):
    """The last numbers stay on the screen, with a word about it."""
    port = ("--dashboard-port", free_port())
    with watched(tmp_path, *port) as first, Terminal("top", first.dashboard, "--interval", "0.2") as terminal:
        terminal.shows(r"\bOK\b")
        first.end()
        terminal.shows(r"NO ANSWER")
        terminal.shows(r"no dashboard at \S+ \(Connection refused\)")
        since = len(terminal.shown)
        with watched(tmp_path, *port):
            terminal.shows(r"\bOK\b", since)
        terminal.type("q")
        assert terminal.end() == 0


JSON = "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"end": "shipper"}', "is the dashboard of a shipper: expected a receiver's"),
        ('{"end": "\x1b[2J"}', "answers what no logbale of this version does"),
        (
            '{"end": "receiver", "clients": []}',
            "answers what no logbale of this version does: Expected `int`, got `array`",
        ),
        ("<html>", "answers what no logbale of this version does"),
    ],
)
def test_what_is_no_receiver_is_said_in_one_line(body, says):
    """69, and what it was."""
    with FakeDashboard(JSON % (len(body), body)) as dashboard:
        ended = logbale_run("top", dashboard.address)
    assert (ended.returncode, ended.stdout) == (69, "")
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1
