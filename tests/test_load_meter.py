"""What an adaptive policy is told is what happened, and its decisions are seen outside."""

import asyncio
import contextlib
import math
import socket
import sys

import msgspec
import pytest
from chunks import chunk_of

from logbale.adaptive import CAUSES
from logbale.compressing import Compressing
from logbale.compression import CompressionHandler
from logbale.config import Settings
from logbale.level_choice import LevelChoice, first_level, policy_of
from logbale.load_meter import LoadMeter
from logbale.log_shipper import LogShipper
from logbale.metrics import ReceiverMetrics, ShipperMetrics
from logbale.protocol import Algorithm
from logbale.sinks.null import NullSink
from logbale.spool import MemoryStore
from logbale.spool_queue import SpoolQueue
from logbale.tcp_server import TCPLogReceiver


class Endless:
    """Entries for as long as anybody reads."""

    async def chunks(self):
        while True:
            yield chunk_of([{"message": f"line {number} of many"} for number in range(1000)])

    def counts(self):
        return {}


def make(monkeypatch):
    monkeypatch.setattr("logbale.cpu.CpuMeter.read", lambda _: 37.0)
    queue = SpoolQueue(MemoryStore("test:1"), max_memory=1 << 20)
    metrics = ShipperMetrics(now=0.0)
    compressing = Compressing(CompressionHandler(Algorithm.GZIP, 6))
    return queue, metrics, compressing, LoadMeter(queue, metrics, compressing, link_seconds=lambda: None, now=100.0)


def test_a_sample_says_what_was_read_sent_and_left_waiting(run, monkeypatch):
    """Ten batches came, three were compressed and sent: seven wait, and ten came from the source."""

    async def scenario():
        queue, metrics, compressing, meter = make(monkeypatch)
        raw = b"a line of a thousand bytes " * 40
        await queue.call(queue.store.append, [(raw, 1, {})] * 10)
        for sequence in (1, 2, 3):
            await compressing.alone(raw)
            await queue.next_item(sequence)
        metrics.arrived_bytes = 500
        sample = meter.sample(105.0)
        assert (sample.cpu_percent, sample.seconds, sample.wire_bytes) == (37.0, 5.0, 500)
        assert sample.backlog_bytes == 7 * len(raw)
        assert sample.read_bytes == 10 * len(raw)
        [(level, work)] = sample.work.items()
        assert (level, work.raw_bytes) == (6, 3 * len(raw))
        assert 0 < work.wire_bytes < work.raw_bytes
        assert work.cpu_seconds > 0
        assert work.wall_seconds > 0
        idle = meter.sample(106.0)
        assert (idle.read_bytes, idle.wire_bytes, idle.work, idle.seconds) == (0, 0, {}, 1.0)
        compressing.close()
        await queue.close()

    run(scenario)


def test_what_stays_raw_says_nothing_about_levels(run, monkeypatch):
    """A batch below BYPASS_THRESHOLD has no ratio and took no time."""

    async def scenario():
        queue, _, compressing, meter = make(monkeypatch)
        await compressing.alone(b"[]")
        assert meter.sample(101.0).work == {}
        compressing.close()
        await queue.close()

    run(scenario)


def test_a_send_that_still_waits_counts_as_stalled():
    """A frame that takes ten seconds stalls in each of them, not in the last one."""
    metrics = ShipperMetrics(now=0.0)
    metrics.send_begins(10.0)
    assert metrics.stalled_seconds(13.0) == 3.0
    metrics.send_ended(14.0)
    assert metrics.stalled_seconds(20.0) == 4.0
    assert metrics.snapshot(20.0).stalled_seconds == 4.0


def test_what_a_decision_weighs_and_its_kind_are_metrics(run, monkeypatch):
    """Of the balanced policy all of it, of the other one its kind alone; and nothing that is not in force any more."""

    async def scenario():
        queue, metrics, compressing, meter = make(monkeypatch)
        settings = Settings(adaptive_enabled=True, compression_algorithm="gzip")
        policy = policy_of(settings)
        compressing.handler.level = metrics.level = first_level(settings, policy)
        choice = LevelChoice(settings, policy, compressing.handler, metrics, meter)

        async def decide():
            deciding = asyncio.create_task(choice.run(look=lambda: None))
            await asyncio.sleep(0)
            deciding.cancel()
            return metrics.snapshot(0.0)

        before = metrics.snapshot(0.0)
        assert (before.level_cause, before.level_inputs) == ("fixed", None)
        await compressing.alone(b"a line of a thousand bytes " * 40)
        balanced = await decide()
        assert balanced.level_cause == "cheapest"
        assert balanced.level_inputs.link == math.inf
        assert balanced.level_inputs.arrivals > 0
        assert 0 < balanced.level_inputs.core_share <= 1
        assert not balanced.level_inputs.is_behind
        choice.follow(msgspec.structs.replace(settings, adaptive_policy="cpu"))
        assert (metrics.level_cause, metrics.level_inputs) == ("fixed", None)
        after = await decide()
        assert after.level_cause in CAUSES[-3:]
        assert after.level_inputs is None
        compressing.close()
        await queue.close()

    run(scenario)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_in_the_end_everything_that_was_sent_has_arrived(run, mode):
    """By acknowledgements in a session, by what has left without one; and nothing waits."""

    class Some(Endless):
        async def chunks(self):
            yield chunk_of([{"n": number} for number in range(5000)])

    async def scenario():
        settings = Settings(server_host="127.0.0.1", server_port=0, session_mode=mode)
        server = TCPLogReceiver(settings, NullSink(), ReceiverMetrics(now=0.0))
        await server.start()
        running = LogShipper(msgspec.structs.replace(settings, server_port=server.address[1]), Some())
        report = await running.run()
        assert running._metrics.arrived_bytes == report.snapshot.sent.wire_bytes > 0
        assert report.snapshot.backlog_bytes == 0
        await server.stop(deadline=0.0)

    run(scenario)


@pytest.mark.long
@pytest.mark.parametrize("told", [True, False])
def test_a_slow_receiver_does_not_raise_the_level_where_the_kernel_tells(run, told, caplog, monkeypatch):
    """Backlog, stalls, level, cause and log line from real sockets, within seconds.

    The receiver is the slow end, and no level makes it faster. Where the kernel tells, the level is therefore the one
    whose bytes and CPU are cheapest together, as if nothing waited, and the link is never the cause. Where nobody
    tells, a slow receiver looks like a slow link, and the level rises, to no use.
    """
    if told and sys.platform != "linux":
        pytest.skip("the system does not tell")
    if not told:
        monkeypatch.setattr("logbale.tcp_client.link_seconds", lambda _: None)
    reason = "the receiver is what" if told else "the link is what"

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while await reader.read(16384):
                await asyncio.sleep(0.2)  # far slower than a busy machine can compress

    async def scenario():
        listening = socket.create_server(("127.0.0.1", 0))
        # Small, or the kernel takes megabytes, and for seconds there is no slow receiver.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        async with await asyncio.start_server(serve, sock=listening, limit=16384) as server:
            host, port = server.sockets[0].getsockname()
            settings = Settings(
                server_host=host,
                server_port=port,
                session_mode="off",
                batch_size=500,
                adaptive_enabled=True,
            )
            running = LogShipper(settings, Endless())
            start = running.snapshot().level
            async with until_stopped(running) as task, asyncio.timeout(200):
                while not task.done():
                    now = running.snapshot()
                    if (told or now.level > start) and now.level_reason.startswith(reason):
                        break
                    await asyncio.sleep(0.05)
            assert ("link" in now.level_changes) == (not told)
            assert (now.level <= start) if told else (now.level > start)
            assert now.backlog_bytes > 0
            assert now.stalled_seconds > 0
        await asyncio.sleep(0.1)  # for the ends of the connections to be seen, and closed, by their handlers

    caplog.set_level("INFO", logger="logbale.shipper")
    run(scenario)
    assert told or any("compression level" in record.message for record in caplog.records)


@contextlib.asynccontextmanager
async def until_stopped(shipper):
    """Its run, which ends with this whatever happens; what it raised is raised."""
    task = asyncio.create_task(shipper.run())
    try:
        yield task
    finally:
        shipper.stop()
        shipper.stop()
        await task
