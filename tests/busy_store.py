"""Receivers, shippers' ends and a store that takes its time, on a clock that jumps (virtual_network has that)."""

import asyncio
import json

from test_delivery import KeepingSink
from virtual_network import Network, VirtualLoop

from logbale.base_link import BaseLink
from logbale.compressing import Compressing
from logbale.compression import CompressionHandler
from logbale.config import Settings
from logbale.durations import Durations
from logbale.messages import Hello, Ping, Pong, Welcome, decode_from_client, encode_message
from logbale.metrics import ReceiverMetrics, ShipperMetrics
from logbale.protocol import Algorithm, Flag, FrameDecoder
from logbale.receivers import Receivers
from logbale.relay.queue import RelayQueue
from logbale.reports import Report
from logbale.session_link import SessionLink
from logbale.sinks import ReceivedBatch
from logbale.spool.fresh import FreshRoom
from logbale.spool_queue import SpoolQueue
from logbale.tcp_client import TCPClient
from logbale.tcp_server import TCPLogReceiver


class BusyThread:
    """A store's thread: one job at a time, in order; the loop hears of each a moment after the store knows it.

    As with a real one, who is cancelled meanwhile has the job done all the same, unless it had not begun.
    """

    def __init__(self, loop):
        self.loop = loop
        self.takes = lambda: 0.0
        """Seconds of the next job."""
        self._jobs = []
        self._is_running = False

    def submit(self, job):
        done = self.loop.create_future()
        self._jobs.append((done, job))
        if not self._is_running:
            self._begin()
        return done

    def _begin(self):
        self._jobs = [(done, job) for done, job in self._jobs if not done.cancelled()]
        self._is_running = bool(self._jobs)
        if self._jobs:
            self.loop.call_later(self.takes(), self._end, *self._jobs.pop(0))

    def _end(self, done, job):
        try:
            tell, outcome = done.set_result, job()
        except Exception as error:
            tell, outcome = done.set_exception, error
        self.loop.call_soon(lambda: None if done.cancelled() else tell(outcome))
        self._begin()

    def shutdown(self, wait):
        pass


class BusyLoop(VirtualLoop):
    """A virtual network for each port, and the only threads that take time are stores'."""

    def __init__(self, monkeypatch):
        super().__init__(monkeypatch)
        self.networks = {}

    def run_in_executor(self, executor, function, *arguments):
        if isinstance(executor, BusyThread):
            return executor.submit(lambda: function(*arguments))
        return super().run_in_executor(executor, function, *arguments)

    def network_of(self, port):
        return self.networks.setdefault(port, Network(self))

    async def create_server(self, factory, host, port, **_):
        network = self.network_of(port)
        network.factory = factory
        return network

    async def create_connection(self, factory, host, port, **_):
        network = self.network_of(port)
        end, client = network.connect(factory())
        network.ends = [one for one in getattr(network, "ends", []) if not one.gone] + [end]
        return end, client

    def cut(self, port):
        """Whatever connection there is to this port is gone, with all that is on its way."""
        for end in getattr(self.network_of(port), "ends", []):
            end.abort()


class Ends:
    """One shipper's queue and link, and its receivers, the first on port 1."""

    def __init__(self, store, *, receivers=1, policy="block", max_memory=1 << 20, is_relay=False, **settings):
        loop = asyncio.get_running_loop()
        self.thread = BusyThread(loop)
        self.servers = [
            TCPLogReceiver(Settings(server_port=n + 1), KeepingSink(), ReceiverMetrics(now=0.0))
            for n in range(receivers)
        ]
        self.networks = [loop.network_of(n + 1) for n in range(receivers)]
        if is_relay:
            room = FreshRoom(max_memory)
            self.queue = RelayQueue(store, self.thread, room=room, durations=Durations(), now=loop.time())
            self.queue._thread = self.thread
        else:
            self.queue = SpoolQueue(store, max_memory=max_memory, policy=policy, thread=self.thread)
        names = ",".join(f"127.0.0.1:{n + 1}" for n in range(receivers))
        self.metrics = ShipperMetrics(now=0.0, algorithm="zstd", level=3)
        settings = Settings(**{"receivers": names, "compression_algorithm": "zstd", **settings})
        algorithm = Algorithm.named(settings.compression_algorithm)
        self._compressing = Compressing(CompressionHandler(algorithm, level=3, bypass_threshold=1))
        ways = self.queue, settings, self._compressing, self.metrics
        if settings.session_mode == "on":
            self.link = SessionLink(*ways, report=report, chance=lambda: 0.5)
        else:
            client = TCPClient(
                Receivers(settings.receiver_addresses), stream="s", send_timeout=10.0, metrics=self.metrics
            )
            self.link = BaseLink(self.queue, client, self._compressing, self.metrics)

    async def __aenter__(self):
        for server in self.servers:
            await server.start()
        self.tasks = [asyncio.ensure_future(one) for one in (self.queue.run(), self.link.run())]
        return self

    async def delivered(self, *, within):
        """The input has ended; everything is consumed within so many seconds."""
        self.queue.close_input()
        async with asyncio.timeout(within):
            await asyncio.gather(*self.tasks)

    async def __aexit__(self, *_):
        self.thread.takes = lambda: 0.0
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        await self.link.close()
        for server in self.servers:
            await server.stop(deadline=asyncio.get_running_loop().time() + 10)
        self._compressing.close()
        await self.queue.close()

    def stored(self, server=0):
        """The numbers that a receiver has, in its order, each with whether another one may have had it before."""
        items = [item for item in self.servers[server].sink.items if isinstance(item, ReceivedBatch)]
        return [(json.loads(line)["n"], item.elsewhere) for item in items for line in item.lines().splitlines()]


class Scripted(asyncio.Protocol):
    """A receiver that answers each batch as its script has it: by sequence, what it says, with None for the end."""

    def __init__(self, *scripts):
        """One for each connection; the last one is for all that follow."""
        self._scripts = list(scripts)
        self.hellos = []
        self.batches = []
        """Sequence and number of each that came, of all connections."""

    def __call__(self):
        self._decoder = FrameDecoder(1 << 20, session=None)
        self._script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        return self

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._decoder.feed(data)
        for frame in self._decoder.frames():
            if frame.flags == Flag.CONTROL:
                message = decode_from_client(frame.payload, 1 if not self.hellos else self.hellos[-1].version)
                if isinstance(message, Hello):
                    self.hellos.append(message)
                    self.say([welcome(message.version)])
                elif isinstance(message, Ping):
                    self.say([Pong(message.id)])
            else:
                sequence = int.from_bytes(frame.payload[:8], "big")
                self.batches.append((sequence, json.loads(frame.payload[16:])["n"]))
                self.say(self._script.get(sequence, []))

    def say(self, words):
        self._transport.write(b"".join(encode_message(word) for word in words if word is not None))
        if None in words:
            self._transport.close()

    def eof_received(self):
        pass


def welcome(version):
    """Of a receiver that does not know how far a stream is."""
    return Welcome(
        version=version,
        last=None,
        last_crc=0,
        max_frame=1 << 20,
        max_raw=1 << 20,
        max_entries=1000,
        window_log=0,
        algorithms=["none"],
        rejects=[],
    )


def report(ended):
    return Report(read=1, delivered=1, waiting_entries=0, ended=ended)
