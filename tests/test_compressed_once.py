"""A large batch is compressed once: its frame in the spool is the one on the wire and the one in the archive.

Unless the level is raised while it waits.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import threading

import msgspec
import pytest
from chunks import chunk_of
from hypothesis import given
from hypothesis import strategies as st
from test_delivery import KeepingSink, Shifted, receiver, shipper

from logbale.archive.writer import ArchiveWriter
from logbale.carried import SECONDS, Carried
from logbale.compressing import AHEAD_LEVEL, PRESS_NICENESS, Compressing
from logbale.compression import CompressionHandler, frame_of_size, zstd
from logbale.decoding import KEPT_FRAME_BYTES
from logbale.protocol import Algorithm
from logbale.sinks.archive import ArchiveSink
from logbale.sources.generator import LogGenerator
from logbale.spool import DiskSpool

LINE = "2026-11-24 10:00:00,123 INFO  [main] shop.orders.Service - order %06d placed by user-%05d"


class Lines:
    """A source that gives out its lines in large chunks, as a file with a backlog does."""

    def __init__(self, count, *, then="end"):
        self.count, self.then = count, then
        self.may_begin = lambda: True

    async def chunks(self):
        while not self.may_begin():
            await asyncio.sleep(0.002)
        for start in range(0, self.count, 1000):
            yield chunk_of([{"n": n, "message": LINE % (n, n * 31 % 9973)} for n in range(start, start + 1000)])
            await asyncio.sleep(0)
        if self.then == "wait":
            await asyncio.Event().wait()

    def counts(self):
        return {}


def spool_in(directory):
    spool = DiskSpool(directory / "spool", max_bytes=1 << 28)
    spool.open()
    return spool


def spooled(directory, source, port, **settings):
    spool = spool_in(directory)
    running = shipper(port, source, **settings)
    return spool, type(running)(running.settings, source, store=spool)


def archive_sink(directory):
    writer = ArchiveWriter(directory / "archive", segment_bytes=1 << 28, segment_seconds=1e9)
    writer.open()
    return ArchiveSink(writer)


def test_the_frames_of_a_backlog_are_those_of_the_spool_in_the_archive_too(run, tmp_path, monkeypatch):
    """Whatever is large is the same bytes in all three places; small batches of the beginning are not."""
    monkeypatch.setattr("logbale.reading.GROWN_BYTES", 1 << 20)

    async def scenario():
        sink = archive_sink(tmp_path)
        kept = []
        commit = sink.commit

        async def noting(items):
            kept.extend(items)
            return await commit(items)

        sink.commit = noting
        async with receiver(sink) as server:
            source = Lines(60_000)
            spool, running = spooled(tmp_path, source, server.address[1])
            source.may_begin = lambda: running.snapshot().connected  # before the welcome batches do not grow
            stored = []
            append = spool.append

            def appending(batches, bodies=()):
                stored.extend(body for body in bodies if body is not None)
                return append(batches, bodies)

            spool.append = appending
            assert (await running.run()).delivered
        await sink.close()
        frames = [item.frame for item in kept if item.frame]
        assert len(frames) >= 5
        assert set(frames) <= set(stored)
        (segment,) = (tmp_path / "archive").rglob("*.zst")
        data = segment.read_bytes()
        assert all(frame in data for frame in frames)
        read = await asyncio.to_thread(subprocess.check_output, ["zstd", "-dc", segment])
        assert [json.loads(line)["n"] for line in read.splitlines()] == list(range(60_000))

    run(scenario)


@pytest.mark.parametrize("settings", [{"compression_algorithm": "gzip"}, {"session_mode": "off"}])
def test_what_is_not_sent_as_zstd_in_a_session_is_stored_as_ever(run, tmp_path, settings):
    """The spool's frames stay in the spool, and everything arrives."""

    async def scenario():
        sink = KeepingSink()
        async with receiver(sink) as server:
            _, running = spooled(tmp_path, Lines(20_000), server.address[1], **settings)
            assert (await running.run()).delivered
        assert sink.numbers == list(range(20_000))
        assert not any(item.frame for item in sink.items)

    run(scenario)


def test_a_backlog_of_an_earlier_run_is_sent_from_the_disk(run, tmp_path):
    """Once its frames are in memory no more, batches are compressed anew; nothing of it is lost or doubled."""

    async def scenario():
        _, running = spooled(tmp_path, Lines(20_000), 9, drain_timeout=0.2)
        assert not (await running.run()).delivered
        sink = KeepingSink()
        async with receiver(sink) as server:
            _, running = spooled(tmp_path, Shifted(Lines(20_000), 20_000), server.address[1])
            assert (await running.run()).delivered
        assert sink.numbers == list(range(40_000))

    run(scenario)


def frame(raw, **options):
    parameters = {int(zstd.CompressionParameter[name]): value for name, value in options.items()}
    return zstd.ZstdCompressor(options=parameters).compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)


def test_only_one_whole_frame_with_its_size_and_a_checksum_is_kept():
    """What plain tools could not check, or would read as another number of lines, is written anew."""
    raw = b'{"n":1}\n' * 1000
    handler = CompressionHandler(Algorithm.ZSTD, 3)
    made = handler.compress(raw).payload
    assert frame_of_size(made, len(raw))
    assert not frame_of_size(made, len(raw) - 1)
    assert not frame_of_size(frame(raw), len(raw))
    assert not frame_of_size(frame(raw, checksum_flag=1, content_size_flag=0), len(raw))
    assert not frame_of_size(made + made, len(raw))
    assert not frame_of_size(made + b"\x50\x2a\x4d\x18\x00\x00\x00\x00", len(raw))
    assert not frame_of_size(b"", 0)


@given(st.binary(max_size=40))
def test_no_payload_makes_the_check_of_a_frame_raise(payload):
    """It is asked about what strangers sent."""
    assert frame_of_size(payload, 10) in (True, False)
    assert frame_of_size(b"\x28\xb5\x2f\xfd" + payload, 10) in (True, False)


def test_the_archive_keeps_only_what_sealing_would_not_merge():
    """A small frame would be decompressed and compressed again when its segment is sealed."""
    from logbale.archive.sealing import SMALL_BLOCK

    assert KEPT_FRAME_BYTES >= SMALL_BLOCK


def test_lately_is_the_last_two_seconds():
    """However often it is asked; before anything is known it is nothing."""
    carried = Carried()
    assert carried.lately(0, now=100.0) == 0
    chance, total, history = random.Random(1), 0, [(100.0, 0)]
    for step in range(1, 2000):
        now = 100.0 + step * 0.013
        total += chance.randrange(100)
        history.append((now, total))
        lately = carried.lately(total, now)
        least = total - next(at for when, at in reversed(history) if when <= max(100.0, now - SECONDS))
        most = total - next(at for when, at in reversed(history) if when <= max(100.0, now - SECONDS - 0.2))
        assert least - 100 <= lately <= most + 100
    assert carried.lately(total, now=now + 60) <= 1000  # of the tenth of a second after the last total that was kept
    assert carried.lately(total, now=now + 63) == 0


GENERATED = b"".join(msgspec.json.encode(entry) + b"\n" for entry in LogGenerator(100, 0, seed=1).take(2000, start=0.0))


def test_what_is_sent_again_was_not_compressed_again():
    """It counts as sent twice; the time, and what the levels are judged by, count once."""
    compressing = Compressing(CompressionHandler(Algorithm.ZSTD, 3))
    pressed = compressing.press(GENERATED)()
    for _ in range(2):
        assert asyncio.run(compressing.payload(pressed)) == pressed.payload
    stats = compressing.handler.stats
    assert (stats.batches, stats.raw_bytes, stats.wire_bytes) == (2, 2 * pressed.raw_bytes, 2 * len(pressed.payload))
    assert stats.seconds == pressed.seconds > 0
    assert compressing.take_work()[3].raw_bytes == pressed.raw_bytes
    compressing.close()


@pytest.mark.parametrize(("pressed_at", "level", "is_new"), [(2, 9, True), (9, 2, False), (6, 6, False)])
def test_what_waits_leaves_at_a_level_that_was_raised_meanwhile(pressed_at, level, is_new):
    """A backlog is compressed before it is known that a link is slow; it counts at the level at which it left."""
    compressing = Compressing(CompressionHandler(Algorithm.ZSTD, pressed_at))
    pressed = compressing.press(GENERATED)()
    compressing.handler.level = level
    payload = asyncio.run(compressing.payload(pressed))
    assert (len(payload) < len(pressed.payload)) is is_new
    assert zstd.decompress(payload) == GENERATED
    assert frame_of_size(payload, len(GENERATED))
    assert compressing.handler.stats.wire_bytes == len(payload)
    assert list(compressing.take_work()) == [level if is_new else pressed_at]
    compressing.close()


@pytest.mark.parametrize(("pressed_at", "level"), [(2, 3), (8, 9), (3, 9)])
def test_a_raised_level_makes_no_batch_larger(pressed_at, level):
    """Some come out larger at a higher level: a receiver that takes the frame in the spool would refuse that one."""
    raw = b"".join(b'{"id":"%s"}\n' % random.Random(n).randbytes(16).hex().encode() for n in range(4000))
    compressing = Compressing(CompressionHandler(Algorithm.ZSTD, pressed_at))
    pressed = compressing.press(raw)()
    compressing.handler.level = level
    payload = asyncio.run(compressing.payload(pressed))
    assert len(payload) <= len(pressed.payload)
    assert zstd.decompress(payload) == raw
    assert frame_of_size(payload, len(raw))
    compressing.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a niceness of its own on Linux only")
def test_pressing_ahead_gives_way_to_everything_else(monkeypatch):
    """The threads that press large batches yield to this process's others and to its host's; these stay as they are."""

    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def noting(handler, raw):
        seen.append(niceness())
        return b""

    seen = []
    monkeypatch.setattr(CompressionHandler, "compress_always", noting)
    compressing = Compressing(CompressionHandler(Algorithm.ZSTD, AHEAD_LEVEL))
    compressing.press(b"{}")()
    compressing.close()
    assert seen == [min(19, niceness() + PRESS_NICENESS)]
