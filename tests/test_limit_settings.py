"""Limits of what is decoded and read, set to something else than their defaults: one less, just that, one more.

What is beyond is refused and counted by reason, or mended and counted where a refusal would lose a line.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections import Counter

import pytest
from test_delivery import next_message
from test_tcp_server import receiver
from waiting import eventually

from fuzz.receiving import Transport
from logbale.compression import decompress, zstd
from logbale.config import Settings
from logbale.connection import Connection
from logbale.dashboard.server import DashboardServer
from logbale.errors import DecompressionError, EntryError
from logbale.messages import Hello, encode_message
from logbale.ndjson import to_ndjson
from logbale.protocol import Algorithm, Flag, encode_frame, encode_header
from logbale.session import batch_crc, encode_batch
from logbale.sinks.live_tail import LiveTail, NoPlace
from logbale.sources.stdin import StdinSource
from logbale.sources.tail import TailSource

KiB, MiB = 1 << 10, 1 << 20


def around(limit):
    """Each with whether it is within."""
    return pytest.mark.parametrize(("size", "fits"), [(limit - 1, True), (limit, True), (limit + 1, False)])


async def greeted(server, hello):
    """The type of the answer to a hello."""
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(hello)
    answer = await next_message(reader)
    writer.transport.abort()
    await eventually(lambda: not server._connections)
    return answer


@around(40)
def test_the_length_of_a_streams_name(run, size, fits):
    """MAX_NAME_BYTES: refused before the stream is known to anybody."""

    async def scenario():
        async with receiver(max_name_bytes=40) as server:
            answer = await greeted(server, encode_message(Hello(1, "n" * size, 1)))
            assert answer["type"] == ("welcome" if fits else "error")
            if not fits:
                assert answer["code"] == "limit"
                assert "41 bytes: the limit is 40 (MAX_NAME_BYTES)" in answer["detail"]
            assert server.metrics.errors == ({} if fits else {"name_limit": 1})

    run(scenario)


@around(5000)
def test_the_length_of_a_hello(run, size, fits):
    """MAX_HELLO_BYTES: refused on its header."""
    text = b'{"type":"hello","version":1,"stream":"web-1","next":1}'
    hello = text[:-1] + b" " * (size - len(text)) + b"}"

    async def scenario():
        async with receiver(max_hello_bytes=5000) as server:
            if fits:
                answer = await greeted(server, encode_header(size, Flag.CONTROL) + hello)
                assert answer["type"] == "welcome"
                return
            _, writer = await asyncio.open_connection(*server.address)
            writer.write(encode_header(size, Flag.CONTROL))
            await eventually(lambda: server.metrics.errors == {"frame_limit": 1})
            writer.transport.abort()

    run(scenario)


def nested(depth):
    """An entry of so many levels."""
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


@around(5)
def test_the_depth_of_an_entry_in_a_base_frame(run, size, fits):
    """MAX_JSON_DEPTH: the frame is refused, and counted as a limit."""

    async def scenario():
        async with receiver(max_json_depth=5) as server:
            _, writer = await asyncio.open_connection(*server.address)
            writer.write(encode_frame(b"[" + nested(size) + b"]", Algorithm.NONE))
            await eventually(lambda: server.metrics.stored_entries or server.metrics.errors)
            assert server.metrics.errors == ({} if fits else {"limit": 1})
            writer.transport.abort()

    run(scenario)


@around(5)
def test_the_depth_of_an_entry_in_a_session(run, size, fits):
    """The batch is rejected, so that its shipper hears of it and goes on."""
    raw = nested(size) + b"\n"

    async def scenario():
        async with receiver(max_json_depth=5) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(encode_message(Hello(1, "web-1", 1)))
            await next_message(reader)
            writer.write(encode_batch(1, len(raw), batch_crc(1, raw), raw, Algorithm.NONE))
            answer = await next_message(reader)
            assert answer["type"] == ("ack" if fits else "reject")
            assert fits or "more than 5 levels deep (MAX_JSON_DEPTH)" in answer["reason"]
            writer.transport.abort()

    run(scenario)


@pytest.mark.parametrize("odd", [b'"x"', b"NaN"])
@pytest.mark.parametrize("depth", [1, 3, 64, 256])
def test_the_depth_holds_on_the_slow_path_too(odd, depth):
    """Also at the highest that can be set: no recursion ends before it."""
    for levels in (depth - 1, depth, depth + 1):
        entry = b'{"a":' * max(levels, 1) + odd + b"}" * max(levels, 1)
        if levels <= depth:
            assert to_ndjson(b"[" + entry + b"]", max_entries=1, max_depth=depth).count == 1
            continue
        with pytest.raises(EntryError) as caught:
            to_ndjson(b"[" + entry + b"]", max_entries=1, max_depth=depth)
        assert caught.value.reason == "limit"


@pytest.mark.parametrize(
    ("descriptor", "window", "fits"),
    [(0x5F, 3840 * KiB, True), (0x60, 4 * MiB, True), (0x61, 4.5 * MiB, False), (0xFF, 3840 * MiB << 10, False)],
)
def test_the_window_of_a_zstd_frame(descriptor, window, fits):
    """MAX_WINDOW_BYTES: by the frame's own header, in steps of an eighth, before a decoder takes memory for it."""
    base = 1 << (10 + (descriptor >> 3))
    assert base + base // 8 * (descriptor & 7) == window
    raw = b'[{"a":1}]' * 100
    options = {zstd.CompressionParameter.window_log: 22, zstd.CompressionParameter.content_size_flag: 0}
    encoder = zstd.ZstdCompressor(options=options)
    payload = bytearray(encoder.compress(raw) + encoder.flush())
    assert payload[5] == 0x60
    payload[5] = descriptor
    if fits:
        assert decompress(Algorithm.ZSTD, bytes(payload), max_raw=MiB, max_window=4 * MiB) == raw
        return
    with pytest.raises(DecompressionError) as caught:
        decompress(Algorithm.ZSTD, bytes(payload), max_raw=MiB, max_window=4 * MiB)
    assert (caught.value.reason, "MAX_WINDOW_BYTES" in str(caught.value)) == ("limit", True)


@around(3 * MiB)
def test_the_window_of_a_frame_that_is_its_own_window(size, fits):
    """A frame in one segment keeps all that it declares."""
    raw = bytes(size)
    encoder = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    payload = encoder.compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)
    assert payload[4] & 0b100000
    if fits:
        assert decompress(Algorithm.ZSTD, payload, max_raw=4 * MiB, max_ratio=None, max_window=3 * MiB) == raw
        return
    with pytest.raises(DecompressionError) as caught:
        decompress(Algorithm.ZSTD, payload, max_raw=4 * MiB, max_ratio=None, max_window=3 * MiB)
    assert caught.value.reason == "limit"


def test_our_own_frames_fit_the_smallest_window_that_can_be_set():
    """Whatever level, and however large the batch: 2 MiB."""
    from logbale.compression import ZSTD_LEVELS

    raw = os.urandom(5 * MiB)
    for level in ZSTD_LEVELS.values():
        encoder = zstd.ZstdCompressor(options=level.options)
        payload = encoder.compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)
        assert decompress(Algorithm.ZSTD, payload, max_raw=6 * MiB, max_window=2 * MiB) == raw


@around(MiB)
def test_the_answers_that_a_client_leaves_unread(run, size, fits):
    """Beyond a mebibyte that waits for it the connection is given up, and counted."""

    class Unread(Transport):
        def get_write_buffer_size(self):
            return size

    async def scenario():
        async with receiver() as server:
            connection, transport = Connection(server), Unread()
            connection.connection_made(transport)
            connection.write(b"an answer")
            assert transport.closed is not fits
            assert server.metrics.errors == ({} if fits else {"unread_answers": 1})
            connection.connection_lost(None)

    run(scenario)


async def chunks_of(source):
    return [json.loads(entry) async for chunk in source.chunks() for entry in chunk.entries]


@around(2 * KiB)
def test_the_length_of_a_line_of_standard_input(run, tmp_path, size, fits):
    """MAX_LINE_BYTES: a longer line becomes two entries, and is counted; nothing of it is lost."""
    path = tmp_path / "in"
    path.write_bytes(b"x" * size + b"\nnext\n")

    async def scenario():
        with path.open("rb") as file:
            source = StdinSource(fields={}, host="h", fd=file.fileno(), max_line=2 * KiB)
            messages = [entry["message"] for entry in await chunks_of(source)]
        assert messages == (["x" * size, "next"] if fits else ["x" * 2 * KiB, "x", "next"])
        assert source.counts()["split_line"] == (0 if fits else 1)

    run(scenario)


@around(2 * KiB)
def test_the_length_of_a_line_and_of_a_joined_entry_of_a_file(run, tmp_path, size, fits):
    """The same of files, and for what --multiline joins."""
    (tmp_path / "a.log").write_bytes(b"x" * size + b"\nnext\n")
    joined = b"x" * (size - 100) + b"\n" + b" " + b"y" * 97 + b"\n"
    assert len(joined) == size
    (tmp_path / "b.log").write_bytes(joined)

    async def scenario():
        options = {"follow": False, "from_start": True, "fields": {}, "host": "h", "max_line": 2 * KiB}
        source = TailSource([str(tmp_path / "a.log")], **options)
        messages = [entry["message"] for entry in await chunks_of(source)]
        assert messages == (["x" * size, "next"] if fits else ["x" * 2 * KiB, "x", "next"])
        assert source.counts()["split_line"] == (0 if fits else 1)
        source = TailSource([str(tmp_path / "b.log")], multiline=r"\S", **options)
        assert len(await chunks_of(source)) == (1 if fits else 2)
        assert source.counts()["split_line"] == (0 if fits else 1)

    run(scenario)


@around(5)
def test_the_depth_of_a_line_that_is_an_object(run, tmp_path, size, fits):
    """Beyond MAX_JSON_DEPTH it is shipped as text: its receiver would refuse it, and the others of its batch."""
    (tmp_path / "a.log").write_bytes(nested(size) + b"\n")

    async def scenario():
        source = TailSource([str(tmp_path / "a.log")], follow=False, from_start=True, fields={}, host="h", max_depth=5)
        (entry,) = await chunks_of(source)
        assert ("message" in entry) is not fits

    run(scenario)


@around(3)
def test_the_number_of_viewers(run, size, fits):
    """DASHBOARD_MAX_VIEWERS."""
    from test_live_tail import ALL

    async def scenario():
        errors = Counter()
        live = LiveTail(max_viewers=3, errors=errors)
        for _ in range(size - 1):
            await live.join(ALL)
        if fits:
            await live.join(ALL)
        else:
            with pytest.raises(NoPlace):
                await live.join(ALL)
        await live.close()
        assert errors == ({} if fits else {"too_many_viewers": 1})

    run(scenario)


@around(3)
def test_the_number_of_connections_to_the_page(size, fits):
    """DASHBOARD_MAX_CONNECTIONS: one more is reset, and counted."""
    errors = Counter()
    server = DashboardServer(lambda: None, host="127.0.0.1", port=0, info={}, max_connections=3, errors=errors)

    async def scenario():
        await server.start()
        with contextlib.ExitStack() as held:
            answers = []
            for _ in range(size):
                client = held.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                client.settimeout(60)
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    answers.append(await asyncio.to_thread(client.recv, 12))
            assert answers.count(b"HTTP/1.1 200") == min(size, 3)
        await server.stop()

    asyncio.run(scenario())
    assert errors == ({} if fits else {"too_many_page_connections": 1})


def test_the_defaults_are_those_of_the_code():
    """What stands in docs/security.md holds where nothing is set."""
    from logbale import compression, http_server, lines, messages, ndjson
    from logbale.sinks import live_tail

    settings = Settings()
    assert settings.max_json_depth == ndjson.MAX_DEPTH == 64
    assert settings.max_line_bytes == lines.MAX_LINE_BYTES == MiB
    assert settings.max_window_bytes == compression.MAX_WINDOW == 8 * MiB
    assert settings.max_hello_bytes == messages.MAX_HELLO_BYTES == 4 * KiB
    assert settings.max_name_bytes == messages.MAX_NAME_BYTES == 128
    assert settings.dashboard_max_viewers == live_tail.MAX_VIEWERS == 20
    assert settings.dashboard_max_connections == http_server.MAX_CONNECTIONS == 128
