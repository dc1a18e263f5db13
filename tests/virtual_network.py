"""An event loop whose clock jumps, and a network in memory: both real ends, an hour of theirs in a second of ours.

Nothing here waits: where the loop has nothing to do, its clock goes on to the next thing that is due. Threads are not
started; what is given to them runs at once.
"""

import asyncio
import selectors
import socket
from collections import deque

TIMED = "connection log_shipper open_session reading sending session_link spool_queue storing tcp_server"
"""The modules that read the clock."""

PIECE = 512
"""Bytes that arrive at a time where the network has a speed."""
KERNEL_BYTES = 128 * 1024
"""What the two sockets take of what the network has not carried yet."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, on a clock and a network of its own."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        super().__init__(_Jumping(self))
        self.network = Network(self)
        for module in TIMED.split():
            monkeypatch.setattr(f"logbale.{module}.monotonic", self.time)

    def time(self):
        return self.now

    def run_in_executor(self, executor, function, *arguments):
        done = self.create_future()
        try:
            done.set_result(function(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    async def create_server(self, factory, host, port, **_):
        self.network.factory = factory
        return self.network

    async def create_connection(self, factory, host, port, **_):
        return self.network.connect(factory())


class _Jumping(selectors.DefaultSelector):
    """Does not wait for the time-out, but makes it later."""

    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen any more"
            self._loop.now += max(timeout, 0)
        return ready


class Network:
    """All connections to one server; it stands in for the asyncio.Server too."""

    def __init__(self, loop):
        self.loop = loop
        self.factory = None
        self.sockets = [self]
        self.speed = None
        """Bytes a second, each way; None for at once."""
        self.is_up = True
        """Whether anybody is let in, and anything arrives."""
        self.server_is_frozen = False
        """Its kernel lets clients in and takes what they send; its process sees nothing of it before it goes on."""
        self.flip = None
        """Direction and bit of the first connection that arrives turned over."""
        self.connections = 0
        self.passed = {"up": b"", "down": b""}
        """What was sent each way on the first connection."""
        self.beginnings = []
        """The flags byte that each connection's client sent first."""

    def getsockname(self):
        return "virtual", 1

    def close(self):
        self.factory = None

    async def wait_closed(self):
        pass

    def connect(self, client):
        if self.factory is None or not self.is_up:
            raise ConnectionRefusedError("nobody listens")
        self.connections += 1
        self.beginnings.append(None)
        server = self.factory()
        ends = End(self, client, "up"), End(self, server, "down")
        for end, other in (ends, ends[::-1]):
            end.other = other
            end.number = self.connections
        server.connection_made(ends[1])
        client.connection_made(ends[0])
        return ends[0], client

    def harmed(self, way, data):
        """The next bytes of the first connection, as they arrive."""
        begin = len(self.passed[way])
        self.passed[way] += data
        if self.flip is not None and self.flip[0] == way and begin <= self.flip[1] // 8 < begin + len(data):
            data = bytearray(data)
            data[self.flip[1] // 8 - begin] ^= 1 << self.flip[1] % 8
        return bytes(data)


class End(asyncio.Transport):
    """One end of a connection, and what it has sent that has not arrived."""

    def __init__(self, network, protocol, way):
        super().__init__()
        self.network, self.loop = network, network.loop
        self.protocol = protocol
        self.way = way
        self.other = None
        self.number = 0
        self.under_way = deque()
        self.waiting = 0
        self.is_carrying = False
        self.reads = True
        self.held_up = False
        self.closing = False
        """Nothing more is written; what was written still arrives, and then the end."""
        self.gone = False
        """The protocol has been told that it lost its connection, or is about to be."""

    def get_extra_info(self, name, default=None):
        return {"peername": ("virtual", 1), "socket": self}.get(name, default)

    def setsockopt(self, *option):
        assert option[1] in (socket.SO_KEEPALIVE, socket.SO_LINGER, socket.TCP_NOTSENT_LOWAT)

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def get_write_buffer_size(self):
        return max(0, self.waiting - KERNEL_BYTES)

    def is_closing(self):
        return self.closing

    def write(self, data):
        if self.closing:
            return
        if self.way == "up":
            self.network.beginnings[self.number - 1] = self.network.beginnings[self.number - 1] or data[4]
        data = self.network.harmed(self.way, bytes(data)) if self.number == 1 else bytes(data)
        self.under_way.append(data)
        self.waiting += len(data)
        if self.waiting > KERNEL_BYTES and not self.held_up:
            self.held_up = True
            self.protocol.pause_writing()
        self.carry()

    def carry(self):
        if not self.is_carrying and (self.under_way or self.closing):
            self.is_carrying = True
            speed = self.network.speed
            self.loop.call_later(PIECE / speed if speed else 0.0, self.arrive)

    def arrive(self):
        self.is_carrying = False
        if self.other.gone:
            return
        if not self.network.is_up or self.network.server_is_frozen or not self.other.reads:
            self.is_carrying = True
            self.loop.call_later(0.1, self.arrive)
        elif self.under_way:
            data = self.under_way.popleft()
            if self.network.speed and len(data) > PIECE:
                self.under_way.appendleft(data[PIECE:])
                data = data[:PIECE]
            self.waiting -= len(data)
            self.other.protocol.data_received(data)
            if self.held_up and not self.gone and self.waiting <= KERNEL_BYTES:
                self.held_up = False
                self.protocol.resume_writing()
            self.carry()
        elif self.closing:
            if not self.other.protocol.eof_received():
                self.other.close()
            self.end(None)

    def pause_reading(self):
        self.reads = False

    def resume_reading(self):
        self.reads = True

    def close(self):
        if not self.closing:
            self.closing = True
            self.carry()

    def abort(self):
        """As the kernels have it: the peer sees a reset; a frozen one later sees all that came, and the end."""
        self.end(None)
        if self.network.server_is_frozen:
            self.carry()
            return
        self.under_way.clear()
        if self.network.is_up:  # else nobody is told
            self.other.end(ConnectionResetError("reset"))

    def end(self, error):
        self.closing = True
        if not self.gone:
            self.gone = True
            self.loop.call_soon(self.protocol.connection_lost, error)
