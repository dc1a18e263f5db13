"""What the archive promises a session: its marks become durable with the data, and the archive alone tells them."""

import asyncio
import errno
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from archive_batches import START, PowerOff, batch, lines_of, mark, power_off_at, writer_of
from hypothesis import given, settings
from hypothesis import strategies as st

from logbale.archive import reader
from logbale.archive.format import Range, Reject, Skip
from logbale.errors import StorageError
from logbale.messages import MAX_CONTROL_BYTES, RejectedBatch, Welcome
from logbale.sinks import Mark, RejectedSequence, SkippedRange, Stored
from logbale.sinks.archive import ArchiveSink
from logbale.sinks.fanout import FanoutSink
from logbale.sinks.marks import DAY, MAX_REJECTS, Marks
from logbale.sinks.null import NullSink

zstd_program = pytest.mark.skipif(shutil.which("zstd") is None, reason="the zstd program is not installed")


def reject(sequence: int, reason="not_entries", stream="a") -> RejectedSequence:
    return RejectedSequence(stream, sequence, reason, sequence * 10)


def skip(first: int, last: int, stream="a") -> SkippedRange:
    return SkippedRange(stream, first, last, 50, "drop_oldest")


def read(directory: Path) -> list[bytes]:
    damage: list[reader.Damage] = []
    lines = list(reader.lines(directory, on_damage=damage.append))
    assert damage == []
    return lines


def rebuilt(directory: Path) -> dict[str, Mark]:
    """The marks that a start finds in what kill -9 would leave now."""
    copy = directory.with_name(directory.name + "-copy")
    shutil.copytree(directory, copy)
    writer = writer_of(copy)
    marks = dict(writer.marks.known)
    writer.close()
    shutil.rmtree(copy)
    return marks


def test_rejects_and_skips_take_their_place_in_the_order(tmp_path):
    """They are durable on return in the header of the same block, and the mark moves over them."""
    writer = writer_of(tmp_path)
    items = [batch(1, stream="a"), reject(2), batch(3, stream="a"), skip(4, 9)]
    assert writer.commit(items) == [Stored()] * 4
    [block] = reader.blocks(tmp_path)
    assert block.header.streams == {"a": Range(1, 3, 30)}
    assert block.header.rejects == [Reject("a", 2, "not_entries", 20)]
    assert block.header.skips == [Skip("a", 4, 9, 50, "drop_oldest")]
    assert writer.marks.known == {"a": Mark(9, 0, int(START), [RejectedBatch(2, "not_entries")])}
    assert read(tmp_path) == lines_of([1, 3])
    writer.close()


def test_a_reject_that_comes_last_keeps_its_crc(tmp_path):
    """Else a shipper that compares it would take its own history for another's, and send everything again."""
    archive = tmp_path / "archive"
    writer = writer_of(archive)
    writer.commit([batch(1, stream="a"), reject(2)])
    for _ in range(2):
        assert rebuilt(archive) == {"a": mark(2, rejects=[RejectedBatch(2, "not_entries")])}
        writer.close()


@zstd_program
def test_a_group_of_notes_alone_is_a_block_that_everybody_reads(tmp_path):
    """It holds no entries, plain zstd finds nothing wrong with it, and the times of what is beside it stay known."""
    writer = writer_of(tmp_path)
    writer.commit([reject(1)])
    writer.commit([batch(2, stream="a", padding=300_000)])
    writer.commit([skip(3, 4)])
    writer.commit([skip(5, 5)])
    for _ in ("open", "sealed"):
        [path] = tmp_path.glob("*/*")
        subprocess.run(["zstd", "-qt", path], check=True)
        plain = subprocess.run(["zstd", "-qdc", path], check=True, capture_output=True).stdout
        assert plain.splitlines() == read(tmp_path) == lines_of([2], padding=300_000)
        writer.close()
    with reader.SegmentReader(path) as opened:
        footer = opened.footer()
    assert (footer.count, footer.first, footer.last) == (1, batch(2).first, batch(2).last)
    assert [block.header.count for block in reader.blocks(tmp_path)] == [0, 1, 0]


def test_a_flood_of_notes_fits_the_headers(tmp_path):
    """However long the streams' names and the reasons are: more blocks, each with a header that can be read again."""
    writer = writer_of(tmp_path)
    stream = "s" * 128
    writer.commit([reject(number, '"\\' * 5000, stream=stream) for number in range(1, 5000)])
    rejects = [one.sequence for block in reader.blocks(tmp_path) for one in block.header.rejects]
    assert rejects == list(range(1, 5000))
    writer.close()
    assert writer_of(tmp_path).marks.get(stream).sequence == 4999


def test_the_rejects_of_a_mark_fit_a_welcome():
    """As many as a mark ever has, with the worst reasons, in one control frame."""
    marks = Marks()
    for sequence in range(1, 3 * MAX_REJECTS):
        marks.rejected("a", 2**62 + sequence, 0, '"\n\u2028é' * 5000)
    rejects = marks.get("a").rejects
    assert len(rejects) == MAX_REJECTS
    assert rejects[-1].sequence == marks.get("a").sequence
    welcome = Welcome(version=1, last=2**62, max_frame=1 << 32, max_raw=1 << 32, last_crc=1 << 32, rejects=rejects)
    assert len(msgspec.json.encode(welcome)) < MAX_CONTROL_BYTES - 500


kinds = st.tuples(st.sampled_from("ab"), st.sampled_from(["batch", "reject", "skip"]))
commits = st.lists(st.tuples(st.lists(kinds, min_size=1, max_size=4), st.booleans()), max_size=6)


@settings(max_examples=30)
@given(commits)
def test_the_archive_alone_tells_the_marks(tmp_path_factory, groups):
    """At every moment a start would find what the writer knows, rejects and times included; sealed or not."""
    archive = tmp_path_factory.mktemp("archive") / "archive"
    clock = [START]
    writer = writer_of(archive, now=lambda: clock[0])
    reached = dict.fromkeys("ab", 0)
    for group, is_last in groups:
        items = []
        for stream, kind in group:
            number = reached[stream] = reached[stream] + 1
            if kind == "skip":
                reached[stream] += 2
            makers = {"batch": batch(number, stream=stream), "reject": reject(number, stream=stream)}
            items.append(makers.get(kind) or skip(number, number + 2, stream=stream))
        writer.commit(items)
        clock[0] += 5000
        assert {stream: one.sequence for stream, one in writer.marks.known.items()} == {
            stream: sequence for stream, sequence in reached.items() if sequence
        }
        assert rebuilt(archive) == writer.marks.known
        if is_last:
            writer.close()
            assert rebuilt(archive) == writer.marks.known
            writer = writer_of(archive, now=lambda: clock[0])
    writer.close()


def test_a_damaged_footer_costs_no_reject(tmp_path):
    """The headers of its segment have them too."""
    writer = writer_of(tmp_path / "archive")
    writer.commit([batch(1, stream="a"), reject(2), skip(3, 3)])
    writer.close()
    known = dict(writer.marks.known)
    [path] = (tmp_path / "archive").glob("*/*")
    path.write_bytes(path.read_bytes()[:-9])
    assert rebuilt(tmp_path / "archive") == known


def test_a_crash_at_any_call_keeps_every_mark_that_was_told(tmp_path, monkeypatch, caplog):
    """What a restart finds is what the last commit that returned had reached, or the one under way."""

    def life(archive: Path, told: list[int]) -> None:
        for start in (1, 7):
            writer = writer_of(archive, segment_bytes=900)
            assert writer.marks.get("a").sequence == (told or [0])[-1]
            try:
                for item in (
                    batch(start, stream="a"),
                    reject(start + 1),
                    skip(start + 2, start + 3),
                    reject(start + 4),
                ):
                    writer.commit([item])
                    told.append(item.last_sequence)
                writer.commit([batch(start + 5, stream="a", padding=3000)])
                told.append(start + 5)
            finally:
                with suppress(PowerOff):
                    writer.close()

    steps = [0]
    life(tmp_path / "whole", steps_told := [])
    steps += steps_told
    for call in range(1000):
        archive = tmp_path / str(call)
        told: list[int] = []
        with power_off_at(monkeypatch, call) as struck, suppress(PowerOff):
            life(archive, told)
        if not struck:
            break
        writer = writer_of(archive)
        found = writer.marks.get("a")
        assert found.sequence in steps[len(told) : len(told) + 2]
        expected = [number for number in (2, 5, 8, 11) if number <= found.sequence]
        assert [one.sequence for one in found.rejects] == expected
        writer.close()
        shutil.rmtree(archive)
    assert call > 40


def test_nothing_of_a_failed_commit_moves_a_mark(tmp_path, monkeypatch):
    """Neither a reject nor a skip counts before it is durable."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1, stream="a")])

    def fail(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(StorageError, match="cannot sync"):
            writer.commit([reject(2), skip(3, 4)])
    assert writer.marks.known == {"a": mark(1)}
    writer.close()
    assert writer_of(tmp_path).marks.known == {"a": mark(1)}


def test_rejects_are_kept_until_they_are_consumed(tmp_path):
    """A hello says which are; what is forgotten stays so in the next footer."""

    async def scenario():
        sink = ArchiveSink(writer_of(tmp_path))
        await sink.commit([reject(1), reject(2), reject(3), batch(4, stream="a")])
        sink.forget_rejects("a", before=3)
        sink.forget_rejects("unknown", before=3)
        assert sink.mark("a") == mark(4, rejects=[RejectedBatch(3, "not_entries")])
        assert sink.mark("unknown") == Mark()
        await sink.close()

    asyncio.run(scenario())
    assert writer_of(tmp_path).marks.known == {"a": mark(4, rejects=[RejectedBatch(3, "not_entries")])}


def test_a_new_stream_is_admitted_while_there_is_room(tmp_path):
    """Known ones always are."""
    archive = ArchiveSink(writer_of(tmp_path, max_streams=2))
    for sink in (archive, NullSink(max_streams=2)):

        async def scenario(sink=sink):
            await sink.commit([batch(1), batch(1, stream="a"), reject(1, stream="b")])
            assert [sink.can_admit(stream) for stream in "abc"] == [True, True, False]
            await sink.close()

        asyncio.run(scenario())


def days_on(marks: Marks, *days: float) -> list[str]:
    """The streams that are left of it after segments begun so many days after START, expiring after 30."""
    for day in days:
        marks.begin(START + day * DAY)
        marks.expire(30)
    return sorted(marks.known)


def of_two() -> Marks:
    """A stream "old" heard of at START, and a "new" one heard of 20 days later, with something every day."""
    marks = Marks()
    marks.begin(START)
    marks.stored("old", 1, 10)
    for day in range(1, 21):
        marks.begin(START + day * DAY)
        marks.stored("new", day, 10)
    return marks


def test_a_silent_stream_is_forgotten_after_its_days():
    """30 days without a word, while others are heard."""
    assert days_on(of_two(), *range(21, 31)) == ["new", "old"]
    assert days_on(of_two(), *range(21, 32)) == ["new"]


def test_no_clock_expires_a_stream():
    """A gap counts as a day, whether the receiver was off or the clock was set; a step back counts as nothing."""
    assert days_on(of_two(), 4000) == ["new", "old"]
    assert days_on(of_two(), -4000, *range(21, 30)) == ["new", "old"]
    assert days_on(of_two(), 4000, *range(4001, 4010)) == ["new", "old"]
    assert days_on(of_two(), 4000, *range(4001, 4011)) == ["new"]


def test_a_forgotten_stream_is_in_no_later_footer(tmp_path, caplog):
    """The archive's own segments are the clock."""
    now = START
    writer = writer_of(tmp_path, now=lambda: now, segment_seconds=3600, marks_days=3)
    writer.commit([batch(1, stream="a")])
    for number in range(2, 7):
        now += DAY
        writer.tick()
        writer.commit([batch(number, stream="b")])
    writer.close()
    assert list(writer_of(tmp_path).marks.known) == ["b"]


def test_sinks_without_a_disk_keep_marks_too():
    """A session works with them for as long as they live."""

    async def scenario():
        null = NullSink()
        shown = []

        class View:
            def show(self, batches):
                shown.extend(batches)

            async def close(self):
                pass

        sink = FanoutSink(null, [View()])
        items = [batch(1, stream="a"), reject(2), skip(3, 5)]
        assert await sink.commit(items) == [Stored()] * 3
        assert sink.mark("a") == Mark(5, 0, 0, [RejectedBatch(2, "not_entries")])
        sink.forget_rejects("a", before=3)
        assert sink.mark("a").rejects == []
        assert sink.can_admit("z")
        assert shown == items[:1]
        assert (null.batches, null.entries) == (1, 1)
        await sink.close()

    asyncio.run(scenario())
