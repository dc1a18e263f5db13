"""What people see: an entry is one line that cannot do anything to a terminal; numbers read the same everywhere."""

import json
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_metrics_port import RECEIVER

from logbale.metrics import ReceiverMetrics, ShipperMetrics
from logbale.protocol import Algorithm
from logbale.status import progress_text, rows, summary
from logbale.terminal import (
    count,
    duration,
    escape,
    escape_json,
    format_entry,
    rate,
    ratio,
    size,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
entries = st.dictionaries(
    st.sampled_from(["timestamp", "level", "service", "message", "host"]) | st.text(), json_values, max_size=6
)


def obeyed(text):
    """The characters in it that a terminal would obey, hide or reorder by."""
    return [char for char in text if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in BIDI]


BIDI = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c\u200b\u200c\u200d\u2060\ufeff"


# Escaping


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größe, 日本, 😀\tx", "plain, größe, 日本, 😀\tx"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\r\nb\x00\x7f", r"a\r\nb\x00\x7f"),
        ("user\u202egnp.exe", r"user\u202egnp.exe"),
        ("\u2066\u200b\ufeff\u2028", r"\u2066\u200b\ufeff\u2028"),
        ("\U000e0041", r"\U000e0041"),
        ("\ud83d", r"\ud83d"),
    ],
)
def test_what_a_terminal_obeys_is_shown_instead(text, shown):
    """As Python would write it; ordinary text of any script is left alone."""
    assert escape(text) == shown


@given(st.text(st.characters(), max_size=50))
def test_nothing_that_is_obeyed_survives(text):
    """Whatever the text; the tab is text. Escaping twice changes nothing more."""
    shown = escape(text)
    assert not obeyed(shown.replace("\t", ""))
    assert escape(shown) == shown


@given(json_values)
def test_escaped_json_is_the_same_json(value):
    """Only another way to write it."""
    shown = escape_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(shown) == value
    assert not obeyed(shown)


# Entries


def test_an_entry_is_time_level_service_message_and_the_rest():
    """Milliseconds are enough for reading; words that would run together are quoted."""
    line = (
        b'{"timestamp":"2026-11-24T08:30:00.123456Z","level":"ERROR","service":"shop","message":"no stock",'
        b'"order":12,"path":"/a b","parts":{"x":[1]},"empty":""}'
    )
    assert format_entry(line) == (
        '2026-11-24T08:30:00.123Z ERROR    shop no stock order=12 path="/a b" parts="{"x":[1]}" empty=""'
    )


def test_a_field_that_is_missing_leaves_its_place_visible():
    """Level and time keep the columns; a service that is none takes no room."""
    assert format_entry({"message": "hi"}) == "- -        hi"


def test_lines_of_a_message_stay_in_one_line():
    """A stack trace is one entry."""
    assert format_entry({"message": "failed\n  at x\n  at y"}) == r"- -        failed\n  at x\n  at y"


@pytest.mark.parametrize("line", [b"[1]", b"\xff\x1b[0m", b"", b'{"a":'])
def test_what_is_no_entry_is_shown_all_the_same(line):
    """As text, escaped."""
    shown = format_entry(line)
    assert not obeyed(shown)
    assert shown.startswith(("[1]", "\\xff", "", '{"a":'))


@given(entries)
def test_any_entry_is_one_harmless_line(fields):
    """In JSON or as fields, the same; no key, value or nesting gets through."""
    shown = format_entry(json.dumps(fields).encode())
    assert not obeyed(shown.replace("\t", ""))
    assert shown == format_entry(fields)


@given(entries)
def test_colour_changes_nothing_but_colour(fields):
    """Only our own codes are added, and what they begin ends on the line."""
    colored = format_entry(fields, color=True)
    for code in ("\x1b[0m", "\x1b[1;31m", "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[36m", "\x1b[2m"):
        colored = colored.replace(code, "")
    assert colored == format_entry(fields)


# Numbers


def test_numbers_read_the_same_everywhere():
    """Decimal units, one decimal, commas."""
    assert [size(number) for number in (0, 999, 1000, 1_234_567, 999_960, 5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.2 MB",
        "1.0 MB",
        "5.0 TB",
    ]
    assert [rate(number) for number in (0, 0.52, 9.96, 4800)] == ["0/s", "0.5/s", "10/s", "4,800/s"]
    assert [ratio(number) for number in (0, 7.94)] == ["–", "7.9×"]
    assert [duration(number) for number in (0.0124, 3.21, 59.97, 125, 12_300)] == [
        "12 ms",
        "3.2 s",
        "1 min 0 s",
        "2 min 5 s",
        "3 h 25 min",
    ]
    assert [count(number, "entry", "entries") for number in (1, 4800)] == ["1 entry", "4,800 entries"]


def shipper():
    metrics = ShipperMetrics(now=0.0, algorithm="zstd", level=3)
    metrics.read_entries = 1200
    metrics.connected = True
    metrics.batch_sent(entries=1000, raw_bytes=120_000, wire_bytes=20_000)
    metrics.delivered_entries = 1000
    metrics.waiting_entries = 200
    return metrics


def test_a_shippers_summary_is_one_line():
    """What it did, how fast, and what is not as it should be."""
    metrics = shipper()
    assert summary(metrics.snapshot(10.0)) == (
        "delivered 1,000 entries, sent 1,000 entries in 1 batch, 120.0 kB raw, 20.0 kB wire (6.0×), 100/s; 200 waiting"
    )
    metrics.connected = False
    metrics.connections = 3
    metrics.dropped = {"rejected": 5}
    metrics.errors["connect"] = 4
    assert summary(metrics.snapshot(20.0)).endswith(
        "; 200 waiting; 5 dropped; 2 reconnects; not connected; errors: connect 4"
    )


def test_a_receivers_summary_is_one_line():
    """Likewise."""
    metrics = ReceiverMetrics(now=0.0)
    metrics.clients = 1
    metrics.batch_received(Algorithm.GZIP, entries=50, raw_bytes=5000, wire_bytes=1000)
    metrics.stored_entries = 40
    assert summary(metrics.snapshot(10.0)) == (
        "stored 40 entries, received 50 entries in 1 batch, 5.0 kB raw, 1.0 kB wire (5.0×), 5.0/s from 1 client; "
        "10 waiting"
    )


def relayed(**changes):
    told = {
        "forwarded_entries": 30,
        "waiting_entries": 10,
        "oldest_waiting": 90.0,
        "rejected_entries": 0,
        "dropped": {},
    }
    metrics = ReceiverMetrics(now=0.0)
    metrics.stored_entries = 40
    metrics.relay = msgspec.structs.replace(RECEIVER.relay, **(told | changes))
    return metrics.snapshot(10.0)


def test_a_relays_summary_says_what_became_of_what_is_stored():
    """How much is upstream and how much has still to go; and, if so, that nobody is there."""
    assert summary(relayed()).endswith(
        "; forwarded 30 entries to far.example.org:5000, 10 to go, the oldest for 1 min 30 s"
    )
    away = relayed(sessions=0, last_error="Connection refused", dropped={"dropped_damaged": 2}, rejected_entries=3)
    assert summary(away).endswith(
        "; forwarded 30 entries to far.example.org:5000, 3 rejected there, 2 never came, 10 to go, "
        "the oldest for 1 min 30 s, no session with it: Connection refused"
    )
    table = dict(rows(away))
    assert (table["entries forwarded"], table["entries to go"]) == ("30", "10")
    assert (table["entries rejected upstream"], table["entries dropped (damaged)"]) == ("3", "2")


def test_the_tables_have_what_was_asked_for():
    """Entries, batches, both weights, ratio, speed, errors by reason, reconnects."""
    table = dict(rows(shipper().snapshot(10.0)))
    assert (table["entries delivered"], table["entries sent"]) == ("1,000", "1,000")
    assert table["raw"] == "120.0 kB = 120,000 B"
    assert table["wire"] == "20.0 kB = 20,000 B"
    assert table["ratio"] == "6.0×"
    assert table["entries/s, mean"] == "100"
    assert table["entries waiting"] == "200"
    assert {"batches", "reconnects", "errors", "time"} <= table.keys()
    assert "entries left from before" not in table
    metrics = ReceiverMetrics(now=0.0)
    metrics.frame_refused("corrupt")
    table = dict(rows(metrics.snapshot(1.0)))
    assert (table["bad frames"], table["errors"], table["entries stored"]) == ("1", "corrupt 1", "0")


def test_the_table_adds_up_after_an_earlier_run():
    """Left from before + read = delivered + dropped + waiting."""
    table = dict(rows(shipper().snapshot(10.0), left_before=150))
    parts = ("entries left from before", "entries read", "entries delivered", "entries waiting")
    left, read, delivered, waiting = (int(table[part].replace(",", "")) for part in parts)
    assert left == 150
    assert left + read == delivered + waiting


def test_progress_says_how_far_how_fast_and_what_waits():
    """The share only where the end is known."""
    snapshot = shipper().snapshot(10.0)
    assert progress_text(snapshot, 50, 200) == " 25 %  1,000 entries  100/s  6.0×  200 waiting"
    assert progress_text(snapshot, 50, None) == "1,000 entries  100/s  6.0×  200 waiting"
