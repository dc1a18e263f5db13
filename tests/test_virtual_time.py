"""Both real ends on a clock that jumps: every bit of a session turned over, slow links, long silences, an hour away."""

import asyncio
import logging
import random

import pytest
from chunks import batch_of
from test_delivery import KeepingSink
from test_log_shipper import ScriptedSource
from virtual_network import VirtualLoop

from logbale import messages
from logbale.compressing import Compressing
from logbale.compression import CompressionHandler
from logbale.config import Settings
from logbale.connection import Connection
from logbale.log_shipper import LogShipper
from logbale.metrics import ReceiverMetrics, ShipperMetrics
from logbale.protocol import Algorithm, Flag
from logbale.reports import Report
from logbale.session_link import SessionLink
from logbale.spool import MemoryStore
from logbale.spool_queue import SpoolQueue
from logbale.tcp_server import TCPLogReceiver


@pytest.fixture
def loop(monkeypatch):
    loop = VirtualLoop(monkeypatch)
    logging.disable(logging.CRITICAL)  # ten thousand connections that end have a lot to say
    yield loop
    logging.disable(logging.NOTSET)
    loop.close()


SESSIONS = {
    "zstd": {"compression_algorithm": "zstd"},
    "zlib": {"compression_algorithm": "zlib"},
    "gzip": {"compression_algorithm": "gzip"},
    "alone": {"compression_algorithm": "zstd", "compression_context": "batch"},
    "raw": {"compression_algorithm": "none"},
}


def report(ended):
    return Report(read=1, delivered=1, waiting_entries=0, ended=ended)


class Ends:
    """A receiver, and a shipper's queue and link, put together without sources."""

    def __init__(self, settings, **receiver_settings):
        self.server = TCPLogReceiver(Settings(**receiver_settings), KeepingSink(), ReceiverMetrics(now=0.0))
        self.queue = SpoolQueue(MemoryStore("s"), max_memory=1 << 30)
        algorithm = Algorithm.named(settings.compression_algorithm)
        self._compressing = Compressing(CompressionHandler(algorithm, level=3, bypass_threshold=1))
        self.metrics = ShipperMetrics(now=0.0, algorithm=algorithm.label, level=3)
        self._link = SessionLink(
            self.queue, settings, self._compressing, self.metrics, report=report, chance=lambda: 0.5
        )

    async def __aenter__(self):
        await self.server.start()
        self._tasks = [asyncio.ensure_future(one) for one in (self.queue.run(), self._link.run())]
        return self

    async def delivered(self, *, within):
        """The input has ended; everything is consumed within so many seconds."""
        self.queue.close_input()
        async with asyncio.timeout(within):
            await asyncio.gather(*self._tasks)

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self.server.stop(deadline=asyncio.get_running_loop().time() + 10)
        self._compressing.close()
        await self.queue.close()


async def short_session(settings):
    """All that a good session has, in 900 bytes: hello, welcome, batches, a skip, acks, statuses and pings."""
    async with Ends(settings, max_raw_bytes=300) as ends:
        for n in range(6):
            ends.queue.append(batch_of([{"n": n, "m": "x" * (400 if n == 3 else 20)}]))
            if n == 4:
                await asyncio.sleep(13.0)
        await ends.delivered(within=300)
    assert ends.server.sink.numbers == [0, 1, 2, 4, 5]
    assert ends.queue.counts == {"read": 6, "spooled": 0, "acknowledged": 5, "rejected": 1}
    assert ends.server.metrics.in_flight_bytes == 0


def turn_over(loop, name, bits):
    """Runs the session with each of these bits turned over; returns those that went unnoticed, and harmed nothing."""
    settings, unnoticed, network = Settings(**SESSIONS[name]), [], loop.network
    for way, bit in bits:
        network.flip, network.connections, network.passed = (way, bit), 0, {"up": b"", "down": b""}
        try:
            loop.run_until_complete(short_session(settings))
        except BaseException as error:
            error.add_note(f"in session {name}, bit {bit} of the way {way}")
            raise
        if network.connections == 1:
            unnoticed.append((way, bit))
    return unnoticed


def bits_of(loop, name, *, batches_only=False):
    """Every bit of the session, or of its batches, each way; and those that may go unnoticed.

    These are in compressed bodies and their lengths, where some say nothing about the batch: a gzip header's time, say,
    or that the last bytes of a sync flush belong to the body, when no other frame comes behind it. And in the shipper's
    last word, behind which nothing comes at all.
    """
    loop.run_until_complete(short_session(Settings(**SESSIONS[name])))
    assert loop.network.connections == 1
    bits, harmless = [], set()
    for way, data in loop.network.passed.items():
        begin = 0
        while begin < len(data):
            end = begin + 5 + int.from_bytes(data[begin : begin + 4], "big")
            if not (batches_only and data[begin + 4] == Flag.CONTROL):
                bits += [(way, bit) for bit in range(8 * begin, 8 * end)]
            if data[begin + 4] & Flag.COMPRESSED:
                harmless |= {(way, 8 * begin + bit) for bit in range(32)}
                harmless |= {(way, bit) for bit in range(8 * (begin + 5 + 16), 8 * end)}
            last, begin = begin, end
        if way == "up":
            assert b'"ended":true' in data[last:]
            harmless |= {(way, bit) for bit in range(8 * last, 8 * len(data))}
    return bits, harmless


@pytest.mark.parametrize("name", SESSIONS)
def test_a_flipped_bit_anywhere_in_a_session_changes_nothing(loop, name):
    """Nothing lost, doubled, out of order or altered, whichever message, header or body it is in."""
    first = random.randrange(101)
    print("from bit", first)
    bits, harmless = bits_of(loop, name)
    assert harmless >= set(turn_over(loop, name, bits[first::101]))


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", SESSIONS)
def test_no_single_flipped_bit_of_a_session_changes_anything(loop, name):
    """All of them, one after the other. All are noticed, but for the few that say nothing."""
    # What is said beside the batches is in all sessions the same.
    bits, harmless = bits_of(loop, name, batches_only=name != "zstd")
    print(len(bits), "bits")
    assert harmless >= set(turn_over(loop, name, bits))


def test_without_the_crc_a_flipped_bit_does_harm(loop, monkeypatch):
    """A mutant, so that the tests above are known to see it."""
    monkeypatch.setattr(messages, "_has_crc", lambda _: True)
    bits, _ = bits_of(loop, "raw")
    with pytest.raises((AssertionError, TimeoutError)):
        turn_over(loop, "raw", bits)


def test_a_link_of_64_kbit_after_a_long_outage_drains_and_is_not_declared_dead(loop):
    """Three megabytes that wait after an hour without a network leave on one connection, in the time that they take."""
    chance = random.Random(1)
    loop.network.speed, loop.network.is_up = 8000, False
    sizes = [1_000_000, 300, 500_000, *[50_000] * 10, 1_000_000]

    async def scenario():
        async with Ends(Settings(**SESSIONS["zstd"])) as ends:
            for n, size in enumerate(sizes):
                noise = "".join(chance.choices("0123456789abcdef", k=size))  # half its size compressed
                ends.queue.append(batch_of([{"n": n, "m": noise}]))
            await asyncio.sleep(3600)
            loop.network.is_up = True
            began = loop.time()
            await ends.delivered(within=600)
            assert loop.time() - began > 150
            assert ends.server.sink.numbers == list(range(len(sizes)))
            assert loop.network.connections == 1

    loop.run_until_complete(scenario())


@pytest.mark.parametrize(("stop_after", "ends_after"), [(None, 10.0), (4.0, 10.0), (9.5, 10.0)])
def test_a_stop_does_not_lengthen_the_wait_for_a_receiver_that_is_not_there(loop, stop_after, ends_after):
    """Ten seconds after the source's end it is over, asked for or not."""

    async def scenario():
        shipper = LogShipper(Settings(drain_timeout=10.0), ScriptedSource([3]))
        running = asyncio.ensure_future(shipper.run())
        while not shipper.snapshot().waiting_batches:
            await asyncio.sleep(0.01)
        began = loop.time()
        if stop_after is not None:
            loop.call_later(stop_after, shipper.stop)
        assert (await running).left_entries == 3
        assert loop.time() - began == pytest.approx(ends_after, abs=0.3)

    loop.run_until_complete(scenario())


@pytest.mark.parametrize("frozen", [6, 24, 60, 200])
def test_a_receiver_frozen_for_a_while_gets_no_base_frame_and_stores_nothing_twice(loop, monkeypatch, frozen):
    """Connections pile up in its kernel, each with a hello and some with batches; when it goes on it sees them all."""
    check = Connection.check_liveness

    def only_while_it_runs(connection, now):
        if not loop.network.server_is_frozen:
            check(connection, now)

    monkeypatch.setattr(Connection, "check_liveness", only_while_it_runs)

    async def scenario():
        async with Ends(Settings(**SESSIONS["zstd"])) as ends:
            loop.call_later(100.5, setattr, loop.network, "server_is_frozen", True)
            loop.call_later(100.5 + frozen, setattr, loop.network, "server_is_frozen", False)
            for n in range(350):
                ends.queue.append(batch_of([{"n": n}]))
                await asyncio.sleep(1.0)
            await ends.delivered(within=60)
            assert ends.server.sink.numbers == list(range(350))
            assert ends.queue.counts["acknowledged"] == 350
            assert set(loop.network.beginnings) == {Flag.CONTROL}
            assert (loop.network.connections > 1) == (frozen > 25)

    loop.run_until_complete(scenario())
