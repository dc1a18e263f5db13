"""The shipper as a whole, with a scripted source and a real receiver: what is read arrives, in order."""

import asyncio
import contextlib
import json
import logging
import re

import pytest
from chunks import chunk_of
from waiting import eventually

from chaos.processes import free_port
from logbale.config import Settings
from logbale.errors import StorageError
from logbale.log_shipper import LogShipper
from logbale.metrics import ReceiverMetrics
from logbale.sinks import Stored
from logbale.sinks.null import NullSink
from logbale.sources.tail import TailSource
from logbale.spool import DiskSpool
from logbale.tcp_server import TCPLogReceiver


class ScriptedSource:
    """Yields chunks of the given sizes; then ends, waits for ever, or fails."""

    def __init__(self, sizes, then="end"):
        self.sizes = sizes
        self.then = then
        self.taken = 0

    async def chunks(self):
        number = 0
        for size in self.sizes:
            entries = [{"n": n} for n in range(number, number + size)]
            number += size
            self.taken = number
            yield chunk_of(entries)
        if self.then == "wait":
            await asyncio.Event().wait()
        if self.then == "fail":
            raise StorageError("the file is gone")

    def counts(self):
        return {"invalid_utf8": 3}


class ListSink(NullSink):
    def __init__(self):
        super().__init__()
        self.arrived = []

    async def commit(self, batches):
        self.arrived += [json.loads(line)["n"] for batch in batches for line in batch.lines().splitlines()]
        return [Stored() for _ in batches]

    async def close(self):
        pass


@contextlib.asynccontextmanager
async def receiver(**settings):
    sink = ListSink()
    server = TCPLogReceiver(
        Settings(server_host="127.0.0.1", server_port=0, **settings), sink, ReceiverMetrics(now=0.0)
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop(deadline=0.0)


def shipper(server, source, **settings):
    return LogShipper(Settings(server_host="127.0.0.1", server_port=server.address[1], **settings), source)


@pytest.mark.parametrize("algorithm", ["gzip", "zlib", "zstd", "none"])
@pytest.mark.parametrize("batch_size", [7, 5000])
def test_everything_read_arrives_once_and_in_order(run, algorithm, batch_size):
    """Small batches on the loop and large ones through the pool, each algorithm."""

    async def scenario():
        async with receiver() as server:
            source = ScriptedSource([1, 0, 4999, 5000, 13])
            report = await shipper(server, source, compression_algorithm=algorithm, batch_size=batch_size).run()
            assert report.delivered
            assert (report.left_batches, report.left_entries) == (0, 0)
            assert server.sink.arrived == list(range(10_013))
            snapshot = report.snapshot
            assert snapshot.read_entries == snapshot.sent.entries == 10_013
            assert snapshot.sent.batches <= -(-10_013 // batch_size)  # more may go together while they wait
            assert snapshot.errors == {"invalid_utf8": 3}
            received = server.metrics.snapshot(1.0).received
            assert (received.raw_bytes, received.wire_bytes) == (snapshot.sent.raw_bytes, snapshot.sent.wire_bytes)

    run(scenario)


def test_a_partial_batch_leaves_after_its_interval(run):
    """A quiet source does not keep its entries waiting for a full batch."""

    async def scenario():
        async with receiver() as server:
            running = shipper(server, ScriptedSource([3], then="wait"), batch_interval=0.05)
            task = asyncio.create_task(running.run())
            async with asyncio.timeout(60):
                while len(server.sink.arrived) < 3:
                    await asyncio.sleep(0.005)
            running.stop()
            assert (await task).delivered

    run(scenario)


def test_a_stop_flushes_and_delivers_what_was_read(run):
    """What is in the buffer when the stop comes still arrives."""

    async def scenario():
        async with receiver() as server:
            running = shipper(server, ScriptedSource([120], then="wait"), batch_interval=60)
            task = asyncio.create_task(running.run())
            while running.snapshot().read_entries < 120:
                await asyncio.sleep(0.001)
            running.stop()
            assert (await task).delivered
            assert server.sink.arrived == list(range(120))

    run(scenario)


def test_a_stop_without_a_receiver_ends_in_time_and_says_what_is_left(run):
    """DRAIN_TIMEOUT bounds the wait (test_virtual_time.py has how long); the report counts batches and entries."""

    async def scenario():
        running = LogShipper(nowhere(drain_timeout=0.2), ScriptedSource([120], then="wait"))
        task = asyncio.create_task(running.run())
        while running.snapshot().read_entries < 120:
            await asyncio.sleep(0.001)
        running.stop()
        report = await task
        assert not report.delivered
        assert (report.left_batches, report.left_entries) == (3, 120)

    run(scenario)


def test_a_second_stop_ends_at_once(run):
    """Who asks twice does not want to wait."""

    async def scenario():
        running = LogShipper(nowhere(drain_timeout=60), ScriptedSource([1], then="wait"))
        task = asyncio.create_task(running.run())
        while not running.snapshot().read_entries:
            await asyncio.sleep(0.001)
        running.stop()
        running.stop()
        async with asyncio.timeout(60):
            assert (await task).left_entries == 1

    run(scenario)


def test_a_finite_source_gives_up_when_the_receiver_cannot_be_reached(run):
    """DRAIN_TIMEOUT after the end of the source, not for ever."""

    async def scenario():
        async with asyncio.timeout(60):
            report = await LogShipper(nowhere(drain_timeout=0.2), ScriptedSource([10])).run()
        assert (report.delivered, report.left_entries) == (False, 10)

    run(scenario)


def test_reading_pauses_when_too_much_waits_for_the_connection(run):
    """Nothing that was accepted is dropped, so no more is accepted than fits."""

    async def scenario():
        source = ScriptedSource([100] * 1000)
        running = LogShipper(nowhere(drain_timeout=60, buffer_max_bytes=20_000), source)
        task = asyncio.create_task(running.run())
        while source.taken < 2_000:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        # 10 bytes an entry: 2,000 entries fill the buffer; a chunk more may be on its way.
        assert 2_000 <= source.taken <= 2_200
        running.stop()
        running.stop()
        assert (await task).left_entries == running.snapshot().read_entries

    run(scenario)


def test_what_was_read_before_an_error_of_the_source_still_arrives(run):
    """The error is raised after the delivery, not instead of it."""

    async def scenario():
        async with receiver() as server:
            with pytest.raises(StorageError, match="gone"):
                await shipper(server, ScriptedSource([60], then="fail")).run()
            assert server.sink.arrived == list(range(60))

    run(scenario)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_an_error_of_the_source_does_not_wait_for_a_receiver_that_takes_nothing(run, mode):
    """It is raised after DRAIN_TIMEOUT, though the receiver is there and its own end would be waited for."""

    async def never(batches):
        await asyncio.Event().wait()

    async def scenario():
        async with receiver() as server:
            server.sink.commit = never
            source = ScriptedSource([60], then="fail")
            async with asyncio.timeout(60):
                with pytest.raises(StorageError, match="gone"):
                    await shipper(server, source, drain_timeout=0.3, session_mode=mode).run()

    run(scenario)


@pytest.mark.parametrize(("then", "ended"), [("end", True), ("wait", False)])
def test_the_report_says_whether_the_source_came_to_its_end(run, then, ended):
    """Or was stopped before; everything that was read is delivered in both."""

    async def scenario():
        async with receiver() as server:
            running = shipper(server, ScriptedSource([60], then=then))
            task = asyncio.create_task(running.run())
            while running.snapshot().read_entries < 60:
                await asyncio.sleep(0.001)
            if then == "wait":
                running.stop()
            report = await task
            assert (report.delivered, report.source_ended) == (True, ended)

    run(scenario)


def nowhere(**settings):
    """Settings that lead to a port where nobody listens."""
    return Settings(server_host="127.0.0.1", server_port=free_port(), **settings)


async def forty_tries():
    """A shipper whose receiver is away, for forty tries without the waits between them."""
    running = LogShipper(nowhere(), ScriptedSource([1], then="wait"))
    running._link._sleep = lambda seconds: asyncio.sleep(0)
    task = asyncio.create_task(running.run())
    await eventually(lambda: running.snapshot().errors.get("connect", 0) >= 40)
    task.cancel()
    await asyncio.wait([task])


def test_tries_that_fail_alike_are_said_ever_more_rarely(run, caplog):
    """Of those that follow each second a line for each would bury the rest; a far one is announced each time."""
    caplog.set_level(logging.WARNING, "logbale")
    run(forty_tries)
    said = [line for line in caplog.messages if line.startswith("no session with")]
    found = [re.search(r"next try in (\d+)\.\d s(?: \((\d+) tries so far\))?$", line).groups("1") for line in said]
    tries = [int(number) for _, number in found]
    assert tries[:6] == [1, 2, 4, 8, 16, 32]
    far = [int(number) for seconds, number in found if int(seconds) >= 5]
    assert far == list(range(far[0], far[-1] + 1))
    assert len(far) > 3


def test_where_followed_files_begin_is_noted_though_the_stop_comes_before_the_first_chunk(run, tmp_path):
    """What is written until the next run is read by it: that one does not begin at their ends again."""
    log = tmp_path / "app.log"
    log.write_text("old\n")

    def follow(spool):
        return TailSource([str(log)], follow=True, from_start=False, fields={}, host="h", resume=spool.cursors)

    async def scenario():
        for written in ("new\n", ""):
            spool = DiskSpool(tmp_path / "spool", max_bytes=1 << 20)
            spool.open()
            running = LogShipper(nowhere(), follow(spool), store=spool)
            task = asyncio.create_task(running.run())
            await running.started.wait()
            await eventually(lambda written=written, running=running: written or running.snapshot().read_entries)
            running.stop()
            running.stop()
            report = await task
            with log.open("a") as file:
                file.write(written)
        assert report.left_entries == 1

    run(scenario)
