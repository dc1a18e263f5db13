"""What retention promises: the oldest sealed segments go, by age and by size; marks and open segments never do."""

import errno
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from archive_batches import START, PowerOff, batch, lines_of, power_off_at, syncs_of, writer_of

from logbale.archive import reader
from logbale.archive.writer import ArchiveWriter

HOUR = 3600
DAY = 24 * HOUR


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def serials(directory: Path) -> list[int]:
    return [segment.serial for segment in reader.segments(directory)]


def add(directory: Path, clock: Clock, number: int, **options) -> None:
    """One run that ends with one sealed segment more."""
    writer = writer_of(directory, now=clock, **options)
    writer.commit([batch(number, stream="a", padding=4000)])
    writer.close()


def archive_of(directory: Path, clock: Clock, count: int, step: float = HOUR) -> None:
    """Sealed segments, one begun each `step` seconds from START on; the clock is at the last one."""
    for number in range(1, count + 1):
        clock.now = START + (number - 1) * step
        add(directory, clock, number)


def ticked(directory: Path, clock: Clock, **options) -> ArchiveWriter:
    """An open writer after its first tick."""
    writer = writer_of(directory, now=clock, **options)
    writer.tick()
    return writer


def test_by_default_nothing_is_deleted(tmp_path, clock):
    """Years and terabytes are the user's own."""
    archive_of(tmp_path, clock, 5, step=1000 * DAY)
    ticked(tmp_path, clock).close()
    assert serials(tmp_path) == [1, 2, 3, 4, 5]


def test_what_is_older_than_the_limit_goes(tmp_path, clock, caplog):
    """A segment goes when even its newest entry is: the next one was begun that long before the newest sealed one."""
    archive_of(tmp_path, clock, 6)
    with caplog.at_level(logging.INFO):
        writer = ticked(tmp_path, clock, retention_seconds=2.5 * HOUR)
    assert serials(tmp_path) == [3, 4, 5, 6]
    assert writer.statistics.segments == 4
    assert writer.statistics.disk_bytes == sum(path.stat().st_size for path in tmp_path.glob("*/*.zst"))
    assert len([record for record in caplog.records if "deleted" in record.message]) == 2
    assert "00000001-20261124T200000Z.ndjson.zst: deleted (" in caplog.text
    assert f"1 entries, {batch(1).first} to {batch(1).last}): older than 9000 s" in caplog.text
    writer.close()


def test_another_limit_holds_from_the_next_look_on(tmp_path, clock):
    """Though no segment was sealed since the last one; taken away, it deletes nothing more."""
    archive_of(tmp_path, clock, 6)
    limits = {"segment_bytes": 1 << 30, "segment_seconds": 1e9, "marks_days": 30, "max_streams": 10}
    writer = ticked(tmp_path, clock, retention_seconds=4.5 * HOUR)
    assert serials(tmp_path) == [1, 2, 3, 4, 5, 6]
    writer.limit(**limits, retention_seconds=2.5 * HOUR, retention_bytes=0)
    writer.tick()
    assert serials(tmp_path) == [3, 4, 5, 6]
    writer.limit(**limits, retention_seconds=0, retention_bytes=0)
    writer.tick()
    assert serials(tmp_path) == [3, 4, 5, 6]
    writer.limit(**limits, retention_seconds=0, retention_bytes=1)
    writer.tick()
    assert serials(tmp_path) == [6]
    writer.close()


def test_age_is_counted_from_the_newest_sealed_segment(tmp_path, clock):
    """An archive that nothing comes to keeps what it has, for however long; and an open segment is not the measure."""
    archive_of(tmp_path, clock, 3)
    clock.now += 400 * DAY
    writer = ticked(tmp_path, clock, retention_seconds=3 * HOUR)
    writer.commit([batch(4)])
    writer.tick()
    assert serials(tmp_path) == [1, 2, 3, 4]
    writer.close()
    ticked(tmp_path, clock, retention_seconds=3 * HOUR).close()
    assert serials(tmp_path) == [3, 4]


def test_over_the_size_the_oldest_go(tmp_path, clock):
    """Down to the limit, the open segment counted too."""
    archive_of(tmp_path, clock, 6)
    size = max(path.stat().st_size for path in tmp_path.glob("*/*"))
    writer = writer_of(tmp_path, now=clock, retention_bytes=4 * size)
    writer.commit([batch(7, padding=4000)])
    writer.tick()
    assert serials(tmp_path) == [4, 5, 6, 7]
    assert writer.statistics.disk_bytes <= 4 * size
    writer.close()


def test_the_marks_stay_whatever_the_limits(tmp_path, clock):
    """The newest sealed segment goes never: a start needs its footer."""
    archive_of(tmp_path, clock, 4)
    ticked(tmp_path, clock, retention_seconds=1, retention_bytes=1).close()
    assert serials(tmp_path) == [4]
    writer = writer_of(tmp_path, retention_bytes=1, now=clock)
    writer.commit([batch(5)])
    writer.tick()
    assert serials(tmp_path) == [4, 5]
    assert writer.marks.get("a").sequence == 4
    writer.close()


def test_behind_a_damaged_footer_the_one_before_stays_too(tmp_path, clock, caplog):
    """Streams that are in no later block are known from there only."""
    add(tmp_path, clock, 1)
    for number in (2, 3):
        writer = writer_of(tmp_path, now=clock)
        writer.commit([batch(number, stream="b")])
        writer.close()
    newest = reader.segments(tmp_path)[-1].path
    newest.write_bytes(newest.read_bytes()[:-5])
    ticked(tmp_path, clock, retention_bytes=1).close()
    assert serials(tmp_path) == [2, 3]
    assert {stream: one.sequence for stream, one in writer_of(tmp_path).marks.known.items()} == {"a": 1, "b": 3}


def test_each_sealing_is_followed_by_a_look(tmp_path, clock):
    """A running receiver keeps within its limits by itself."""
    writer = writer_of(tmp_path, now=clock, segment_seconds=HOUR, retention_seconds=3 * HOUR)
    for number in range(1, 13):
        writer.commit([batch(number, stream="a")])
        clock.now += HOUR
        writer.tick()
        while writer.statistics.sealed < number:
            writer.tick()
        writer.tick()
    assert serials(tmp_path) == [8, 9, 10, 11, 12]
    writer.close()


def test_emptied_days_go_and_others_stay(tmp_path, clock):
    """A directory that holds anything else is left alone."""
    archive_of(tmp_path, clock, 4, step=DAY / 2)
    (tmp_path / "2026-11-25" / "notes").write_text("mine")
    ticked(tmp_path, clock, retention_bytes=1).close()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["2026-11-25", "2026-11-26"]
    assert serials(tmp_path) == [4]


@pytest.mark.parametrize("step", [400 * DAY, -400 * DAY])
def test_while_the_clock_has_jumped_nothing_is_deleted_by_age(tmp_path, clock, caplog, step):
    """One ERROR, however long it lasts; when the clock comes back, it goes on."""
    writer = writer_of(tmp_path, now=clock, segment_seconds=HOUR, retention_seconds=2 * HOUR)
    writer.commit([batch(1)])
    writer.tick()
    clock.now += step
    for number in range(2, 6):
        writer.tick()
        writer.commit([batch(number)])
        clock.now += HOUR
        writer.tick()
    while writer.statistics.sealed < 4:
        writer.tick()
    writer.tick()
    assert len(read_all(tmp_path)) == 5
    [error] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "retention by age is suspended: the clock jumped by" in error.getMessage()
    assert "restart this process; by size it goes on" in error.getMessage()
    writer.close()


def read_all(directory: Path) -> list[bytes]:
    return list(reader.lines(directory))


def test_a_clock_that_comes_back_lets_retention_go_on(tmp_path, clock, caplog):
    """Nothing that was written in between is needed for that."""
    archive_of(tmp_path, clock, 6)
    writer = writer_of(tmp_path, now=clock, retention_seconds=2 * HOUR)
    writer._retention._follow_clock(clock.now)
    clock.now += 400 * DAY
    writer.tick()
    assert serials(tmp_path) == [1, 2, 3, 4, 5, 6]
    clock.now -= 400 * DAY
    writer.tick()
    assert serials(tmp_path) == [3, 4, 5, 6]
    assert "retention by age goes on" in caplog.text
    writer.close()


def test_names_that_a_wrong_clock_gave_suspend_it(tmp_path, clock, caplog):
    """A segment from the future, and one that is far older than the one before it: the age of neither is known."""
    archive_of(tmp_path, clock, 3)
    clock.now += 400 * DAY
    add(tmp_path, clock, 4)
    clock.now = START + 4 * HOUR
    ticked(tmp_path, clock, retention_seconds=1).close()
    assert "00000004-20271229T220000Z.ndjson.zst is from the future" in caplog.text
    caplog.clear()
    add(tmp_path, clock, 5)
    ticked(tmp_path, clock, retention_seconds=1).close()
    assert "00000005-20261125T000000Z.ndjson.zst is older than the one before it" in caplog.text
    assert serials(tmp_path) == [1, 2, 3, 4, 5]
    ticked(tmp_path, clock, retention_seconds=1, retention_bytes=1).close()
    assert serials(tmp_path) == [5]


def test_a_deletion_is_durable_before_the_next(tmp_path, clock, monkeypatch):
    """After a power cut no segment is missing between two others; emptied days are gone durably too."""
    archive_of(tmp_path, clock, 4, step=DAY / 2)
    writer = writer_of(tmp_path, now=clock, retention_bytes=1)
    calls = syncs_of(monkeypatch)
    writer.tick()
    first, second, root = str(tmp_path / "2026-11-24"), str(tmp_path / "2026-11-25"), str(tmp_path)
    assert [path for _, path in calls] == [first, root, second, second, root]
    writer.close()


def test_what_cannot_be_deleted_is_said_and_tried_again(tmp_path, clock, caplog, monkeypatch):
    """Nothing else is held up by it."""
    archive_of(tmp_path, clock, 3)
    writer = writer_of(tmp_path, now=clock, retention_bytes=1)

    def fail(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        writer.tick()
        writer.commit([batch(4)])
        writer.tick()
    assert caplog.text.count("retention cannot delete now: [Errno 30] Read-only file system") == 1
    clock.now += 60
    writer.tick()
    assert serials(tmp_path) == [3, 4]
    writer.close()


def test_a_crash_at_any_call_leaves_the_newest_in_one_piece(tmp_path, clock, monkeypatch):
    """What is left is the end of the archive without a gap, and the next start goes on deleting."""
    source = tmp_path / "source"
    archive_of(source, clock, 5, step=DAY / 2)
    for call in range(1000):
        archive = tmp_path / "archive"
        shutil.copytree(source, archive)
        writer = writer_of(archive, now=clock, retention_bytes=1)
        with power_off_at(monkeypatch, call) as struck, suppress(PowerOff):
            writer.tick()
        writer.close()
        left = serials(archive)
        assert left == list(range(left[0], 6))
        assert list(reader.lines(archive)) == lines_of(left, padding=4000)
        ticked(archive, clock, retention_bytes=1).close()
        assert serials(archive) == [5]
        assert writer_of(archive).marks.get("a").sequence == 5
        shutil.rmtree(archive)
        if not struck:
            break
    assert call >= 11
