"""What the table of clients promises: a row for each, kept over reconnects, bounded, and times that hold."""

import pytest

from logbale import clients as clients_module
from logbale.clients import GONE_AFTER, KEPT_SECONDS, MAX_TEXT, SILENT_AFTER, Clients, Load
from logbale.liveness import Liveness
from logbale.protocol import Algorithm
from logbale.reports import Report, encode_report


def connect(clients, stream="web-1", *, now=0.0, address="192.0.2.1:7", **more):
    live = Liveness(now)
    return clients.connected(stream=stream, address=address, live=live, now=now, **more), live


def report(read=10, delivered=10, **more):
    return encode_report(Report(read=read, delivered=delivered, waiting_entries=read - delivered, **more))


def rows(clients, now=0.0, unix=1_000_000.0):
    return {row.id: row for row in clients.rows(now, unix)}


def test_a_stream_that_reconnects_keeps_its_row():
    """What it sent goes on, where it comes from is new, and the reconnect is counted."""
    clients = Clients()
    client, live = connect(clients, host="a", agent="logbale/1")
    client.add(Algorithm.ZSTD, 50, 5_000, 500)
    live.heard(3.0)
    clients.disconnected(client, live, live.heard_at)
    again, _ = connect(clients, now=60.0, address="192.0.2.2:8", host="b")
    assert again is client
    again.add(Algorithm.GZIP, 50, 5_000, 500)
    row = rows(clients, now=100.0)["web-1"]
    assert (row.entries, row.raw_bytes, row.wire_bytes, row.ratio) == (100, 10_000, 1_000, 10.0)
    assert (row.address, row.host, row.reconnects, row.connected) == ("192.0.2.2:8", "b", 1, True)
    assert (row.connected_since, row.algorithm) == (1_000_000.0 - 40.0, "gzip")


def test_a_connection_that_was_superseded_takes_nobody_along():
    """Its end comes after the newer one's beginning."""
    clients = Clients()
    client, old = connect(clients)
    _, new = connect(clients, now=1.0)
    clients.disconnected(client, old, 2.0)
    assert rows(clients)["web-1"].connected
    clients.disconnected(client, new, 3.0)
    assert not rows(clients)["web-1"].connected


def test_a_base_client_is_another_one_each_time():
    """It has no name; and no stream can have its id."""
    clients = Clients()
    for port in (7, 8):
        connect(clients, "", address=f"192.0.2.1:{port}")
    connect(clients, "192.0.2.1:7")
    assert set(rows(clients)) == {"base/192.0.2.1:7", "base/192.0.2.1:8", "192.0.2.1:7"}


def test_the_rate_is_that_of_the_last_seconds():
    """And 0 soon after the last entry."""
    clients = Clients()
    client, _ = connect(clients)
    for second in range(1, 31):
        client.add(Algorithm.ZSTD, 100, 1_000, 100)
        clients.tick(float(second))
    assert rows(clients, now=30.0)["web-1"].entries_per_second == pytest.approx(100, rel=0.01)
    for second in range(31, 45):
        clients.tick(float(second))
    assert rows(clients, now=44.0)["web-1"].entries_per_second == 0


def test_rows_are_bounded_and_the_first_gone_leaves_first(monkeypatch):
    """Connected ones come first; what is not shown is counted; after a day who has gone is forgotten."""
    monkeypatch.setattr(clients_module, "MAX_ROWS", 3)
    clients = Clients()
    for n in range(6):
        client, live = connect(clients, f"gone-{n}", now=float(n))
        clients.disconnected(client, live, live.heard_at)
    assert list(rows(clients)) == ["gone-5", "gone-4", "gone-3"]
    for n in range(2):
        connect(clients, f"here-{n}")
    assert list(rows(clients)) == ["here-0", "here-1", "gone-5"]
    assert len(clients) == 5
    clients.tick(KEPT_SECONDS + 4.5)
    assert list(rows(clients)) == ["here-0", "here-1", "gone-5"]
    clients.tick(KEPT_SECONDS + 5.0)
    assert list(rows(clients)) == ["here-0", "here-1"]


def test_a_client_is_missed_when_it_went_without_a_word():
    """Not before SILENT_AFTER, not when it said that it was done, and no base client, which may be silent for days."""
    clients = Clients()
    done, done_live = connect(clients, "done")
    done.take_report(report(ended=True), 1.0)
    cut, cut_live = connect(clients, "cut")
    cut.take_report(report(), 1.0)
    base, _ = connect(clients, "")
    clients.disconnected(done, done_live, 0.0)
    clients.disconnected(cut, cut_live, 0.0)
    assert [client.is_missed(SILENT_AFTER - 1) for client in (done, cut, base)] == [False, False, False]
    assert [client.is_missed(SILENT_AFTER) for client in (done, cut, base)] == [False, True, False]
    _, live = connect(clients, "cut", now=SILENT_AFTER + 1)
    assert not cut.is_missed(SILENT_AFTER + 2)
    assert not cut.is_missed(10 * SILENT_AFTER)  # connected, and not read, because the disk is full for example
    clients.disconnected(cut, live, 10 * SILENT_AFTER)
    assert not cut.is_missed(10 * SILENT_AFTER + GONE_AFTER - 1)
    assert cut.is_missed(10 * SILENT_AFTER + GONE_AFTER)


@pytest.mark.parametrize(
    ("host", "label"),
    [("web", "web s-1"), ("", "s-1"), ("s", "s-1"), ("a\nb", "s-1"), ("\x1b[2J", "s-1"), ("\u202egnp", "s-1")],
)
def test_a_clients_label_is_one_plain_line(host, label):
    """Whatever it calls itself; alarms are made of it."""
    clients = Clients()
    client, _ = connect(clients, "s-1", host=host)
    assert client.label == label


def test_shippers_of_one_host_are_told_apart_by_their_names():
    """Host, name, stream; a row has the name, the one of the last connection."""
    clients = Clients()
    client, live = connect(clients, "vm:1", host="vm", name="app")
    assert client.label == "vm app vm:1"
    clients.disconnected(client, live, 1.0)
    connect(clients, "vm:1", host="vm", name="web")
    assert rows(clients)["vm:1"].name == "web"


def test_reports_of_connected_shippers_are_added_up():
    """Those that have gone, and those that never reported, have no part."""
    clients = Clients()
    for n in range(3):
        client, live = connect(clients, f"web-{n}")
        client.take_report(report(10, 7, level=n, dropped={"damaged": 2}, rejected=1, backlog_bytes=50), 1.0)
        if n == 2:
            clients.disconnected(client, live, live.heard_at)
    connect(clients, "silent")
    found = clients.reported()
    assert (found.reporting, found.read_entries, found.delivered_entries, found.waiting_entries) == (2, 20, 14, 6)
    assert (found.rejected_entries, found.dropped) == (2, {"damaged": 4})
    assert clients.load() == Load(level=0.5, cpu_percent=None, backlog_bytes=100.0)
    assert Clients().load() == Load()


def test_a_restarted_shipper_reports_anew():
    """What the process before it said is not taken for its own."""
    clients = Clients()
    client, live = connect(clients)
    client.take_report(report(1000, 900), 1.0)
    clients.disconnected(client, live, live.heard_at)
    assert rows(clients)["web-1"].report["read"] == 1000
    connect(clients, now=2.0)
    assert rows(clients)["web-1"].report is None
    assert clients.reported().reporting == 0


def test_a_bad_report_leaves_the_last_good_one():
    """Whoever sends nonsense is not believed."""
    clients = Clients()
    client, _ = connect(clients)
    assert client.take_report(report(5, 5), 1.0)
    assert not client.take_report(b'{"read":"x"}', 2.0)
    assert rows(clients, now=3.0, unix=103.0)["web-1"].reported_at == 101.0


def test_a_change_of_level_is_taken_once():
    """Each report repeats the last ones."""
    clients = Clients()
    client, _ = connect(clients)
    client.take_report(report(changes=[(10.0, 6, 5, "a")]), 1.0)
    client.take_report(report(changes=[(10.0, 6, 5, "a"), (11.0, 5, 4, "b")]), 2.0)
    assert [change[1:] for change in client.take_changes()] == [(6, 5, "a"), (5, 4, "b")]
    client.take_report(report(changes=[(10.0, 6, 5, "a"), (11.0, 5, 4, "b")]), 3.0)
    assert client.take_changes() == []


def test_what_a_client_calls_itself_is_cut():
    """A name of a kilobyte is no name."""
    clients = Clients()
    client, _ = connect(clients, name="n" * 1024, host="h" * 1024, agent="a" * 1024)
    assert len(client.name) == len(client.host) == len(client.agent) == MAX_TEXT


def test_a_hundred_thousand_names_are_a_thousand_rows():
    """Streams that come and go leave no more behind than is shown."""
    clients = Clients()
    for n in range(100_000):
        client, live = connect(clients, f"web-{n}", now=float(n))
        clients.disconnected(client, live, live.heard_at)
    assert len(clients) == clients_module.MAX_ROWS
    assert next(iter(clients)).id == "web-99999"
