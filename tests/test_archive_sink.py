"""What the archive promises as a sink: the loop goes on while the disk works, and calls are done in order."""

import asyncio
import os
import threading

import pytest
from archive_batches import START, batch, lines_of, writer_of

from logbale.archive import reader
from logbale.errors import StorageError
from logbale.sinks import Stored
from logbale.sinks.archive import ArchiveSink


def test_commits_are_durable_in_order_and_closing_seals(tmp_path):
    """What was asked for first is first in the archive, without waiting for each."""

    async def scenario():
        sink = ArchiveSink(writer_of(tmp_path))
        outcomes = await asyncio.gather(*(sink.commit([batch(number)]) for number in range(20)))
        assert outcomes == [[Stored()]] * 20
        await sink.close()

    asyncio.run(scenario())
    assert list(reader.lines(tmp_path)) == lines_of(range(20))
    assert not any(segment.is_open for segment in reader.segments(tmp_path))


def test_the_loop_runs_while_the_disk_works(tmp_path, monkeypatch):
    """A sync that takes its time holds up its own commit and nothing else."""
    release = threading.Event()
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (release.wait(), real(fd)))

    async def scenario():
        sink = ArchiveSink(writer_of(tmp_path))
        commit = asyncio.ensure_future(sink.commit([batch(1)]))
        await asyncio.sleep(0)
        assert not commit.done()
        release.set()
        assert await commit == [Stored()]
        await sink.close()

    asyncio.run(scenario())


def test_a_tick_seals_by_age(tmp_path):
    """The owner's clock work reaches the writer."""
    now = START

    async def scenario():
        nonlocal now
        sink = ArchiveSink(writer_of(tmp_path, segment_seconds=60, now=lambda: now))
        await sink.commit([batch(1)])
        now += 60
        await sink.tick()
        await sink.commit([batch(2)])
        assert sink.writer.statistics.segments == 2
        await sink.close()

    asyncio.run(scenario())


def test_a_failure_reaches_the_caller(tmp_path):
    """It can tell the clients to wait."""

    async def scenario():
        sink = ArchiveSink(writer_of(tmp_path))
        (tmp_path / "lock").unlink()
        with pytest.raises(StorageError):
            await sink.commit([batch(1)])
        await sink.close()

    asyncio.run(scenario())
