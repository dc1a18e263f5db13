"""The queue between reading and sending: what becomes durable, in which order, and what that costs."""

import asyncio
import errno
import logging
import os
import threading

from chunks import batch_of
from hypothesis import given, settings
from hypothesis import strategies as st
from spool_batches import crashed, spool_of
from virtual_network import VirtualLoop

from logbale.floods import Silence
from logbale.models import Batch
from logbale.spool import MemoryStore, list_spools
from logbale.spool_queue import SpoolQueue


class Noting:
    """A store that says what is asked of it."""

    def __init__(self, store):
        self._store = store
        self.heard = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    def append(self, batches, bodies=()):
        self.heard.append(("append", [dict(cursors) for _, _, cursors in batches]))
        return self._store.append(batches, bodies)

    def note_cursors(self, cursors):
        self.heard.append(("note", dict(cursors)))
        self._store.note_cursors(cursors)


def queue_of(store, *events):
    """Does these to a queue, in order and at once, lets it work, and closes it."""

    async def scenario():
        queue = SpoolQueue(store, max_memory=1 << 20)
        running = asyncio.create_task(queue.run())
        for event in events:
            if isinstance(event, Batch):
                queue.append(event)
            else:
                queue.move_cursors(event)
        queue.close_input()
        await running
        await queue.close()

    asyncio.run(scenario())


def entry(**cursors):
    return Batch(b'{"n":1}\n', 1, cursors)


def test_a_batch_counts_while_it_is_being_stored(tmp_path):
    """Entries and batches that wait are told by the same moment: never one entry in no batch, or in two."""

    class Slow(Noting):
        def append(self, batches, bodies=()):
            begun.set()
            may_end.wait()
            return super().append(batches, bodies)

    begun, may_end = threading.Event(), threading.Event()

    async def scenario():
        queue = SpoolQueue(Slow(spool_of(tmp_path / "s")), max_memory=1 << 20)
        running = asyncio.create_task(queue.run())
        queue.append(entry(a=1))
        await asyncio.get_running_loop().run_in_executor(None, begun.wait)
        assert (queue.waiting_batches, queue.unsent_batches, queue.counts["spooled"]) == (1, 1, 1)
        may_end.set()
        await queue.wait_for_change()
        assert (queue.waiting_batches, queue.unsent_batches, queue.counts["spooled"]) == (1, 1, 1)
        queue.close_input()
        await running
        await queue.close()

    asyncio.run(scenario())


def test_a_cursor_goes_with_the_next_batch_where_there_is_one():
    """No note: a busy source costs nothing more."""
    store = Noting(MemoryStore("s"))
    queue_of(store, {"a": 1, "b": 1}, {"gone": None}, entry(a=2))
    assert store.heard == [("append", [{"a": 2, "b": 1, "gone": None}])]


def test_a_cursor_without_a_batch_is_noted_behind_those_that_wait():
    """A note that overtook a batch would skip its entries, should a crash come between."""
    store = Noting(MemoryStore("s"))
    queue_of(store, entry(a=2), entry(a=3), {"a": None})
    assert [what for what, _ in store.heard] == ["append", "note"]
    assert store.heard[-1] == ("note", {"a": None})


def test_a_note_is_durable_and_never_written_twice(tmp_path):
    """What the disk knows already costs no write."""
    spool = spool_of(tmp_path / "s")
    spool.note_cursors({"a": 1, "b": 2})
    size = spool.disk_bytes
    spool.note_cursors({"a": 1})
    spool.note_cursors({"never": None})
    assert spool.disk_bytes == size
    spool.note_cursors({"b": None})
    copy = spool_of(crashed(tmp_path / "s", tmp_path / "copy"))
    assert copy.cursors == {"a": 1}
    copy.close()
    spool.close()


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 4000)),
            st.tuples(st.just("acknowledge"), st.integers(0, 4)),
            st.tuples(st.just("acknowledge"), st.integers(-3, 0)),
            st.tuples(st.just("reject"), st.integers(-2, 3)),
            st.tuples(st.just("new_stream"), st.none()),
        ),
        max_size=30,
    ),
    st.booleans(),
)
def test_no_order_of_events_leaves_bytes_behind_that_look_like_back_pressure(tmp_path_factory, events, on_disk):
    """Acks twice, rejects before acks and after them: what is counted as held is what is held, and in the end none."""

    async def scenario():
        store = spool_of(tmp_path_factory.mktemp("s")) if on_disk else MemoryStore("s")
        queue = SpoolQueue(store, max_memory=8_000)
        running = asyncio.create_task(queue.run())
        for what, how in events:
            before = store.next_sequence
            if what == "append":
                queue.append(batch_of([{"n": "x" * how}]))
                while store.next_sequence == before:
                    await queue.wait_for_change()
            elif what == "acknowledge":
                await queue.acknowledge(min(store.first + how, store.next_sequence - 1))
            elif what == "reject" and 1 <= store.first + how < store.next_sequence:
                await queue.reject(store.first + how, "odd")
            elif what == "new_stream":
                await queue.new_stream()
            fresh = queue._stored.fresh._batches
            assert queue._stored.fresh.room.taken == sum(one.size for one in fresh.values()) >= 0
            assert fresh.keys() <= set(range(store.first, store.next_sequence))
            if not on_disk:
                assert store.raw_bytes == sum(len(raw) for _, raw in store._batches.values()) >= 0
        await queue.acknowledge(store.next_sequence - 1)
        assert (queue._stored.fresh.room.taken, queue._storing.waiting_bytes) == (0, 0)
        async with asyncio.timeout(60):
            await queue.wait_for_room()
        queue.close_input()
        await running
        await queue.close()

    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(scenario())
    finally:
        logging.disable(logging.NOTSET)


def test_a_note_that_a_full_disk_refuses_is_tried_again(tmp_path, fail, monkeypatch, caplog):
    """It is said once, and written as soon as there is room, though no batch comes."""
    monkeypatch.setattr("logbale.storing.STORAGE_RETRY", 0.01)

    async def scenario():
        spool = spool_of(tmp_path / "s")
        queue = SpoolQueue(spool, max_memory=1 << 20)
        running = asyncio.create_task(queue.run())
        fail("pwrite", errno.ENOSPC, lambda fd, data, offset: len(data) > 20)
        queue.move_cursors({"a": 1})
        async with asyncio.timeout(60):
            while not caplog.records:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            assert len(caplog.records) == 1
            fail()
            while not list((tmp_path / "s").glob("*.spool")):
                await asyncio.sleep(0.005)
        queue.close_input()
        await running
        copy = spool_of(crashed(tmp_path / "s", tmp_path / "copy"))
        assert copy.cursors == {"a": 1}
        copy.close()
        await queue.close()

    asyncio.run(scenario())


def test_what_is_acknowledged_is_soon_on_disk_though_nothing_more_comes(tmp_path, monkeypatch):
    """Who looks at an idle shipper's spool, or starts after its crash, finds nothing waiting; one write says so."""

    async def scenario():
        spool = spool_of(tmp_path / "s")
        queue = SpoolQueue(spool, max_memory=1 << 20)
        running = asyncio.ensure_future(queue.run())
        for n in range(3):
            queue.append(batch_of([{"n": n}]))
        await queue.wait_for_change()
        await queue.acknowledge(1)
        await asyncio.sleep(0.5)
        await queue.acknowledge(3)
        waiting = []
        for _ in range(3):
            waiting.append([(one.entries, one.first, spool.disk_bytes) for one in list_spools(tmp_path)])
            await asyncio.sleep(1.0)
        [(_, _, size)] = waiting[1]
        assert [waiting[0][0][:2], *waiting[1:]] == [(3, 1), [(0, 4, size)], [(0, 4, size)]]
        queue.close_input()
        await running
        await queue.close()

    loop = VirtualLoop(monkeypatch)
    loop.run_until_complete(scenario())
    loop.close()


def test_a_larger_spool_takes_what_waited_for_room(run, tmp_path):
    """At once: nothing has to be acknowledged before."""

    async def scenario():
        spool = spool_of(tmp_path / "s", max_bytes=8192)
        queue = SpoolQueue(spool, max_memory=1 << 20)
        running = asyncio.create_task(queue.run())
        batch = Batch(os.urandom(3000).hex().encode() + b"\n", 1, {})
        for _ in range(4):
            queue.append(batch)
        while spool.next_sequence < 2:
            await queue.wait_for_change()
        await asyncio.sleep(0.05)
        assert spool.next_sequence == 2, "for the next one there is no room"
        queue.limit(max_memory=1 << 20, max_stored=1 << 20, policy="block")
        while spool.next_sequence < 5:
            await queue.wait_for_change()
        queue.close_input()
        await running
        await queue.close()

    run(scenario)


def test_a_larger_bound_in_memory_lets_the_reader_go_on(run):
    """And a smaller one keeps it waiting, without a store on disk too."""

    async def scenario():
        queue = SpoolQueue(MemoryStore("s"), max_memory=10)
        queue.append(Batch(b"x" * 100 + b"\n", 1, {}))
        waiting = asyncio.create_task(queue.wait_for_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.limit(max_memory=1000, max_stored=1 << 20, policy="block")
        await waiting
        queue.limit(max_memory=100, max_stored=1 << 20, policy="block")
        waiting = asyncio.create_task(queue.wait_for_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        await queue.close()

    run(scenario)


def test_what_will_be_dropped_is_not_compressed_first(tmp_path):
    """Dropping is faster than any compression: what waited for that would be in memory, without a bound."""
    pressing = []

    async def scenario():
        store = spool_of(tmp_path / "s", max_bytes=1 << 20)
        queue = SpoolQueue(store, max_memory=1 << 20, policy="drop_newest", press=pressing.append)
        running = asyncio.create_task(queue.run())
        for _ in range(100):
            await queue.wait_for_room()
            queue.append(Batch(b'{"n":"%s"}\n' % os.urandom(100_000).hex().encode(), 1, {}))
        queue.close_input()
        await running
        await queue.close()
        assert queue.counts["dropped_drop_newest"] >= 80
        assert 0 < len(pressing) <= 100 - queue.counts["dropped_drop_newest"]

    asyncio.run(scenario())


def test_a_full_spool_is_said_once_and_that_it_goes_on_once(tmp_path, caplog):
    """With the setting, its value and what to do; a receiver that is slow makes it full every second."""
    caplog.set_level(logging.INFO, "logbale")

    async def scenario():
        store = spool_of(tmp_path / "s", max_bytes=1 << 20)
        queue = SpoolQueue(store, max_memory=1 << 20)
        running = asyncio.create_task(queue.run())
        for _ in range(3):
            while not queue.why_unstored:
                queue.append(batch_of([{"n": os.urandom(50_000).hex()}]))
                await asyncio.sleep(0.001)
            await queue.acknowledge(store.next_sequence - 1)
            while queue.why_unstored:
                await queue.wait_for_change()
        queue.close_input()
        await running
        await queue.close()

    asyncio.run(scenario())
    said = [record.message for record in caplog.records if record.name == "logbale.spool"]
    assert said == [
        "the spool is full (SPOOL_MAX_BYTES is 1,048,576), and SPOOL_POLICY=block: reading waits until the receiver "
        "has taken some of it. More room is --spool-max-bytes; other policies drop entries instead",
        "the spool has room again: reading goes on",
    ]


def test_entries_that_are_dropped_are_said_at_once_and_then_ever_more_rarely(tmp_path, monkeypatch, caplog):
    """Each line has what was dropped since the last one."""
    now = 1000.0
    monkeypatch.setattr("logbale.storing.monotonic", lambda: now)

    async def scenario():
        nonlocal now
        store = spool_of(tmp_path / "s", max_bytes=1 << 20)
        queue = SpoolQueue(store, max_memory=1 << 20, policy="drop_newest")
        running = asyncio.create_task(queue.run())
        while not caplog.records:
            queue.append(batch_of([{"n": os.urandom(50_000).hex()}]))
            await asyncio.sleep(0.001)
        seen = []
        for at in (1059.0, 1061.0, 1062.0):
            now = at
            queue.append(batch_of([{"n": os.urandom(50_000).hex()}] * 2))
            while queue.unstored:
                await asyncio.sleep(0.001)
            seen.append(len(caplog.records))
        assert seen == [1, 2, 2]
        assert "4 entries are dropped" in caplog.messages[1]
        queue.close_input()
        await running
        await queue.close()

    asyncio.run(scenario())
    assert "SPOOL_MAX_BYTES is 1,048,576" in caplog.messages[0]


def test_what_is_dropped_counts_though_the_spool_is_gone_and_counts_once(tmp_path, caplog):
    """Somebody deleted its directory: nothing can be noted, and an ack that comes meanwhile has the new counts."""

    async def scenario():
        store = spool_of(tmp_path / "s", max_bytes=1 << 20)
        queue = SpoolQueue(store, max_memory=1 << 20, policy="drop_newest")
        running = asyncio.create_task(queue.run())
        while queue.counts.get("dropped_drop_newest", 0) < 5:
            queue.append(batch_of([{"n": os.urandom(50_000).hex()}]))
            await asyncio.sleep(0.001)
        while queue.unstored:
            await queue.wait_for_change()
        before = queue.counts
        store.lock.path.unlink()
        queue.append(batch_of([{"n": os.urandom(500_000).hex()}] * 3))
        while queue.unstored:
            acked = asyncio.ensure_future(queue.acknowledge(0))
            await asyncio.sleep(0)
            assert queue.counts["read"] == before["read"] + 3
            await acked
        after = queue.counts
        assert after["dropped_drop_newest"] == before["dropped_drop_newest"] + 3
        assert after["read"] == before["read"] + 3
        running.cancel()
        await queue.close()

    asyncio.run(scenario())
    assert "the drop is not on disk yet" in caplog.text


def test_a_silence_grows_while_it_is_broken_and_ends_with_the_matter():
    """1, 2, 4 minutes and so on, 15 at most; what comes after a long while is news."""
    silence = Silence()
    said = [now for now in range(0, 4000, 10) if silence.is_over(now)]
    assert said == [0, 60, 180, 420, 900, 1800, 2700, 3600]
    assert silence.is_over(6000)
    assert [now for now in range(6010, 6200, 10) if silence.is_over(now)] == [6060, 6180]


def test_batches_that_were_dropped_do_not_wait(tmp_path):
    """Though the receiver, which has to hear of the gap, has not yet; each entry that waits is in a batch that does."""

    async def scenario():
        store = spool_of(tmp_path / "s", max_bytes=1 << 20)
        queue = SpoolQueue(store, max_memory=1 << 20, policy="drop_oldest")
        running = asyncio.create_task(queue.run())
        for _ in range(100):
            await queue.wait_for_room()
            queue.append(batch_of([{"n": os.urandom(20_000).hex()}] * 2))
        while queue.unstored:
            await queue.wait_for_change()
        counts = queue.counts
        assert counts["dropped_drop_oldest"] > 0
        assert 2 * queue.waiting_batches == counts["spooled"] == 200 - counts["dropped_drop_oldest"]
        queue.close_input()
        await running
        await queue.close()

    asyncio.run(scenario())
    store = spool_of(tmp_path / "s", max_bytes=1 << 20)
    queue = SpoolQueue(store, max_memory=1 << 20)
    assert 2 * queue.waiting_batches == store.counts["spooled"]
    store.close()
