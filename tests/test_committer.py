"""The committer where a sink can store some streams and others not: who waits, who goes on, and in which order."""

import asyncio

import base_client
import pytest
from relay_items import batch, upstream
from test_delivery import KeepingSink, Numbers, eventually, shipper
from test_tcp_server import in_thread, raw_frame

from logbale.committer import Committer
from logbale.metrics import ReceiverMetrics
from logbale.sinks import NotNow, Stored


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """The sink is asked again soon."""
    monkeypatch.setattr("logbale.committer.STORAGE_RETRY", 0.01)


class Choosy(KeepingSink):
    """Does not store one stream for now."""

    def __init__(self, stream):
        super().__init__()
        self.refused = stream

    async def commit(self, items):
        wanted = [item for item in items if item.stream != self.refused]
        await super().commit(wanted)
        return [Stored() if item.stream != self.refused else NotNow("its disk is away") for item in items]


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
        sink.refused = None
        await eventually(lambda: 5 in waits.told)
        assert [one for one in waits.told if isinstance(one, int)] == [1, 2, 3, 4, 5]
        assert goes_on.told == [one for number in range(1, 6) for one in (number, "acknowledged")]
        assert committer.storage_error is None
        running.cancel()
        await asyncio.wait([running])

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
            server.sink.refused = None
            await client
            assert server.sink.numbers == [*range(500), *range(4000)]

    run(scenario)
