"""Holes of other shippers and receivers, as attacks on ours (docs/security.md lists them). Not here: test_limits.py has
the limits, test_fuzz.py random and mutated frames, test_page_hostile.py the page, test_api.py the API's parameters."""

import asyncio
import contextlib
import gzip
import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib

import base_client
import cli_process
import pytest
from bombs import ENCODERS, gibibyte_of_zeros
from test_attack import open_session
from test_delivery import next_message
from test_tcp_server import in_thread, raw_frame, receiver
from waiting import eventually

from fuzz.receiving import Receiving
from logbale.clients import Clients
from logbale.compression import zstd
from logbale.config import Settings
from logbale.decoding import decode_base
from logbale.errors import LogbaleError
from logbale.exposition import Exposition
from logbale.liveness import Liveness
from logbale.log_receiver import LogReceiver
from logbale.messages import Hello, encode_message
from logbale.metrics import ReceiverMetrics
from logbale.protocol import Algorithm, Frame, base_flags, encode_frame, encode_header
from logbale.session import batch_crc, encode_batch

MiB = 1024 * 1024

# bombs


ONE = {Algorithm.GZIP: gzip.compress, Algorithm.ZLIB: zlib.compress, Algorithm.ZSTD: zstd.compress}
BOMBS = {
    "a gibibyte of zeros": gibibyte_of_zeros,
    "empty members": lambda algorithm: ONE[algorithm](b"") * (4 * MiB // len(ONE[algorithm](b""))),
    "nested": lambda algorithm: ONE[algorithm](gibibyte_of_zeros(algorithm)),
    "trailing garbage": lambda algorithm: ONE[algorithm](b"[{}]") + b"garbage" * 100_000,
    "thirty-one mebibytes of brackets": lambda algorithm: ONE[algorithm](b"[" * (31 * MiB)),
}


@pytest.mark.parametrize("algorithm", ENCODERS)
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_costs_neither_time_nor_memory(kind, algorithm):
    """Each kind in each algorithm is refused within 200 ms of CPU, and with no more than MAX_RAW_BYTES and 32 MiB."""
    frame = Frame(base_flags(algorithm), BOMBS[kind](algorithm))
    tracemalloc.start()
    begins = time.process_time()
    refused = decode_base(frame, Settings())
    took, (_, most) = time.process_time() - begins, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(refused, LogbaleError)
    print(f"{algorithm.label}, {kind}: {refused.reason}, {took * 1000:.1f} ms, {most / MiB:.1f} MiB")
    assert took < 0.2
    assert most < (32 + 32) * MiB


@pytest.mark.parametrize("claimed", [0, 1000, 2**31, 2**63])
def test_a_content_size_that_lies_is_found_out(claimed):
    """A zstd header that claims less, more, or far more than there is."""
    options = {zstd.CompressionParameter.content_size_flag: 1}
    payload = bytearray(zstd.compress(b"[" + b'{"n":1},' * 9000 + b"{}]", options=options))
    assert payload[4] >> 6 == 2, "four bytes of content size"
    if claimed < 2**32:
        payload[5 + (not payload[4] & 0x20) : 9 + (not payload[4] & 0x20)] = claimed.to_bytes(4, "little")
    else:
        payload[4] |= 0xC0
        at = 5 + (not payload[4] & 0x20)
        payload[at : at + 4] = claimed.to_bytes(8, "little")
    refused = decode_base(Frame(base_flags(Algorithm.ZSTD), bytes(payload)), Settings())
    assert refused.reason in ("corrupt", "limit")


# framing


@pytest.mark.parametrize("length", [0, 1, 999, 1000, 1001, 2**31, 2**32 - 1])
@pytest.mark.parametrize("by_byte", [False, True])
def test_a_length_is_what_it_says_or_refused(run, length, by_byte):
    """0, 1, the limit, one more, the largest; in one piece and byte by byte. What is refused is not waited for."""
    payload = b"[]" + b" " * (length - 2) if 2 <= length <= 1000 else b" " * min(length, 1)
    frame = encode_header(length, 0) + payload

    async def scenario():
        async with receiver(max_frame_bytes=1000) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            for piece in [bytes([byte]) for byte in frame] if by_byte else [frame]:
                writer.write(piece)
                await writer.drain()
            if length > 1000:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
                assert server.metrics.errors == {"frame_limit": 1}
            else:
                await eventually(lambda: server.metrics.errors == {"not_entries": 1})
                assert server.metrics.clients == 1
            assert server._arriving_bytes == 0
            writer.transport.abort()
            await eventually(lambda: not server._connections)

    run(scenario)


@pytest.mark.parametrize("kept", range(6))
def test_an_end_after_the_first_bytes_of_a_frame_is_a_cut(kept):
    """After 0 to 5 bytes: none is stored, all but the empty one are counted, and nothing stays in memory."""
    receiving = Receiving()
    receiving.take(b"\xff" + encode_header(10, 0)[:kept])
    assert receiving._receiver.metrics.errors == ({"protocol": 1} if kept else {})
    receiving.close()


# those who do not let go

SLOW = 64


def test_those_who_send_a_byte_now_and_then_do_not_slow_down_an_honest_client(run):
    """Beside 64 connections that claim a full frame and dribble, a client keeps 90 % of its speed."""

    async def scenario():
        async with receiver(frame_timeout=300.0) as server:
            reader, writer = await open_session(server)
            sequence, dribbled, dribbling, spent = 0, 0.0, [], {False: [], True: []}
            body = json.dumps([{"n": n, "message": "x" * 100} for n in range(100)]).encode()
            raw = body

            async def ship(frames):
                nonlocal sequence, dribbled
                begins = time.process_time()
                for _ in range(frames):
                    sequence += 1
                    writer.write(encode_batch(sequence, len(raw), batch_crc(sequence, raw), raw, Algorithm.NONE))
                    if sequence % 50 == 0:
                        while (await next_message(reader)).get("last") != sequence:
                            pass
                        if time.process_time() - dribbled >= 0.1:  # a byte each, however slow the machine is
                            dribbled = time.process_time()
                            for slow in dribbling:
                                slow.write(b"x")
                return time.process_time() - begins

            await ship(200)
            # Other work on the machine makes it cost more CPU time at times, and never less: the least of each is
            # compared, of as many as it takes.
            kept = 0.0
            while len(spent[True]) < 4 or kept <= 0.9:
                assert len(spent[True]) < 30, f"an honest client keeps {kept:.0%}"
                for is_attacked in (False, True):
                    for _ in range(SLOW if is_attacked else 0):
                        dribbling.append((await asyncio.open_connection(*server.address))[1])
                        dribbling[-1].write(encode_header(8 * MiB, 0) + b"x")
                    spent[is_attacked].append(await ship(1000))
                    for slow in dribbling:
                        slow.transport.abort()
                    dribbling.clear()
                    server.sink.kept.clear()
                    await eventually(lambda: server.metrics.clients == 1)
                kept = min(spent[False]) / min(spent[True])
            print(f"an honest client keeps {kept:.0%}")
            assert set(server.metrics.errors) == {"protocol"}, "frames that were cut, at the end of each round"
            writer.transport.abort()

        async with receiver(frame_timeout=0.3, frame_min_rate=100 * MiB) as server:
            slow = [await asyncio.open_connection(*server.address) for _ in range(SLOW)]
            for _, one in slow:
                one.write(encode_header(8 * MiB, 0))
            while server.metrics.errors["frame_timeout"] < SLOW:
                for _, one in slow:
                    one.write(b"x")
                await asyncio.sleep(0.02)
            for _, one in slow:
                one.transport.abort()
            await eventually(lambda: not server._connections)

    run(scenario)


# names

NAMES = [
    "../../x",
    "..",
    ".",
    "...",
    "",
    "/etc/passwd",
    "/",
    "//x",
    "a/b",
    "a\\b",
    "..\\..\\x",
    "C:\\x",
    "C:x",
    "\\\\host\\share",
    "~",
    "~root",
    "x\0y",
    "\0",
    "x\ny",
    "x\r\ny",
    "\n",
    "x\t",
    " ",
    " x",
    "x.",
    "x ",
    "\u202ex",
    "x\u200f",
    "\ufeffx",
    "e\u0301",
    "\ud800",
    "n" * 10_000,
    "CON",
    "nul.txt",
    "-rf",
    "--help",
    "$(id)",
    "`id`",
    "%2e%2e%2f",
    "x;y",
    "*",
    "x\x1b[2J",
]


def test_no_stream_name_reaches_the_file_system(run, tmp_path):
    """Forty hostile names: refused, or stored as a name inside a segment. Files have names of our own making only."""
    assert len(NAMES) >= 40

    async def scenario():
        settings = Settings(server_host="127.0.0.1", server_port=0, archive_dir=str(tmp_path / "in" / "archive"))
        running = LogReceiver(settings, out=io.StringIO())
        await running.start()
        task = asyncio.create_task(running.run())
        taken = []
        for name in NAMES:
            text = json.dumps({"type": "hello", "version": 1, "stream": name, "next": 1}).encode()
            reader, writer = await asyncio.open_connection(*running.address)
            writer.write(encode_header(len(text), 0x80) + text)
            raw = b'[{"n":1}]'
            try:
                answer = await next_message(reader)
            except (ConnectionError, asyncio.IncompleteReadError, IndexError):
                answer = {}
            if answer.get("type") == "welcome":
                writer.write(encode_batch(1, len(raw), batch_crc(1, raw), raw, Algorithm.NONE))
                while (await next_message(reader))["type"] != "ack":
                    pass
                taken.append(name)
            writer.transport.abort()
        running.stop()
        await task
        assert taken == ["..", ".", "...", "C:x", "x.", "CON", "nul.txt", "-rf", "--help"]

    run(scenario)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if not path.is_dir()]
    assert all(str(path).startswith("in/archive/") and not path.is_symlink() for path in files)
    assert {path.suffix for path in files} <= {".zst", ".open", ".lock", ""}
    assert len(files) <= 3


@pytest.mark.parametrize("bound", [100_000])
def test_a_hundred_thousand_stream_names_make_no_label(bound):
    """What is exported does not grow with what clients call themselves, nor do the rows that are kept."""
    metrics, clients = ReceiverMetrics(now=0.0), Clients()

    page = Exposition(lambda: metrics.snapshot(1.0))

    def lines():
        return sum(line.startswith(b"logbale_") for line in page.text().splitlines())

    before = lines()
    for number in range(bound):
        live = Liveness(0.0)
        client = clients.connected(stream=f"s-{number}", address="192.0.2.1:1", live=live, now=0.0)
        clients.disconnected(client, live, 1.0)
    assert lines() == before > 20
    assert len(list(clients)) <= 1000


# connections


def receiver_with(tmp_path, files, *arguments):
    """A receiver that may have so many files open."""
    launcher = (
        f"import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files})); "
        f"os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'logbale', *{list(map(str, arguments))!r}])"
    )
    return cli_process.Process(tmp_path, sys.executable, "-c", launcher)


def test_running_out_of_descriptors_does_not_end_the_accept_loop(tmp_path):
    """With 64 of them and 200 connections some are refused; once they are gone, a client is served."""
    command = ("receive", "--listen", "127.0.0.1:0", "--archive", tmp_path / "archive")
    process = receiver_with(tmp_path, 64, *command)
    try:
        host, port = process.says(r"listening on (\S+):(\d+)").groups()
        with contextlib.ExitStack() as crowd:
            for _ in range(200):
                with contextlib.suppress(ConnectionError):  # refused with a reset
                    crowd.enter_context(socket.create_connection((host, int(port)), timeout=10))
            assert process.process.poll() is None
        deadline = time.monotonic() + 60
        while True:
            try:
                with base_client.connect((host, int(port))) as client:
                    client.sendall(raw_frame({"n": 1}))
                    base_client.finish(client)
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert process.end() == 0
    finally:
        process.process.kill()
        process.process.communicate()
    assert subprocess.run(
        [*cli_process.LOGBALE, "cat", tmp_path / "archive"], capture_output=True, check=True, env=cli_process.CLEAN
    ).stdout.endswith(b'{"n": 1}\n')


JUNK = [
    b"",
    b"\0",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-x\r\n",
    encode_header(2**32 - 1, 0),
    encode_header(100, 0x80) + b"{",
    encode_message(Hello(1, "web-1", 1))[:-1],
    encode_frame(b"junk", Algorithm.GZIP),
    os.urandom(64),
]


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_thousand_junk_connections_and_then_a_good_one(run, end):
    """Closed or reset: none leaves anything behind, nothing raises, and the good one is served at once."""

    def attack(address):
        for number in range(1000):
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=60) as client:
                if end == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.sendall(JUNK[number % len(JUNK)])

    async def scenario():
        unforeseen = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unforeseen.append(context))
        async with receiver() as server:
            await in_thread(attack, server.address)
            reader, writer = await open_session(server)
            raw = b'[{"n":1}]'
            writer.write(encode_batch(1, len(raw), batch_crc(1, raw), raw, Algorithm.NONE))
            async with asyncio.timeout(60):
                assert (await next_message(reader))["type"] == "ack"
            await eventually(lambda: len(server._connections) == 1)
            assert server.metrics.in_flight_bytes == 0
            assert "unforeseen" not in server.metrics.errors
            writer.transport.abort()
            await eventually(lambda: not server._connections)
        assert unforeseen == []

    run(scenario)
