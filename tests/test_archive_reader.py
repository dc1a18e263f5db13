"""What a reader of the archive promises: every sound entry once and in order, and nothing else, beside a writer."""

import random
import shutil
from pathlib import Path

import pytest
from archive_batches import START, batch, lines_of, time_of, writer_of

from logbale.archive import format, reader
from logbale.archive.reader import ArchiveFollower
from logbale.errors import StorageError
from logbale.sinks import ReceivedBatch


def numbers(lines) -> list[int]:
    return [int(line.split(b'"n":')[1].split(b",")[0]) for line in lines]


def read(path: Path, **options) -> tuple[list[int], list[reader.Damage]]:
    damage: list[reader.Damage] = []
    return numbers(reader.lines(path, on_damage=damage.append, **options)), damage


def archive_of(directory: Path, *segments: list[ReceivedBatch]) -> list[Path]:
    """Sealed segments with one commit a batch; their files, in order."""
    for batches in segments:
        writer = writer_of(directory)
        for one in batches:
            writer.commit([one])
        writer.close()
    return [segment.path for segment in reader.segments(directory)]


def large(*numbers: int) -> ReceivedBatch:
    """A batch that sealing does not merge."""
    return batch(*numbers, padding=300 * 1024 // len(numbers))


def test_segments_are_read_by_serial_not_by_the_clock(tmp_path):
    """A clock that went back two days puts later entries into an earlier directory, and still after the others."""
    for day, number in ((2, 1), (0, 2), (1, 3)):
        writer = writer_of(tmp_path, now=lambda day=day: START + day * 86400)
        writer.commit([batch(number)])
        writer.close()
    assert read(tmp_path) == ([1, 2, 3], [])


def test_a_single_file_of_any_name_is_read(tmp_path):
    """A segment that was copied elsewhere needs nothing but itself."""
    [path] = archive_of(tmp_path / "archive", [batch(1, 2)])
    shutil.copy(path, tmp_path / "evidence")
    assert read(tmp_path / "evidence") == ([1, 2], [])


def test_an_archive_that_is_not_there_is_an_error(tmp_path):
    """An empty answer would look like an empty archive."""
    with pytest.raises(StorageError, match="there is no archive here; check the path"):
        list(reader.lines(tmp_path / "nothing"))


def test_strange_files_and_links_are_passed_over(tmp_path):
    """Only segments are read, and no link leads out of the archive."""
    [path] = archive_of(tmp_path / "archive", [batch(1)])
    for name in ("00000009-20261124T200000Z.ndjson.zst.suspect", "notes.txt", "9-20261124T200000Z.ndjson.zst"):
        shutil.copy(path, path.with_name(name))
    path.with_name("00000008-20261124T200000Z.ndjson.zst").symlink_to(path)
    (tmp_path / "archive" / "2026-11-25").symlink_to(path.parent)
    assert read(tmp_path / "archive") == ([1], [])


def test_the_torn_end_of_an_open_segment_is_not_there_yet(tmp_path):
    """However much of the last block is written: the blocks before it, and no word of damage."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1)])
    path = reader.segments(tmp_path)[0].path
    whole = path.stat().st_size
    writer.commit([batch(2)])
    data = path.read_bytes()
    for end in range(whole, len(data)):
        path.write_bytes(data[:end])
        assert read(tmp_path) == ([1], [])
    path.write_bytes(data)
    assert read(tmp_path) == ([1, 2], [])
    writer.close()


def test_a_sealed_segment_that_was_cut_short_is_reported(tmp_path):
    """At every byte, also between two blocks: what is left is read, and something is said to be missing."""
    [path] = archive_of(tmp_path, [batch(1)])
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        found, damage = read(tmp_path)
        assert found in ([], [1])
        assert [one.path for one in damage] == [path]


def test_a_flipped_bit_costs_its_block_and_is_reported(tmp_path):
    """Wherever it is, no wrong line is delivered, and the other blocks all are."""
    [path] = archive_of(tmp_path, [large(1, 2), large(3, 4), large(5, 6)])
    data = path.read_bytes()
    chance = random.Random(23)
    starts = [block.offset for block in reader.blocks(path)]
    assert len(starts) == 3
    near_edges = [at + step for at in [*starts, len(data) - 60] for step in range(60)]
    for at in [*near_edges, *(chance.randrange(len(data)) for _ in range(100))]:
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        found, damage = read(path)
        assert found in ([3, 4, 5, 6], [1, 2, 5, 6], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6])
        assert len(damage) == 1
        assert damage[0].offset <= at < damage[0].offset + damage[0].size


def test_damage_of_any_kind_never_makes_a_wrong_line(tmp_path):
    """Zeroed, overwritten, removed, doubled bytes: only entries that were written come out, and no exception."""
    written = [large(n) for n in range(6)]
    [path] = archive_of(tmp_path, written)
    sound = {one.ndjson[:-1] for one in written}
    data = path.read_bytes()
    chance = random.Random(5)
    for _ in range(60):
        at, size = chance.randrange(len(data)), chance.randrange(1, 100_000)
        other = chance.choice([bytes(size), chance.randbytes(size), b"", data[at : at + size] * 2])
        path.write_bytes(data[:at] + other + data[at + size :])
        damage: list[reader.Damage] = []
        assert sound.issuperset(reader.lines(path, on_damage=damage.append))
    path.write_bytes(b"not a segment")
    assert read(path)[0] == []


def test_a_span_of_time_is_exact(tmp_path):
    """Since is inclusive, until exclusive, in the middle of a block as well as between blocks and segments."""
    archive_of(tmp_path, [large(1, 2, 3), large(4, 5, 6)], [large(7, 8, 9)])
    for first in range(1, 11):
        for end in range(first, 11):
            found, _ = read(tmp_path, since=time_of(first), until=time_of(end))
            assert found == list(range(first, min(end, 10)))


def test_what_lies_outside_the_time_is_not_even_read(tmp_path):
    """A sealed segment is passed over by its footer: its damage goes unnoticed."""
    path, _ = archive_of(tmp_path, [batch(1)], [batch(2)])
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert read(tmp_path, since=time_of(2)) == ([2], [])
    assert read(tmp_path, since=time_of(1))[1]


def test_an_entry_without_a_time_is_always_there(tmp_path):
    """Unknown is not outside: neither segment nor block nor line is left out for it."""
    unknown = ReceivedBatch(ndjson=b'{"n":2,"x":1}\n{"timestamp":5,"n":3,"x":1}\n', count=2, first="", last="")
    archive_of(tmp_path, [batch(1), unknown])
    assert read(tmp_path, since=time_of(100))[0] == [2, 3]
    assert read(tmp_path, until=time_of(0))[0] == [2, 3]


def test_times_in_other_forms_are_compared_as_times(tmp_path):
    """A line of an edge block may carry any RFC 3339 form."""
    line = b'{"timestamp":"2026-11-24T21:00:05+01:00","n":5,"x":1}\n'
    archive_of(tmp_path, [ReceivedBatch(ndjson=line, count=1, first=time_of(0), last=time_of(9))])
    assert read(tmp_path, since=time_of(5), until=time_of(6))[0] == [5]
    assert read(tmp_path, since=time_of(6))[0] == []


def test_blocks_tell_what_they_hold_without_being_decompressed(tmp_path):
    """Headers are enough to count an archive."""
    archive_of(tmp_path, [large(1, 2), large(3)], [batch(4)])
    assert [(block.header.count, block.header.first) for block in reader.blocks(tmp_path)] == [
        (2, time_of(1)),
        (1, time_of(3)),
        (1, time_of(4)),
    ]


def test_a_follower_sees_each_entry_once_across_sealing_and_new_segments(tmp_path):
    """Open, being sealed, sealed (and merged), next: the same lines, in order, as they come."""
    writer = writer_of(tmp_path, segment_bytes=2000)
    seen: list[int] = []
    with ArchiveFollower(tmp_path) as follower:
        assert follower.poll() == []
        for number in range(200):
            writer.commit([batch(number)])
            if number % 7 == 0:
                while lines := follower.poll():
                    seen += numbers(lines)
                assert seen == list(range(number + 1))
        writer.close()
        while lines := follower.poll():
            seen += numbers(lines)
    assert seen == list(range(200))
    assert writer.statistics.sealed > 5
    assert writer.statistics.merged > 50


def test_a_follower_can_start_at_the_end(tmp_path):
    """Only what comes from now on."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1)])
    with ArchiveFollower(tmp_path, from_end=True) as follower:
        assert follower.poll() == []
        writer.commit([batch(2)])
        assert numbers(follower.poll()) == [2]
    writer.close()
    with ArchiveFollower(tmp_path, from_end=True) as follower:
        archive_of(tmp_path, [batch(3)])
        assert numbers(follower.poll()) == [3]


def test_a_follower_waits_for_a_block_that_is_half_written(tmp_path):
    """A block is delivered when its last byte is there, and then at once."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1)])
    path = reader.segments(tmp_path)[0].path
    first = path.stat().st_size
    writer.commit([batch(2)])
    data = path.read_bytes()
    path.write_bytes(data[:first])
    with ArchiveFollower(tmp_path) as follower:
        assert numbers(follower.poll()) == [1]
        for end in range(first, len(data)):
            path.write_bytes(data[:end])
            assert follower.poll() == []
        path.write_bytes(data)
        assert numbers(follower.poll()) == [2]
    writer.close()


def test_a_follower_misses_nothing_that_is_written_while_it_looks_for_the_next_segment(tmp_path, monkeypatch):
    """A last block and a new segment may both come between two of its steps."""
    writer = writer_of(tmp_path, segment_bytes=500)
    writer.commit([batch(1)])
    with ArchiveFollower(tmp_path) as follower:
        assert numbers(follower.poll()) == [1]
        listing = reader.segments

        def late_listing(path):
            monkeypatch.setattr(reader, "segments", listing)
            for number in (2, 3, 4):
                writer.commit([batch(number)])
            return listing(path)

        monkeypatch.setattr(reader, "segments", late_listing)
        assert [numbers(follower.poll()) for _ in range(4)] == [[2], [3], [4], []]
    writer.close()
    assert writer.statistics.segments > 1


def test_a_follower_goes_on_where_a_failed_write_was_cut_off(tmp_path):
    """What it saw of the unfinished block is forgotten; a shorter one in its place is read."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1)])
    path = reader.segments(tmp_path)[0].path
    whole = path.stat().st_size
    with ArchiveFollower(tmp_path) as follower, path.open("ab") as file:
        assert numbers(follower.poll()) == [1]
        unfinished = format.BlockEncoder(1).encode(random.randbytes(9000), count=0, first="", last="", streams={})
        file.write(unfinished[:9000])
        file.flush()
        assert follower.poll() == []
        file.truncate(whole)
        writer.commit([batch(2)])
        assert numbers(follower.poll()) == [2]
    writer.close()


def test_a_follower_keeps_to_the_time_and_reports_damage(tmp_path):
    """What it passes over in silence is only what was not asked for."""
    [path] = archive_of(tmp_path, [large(1), large(2), large(3)])
    data = bytearray(path.read_bytes())
    data[[block.offset for block in reader.blocks(path)][1] + 500] ^= 1
    path.write_bytes(data)
    damage: list[reader.Damage] = []
    with ArchiveFollower(tmp_path, since=time_of(2), on_damage=damage.append) as follower:
        assert numbers(follower.poll()) == [3]
        assert follower.poll() == []
    assert [str(path) in str(one) for one in damage] == [True]


def test_a_segment_sealed_between_listing_and_opening_is_still_read(tmp_path, monkeypatch):
    """The reader looks for it under its new name, and gives up only what retention took."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1)])
    listed = reader.segments(tmp_path)
    writer.close()
    monkeypatch.setattr(reader, "segments", lambda path: listed)
    assert read(tmp_path) == ([1], [])
    listed[0].sealed_path.unlink()
    assert read(tmp_path) == ([], [])


def test_an_entry_may_hold_any_other_line_end(tmp_path):
    """Only a newline ends a line: neither a carriage return nor U+2028 does."""
    line = '{"message":"a\u2028b\u0085c"}\r'.encode()
    archive_of(tmp_path, [ReceivedBatch(ndjson=line + b"\n", count=1, first="", last="")])
    assert list(reader.lines(tmp_path)) == [line]


def test_lines_come_back_byte_for_byte(tmp_path):
    """The archive adds nothing and takes nothing."""
    archive_of(tmp_path, [batch(1, 2), batch(3)])
    assert list(reader.lines(tmp_path)) == lines_of([1, 2, 3])


def test_headers_alone_tell_the_same_whatever_is_damaged(tmp_path):
    """At every byte of blocks, small and large, torn, quarantined or sealed: the same blocks and damage as read()."""

    def walked(path: Path) -> tuple[list, list]:
        frames, headers = [], []
        with reader.SegmentReader(path) as opened:
            while (frame := opened.read()) is not None:
                frames.append(frame.header if isinstance(frame, format.Block) else frame)
            frames.append((opened.offset, opened.after_footer))
        with reader.SegmentReader(path) as opened:
            headers += [*opened.headers(), (opened.offset, opened.after_footer)]
        return frames, headers

    path = archive_of(tmp_path, [batch(1), large(2), batch(3)])[0]
    data = bytearray(path.read_bytes() + format.encode_quarantine(b"junk") + b"torn")
    _, second, third = [block.offset for block in reader.blocks(path)]
    for at in range(len(data)):
        if second + 200 < at < third - 50:
            continue
        data[at] ^= 1
        path.write_bytes(data)
        frames, headers = walked(path)
        assert headers == frames, at
        data[at] ^= 1


def test_headers_alone_refuse_a_newer_format(tmp_path):
    """It is not passed over, nor taken for damage."""
    content = b'{"v":2,"size":0,"count":0,"raw":0,"first":"","last":""}'
    words = (format.BLOCK_MAGIC, 4 + len(content), format.zlib.crc32(content))
    path = tmp_path / "segment"
    path.write_bytes(b"".join(word.to_bytes(4, "little") for word in words) + content)
    with reader.SegmentReader(path) as opened, pytest.raises(StorageError, match="format 2"):
        list(opened.headers())


@pytest.mark.parametrize("reads", ["duckdb", "pandas"])
def test_plain_tools_read_sealed_and_open_segments(tmp_path, reads):
    """As docs/operating.md says it, also several blocks in one file; the open one has to be called zstd."""
    tool = pytest.importorskip(reads)
    writer = writer_of(tmp_path)
    writer.commit([batch(1, 2, stream="a")])
    writer.close()
    writer = writer_of(tmp_path)
    writer.commit([batch(3, stream="a")])
    writer.commit([batch(4)])
    paths = sorted(map(str, tmp_path.glob("*/*.ndjson.zst*")))
    assert [path.endswith(".part") for path in paths] == [False, True]
    if reads == "duckdb":
        select = "SELECT count(*) FROM read_json('{}', format='newline_delimited', compression='zstd')"
        [(found,)] = tool.sql(select.format(tmp_path / "*/*.ndjson.zst*")).fetchall()
    else:
        found = sum(len(tool.read_json(path, lines=True, compression="zstd")) for path in paths)
    writer.close()
    assert found == 4
