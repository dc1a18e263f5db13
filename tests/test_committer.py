"""The committer where a sink can store some streams and others not: who waits, who goes on, and in which order."""

import asyncio

import base_client
import pytest
from relay_items import base_batch, batch, settings_of, upstream
from test_delivery import KeepingSink, Numbers, eventually, shipper
from test_tcp_server import in_thread, raw_frame

from logbale.committer import Committer, weight
from logbale.errors import StorageError
from logbale.log_shipper import LogShipper
from logbale.metrics import ReceiverMetrics
from logbale.sinks import NotNow, Stored
from logbale.spool import MemoryStore


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """The sink is asked again soon."""
    monkeypatch.setattr("logbale.committer.STORAGE_RETRY", 0.01)


class Choosy(KeepingSink):
    """Does not store some streams for now."""

    def __init__(self, *streams):
        super().__init__()
        self.refused = streams

    async def commit(self, items):
        refused = self.refused
        await super().commit([item for item in items if item.stream not in refused])
        return [Stored() if item.stream not in refused else NotNow("its disk is away") for item in items]


class Listening:
    """A submitter that notes what it is told."""

    peer = "peer"

    def __init__(self):
        self.told = []

    def settled(self, item, outcome):
        self.told.append(item.sequence)

    def group_ended(self):
        self.told.append("acknowledged")

    def held(self, seconds, reason):
        if reason not in self.told[-1:]:
            self.told.append(reason)

    def given_up(self, item):
        self.told.append(-item.sequence)


def test_what_cannot_be_stored_now_keeps_its_order_and_holds_nobody_else_up(run):
    """Also what comes of the stream later, while the sink is not asked, waits behind what came before."""

    async def scenario():
        sink, waits, goes_on = Choosy("a:1"), Listening(), Listening()
        committer = Committer(sink, ReceiverMetrics(now=0.0))
        running = asyncio.create_task(committer.run())
        for sequence in range(1, 6):
            committer.submit(batch(sequence, "a:1"), waits)
            committer.submit(batch(sequence, "b:1"), goes_on)
            await eventually(lambda count=sequence: len(sink.items) == count)
        assert {item.stream for item in sink.items} == {"b:1"}
        assert waits.told == ["its disk is away"]
        sink.refused = ()
        await eventually(lambda: 5 in waits.told)
        assert [one for one in waits.told if isinstance(one, int)] == [1, 2, 3, 4, 5]
        assert goes_on.told == [one for number in range(1, 6) for one in (number, "acknowledged")]
        assert committer.storage_error is None
        running.cancel()
        await asyncio.wait([running])

    run(scenario)


class Narrow(KeepingSink):
    """Takes two items at a time, and now and then none."""

    def __init__(self, refusals):
        super().__init__()
        self.refusals = refusals

    async def commit(self, items):
        if self.refusals and len(self.items) % 4 == 0:
            self.refusals -= 1
            raise StorageError(f"full, {len(self.items):,} bytes wait" if self.refusals else "read-only: remount it")
        return await super().commit(items[:2])


def test_what_a_sink_has_not_touched_is_given_again_in_order(run, caplog, monkeypatch):
    """And while a full one takes a little now and then, it is said once that it cannot store, and once that it can.

    Another reason is said, however soon it comes.
    """
    monkeypatch.setattr("logbale.committer.STEADY_SECONDS", 0.2)

    async def scenario():
        sink = Narrow(refusals=3)
        committer = Committer(sink, ReceiverMetrics(now=0.0))
        listening = Listening()
        for number in range(1, 10):
            committer.submit(batch(number), listening)
        running = asyncio.create_task(committer.run())
        await eventually(lambda: len(sink.items) == 9)
        assert [said for said in listening.told if said != "acknowledged"] == list(range(1, 10))
        await eventually(lambda: "storing again" in caplog.text)
        running.cancel()
        await asyncio.wait([running])

    run(scenario)
    assert [record.message for record in caplog.records] == [
        "cannot store now, the clients wait: full, 0 bytes wait",
        "cannot store now, the clients wait: read-only: remount it",
        "storing again",
    ]


def test_of_too_much_that_waits_the_stream_that_takes_the_most_is_given_up(run):
    """Whole, with what came of it meanwhile: the sink gets none of it that something is missing before."""

    async def scenario():
        sink, large, small, base = Choosy("a:1", "b:1", ""), Listening(), Listening(), Listening()
        limit = 3 * weight(batch(1, "a:1", padding=1000))
        committer = Committer(sink, ReceiverMetrics(now=0.0), max_held=lambda: limit)
        running = asyncio.create_task(committer.run())
        committer.submit(batch(1, "b:1", padding=1000), small)
        committer.submit(base_batch(1), base)
        committer.submit(batch(1, "a:1", padding=1000), large)
        await eventually(lambda: large.told)
        for sequence in range(2, 5):
            committer.submit(batch(sequence, "a:1", padding=1000), large)
        await eventually(lambda: -4 in large.told)
        assert large.told == ["its disk is away", -1, -2, -3, -4]
        committer.submit(batch(1, "a:1"), large)  # in another session
        sink.refused = ()
        await eventually(lambda: len(sink.items) == 3)
        assert (large.told[-2:], small.told[1:]) == ([1, "acknowledged"], [1, "acknowledged"])
        running.cancel()
        await asyncio.wait([running])

    run(scenario)


def test_what_came_while_the_sink_was_asked_is_given_up_too(run):
    """It is not in any list of what waits for its stream yet, and must not get past what is missing before it."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    class Slow(Choosy):
        async def commit(self, items):
            asked.set()
            await may_answer.wait()
            return await super().commit(items)

    async def scenario():
        asked.clear()
        may_answer.clear()
        sink, told = Slow("a:1"), Listening()
        committer = Committer(sink, ReceiverMetrics(now=0.0), max_held=lambda: 0)
        running = asyncio.create_task(committer.run())
        committer.submit(batch(1, "a:1"), told)
        await asked.wait()
        committer.submit(batch(2, "a:1"), told)
        may_answer.set()
        await eventually(lambda: -1 in told.told)
        sink.refused = ()
        committer.submit(batch(1, "b:1"), told)
        await eventually(lambda: sink.items)
        assert ([item.stream for item in sink.items], told.told[:3]) == (["b:1"], ["its disk is away", -1, -2])
        running.cancel()
        await asyncio.wait([running])

    run(scenario)


def test_a_stream_that_waits_leaves_memory_for_the_others(run):
    """What the receiver has of it when its disk goes away may be all that it may have; later it comes again, once."""
    full = asyncio.Event()

    class Slow(Choosy):
        async def commit(self, items):
            await full.wait()
            return await super().commit(items)

    async def scenario():
        full.clear()
        async with upstream(Slow("bad:1"), max_in_flight_bytes=2_000_000) as server:
            bad = LogShipper(settings_of(server.address[1]), Numbers(30_000), store=MemoryStore("bad:1"))
            waiting = asyncio.create_task(bad.run())
            await eventually(lambda: server.room.taken > 900_000)
            full.set()
            assert (await shipper(server.address[1], Numbers(500)).run()).delivered
            assert not waiting.done()
            server.sink.refused = ()
            assert (await waiting).delivered
            assert server.sink.numbers == [*range(500), *range(30_000)]
            assert server.metrics.in_flight_bytes == server.metrics.pending_entries == 0

    run(scenario)


def test_a_base_client_whose_entries_cannot_be_stored_is_not_read_on(run):
    """It has no window: without that it alone would use up what may be in flight, and everybody would wait."""
    limit = 10_000_000
    frames = b"".join(raw_frame({"n": number, "pad": "x" * 10_000}) for number in range(4000))

    def send(address):
        connection = base_client.connect(address)
        connection.sendall(frames)
        base_client.finish(connection)

    async def scenario():
        async with upstream(Choosy(""), max_in_flight_bytes=limit) as server:
            client = asyncio.create_task(in_thread(send, server.address))
            await eventually(lambda: server.metrics.errors["storage"] > 10)
            assert (await shipper(server.address[1], Numbers(500)).run()).delivered
            assert server.metrics.in_flight_bytes < limit
            assert not client.done()
            server.sink.refused = ()
            await client
            assert server.sink.numbers == [*range(500), *range(4000)]

    run(scenario)
