"""A shipper and several receivers in one process: who is tried, what the next one is told, and when it is gone back."""

import asyncio
import contextlib
import random
import socket

import msgspec
import pytest
from certificates import Certificates
from cli_process import logbale_run
from test_delivery import KeepingSink, Numbers
from waiting import eventually

from chaos.processes import free_port
from logbale import connecting, failover, open_session, receivers, session_link
from logbale.config import Settings, load
from logbale.config.exposure import refuse_unsafe_shipper
from logbale.errors import ConfigError, StorageError
from logbale.log_shipper import LogShipper
from logbale.metrics import ReceiverMetrics
from logbale.receivers import Receivers, several
from logbale.rendezvous import preference
from logbale.sent_to import Noted, SentTo
from logbale.session import ShipperSession
from logbale.spool import DiskSpool, MemoryStore
from logbale.status import status
from logbale.tcp_server import TCPLogReceiver
from logbale.tls.material import receiver_tls
from logbale.top.answers import Client
from logbale.top.screen import COLUMNS

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Nobody waits long."""
    monkeypatch.setattr(failover, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(failover, "LONGEST_DELAY", 0.01)
    monkeypatch.setattr("logbale.tcp_server.LIVENESS_INTERVAL", 0.02)
    monkeypatch.setattr("logbale.tcp_server.BUSY_INTERVAL", 0.02)


class Full(KeepingSink):
    """Cannot store anything."""

    async def commit(self, items):
        raise StorageError("no space")


async def started(port=None, sink=None, host="127.0.0.1", tls=None, **settings):
    settings = Settings(server_host=host, server_port=port or free_port(), **settings)
    server = TCPLogReceiver(settings, sink or KeepingSink(), ReceiverMetrics(now=0.0), tls)
    await server.start()
    server.name = "{}:{}".format(*server.address[:2])  # also when it has stopped
    return server


def name_of(server):
    return server.name


def in_order(*servers, stream="s"):
    """The receivers, the first choice of the stream first."""
    by_name = {name_of(server): server for server in servers}
    return [by_name[name] for name in preference(stream, by_name)]


def shipper(to, source, *, store=None, **settings):
    options = {"batch_size": 5, "drain_timeout": 60.0, "return_interval": 0.05, **settings}
    return LogShipper(Settings(receivers=to, **options), source, store=store or MemoryStore("s"))


@contextlib.asynccontextmanager
async def several_receivers(*sinks, **settings):
    """A receiver for each sink, the first choice first; whatever order their ports make."""
    servers = in_order(*[await started(**settings) for _ in sinks])
    for server, sink in zip(servers, sinks, strict=True):
        server.sink = server.committer._sink = sink
    try:
        yield servers
    finally:
        for server in servers:
            await server.stop(deadline=0.0)


def to(servers):
    return ",".join(map(name_of, servers))


def test_what_the_first_was_sent_and_did_not_acknowledge_is_marked_at_the_next(run):
    """And nothing else: what is read after that no other receiver can have."""

    async def scenario():
        sinks = KeepingSink(), KeepingSink()
        sinks[0].open.clear()
        async with several_receivers(*sinks) as servers:
            ships = shipper(to(servers), Numbers(40, then="wait"), batch_interval=0.1)
            running = asyncio.create_task(ships.run())
            await eventually(lambda: servers[0].metrics.received.entries == 40)
            await servers[0].stop(deadline=0.0)
            await eventually(lambda: len(sinks[1].numbers) == 40)
            assert {item.elsewhere for item in sinks[1].items} == {True}
            assert sinks[1].items[0].base == 1
            sequences = len(sinks[1].items)
            ships._queue.append(await one_batch())
            await eventually(lambda: len(sinks[1].items) > sequences)
            assert not sinks[1].items[-1].elsewhere
            ships.stop()
            report = await running
            assert (report.delivered, report.snapshot.failovers) == (True, 1)
            assert sinks[0].items == []

    run(scenario)


async def one_batch():
    from chunks import batch_of

    return batch_of([{"n": 1000}])


def test_what_another_receiver_may_have_is_not_dropped_to_make_room(run, tmp_path):
    """With drop_oldest: it may be stored there, so it is no loss that could be counted, nor one to tell the next of."""
    from chunks import batch_of

    def batches(numbers):
        return [batch_of([{"n": n, "text": random.Random(n).randbytes(3000).hex()}]) for n in numbers]

    async def scenario():
        sinks = KeepingSink(), KeepingSink()
        async with several_receivers(*sinks) as servers:
            spool = DiskSpool(tmp_path, max_bytes=32_000)
            spool.open()
            ships = shipper(to(servers), Numbers(0, then="wait"), store=spool, spool_policy="drop_oldest")
            first, second = in_order(*servers, stream=spool.stream)
            for sink in sinks:
                sink.open.clear()
            running = asyncio.create_task(ships.run())
            for batch in batches(range(1, 7)):
                ships._queue.append(batch)
            await eventually(lambda: first.metrics.received.entries == 6)
            ships._link.follow(msgspec.structs.replace(ships.settings, window_bytes=1))
            await first.stop(deadline=0.0)
            await eventually(lambda: second.metrics.received.entries == 1)
            for number, batch in enumerate(batches(range(7, 30)), start=7):
                ships._queue.append(batch)
                await eventually(lambda number=number: spool.next_sequence > number)
            second.sink.open.set()
            ships.stop()
            report = await running
            dropped = report.snapshot.dropped["dropped_drop_oldest"]
            assert report.delivered
            assert dropped
            assert second.metrics.skipped_entries == dropped
            assert len(second.sink.numbers) == 29 - dropped
            assert second.sink.numbers[:6] == [1, 2, 3, 4, 5, 6]

    run(scenario)


def test_a_receiver_that_cannot_store_for_long_is_left_for_another(run, monkeypatch):
    """`busy` for BUSY_SECONDS without an acknowledgement; what it was sent is marked at the next."""
    monkeypatch.setattr(open_session, "BUSY_SECONDS", 0.2)

    async def scenario():
        async with several_receivers(Full(), KeepingSink()) as servers:
            report = await shipper(to(servers), Numbers(40), return_interval=60.0).run()
            assert report.delivered
            assert servers[1].sink.numbers == list(range(40))
            assert servers[1].sink.items[0].elsewhere
            assert report.snapshot.errors == {"busy": 1}

    run(scenario)


def test_one_receiver_alone_is_waited_for_however_long_it_cannot_store(run, monkeypatch):
    """As ever: there is nowhere to go, and what it has accepted need not be sent again."""
    monkeypatch.setattr(open_session, "BUSY_SECONDS", 0.05)

    async def scenario():
        async with several_receivers(Full()) as servers:
            ships = shipper(to(servers), Numbers(10, then="wait"), drain_timeout=0.0)
            running = asyncio.create_task(ships.run())
            await eventually(lambda: servers[0].metrics.errors["storage"])
            await asyncio.sleep(0.3)
            ships.stop()
            report = await running
            assert (report.delivered, report.snapshot.reconnects, report.snapshot.errors) == (False, 0, {})

    run(scenario)


def test_a_receiver_that_refuses_is_passed_over(run):
    """Without a token there, with none needed elsewhere: the stream goes where it is taken."""

    async def scenario():
        open_to_all, guarded = await started(), await started(tokens_file="")
        first, second = in_order(open_to_all, guarded)
        try:
            first.access.refusal = lambda *_: "no_token"
            report = await shipper(to([first, second]), Numbers(20), return_interval=60.0).run()
            assert report.delivered
            assert second.sink.numbers == list(range(20))
            assert report.snapshot.errors == {"unauthorized": 1}
            assert (report.snapshot.receiver, report.snapshot.receiver_choice) == (name_of(second), 2)
            assert "connected" not in report.why
        finally:
            await first.stop(deadline=0.0)
            await second.stop(deadline=0.0)

    run(scenario)


async def shipping_to_the_second(servers):
    """The first choice stopped, and its port; a shipper that is in session with the second, and its run."""
    first, second = servers
    await first.stop(deadline=0.0)
    ships = shipper(to(servers), Trickle(), batch_interval=0.01, batch_linger=0.0)
    running = asyncio.create_task(ships.run())
    await eventually(lambda: len(second.sink.numbers) > 20)
    return int(first.name.rpartition(":")[2]), ships, running


def test_the_first_choice_is_gone_back_to_without_a_batch_sent_twice(run):
    """The session that is left first gets its acknowledgements, and says that it ends as it should."""

    async def scenario():
        async with several_receivers(KeepingSink(), KeepingSink()) as servers:
            _, second = servers
            port, ships, running = await shipping_to_the_second(servers)
            assert status(ships.snapshot())[1] == f"connected to {name_of(second)}, choice 2 of 2"
            back = await started(port)
            try:
                await eventually(lambda: len(back.sink.numbers) > 20)
                ships.stop()
                report = await running
                assert report.delivered
                assert (report.snapshot.receiver_choice, report.snapshot.failovers) == (1, 1)
                assert second.sink.numbers + back.sink.numbers == list(range(report.snapshot.read_entries))
                for server in (second, back):
                    assert server.metrics.duplicate_entries == 0
                    assert not any(item.elsewhere for item in server.sink.items)
                    [row] = server.clients.rows(asyncio.get_running_loop().time(), 0.0)
                    assert row.report["ended"]
                assert back.sink.items[0].base == second.sink.items[-1].sequence + 1
            finally:
                await back.stop(deadline=0.0)

    run(scenario)


def test_going_back_to_a_receiver_that_had_the_stream_before_is_no_loss(run):
    """Also the look whether it is back says that another one had what it has not, though that session goes on."""

    async def scenario():
        async with several_receivers(KeepingSink(), KeepingSink()) as servers:
            first, second = servers
            ships = shipper(to(servers), Trickle(), batch_interval=0.01, batch_linger=0.0)
            running = asyncio.create_task(ships.run())
            await eventually(lambda: len(first.sink.numbers) > 20)
            await first.stop(deadline=0.0)
            await eventually(lambda: len(second.sink.numbers) > 20)
            had = len(first.sink.numbers)
            back = await started(int(first.name.rpartition(":")[2]), first.sink)
            try:
                await eventually(lambda: len(first.sink.numbers) > had)
                ships.stop()
                assert (await running).delivered
                assert [server.metrics.lost_batches for server in (second, back)] == [0, 0]
            finally:
                await back.stop(deadline=0.0)

    run(scenario)


def test_a_better_receiver_that_is_too_old_is_not_gone_to(run, monkeypatch):
    """It answers a look, but what it says there is that no session of ours can be had."""

    async def scenario():
        async with several_receivers(KeepingSink(), KeepingSink()) as servers:
            first, second = servers
            port, ships, running = await shipping_to_the_second(servers)
            monkeypatch.setattr("logbale.session.VERSION", 1)
            old = await started(port)
            try:
                await eventually(lambda: "update the receiver" in ships._link._receivers.errors.get(first.name, ""))
                seen = len(second.sink.numbers)
                await eventually(lambda: len(second.sink.numbers) > seen + 20)
                ships.stop()
                report = await running
                assert (report.delivered, report.snapshot.reconnects) == (True, 0)
            finally:
                await old.stop(deadline=0.0)

    run(scenario)


class Trickle(Numbers):
    """Numbered entries, one every few milliseconds, for ever."""

    def __init__(self):
        super().__init__(0)

    async def chunks(self):
        from chunks import chunk_of

        for n in range(1_000_000):
            yield chunk_of([{"n": n}])
            await asyncio.sleep(0.002)


def test_a_receiver_that_is_left_has_so_long_to_acknowledge(run, monkeypatch):
    """One that does not is left all the same, and what it was sent is marked at the better one."""
    monkeypatch.setattr(open_session, "LEAVE_SECONDS", 0.2)

    async def scenario():
        async with several_receivers(KeepingSink(), KeepingSink()) as servers:
            first, second = servers
            port = int(first.name.rpartition(":")[2])
            await first.stop(deadline=0.0)
            second.sink.open.clear()
            ships = shipper(to(servers), Numbers(20, then="wait"))
            running = asyncio.create_task(ships.run())
            await eventually(lambda: second.metrics.received.entries == 20)
            back = await started(port)
            try:
                await eventually(lambda: len(back.sink.numbers) == 20)
                assert {item.elsewhere for item in back.sink.items} == {True}
                ships.stop()
                assert (await running).delivered
                second.sink.open.set()
            finally:
                await back.stop(deadline=0.0)

    run(scenario)


# Names with several addresses


@pytest.fixture
def names(monkeypatch):
    """What the resolver says of any name; OSError where that is None."""
    known = {}

    async def resolve(host, port):
        if known.get(host) is None:
            raise OSError("no such name")
        return known[host]

    monkeypatch.setattr(receivers, "resolve", resolve)
    return known


def test_addresses_of_one_machine_are_one_receiver():
    """One of each family is two ways to it; two of a family are two receivers."""
    assert several([(V6, "::1"), (V4, "127.0.0.1")]) == []
    assert several([(V4, "10.0.0.1"), (V4, "10.0.0.2")]) == ["10.0.0.1", "10.0.0.2"]
    assert several([(V4, "10.0.0.1"), (V4, "10.0.0.1")]) == []


def test_each_address_of_a_name_is_a_receiver_and_a_name_that_has_one_keeps_its_own(run, names):
    """So that a machine that gets another address keeps its streams; a resolver that fails changes nothing."""

    async def scenario():
        found = Receivers([("LOGS.test", 5000), ("one.test", 5001), ("::1", 5002)])
        names["LOGS.test"] = [(V4, "10.0.0.1"), (V4, "10.0.0.2")]
        names["one.test"] = [(V4, "10.0.0.3"), (V6, "fd00::3")]
        expected = ["10.0.0.1:5000", "10.0.0.2:5000", "one.test:5001", "[::1]:5002"]
        await found.look_up("s")
        assert list(found.failover.receivers) == preference("s", expected)
        assert found.named("10.0.0.1:5000").host == "LOGS.test"
        names.clear()
        await found.look_up("s")
        assert list(found.failover.receivers) == preference("s", expected)
        names["LOGS.test"] = [(V4, "10.0.0.9")]
        await found.look_up("s")
        assert "logs.test:5000" in found.failover.receivers

    run(scenario)


def test_a_name_is_resolved_anew_and_a_better_address_is_gone_to(run, names):
    """A receiver that is added takes its share without anybody being restarted."""

    async def scenario():
        one = await started(host="127.0.0.1")
        port = one.address[1]
        two = await started(port, host="127.0.0.2")
        stream = next(s for s in map(str, range(99)) if in_order(one, two, stream=s)[0] is two)
        names["logs.test"] = [(V4, "127.0.0.1"), (V4, "127.0.0.3")]  # nobody is at the latter
        ships = shipper(f"logs.test:{port},127.0.0.1:{port}", Trickle(), store=MemoryStore(stream))
        running = asyncio.create_task(ships.run())
        try:
            await eventually(lambda: len(one.sink.numbers) > 5)
            names["logs.test"] = [(V4, "127.0.0.1"), (V4, "127.0.0.2")]
            await eventually(lambda: len(two.sink.numbers) > 5)
            ships.stop()
            assert (await running).delivered
            assert one.sink.numbers + two.sink.numbers == list(range(len(one.sink.numbers + two.sink.numbers)))
        finally:
            await one.stop(deadline=0.0)
            await two.stop(deadline=0.0)

    run(scenario)


@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_name_that_gets_a_second_address_is_noticed_in_session(run, names, monkeypatch, is_wanted):
    """Whose streams want the new receiver go there, the others are not disturbed: nobody has to be lost first."""
    monkeypatch.setattr(session_link, "RESOLVE_INTERVAL", 0.02)
    opening, opened = connecting.open_connection, []

    async def open_connection(host, port, tls, *, address=""):
        opened.append(address)
        return await opening(address or "127.0.0.1", port, tls)

    monkeypatch.setattr(connecting, "open_connection", open_connection)

    async def scenario():
        one = await started(host="127.0.0.1")
        port = one.address[1]
        two = await started(port, host="127.0.0.2")
        wanted = two if is_wanted else one
        stream = next(s for s in map(str, range(99)) if in_order(one, two, stream=s)[0] is wanted)
        names["logs.test"] = [(V4, "127.0.0.1")]
        ships = shipper(f"logs.test:{port}", Trickle(), store=MemoryStore(stream))
        running = asyncio.create_task(ships.run())
        try:
            await eventually(lambda: len(one.sink.numbers) > 5)
            names["logs.test"] = [(V4, "127.0.0.1"), (V4, "127.0.0.2")]
            await eventually(lambda: len(ships._link._receivers.failover.receivers) == 2)
            if is_wanted:
                await eventually(lambda: len(two.sink.numbers) > 5)
            else:
                await asyncio.sleep(0.2)  # it may look a few times
                assert opened == [""]
            ships.stop()
            assert (await running).delivered
            assert one.sink.numbers + two.sink.numbers == list(range(len(one.sink.numbers + two.sink.numbers)))
        finally:
            await one.stop(deadline=0.0)
            await two.stop(deadline=0.0)

    run(scenario)


def test_a_name_that_stands_for_another_machine_now_is_told_what_the_one_before_was_sent(run, names, monkeypatch):
    """It keeps its streams, but not the archive: one of two machines may be away whenever the name is asked for."""
    opening = connecting.open_connection

    async def open_connection(host, port, tls, *, address=""):
        return await opening(names[host][0][1], port, tls)

    monkeypatch.setattr(connecting, "open_connection", open_connection)

    async def scenario():
        one = await started(host="127.0.0.1")
        two = await started(one.address[1], host="127.0.0.2")
        one.sink.open.clear()
        names["logs.test"] = [(V4, "127.0.0.1")]
        ships = shipper(f"logs.test:{one.address[1]}", Numbers(10))
        running = asyncio.create_task(ships.run())
        try:
            await eventually(lambda: one.metrics.received.entries == 10)
            names["logs.test"] = [(V4, "127.0.0.2")]
            await one.stop(deadline=0.0)
            assert (await running).delivered
            assert [item.elsewhere for item in two.sink.items] == [True, True]
        finally:
            await two.stop(deadline=0.0)

    run(scenario)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_the_certificate_has_to_be_for_the_name_whatever_the_address(run, names, tmp_path, mode):
    """Of two addresses of a name only the one whose certificate has that name is taken."""

    async def scenario():
        files = Certificates(tmp_path)
        right = Settings(**files.receiver("logs.test"))
        wrong = Settings(**files.receiver("127.0.0.2", file="wrong"))
        good = await started(tls=lambda: receiver_tls(right).shippers)
        port = good.address[1]
        bad = await started(port, host="127.0.0.2", tls=lambda: receiver_tls(wrong).shippers)
        stream = next(s for s in map(str, range(99)) if in_order(good, bad, stream=s)[0] is bad)
        names["logs.test"] = [(V4, "127.0.0.1"), (V4, "127.0.0.2")]
        try:
            options = {"session_mode": mode, "return_interval": 60.0, **files.trust()}
            ships = shipper(f"logs.test:{port}", Numbers(20), store=MemoryStore(stream), **options)
            report = await ships.run()
            assert report.delivered
            assert good.sink.numbers == list(range(20))
            assert report.snapshot.errors | {"tls_files": 0} == {"tls_untrusted": 1, "tls_files": 0}
            assert bad.sink.numbers == []
        finally:
            await good.stop(deadline=0.0)
            await bad.stop(deadline=0.0)

    run(scenario)


# Without a session


def test_without_a_session_each_connection_goes_to_the_first_that_can_be_had(run):
    """The frame that was leaving is sent again to the next one, and the first is tried at the next connection."""

    async def scenario():
        async with several_receivers(KeepingSink(), KeepingSink()) as servers:
            first, second = servers
            port = int(first.name.rpartition(":")[2])
            await first.stop(deadline=0.0)
            ships = shipper(to(servers), Trickle(), session_mode="off", batch_interval=0.01)
            running = asyncio.create_task(ships.run())
            await eventually(lambda: len(second.sink.numbers) > 10)
            assert (ships.snapshot().receiver, ships.snapshot().failovers) == (name_of(second), 1)
            back = await started(port)
            try:
                await second.stop(deadline=0.0)
                await eventually(lambda: len(back.sink.numbers) > 10)
                ships.stop()
                await running
                assert ships.snapshot().receiver == name_of(back)
            finally:
                await back.stop(deadline=0.0)

    run(scenario)


# Who may have what


def test_what_others_may_have_is_what_was_sent_to_them_and_is_not_consumed():
    """Nothing is elsewhere where all was sent to the same one, or all of it is consumed."""
    sent = SentTo(up_to=0)
    assert sent.elsewhere("a", 1) == 0
    sent.add("a", 10)
    assert (sent.elsewhere("a", 1), sent.elsewhere("b", 1), sent.elsewhere("b", 11)) == (0, 10, 0)
    sent.add("b", 7)
    assert (sent.elsewhere("a", 5), sent.elsewhere("a", 8), sent.elsewhere("c", 5)) == (7, 0, 10)


def test_a_hello_says_what_others_were_sent_or_that_none_were_or_nothing():
    """Three answers: a number, 0, and none where it is not known. A receiver that knows no `sent` ignores it."""
    session = ShipperSession(stream="s", first=3, assigned=9, window_bytes=1, now=0.0, last_crc={})
    assert b'"sent"' not in session.hello(agent="a", host="h")
    assert b'"sent":0' in session.hello(agent="a", host="h", sent=0)
    assert b'"sent":7' in session.hello(agent="a", host="h", sent=7)


def test_a_process_knows_to_whom_the_one_before_it_sent(tmp_path):
    """By the spool; without that word, as in a spool of an older version, it may have been anybody."""
    assert SentTo(up_to=9).elsewhere("a", 1) == 9
    spool = DiskSpool(tmp_path / "s", max_bytes=1 << 24)
    spool.open()
    assert spool.sent_to is None
    spool.note_receiver(Noted(spool.stream, "a", 4))
    spool.close()
    spool.open()
    noted = spool.sent_to
    spool.close()
    assert noted == Noted(spool.stream, "a", 4)
    after = SentTo(up_to=9, noted=noted)
    assert (after.elsewhere("a", 1), after.elsewhere("a", 5), after.elsewhere("b", 1)) == (4, 0, 9)


def test_where_it_cannot_be_noted_nobody_believes_what_was_noted_before(tmp_path, fail):
    """A full disk: what is sent now counts as sent to anybody."""
    spool = DiskSpool(tmp_path / "s", max_bytes=1 << 24)
    spool.open()
    spool.note_receiver(Noted(spool.stream, "a", 0))
    fail("fsync")
    with pytest.raises(StorageError):
        spool.note_receiver(Noted(spool.stream, "b", 4))
    fail()
    spool.close()
    spool.open()
    assert spool.sent_to is None
    spool.close()


def test_top_shows_which_of_their_choices_this_receiver_is():
    """On a wide screen; nothing where it is the only one, or nobody has said so yet."""
    [column] = [column for column in COLUMNS if column.title == "choice"]
    assert [column.cell(Client(choice=choice), 0.0) for choice in (None, 0, 1, 2)] == ["–", "–", "1", "2"]


# Settings


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a:5000,b:5001", [("a", 5000), ("b", 5001)]),
        ("a, b", [("a", 6000), ("b", 6000)]),
        (":1,:2", [("h", 1), ("h", 2)]),
        ("[::1]:1,10.0.0.1", [("::1", 1), ("10.0.0.1", 6000)]),
        ("one:7", [("one", 7)]),
        ("", [("h", 6000)]),
    ],
)
def test_receivers_are_hosts_and_ports_with_commas(text, found):
    """What one leaves out is SERVER_HOST's and SERVER_PORT's."""
    environ = {"RECEIVERS": text, "SERVER_HOST": "h", "SERVER_PORT": "6000"}
    assert load({}, environ).settings.receiver_addresses == found


@pytest.mark.parametrize("text", ["a:0,b", "a,,b", "a,", "a:x,b", "a:70000,b", "two words,b", "a b"])
def test_receivers_that_make_no_sense_are_refused(text):
    """With what was expected."""
    with pytest.raises(ConfigError, match=r"RECEIVERS='.*': expected "):
        load({}, {"RECEIVERS": text})


def shown(*flags, **environ):
    """What `ship` would do with these flags, by where it says that it could not deliver."""
    return logbale_run("ship", "--demo", "--run-time", "0.1", "--drain-timeout", "0", *flags, **environ).stderr


def test_one_address_on_the_command_line_is_the_only_one():
    """Whatever a variable says of several; several stand in place of all others."""
    several_there = {"RECEIVERS": "127.0.0.1:1,127.0.0.1:2"}
    assert "delivered to 127.0.0.1:3 (" in shown("--to", "127.0.0.1:3", **several_there)
    assert "delivered to 127.0.0.1:1 or 127.0.0.1:2 (" in shown(**several_there)
    assert "delivered to 127.0.0.1:4 or 127.0.0.1:5 (" in shown("--to", "127.0.0.1:4,127.0.0.1:5", **several_there)


def test_a_token_in_plain_needs_every_receiver_to_be_on_this_host():
    """One that is not is enough for somebody to read along."""
    refuse_unsafe_shipper(Settings(token_file="x", receivers="127.0.0.1:1,localhost:2"))
    with pytest.raises(ConfigError, match=r"RECEIVERS='127\.0\.0\.1:1,logs\.example\.org' and no TLS"):
        refuse_unsafe_shipper(Settings(token_file="x", receivers="127.0.0.1:1,logs.example.org"))
