"""What a followed shipper and a receiver show on a terminal: one line that stays the last one, and a sound end."""

import re
import signal

import msgspec
import pytest
from cli_process import receiver
from terminals import Terminal, plain
from test_metrics_port import RECEIVER

from logbale.metrics import ReceiverMetrics, ShipperMetrics
from logbale.status_line import line_of


def shipper(**changes):
    metrics = ShipperMetrics(now=0.0, algorithm="zstd", level=6)
    metrics.connected = True
    metrics.delivered_entries = 48_000
    metrics.batch_sent(entries=48_000, raw_bytes=800_000, wire_bytes=100_000)
    metrics.spool_bytes, metrics.oldest_waiting = 1_234, 0.3
    for name, value in changes.items():
        setattr(metrics, name, value)
    return metrics.snapshot(10.0)


def test_a_shipper_says_how_it_is_how_fast_and_what_waits():
    """The connection first, then what it does; what is lost would come before all that."""
    assert (
        line_of(shipper(), 120, color=False)
        == "● connected  4,800/s  8.0×  spool 1.2 kB  lag 300 ms  delivered 48,000  zstd 6"
    )
    assert line_of(shipper(connected=False), 120, color=False).startswith("○ not connected  4,800/s")
    assert line_of(shipper(dropped={"rejected": 3}), 120, color=False).startswith("● connected  dropped 3  4,800/s")
    assert line_of(shipper(algorithm="none"), 120, color=False).endswith("  none")


def test_a_receiver_says_who_is_there_and_what_it_does():
    """Clients, speed, ratio, what it has stored and what waits."""
    metrics = ReceiverMetrics(now=0.0)
    metrics.clients = 2
    assert line_of(metrics.snapshot(5.0), 120, color=False) == "● 2 clients  0/s  –  wire 0 B/s  stored 0  waiting 0"


def test_a_relay_says_what_has_still_to_go():
    """In place of what waits for its own disk; and it is bad where something waits and no session is open."""
    metrics = ReceiverMetrics(now=0.0)
    metrics.clients = 2
    told = {"forwarded_entries": 1200, "waiting_entries": 50, "oldest_waiting": 3.0}
    metrics.relay = msgspec.structs.replace(RECEIVER.relay, **told)
    line = "2 clients  0/s  –  wire 0 B/s  stored 0  forwarded 1,200  to go 50  lag 3.0 s"
    assert line_of(metrics.snapshot(5.0), 120, color=False) == f"● {line}"
    metrics.relay = msgspec.structs.replace(metrics.relay, sessions=0)
    assert line_of(metrics.snapshot(5.0), 120, color=False).startswith("○ 2 clients, not connected  0/s")


@pytest.mark.parametrize("width", [1, 2, 10, 40, 79, 80, 81, 200])
def test_the_line_is_never_wider_than_the_terminal(width):
    """One column stays free; colours take none, and go on nowhere."""
    colored = line_of(shipper(), width, color=True)
    assert plain(colored) == line_of(shipper(), width, color=False)
    assert len(plain(colored)) <= max(1, width - 1)
    assert colored.count("\x1b[") == 2


def lines_on_screen(shown):
    """What stands on the screen in the end, by line: a carriage return begins a line anew."""
    return [re.split(r"\r(?:\x1b\[K)?", line)[-1] for line in plain_colours(shown).replace("\r\n", "\n").split("\n")]


def plain_colours(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_followed_file_has_a_status_line_below_the_messages(tmp_path):
    """No summary lines; messages whole and above it; at the end it makes room for the table."""
    log = tmp_path / "app.log"
    log.touch()
    with receiver(tmp_path) as receiving:
        arguments = ("ship", log, "--to", receiving.address)
        with Terminal(*arguments, columns=100, SPOOL_DIR=str(tmp_path / "spool")) as terminal:
            terminal.shows(r"● connected  0/s")
            with log.open("a") as file:
                file.write("one\ntwo\n")
            terminal.shows(r"delivered 2  zstd 6")
            assert receiving.end() == 0
            terminal.shows(r"○ not connected .* delivered 2")
            since = len(terminal.shown)
            terminal.shows(r"Connection refused", since)
            terminal.end(signal.SIGINT)
    lines = lines_on_screen(terminal.shown)
    assert not [line for line in lines if line.startswith(("●", "○"))]
    messages = [line for line in lines if "logbale" in line]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\S+Z \w+ +logbale ", line) for line in messages)
    assert not [line for line in messages if "entries in" in line]
    assert any("entries delivered" in line for line in lines)


def test_the_line_is_redrawn_in_one_write_and_the_cursor_stays(tmp_path):
    """Nothing flickers, and whoever kills it leaves a sound terminal."""
    with Terminal("receive", "--listen", "127.0.0.1:0", "--archive", tmp_path / "archive") as terminal:
        terminal.shows(r"● 0 clients")
        assert "\x1b[?25l" not in terminal.shown
        for piece in terminal.pieces[1:-1]:
            assert "\x1b[K" not in piece or "●" in piece or "logbale" in piece, piece
        assert terminal.end(signal.SIGTERM) == 0
    assert not [line for line in lines_on_screen(terminal.shown) if line.startswith("●")]


@pytest.mark.parametrize(
    ("options", "environ"), [(["-q"], {}), (["--sink", "console"], {}), ([], {"TERM": "dumb"})], ids=str
)
def test_where_a_line_that_stays_has_no_place_there_is_none(tmp_path, options, environ):
    """Quiet, entries on the same terminal, a terminal that knows no movements."""
    arguments = ("receive", "--listen", "127.0.0.1:0", *options)
    with Terminal(*arguments, ARCHIVE_DIR=str(tmp_path / "archive"), **environ) as terminal:
        if "-q" not in options:
            terminal.shows("listening on")
        assert terminal.end(signal.SIGTERM) in (0, -signal.SIGTERM)
        assert "●" not in terminal.shown
