"""The windows of contexts between a receiver and its sessions, over real sockets: taken back, obeyed, enforced."""

import asyncio
import contextlib

import pytest
from test_delivery import Numbers, at_once, next_message, receiver, shipper
from waiting import eventually

from logbale.compressing import context_flags
from logbale.context import ContextCompressor
from logbale.context_budget import charge
from logbale.messages import NO_CONTEXT, Context, Hello, encode_message
from logbale.protocol import Algorithm
from logbale.session import batch_crc, encode_batch

_ = at_once  # a fixture that every test here uses too


class Client:
    """A session by hand, which compresses in whatever window it likes."""

    def __init__(self, server, stream="by-hand", version=2):
        self.server, self.stream, self.version = server, stream, version
        self.sequence = 0
        self.context = None

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(*self.server.address)
        self.writer.write(encode_message(Hello(self.version, self.stream, 1)))
        self.window_log = (await self.next()).get("window_log", 17)  # left out where it is the default
        return self

    async def __aexit__(self, *_):
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()
        await asyncio.sleep(0.01)  # uvloop's transport ends a turn later

    async def next(self):
        async with asyncio.timeout(60):
            return await next_message(self.reader)

    def begin(self, window_log, algorithm=Algorithm.ZSTD):
        self.context = ContextCompressor(algorithm, 3, window_log=window_log)

    def obey(self, window_log):
        self.writer.write(encode_message(Context(window_log)))

    async def send(self):
        """A batch in the context that was begun last; what the receiver says to it."""
        self.sequence += 1
        raw = b'[{"n":%d}]' % self.sequence
        flags = context_flags(self.context)
        body = self.context.compress(raw)
        crc = batch_crc(self.sequence, raw)
        self.writer.write(encode_batch(self.sequence, len(raw), crc, body, self.context.algorithm, context=flags))
        return await self.next()


class InSteps(Numbers):
    """Entries that come when they are let go."""

    def __init__(self, count):
        super().__init__(count)
        self.gate = asyncio.Semaphore(0)

    async def chunks(self):
        async for chunk in super().chunks():
            await self.gate.acquire()
            yield chunk


def test_windows_shrink_as_sessions_come_and_the_data_goes_on(run):
    """A shipper obeys at once: its next batch begins a smaller context, and its old one is freed before that."""

    async def scenario():
        async with receiver(context_memory=2 * charge(17)) as server:
            source = InSteps(60)
            running = shipper(server.address[1], source, batch_size=1)
            task = asyncio.create_task(running.run())
            for _ in range(20):
                source.gate.release()
            await eventually(lambda: len(server.sink.numbers) == 20)
            (session,) = [one.session for one in server._connections]
            assert (session._window_log, server.metrics.window_log) == (17, 17)
            assert server.metrics.context_bytes == 292 * 1024
            async with Client(server, "second"), Client(server, "third") as third:
                assert third.window_log == NO_CONTEXT  # the others have not given anything back yet
                await eventually(lambda: session._window_log == 16)
                assert server.metrics.sessions == 3
                assert server.metrics.context_bytes == 0
                for _ in range(40):
                    source.gate.release()
                report = await task
            assert report.delivered
            assert server.sink.numbers == list(range(60))
            assert report.snapshot.reconnects == 0
            assert not server.metrics.errors
            await eventually(lambda: server.metrics.sessions == 0)
            assert (server.metrics.context_bytes, server._budget.reserved_bytes) == (0, 0)

    run(scenario)


def test_a_session_that_was_offered_none_gets_a_context_when_there_is_room(run, caplog):
    """It begins with batches that stand alone; that the memory is used up is said once, and not while it is not."""

    async def scenario():
        async with receiver(context_memory=charge(12)) as server, Client(server, "first") as first:
            assert first.window_log == 12
            assert "CONTEXT_MEMORY" not in caplog.text
            running = shipper(server.address[1], InSteps(40), batch_size=1)
            task = asyncio.create_task(running.run())
            for _ in range(20):
                running._source.gate.release()
            await eventually(lambda: len(server.sink.numbers) == 20)
            assert server.metrics.context_bytes == 0
            async with Client(server, "third"):
                pass
            assert caplog.text.count("CONTEXT_MEMORY is used up (111616 bytes, 2 sessions): those that come now") == 1
            assert caplog.text.count("CONTEXT_MEMORY") == 1
            first.writer.transport.abort()
            await eventually(lambda: server._budget.reserved_bytes and server.metrics.sessions == 1)
            for _ in range(19):
                running._source.gate.release()
            await eventually(lambda: len(server.sink.numbers) == 39)
            assert server.metrics.context_bytes > 0
            running._source.gate.release()
            assert (await task).delivered
            assert server.sink.numbers == list(range(40))
            assert not server.metrics.errors

    run(scenario)


def test_a_frame_that_waited_while_its_context_ended_is_compressed_anew(run):
    """What was compressed in a context that has ended never leaves."""

    async def scenario():
        async with receiver(context_memory=charge(17)) as server:
            server.sink.open.clear()
            running = shipper(server.address[1], Numbers(30), batch_size=1, window_bytes=1)
            task = asyncio.create_task(running.run())
            await eventually(lambda: server.metrics.received.batches == 1)  # the second waits for room in the window
            await asyncio.sleep(0.02)
            async with Client(server, "second"):
                (session,) = [one.session for one in server._connections if one.session.stream.name != "second"]
                await eventually(lambda: session._window_log == 15)
                server.sink.open.set()
                assert (await task).delivered
            assert server.sink.numbers == list(range(30))
            assert not server.metrics.errors

    run(scenario)


@pytest.mark.parametrize(
    ("offered", "window_log", "algorithm"),
    [(15, 16, Algorithm.ZSTD), (NO_CONTEXT, 12, Algorithm.ZSTD), (NO_CONTEXT, 12, Algorithm.GZIP)],
)
def test_a_larger_context_than_was_offered_is_refused(run, offered, window_log, algorithm):
    """The connection ends; nothing of the batch is stored."""

    async def scenario():
        async with receiver(context_memory=charge(offered)) as server, Client(server) as client:
            assert client.window_log == offered
            client.begin(window_log, algorithm)
            assert (await client.send())["type"] == "error"
            assert server.sink.numbers == []

    run(scenario)


def test_until_a_client_answers_the_old_window_holds(run):
    """Messages cross: what was compressed before the answer may have the window before; what comes after it may not."""

    async def scenario():
        async with receiver(context_memory=charge(17)) as server, Client(server) as client:
            client.begin(17)
            assert (await client.send())["type"] == "ack"
            async with Client(server, "second"):
                message = await client.next()
                assert (message["type"], message["window_log"]) == ("context", 15)
                assert (await client.send())["type"] == "ack"
                client.begin(17)
                assert (await client.send())["type"] == "ack"
                client.obey(15)
                client.begin(15)
                assert (await client.send())["type"] == "ack"
                client.begin(16)
                assert (await client.send())["code"] == "decode"

    run(scenario)


def test_a_context_that_its_client_has_ended_cannot_be_continued(run):
    """The receiver has forgotten it: an idle session keeps no memory that it gave back."""

    async def scenario():
        async with receiver(context_memory=charge(17)) as server, Client(server) as client:
            client.begin(13)
            await client.send()
            assert server.metrics.context_bytes
            async with Client(server, "second"):
                await client.next()
                client.obey(15)
                await eventually(lambda: not server.metrics.context_bytes)
                message = await client.send()
                assert (message["type"], message["code"]) == ("error", "protocol")

    run(scenario)


def test_a_connection_has_one_context(run):
    """Begun with another algorithm it takes the place of the one before: three would be three times the memory."""

    async def scenario():
        async with receiver() as server, Client(server) as client:
            client.begin(17)
            await client.send()
            zstd = client.context
            client.begin(15, Algorithm.GZIP)
            assert (await client.send())["type"] == "ack"
            assert server.metrics.context_bytes == 42 * 1024
            client.context = zstd
            assert (await client.send())["type"] == "error"

    run(scenario)


def test_an_answer_that_nobody_asked_for_ends_the_session(run):
    """So does one with another window."""

    async def scenario():
        async with receiver() as server, Client(server) as client:
            client.obey(12)
            assert (await client.next())["type"] == "error"

    run(scenario)


def test_who_does_not_answer_begins_a_new_session(run, monkeypatch):
    """Else its memory would be kept from the others for ever."""
    monkeypatch.setattr("logbale.context_budget.OBEY_SECONDS", 0.2)

    async def scenario():
        async with receiver(context_memory=charge(17)) as server, Client(server) as deaf, Client(server, "second"):
            assert (await deaf.next())["type"] == "context"
            message = await deaf.next()
            assert (message["type"], message["code"]) == ("error", "limit")
            async with Client(server, deaf.stream) as again:
                assert again.window_log == 15

    run(scenario)


def test_a_client_of_version_1_is_told_the_smallest_window_instead_of_none(run):
    """It knows no 0; what it does in that window is stored."""

    async def scenario():
        async with receiver(context_memory=0) as server, Client(server, version=1) as client:
            assert client.window_log == 10
            client.begin(10)
            assert (await client.send())["type"] == "ack"
            client.begin(11)
            assert (await client.send())["code"] == "decode"

    run(scenario)
