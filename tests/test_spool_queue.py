"""The queue between reading and sending: what becomes durable, in which order, and what that costs."""

import asyncio
import errno

from spool_batches import crashed, spool_of

from logbale.models import Batch
from logbale.spool import MemoryStore
from logbale.spool_queue import SpoolQueue


class Noting:
    """A store that says what is asked of it."""

    def __init__(self, store):
        self._store = store
        self.heard = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    def append(self, batches):
        self.heard.append(("append", [dict(cursors) for _, _, cursors in batches]))
        return self._store.append(batches)

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
    return Batch([{"n": 1}], 10, cursors)


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


def test_a_note_that_a_full_disk_refuses_is_tried_again(tmp_path, fail, monkeypatch, caplog):
    """It is said once, and written as soon as there is room, though no batch comes."""
    monkeypatch.setattr("logbale.spool_queue.STORAGE_RETRY", 0.01)

    async def scenario():
        spool = spool_of(tmp_path / "s")
        queue = SpoolQueue(spool, max_memory=1 << 20)
        running = asyncio.create_task(queue.run())
        fail("pwrite", errno.ENOSPC, lambda fd, data, offset: len(data) > 20)
        queue.move_cursors({"a": 1})
        async with asyncio.timeout(5):
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
