"""What a receiver's monitor promises: it says why nothing can be stored, also where the disk itself says nothing."""

import asyncio
import io
from types import SimpleNamespace

import msgspec
import pytest
from test_metrics_port import RECEIVER

from logbale import monitor as monitor_module
from logbale.archive.statistics import Statistics
from logbale.clients import Clients
from logbale.committer import COMMIT_BYTES
from logbale.config import Settings
from logbale.liveness import Liveness
from logbale.log_receiver import LogReceiver
from logbale.metrics import ReceiverMetrics
from logbale.monitor import DISK_INTERVAL, PATIENCE, Monitor
from logbale.protocol import Algorithm, encode_header
from logbale.reports import Report, encode_report

UNIX = 1_764_144_000.0
RELAY = RECEIVER.relay


class Receiver:
    """The parts of one that a monitor looks at, and its clocks."""

    def __init__(self, archive=None, **monitor):
        self.now = 100.0
        self.server = SimpleNamespace(
            clients=Clients(),
            metrics=ReceiverMetrics(now=0.0),
            committer=SimpleNamespace(storage_error=None),
            settings=Settings(latency_target=0.5),
        )
        self.monitor = Monitor(
            self.server, archive, clock=lambda: self.now, day_clock=lambda: UNIX + self.now, **monitor
        )

    def tick(self, seconds=1.0):
        self.now += seconds
        self.monitor.tick(self.server.metrics.snapshot(self.now))
        return [alarm.id for alarm in self.monitor.overview().alarms]

    def client(self, stream, **report):
        live = Liveness(self.now)
        client = self.server.clients.connected(stream=stream, address="192.0.2.1:7", live=live, now=self.now)
        if report:
            assert client.take_report(encode_report(Report(**report)), self.now)
        return client, live


def archive_at(path):
    return SimpleNamespace(directory=path, statistics=Statistics())


def test_a_receiver_in_order_has_no_alarm():
    """It is ready, and its state is good."""
    receiver = Receiver()
    receiver.client("web-1", read=10, delivered=10, waiting_entries=0)
    assert receiver.tick() == []
    assert receiver.monitor.ready() == receiver.monitor.state() == (True, "listening, storing")


def test_what_the_sink_says_is_why_it_is_not_ready():
    """The storage alarm is on as long, and critical."""
    receiver = Receiver()
    receiver.server.committer.storage_error = "/srv: cannot write: no space"
    assert receiver.tick() == ["storage"]
    assert receiver.monitor.ready() == receiver.monitor.state() == (False, "/srv: cannot write: no space")
    receiver.server.committer.storage_error = None
    assert receiver.tick() == []


def test_a_critical_alarm_degrades_but_does_not_take_from_service():
    """An entry that is nowhere is no reason to send clients away."""
    receiver = Receiver()
    receiver.server.metrics.batch_received(Algorithm.ZSTD, entries=5, raw_bytes=50, wire_bytes=5)
    assert receiver.tick() == ["sum"]
    assert receiver.monitor.ready()[0]
    is_good, why = receiver.monitor.state()
    assert not is_good
    assert "differ by 5" in why
    receiver.server.metrics.pending_entries = 5
    assert receiver.tick() == []


def test_a_shipper_whose_own_sum_is_wrong_is_named():
    """Its numbers are its own: read, delivered, rejected, dropped, waiting."""
    receiver = Receiver()
    receiver.client("web-1", read=10, delivered=10, waiting_entries=0)
    receiver.client("web-2", read=10, delivered=8, waiting_entries=1)
    assert receiver.tick() == ["sum"]
    assert "web-2" in receiver.monitor.overview().alarms[0].text


def test_rejects_are_news_for_an_hour():
    """Of batches and of base frames."""
    receiver = Receiver()
    assert receiver.tick() == []
    receiver.server.metrics.frame_refused("corrupt")
    assert receiver.tick() == ["rejects"]
    assert receiver.tick(3590.0) == ["rejects"]
    assert receiver.tick(20.0) == []
    receiver.server.metrics.errors["rejected"] += 1
    assert receiver.tick() == ["rejects"]


def test_a_client_that_went_without_a_word_is_missed_after_a_minute():
    """And no longer once it is back."""
    receiver = Receiver()
    client, live = receiver.client("web-1", read=1, delivered=1, waiting_entries=0)
    receiver.server.clients.disconnected(client, live, receiver.now)
    assert receiver.tick(59.0) == []
    assert receiver.tick() == ["silent"]
    receiver.client("web-1")
    assert receiver.tick() == []


def test_slow_batches_and_an_ending_certificate_are_told():
    """The percentile of the last minute against LATENCY_TARGET."""
    receiver = Receiver(certificate_expires=UNIX + 86400 * 3)
    receiver.tick()
    receiver.server.metrics.item_stored(10.0, 9.0)
    assert receiver.tick() == ["latency", "certificate"]


def test_a_sync_that_hangs_is_not_readiness(tmp_path):
    """Entries wait and nothing becomes durable: no error will ever tell it."""

    async def scenario():
        receiver = Receiver(archive_at(tmp_path))
        receiver.server.metrics.pending_entries = 7
        for _ in range(int(PATIENCE) - 1):
            receiver.monitor._disk_answered = receiver.now
            assert "storage" not in receiver.tick()
        receiver.monitor._disk_answered = receiver.now + 1
        receiver.tick()
        assert receiver.monitor.ready() == (False, f"{tmp_path}: 7 entries wait and nothing was synced for 30 s")
        receiver.server.metrics.item_stored(receiver.now, None)
        assert receiver.monitor.ready()[0]
        assert receiver.monitor.overview().last_sync == UNIX + receiver.now

    asyncio.run(scenario())


def room(free_bytes, total_bytes=10**12):
    return SimpleNamespace(f_bavail=free_bytes // 4096, f_frsize=4096, f_blocks=total_bytes // 4096)


def test_a_disk_without_room_for_a_commit_is_not_readiness(tmp_path, monkeypatch):
    """Before the first write fails, and without one."""

    async def scenario():
        free = [COMMIT_BYTES]
        monkeypatch.setattr(monitor_module.os, "statvfs", lambda path: room(free[0]))
        receiver = Receiver(archive_at(tmp_path))
        receiver.tick()
        while receiver.monitor.overview().disk is None:
            await asyncio.sleep(0.001)
        assert receiver.tick() == ["disk"]
        assert receiver.monitor.ready()[0]
        free[0] = COMMIT_BYTES - 4096
        receiver.tick(DISK_INTERVAL)
        while receiver.monitor.overview().disk.free_bytes == COMMIT_BYTES:
            await asyncio.sleep(0.001)
        assert receiver.tick() == ["storage", "disk"]
        assert "free some space" in receiver.monitor.ready()[1]
        receiver.server.metrics.item_stored(receiver.now, None)
        assert receiver.monitor.ready()[0]  # what was stored since then knows better

    asyncio.run(scenario())


def test_a_small_disk_needs_a_small_room(tmp_path, monkeypatch):
    """A hundredth of it: it may well be smaller than the largest commit."""

    async def scenario():
        free = [200_000]
        monkeypatch.setattr(monitor_module.os, "statvfs", lambda path: room(free[0], 16_000_000))
        receiver = Receiver(archive_at(tmp_path))
        receiver.tick()
        while receiver.monitor.overview().disk is None:
            await asyncio.sleep(0.001)
        assert receiver.monitor.ready()[0]
        free[0] = 100_000
        receiver.tick(DISK_INTERVAL)
        while receiver.monitor.ready()[0]:
            await asyncio.sleep(0.001)

    asyncio.run(scenario())


def test_a_disk_that_does_not_answer_is_not_readiness(tmp_path, monkeypatch):
    """It is asked on a thread, once at a time, and the loop goes on."""
    asked = []

    async def scenario():
        release = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hang(path):
            asked.append(path)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(60)
            return room(10**12)

        monkeypatch.setattr(monitor_module.os, "statvfs", hang)
        receiver = Receiver(archive_at(tmp_path))
        for _ in range(int(PATIENCE)):
            receiver.tick()
            await asyncio.sleep(0)
        assert receiver.monitor.ready() == (False, f"{tmp_path}: the disk has not answered for 30 s")
        assert len(asked) == 1
        release.set()
        while not receiver.monitor.ready()[0]:
            await asyncio.sleep(0.001)

    asyncio.run(scenario())


@pytest.mark.parametrize("when", [50.0, 1e15])
def test_a_change_of_level_is_not_later_than_it_was_heard_of(when):
    """A shipper's clock may be wrong; its order is its own."""
    receiver = Receiver()
    receiver.client("web-1", read=0, delivered=0, waiting_entries=0, changes=[(when, 6, 5, "busy")])
    receiver.tick()
    (change,) = receiver.monitor.history.level_changes(0.0)
    assert change.time == min(when, UNIX + receiver.now)
    assert (change.stream, change.before, change.after, change.reason) == ("web-1", 6, 5, "busy")


def test_a_monitor_that_fails_ends_nothing(monkeypatch, tmp_path, caplog):
    """It is said once; receiving, and readiness, go on without it."""
    monkeypatch.setattr("logbale.log_receiver.TICK_INTERVAL", 0.001)
    ticks = []

    def fail(self, snapshot):
        ticks.append(snapshot)
        raise ZeroDivisionError

    monkeypatch.setattr(Monitor, "tick", fail)

    async def scenario():
        settings = Settings(
            server_host="127.0.0.1", server_port=0, sink="null", dashboard_enabled=True, dashboard_port=0
        )
        receiver = LogReceiver(settings, out=io.StringIO())
        await receiver.start()
        running = asyncio.create_task(receiver.run())
        while len(ticks) < 3:
            await asyncio.sleep(0.001)
        _, writer = await asyncio.open_connection(*receiver.address)
        writer.write(encode_header(9, 0) + b'[{"n":1}]')
        while receiver.snapshot().stored_entries != 1:
            await asyncio.sleep(0.001)
        assert not running.done()
        writer.close()
        receiver.stop()
        assert await asyncio.wait_for(running, 60) == 0

    asyncio.run(scenario())
    assert caplog.text.count("the alarms and the history fail") == 1


def test_a_relay_that_reaches_nobody_says_so_after_a_minute_and_stays_ready():
    """It stores, and that is what its clients need; with a session, or with nothing to forward, there is no alarm."""
    receiver = Receiver()
    relay = msgspec.structs.replace(RELAY, sessions=0, last_error="Connection refused", oldest_waiting=61.0)
    receiver.server.metrics.relay = relay
    assert receiver.tick() == ["upstream"]
    assert receiver.monitor.ready()[0]
    assert receiver.monitor.state()[0]
    for changes in ({"sessions": 1}, {"waiting_entries": 0}, {"oldest_waiting": 59.0}):
        receiver.server.metrics.relay = msgspec.structs.replace(relay, **changes)
        assert receiver.tick() == []
