"""A TCP proxy that harms what passes through it: cuts, flipped bits, one-byte slices."""

import asyncio
import contextlib

LAST_WORD = b'"ended":true'


class Proxy:
    """Between a shipper and a receiver. `plans` gives each connection, in order, what happens to it; then all is well.

    A plan is a dict: `cut` (direction, byte) resets the connection once so many bytes have passed that way, `flip`
    (direction, byte, bit) turns one bit, `slices` passes everything on byte by byte, `drop` (direction, byte, seconds)
    swallows all from that byte on and resets the connection after so long. Directions are "up" (to the receiver) and
    "down". The shipper's last word, which comes behind all acks and which nobody answers, has no bit turned. While
    `passing` is not set nothing goes anywhere, and nobody is told.
    """

    def __init__(self, receiver_port, plans=()):
        self.receiver_port = receiver_port
        self.plans = list(plans)
        self.connections = 0
        self.bites = 0
        self.passed = {"up": 0, "down": 0}
        self.passing = asyncio.Event()
        self.passing.set()
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader, writer):
        plan = self.plans[self.connections] if self.connections < len(self.plans) else {}
        self.connections += 1
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.receiver_port)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, up_writer)
        self._writers.update(ends)
        try:
            await asyncio.gather(
                self._pass_on(reader, up_writer, "up", plan, ends), self._pass_on(up_reader, writer, "down", plan, ends)
            )
        finally:
            for end in ends:
                end.transport.abort()
            self._writers.difference_update(ends)

    async def _pass_on(self, reader, writer, direction, plan, ends):
        passed = 0
        cut = plan["cut"][1] if plan.get("cut", ("",))[0] == direction else None
        drop = plan["drop"][1] if plan.get("drop", ("",))[0] == direction else None
        with contextlib.suppress(OSError, RuntimeError):
            while data := await reader.read(65536):
                await self.passing.wait()
                data = bytearray(data)
                if drop is not None and passed + len(data) > drop:
                    self.bites += 1
                    await asyncio.sleep(plan["drop"][2])
                    for end in ends:
                        end.transport.abort()
                    return
                if plan.get("flip", ("",))[0] == direction:
                    _, position, bit = plan["flip"]
                    if passed <= position < passed + len(data) and LAST_WORD not in data:
                        data[position - passed] ^= 1 << bit
                        self.bites += 1
                if cut is not None and passed + len(data) >= cut:
                    writer.write(bytes(data[: cut - passed]))
                    await writer.drain()
                    await asyncio.sleep(0.001)
                    self.bites += 1
                    for end in ends:
                        end.transport.abort()
                    return
                for piece in [data[i : i + 1] for i in range(len(data))] if plan.get("slices") else [data]:
                    writer.write(bytes(piece))
                    await writer.drain()
                passed += len(data)
                self.passed[direction] += len(data)
            writer.write_eof()
