"""A spool that is busy holds up nothing that need not wait for it."""

import asyncio
import threading

from spool_batches import spool_of
from test_delivery import KeepingSink, Numbers, receiver
from waiting import eventually

from logbale.config import Settings
from logbale.log_shipper import LogShipper


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
        settings = {"batch_max_bytes": 2048, "window_bytes": 4096, "compression_enabled": False}
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
