"""A store that is busy, for each call a moment or a minute: it holds up nothing that need not wait for it, and costs
nobody a session, an entry or a copy.
"""

import asyncio
import logging
import random
import threading

import pytest
import relay_items
from busy_store import BusyLoop, Ends, Scripted
from chunks import batch_of
from spool_batches import spool_of
from test_delivery import KeepingSink, Numbers, receiver
from waiting import eventually

from logbale.config import Settings
from logbale.errors import StorageError
from logbale.log_shipper import LogShipper
from logbale.messages import WRONG_STREAM, Ack, Error
from logbale.models import Batch
from logbale.sinks import Mark
from logbale.spool import MemoryStore


class HeldUp:
    """A store whose acknowledgements wait, as behind a long write, from the first one of a batch on."""

    def __init__(self, store):
        self._store = store
        self.may_go_on = threading.Event()
        self.acknowledged = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    def acknowledge(self, last):
        if last:  # the welcome says 0
            self.may_go_on.wait()
        self.acknowledged.append(last)
        self._store.acknowledge(last)


def test_what_is_acknowledged_makes_room_in_the_window_while_the_spool_is_busy(run, tmp_path):
    """All of many windows arrives while the spool is with the first acknowledgement; it hears of the rest in one."""

    async def scenario():
        settings = {"batch_max_bytes": 2048, "batch_interval": 0.05, "window_bytes": 4096, "compression_enabled": False}
        store = HeldUp(spool_of(tmp_path / "spool"))
        sink = KeepingSink()
        sink.open.clear()
        async with receiver(sink) as server:
            running = LogShipper(
                Settings(server_host="127.0.0.1", server_port=server.address[1], **settings),
                Numbers(500, then="wait"),
                store=store,
            )
            shipping = asyncio.create_task(running.run())
            try:
                await eventually(lambda: store.counts["spooled"] == 500)
                sink.open.set()
                await eventually(lambda: sink.numbers == list(range(500)))
                assert store.acknowledged == [0]
            finally:
                store.may_go_on.set()
            await eventually(lambda: not running.snapshot().waiting_entries)
            assert len(store.acknowledged) <= 3, store.acknowledged
            running.stop()
            assert (await shipping).delivered

    run(scenario)


@pytest.fixture
def loop(monkeypatch):
    loop = BusyLoop(monkeypatch)
    logging.disable(logging.CRITICAL)
    yield loop
    logging.disable(logging.NOTSET)
    loop.close()


def poison():
    """A batch that no receiver can store."""
    return Batch(b"17\n", 1, {})


@pytest.mark.parametrize("seconds", [6, 40, 120])
def test_a_store_that_hangs_costs_no_session(loop, tmp_path, seconds):
    """Whatever it is asked meanwhile: at the welcome, at a reject and at an acknowledgement. The receiver is there, and
    neither end takes the other for gone.
    """

    async def scenario():
        async with Ends(spool_of(tmp_path / "spool")) as ends:
            ends.queue.append(batch_of([{"n": 0}]))
            ends.thread.takes = lambda: seconds
            ends.queue.append(batch_of([{"n": 1}]))
            await asyncio.sleep(10 * seconds)
            ends.queue.append(poison())
            ends.queue.append(batch_of([{"n": 2}]))
            await ends.delivered(within=40 * seconds)
            assert [n for n, _ in ends.stored()] == [0, 1, 2]
            assert ends.queue.counts == {"read": 4, "spooled": 0, "acknowledged": 3, "rejected": 1}
            assert ends.networks[0].connections == 1
            assert not +ends.metrics.errors

    loop.run_until_complete(scenario())


async def live(loop, directory, chance):
    """A shipper among one or two receivers, and whatever may happen to them while the store is slow; then peace."""
    store = spool_of(directory, max_bytes=chance.choice([3000, 1 << 20]), segment_bytes=700)
    options = {"policy": chance.choice(["block", "drop_oldest", "drop_newest"])}
    options |= {"max_memory": chance.choice([1, 2000, 1 << 20]), "return_interval": 5.0}
    options |= {"window_bytes": chance.choice([300, 5000, 1 << 20])}
    async with Ends(store, receivers=chance.choice([1, 2]), **options) as ends:
        ends.thread.takes = lambda: chance.choice([0.0, 0.0, 0.01, 0.5, 7.0, 30.0])
        poisons = 0
        for n in range(40):
            ends.queue.append(batch_of([{"n": n, "m": "x" * chance.choice([1, 400])}]))
            if chance.random() < 0.1:
                ends.queue.append(poison())
                poisons += 1
            at = chance.randrange(len(ends.servers))
            if chance.random() < 0.2:
                loop.cut(at + 1)
            if chance.random() < 0.1:
                ends.networks[at].is_up = not ends.networks[at].is_up
            sink = ends.servers[at].sink
            if chance.random() < 0.2:
                (sink.open.clear if sink.open.is_set() else sink.open.set)()
            await asyncio.sleep(chance.choice([0.0, 0.1, 1.0, 10.0]))
            counts = dict(ends.queue.counts)
            assert counts.pop("read") == sum(counts.values()) == n + 1 + poisons
        ends.thread.takes = lambda: 0.0
        for network, server in zip(ends.networks, ends.servers, strict=True):
            network.is_up = True
            server.sink.open.set()
        await ends.delivered(within=600)
        return ends, poisons


@pytest.mark.parametrize("mode", ["on", "off"])
def test_a_backlog_on_disk_is_sent_at_the_networks_pace_while_reading_goes_on(loop, tmp_path, mode):
    """In a session and in the base protocol, however long a write takes, and though each is followed by the next: many
    batches are read back at a time, and none waits for the spool to hear of the one before.
    """
    spool = spool_of(tmp_path / "spool")
    for n in range(300):
        waiting = batch_of([{"n": n}])
        spool.append([(waiting.raw, waiting.count, {})])

    async def scenario():
        async with Ends(spool, session_mode=mode) as ends:
            ends.thread.takes = lambda: 0.02
            began = loop.time()
            for n in range(300, 500):
                ends.queue.append(batch_of([{"n": n}]))
                await asyncio.sleep(0.005)
            assert len(ends.stored()) >= 300
            assert loop.time() - began < 1.1
            await ends.delivered(within=60)
            assert [n for n, _ in ends.stored()] == list(range(500))

    loop.run_until_complete(scenario())


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_meanwhile_each_entry_is_stored_once_or_marked(loop, tmp_path, seed):
    """Connections that are cut, receivers that are away or cannot store, batches that are rejected or dropped: the sums
    are right, each receiver has its entries in order, and of what two of them have one copy says so.
    """
    ends, poisons = loop.run_until_complete(live(loop, tmp_path / "spool", random.Random(seed)))
    counts = dict(ends.queue.counts)
    assert counts.pop("read") == sum(counts.values()) == 40 + poisons
    copies = {}
    for server in range(len(ends.servers)):
        stored = ends.stored(server)
        assert [n for n, _ in stored] == sorted({n for n, _ in stored})
        for n, is_marked in stored:
            copies.setdefault(n, []).append(is_marked)
    assert [n for n, marked in copies.items() if len(marked) > 1 and not any(marked)] == []
    assert counts["acknowledged"] == len(copies)
    dropped = counts.get("dropped_drop_oldest", 0) + counts.get("dropped_drop_newest", 0)
    assert dropped + counts["rejected"] == 40 - len(copies) + poisons
    assert counts["spooled"] == 0


def old_spool(directory):
    """A spool from before there was a certificate."""
    spool_of(directory).close()
    return spool_of(directory, owner="web1")


STORES = {"disk": old_spool, "memory": lambda _: MemoryStore("old", owner="web1")}


def shipped(loop, store, script, *, once_there=None):
    """Three batches for a receiver of this script, while the store takes half a minute for each call; the counts."""

    async def scenario():
        async with Ends(store, compression_algorithm="none") as ends:
            ends.networks[0].factory = script
            ends.thread.takes = lambda: 30.0
            for n in range(3):
                ends.queue.append(batch_of([{"n": n}]))
            async with asyncio.timeout(1000):
                while len(script.batches) < 3:
                    await asyncio.sleep(1.0)
            if once_there is None or not await once_there(ends):
                await ends.delivered(within=1000)
        return ends.queue.counts

    return loop.run_until_complete(scenario())


@pytest.mark.parametrize("store", STORES)
def test_an_acknowledgement_of_less_than_the_one_before_takes_nothing_back(loop, tmp_path, store):
    """Each is of all before it: the highest holds, and nothing waits for a third one."""
    script = Scripted({3: [Ack(3), Ack(1)]})
    counts = shipped(loop, STORES[store](tmp_path / "spool"), script)
    assert counts == {"read": 3, "spooled": 0, "acknowledged": 3, "rejected": 0}
    assert len(script.hellos) == 1


@pytest.mark.parametrize("store", STORES)
def test_what_is_acknowledged_with_a_sessions_last_word_is_not_sent_in_the_next(loop, tmp_path, store):
    """Though the store is busy with a write, and the next receiver may be one that does not know how far we are."""
    script = Scripted({}, {4: [Ack(4)]})

    async def end(ends):
        ends.queue.append(batch_of([{"n": 3}]))
        await asyncio.sleep(1.0)
        script.say([Ack(2), None])

    counts = shipped(loop, STORES[store](tmp_path / "spool"), script, once_there=end)
    assert [hello.next for hello in script.hellos] == [1, 3]
    assert script.batches[-2:] == [(3, 2), (4, 3)]
    assert counts == {"read": 4, "spooled": 0, "acknowledged": 4, "rejected": 0}


@pytest.mark.parametrize("store", STORES)
def test_what_is_acknowledged_before_the_numbers_begin_anew_is_of_the_old_ones(loop, tmp_path, store):
    """A receiver that does not let us write a stream from before our certificate: the rest goes on as 1."""
    script = Scripted({3: [Ack(2), Error(WRONG_STREAM, "not yours")]}, {1: [Ack(1)]})
    counts = shipped(loop, STORES[store](tmp_path / "spool"), script)
    assert [hello.next for hello in script.hellos] == [1, 1]
    assert script.hellos[0].stream != script.hellos[1].stream
    assert script.batches == [(1, 0), (2, 1), (3, 2), (1, 2)]
    assert counts == {"read": 3, "spooled": 0, "acknowledged": 3, "rejected": 0}


@pytest.mark.parametrize("store", STORES)
def test_what_is_acknowledged_when_the_shipper_is_stopped_counts(loop, tmp_path, store):
    """Its end waits for the store as long as that takes; the receiver's end of the connection does not."""
    script = Scripted({3: [Ack(2)]})

    async def stop(ends):
        await asyncio.sleep(1.0)
        ends.tasks[1].cancel()
        await asyncio.sleep(1.0)
        assert all(end.gone for end in ends.networks[0].ends)
        await asyncio.wait([ends.tasks[1]])
        return True

    counts = shipped(loop, STORES[store](tmp_path / "spool"), script, once_there=stop)
    assert counts == {"read": 3, "spooled": 1, "acknowledged": 2, "rejected": 0}


@pytest.mark.parametrize(("times", "ends"), [(1, 1), (2, 1), (4, 3)])
def test_a_store_that_fails_at_an_acknowledgement_ends_a_session_and_not_the_shipper(loop, times, ends):
    """It is said as what it is; the end of the session and the next welcome say the acknowledgement again."""
    failures = [StorageError("no disk")] * times

    class Failing(MemoryStore):
        def acknowledge(self, last):
            if last and failures:
                raise failures.pop()
            super().acknowledge(last)

    async def scenario():
        async with Ends(Failing("s")) as running:
            running.queue.append(batch_of([{"n": 0}]))
            await running.delivered(within=60)
            assert running.stored() == [(0, False)]
            assert running.queue.counts["acknowledged"] == 1
            assert running.metrics.errors["storage"] == ends

    loop.run_until_complete(scenario())


@pytest.mark.parametrize("ends_after", [5.0, 25.0, 45.0, 65.0, 85.0])
def test_a_relays_session_ends_when_its_spool_has_heard_of_all_that_was_sent(loop, tmp_path, ends_after):
    """Whenever its place is to be given up; and it is said once nothing waits any more."""
    drained = []

    async def scenario():
        spool = relay_items.spool_of(tmp_path / "origin")
        async with Ends(spool, is_relay=True) as ends:
            queue = ends.queue
            queue.begin_link(lambda: drained.append(loop.time()))
            items = [relay_items.batch(n) for n in range(1, 4)]
            kept, _ = await queue.call(spool.keep, items, Mark(), 0)
            ends.thread.takes = lambda: 20.0
            queue.kept(kept, loop.time())
            await asyncio.sleep(ends_after)
            queue.end_link()
            async with asyncio.timeout(200):
                await ends.tasks[1]
            assert len(ends.stored()) == queue.counts["acknowledged"]
            assert bool(drained) == (not queue.has_waiting)
            assert ends.networks[0].connections == 1

    loop.run_until_complete(scenario())
    assert ends_after < 50 or drained
