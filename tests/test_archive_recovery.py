"""What a restart promises: whatever a crash left, every acknowledged entry is there once, and the next start works."""

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from archive_batches import START, PowerOff, batch, lines_of, mark, power_off_at, syncs_of, writer_of

from logbale.archive import format, reader
from logbale.archive.format import Footer
from logbale.errors import StorageError


def read(directory: Path) -> list[bytes]:
    damage: list[reader.Damage] = []
    lines = list(reader.lines(directory, on_damage=damage.append))
    assert damage == []
    return lines


def left_open(directory: Path, *batches, keep=None) -> Path:
    """An archive as kill -9 leaves it: one commit a batch, the last segment open; the path of that.

    It is written by a writer in another directory, which is then copied: a lock never outlives its process.
    """
    source = directory.with_name(directory.name + "-source")
    if directory.exists():
        shutil.copytree(directory, source)
    writer = writer_of(source, now=lambda: START)
    for one in batches:
        writer.commit([one])
    if directory.exists():
        shutil.rmtree(directory)
    shutil.copytree(source, directory)
    writer.close()
    shutil.rmtree(source)
    return reader.segments(directory)[-1].path


def test_a_tail_torn_at_any_byte_is_cut(tmp_path):
    """Exactly the blocks before it are left, durable and open, and the next block follows them."""
    archive = tmp_path / "archive"
    path = left_open(archive, batch(1, stream="a"), batch(2, 3, stream="a"))
    whole = path.stat().st_size
    first = list(reader.blocks(path))[1].offset
    data = path.read_bytes()
    for end in range(first, whole):
        path.write_bytes(data[:end])
        writer = writer_of(archive, now=lambda: START)
        assert writer.statistics.recovered_torn_bytes == end - first
        assert path.read_bytes() == data[:first]
        assert writer.marks.known == {"a": mark(1)}
        writer.commit([batch(4)])
        assert read(archive) == lines_of([1, 4])
        writer.close()
        shutil.rmtree(path.parent)
        path.parent.mkdir()


def test_what_a_killed_process_left_in_memory_is_synced_before_anything_else(tmp_path, monkeypatch):
    """Nothing is known to be stored before its bytes and its name are: a power cut may follow."""
    archive = tmp_path / "archive"
    path = left_open(archive, batch(1, stream="a"))
    calls = syncs_of(monkeypatch)
    writer = writer_of(archive)
    assert [of for _, of in calls] == [str(tmp_path), str(path), str(path.parent), str(archive)]
    writer.close()


def test_an_open_segment_without_a_whole_block_goes(tmp_path):
    """Nobody was told that anything is in it; its serial is used again."""
    archive = tmp_path / "archive"
    path = left_open(archive, batch(1))
    data = path.read_bytes()
    for end in (0, 1, len(data) - 1):
        path.write_bytes(data[:end])
        writer = writer_of(archive, now=lambda: START)
        assert list(archive.glob("*/*")) == []
        writer.commit([batch(2)])
        assert reader.segments(archive)[0].serial == 1
        writer.close()
        shutil.rmtree(path.parent)
        path.parent.mkdir()


def test_damage_before_the_end_stays_and_is_counted(tmp_path, caplog):
    """It is kept where plain tools pass over it, the segment is ended, and everything sound is read."""
    archive = tmp_path / "archive"
    path = left_open(archive, batch(1), batch(2), batch(3))
    offsets = [block.offset for block in reader.blocks(path)]
    data = bytearray(path.read_bytes())
    data[offsets[1] + 30] ^= 4
    path.write_bytes(data)
    writer = writer_of(archive, now=lambda: START)
    writer.commit([batch(4)])
    writer.close()
    assert writer.statistics.damaged_blocks == 1
    assert writer.statistics.recovered_torn_bytes == 0
    assert f"{path}: damaged at byte {offsets[1]}" in caplog.text
    damage: list[reader.Damage] = []
    assert list(reader.lines(archive, on_damage=damage.append)) == lines_of([1, 3, 4])
    assert len(damage) == 1
    sealed = reader.segments(archive)[0].path.read_bytes()
    assert bytes(data[offsets[1] : offsets[2]]) in sealed
    assert format.zstd.decompress(sealed).splitlines() == lines_of([1, 3])


def test_of_several_open_segments_all_but_the_newest_are_sealed(tmp_path):
    """As a crash leaves them while sealing lags behind; the order and the marks stay."""
    archive = tmp_path / "archive"
    first = left_open(archive, batch(1, stream="a"))
    data = first.read_bytes()
    shutil.rmtree(archive)
    second = left_open(archive, batch(2, stream="a"))
    second.rename(second.with_name(second.name.replace("00000001", "00000002")))
    first.write_bytes(data)
    writer = writer_of(archive, now=lambda: START)
    assert writer.marks.known == {"a": mark(2)}
    writer.commit([batch(3, stream="a")])
    assert read(archive) == lines_of([1, 2, 3])
    writer.close()
    assert [segment.serial for segment in reader.segments(archive)] == [1, 2]
    assert [footer_of(segment.path).marks["a"].sequence for segment in reader.segments(archive)] == [1, 3]


def footer_of(path: Path) -> Footer:
    with reader.SegmentReader(path) as opened:
        footer = opened.footer()
    assert footer is not None
    return footer


def test_marks_survive_a_damaged_footer(tmp_path, caplog):
    """The blocks of that segment are read instead, and the footer before it."""
    for number, stream in ((1, "a"), (2, "b"), (3, "b")):
        writer = writer_of(tmp_path)
        writer.commit([batch(number, stream=stream)])
        writer.close()
    paths = [segment.path for segment in reader.segments(tmp_path)]
    for path in paths[1:]:
        path.write_bytes(path.read_bytes()[:-20])
    writer = writer_of(tmp_path)
    assert writer.marks.known == {"a": mark(1), "b": mark(3)}
    assert f"{paths[2]}: its footer is damaged" in caplog.text
    writer.close()


def test_a_footer_knows_the_streams_of_all_segments_before(tmp_path):
    """So a start reads one footer, however large the archive is."""
    for number, stream in ((1, "a"), (2, "b")):
        writer = writer_of(tmp_path)
        writer.commit([batch(number, stream=stream), batch(number, padding=300_000)])
        writer.close()
    first, second = (footer_of(segment.path) for segment in reader.segments(tmp_path))
    assert first.marks == {"a": mark(1)}
    assert second.marks == {"a": mark(1), "b": mark(2)}
    assert (second.serial, second.count, second.blocks) == (2, 2, [0])
    assert (second.first, second.last) == (batch(2).first, batch(2).last)


def test_a_sealed_file_that_came_out_damaged_is_made_again(tmp_path):
    """While the open segment is still there, it is the one that counts."""
    archive = tmp_path / "archive"
    path = left_open(archive, batch(1))
    sealed = path.with_suffix("")
    sealed.write_bytes(path.read_bytes()[:-1])
    writer = writer_of(archive)
    assert read(archive) == lines_of([1])
    writer.close()
    assert list(archive.glob("*/*")) == [sealed]
    assert read(archive) == lines_of([1])


def test_what_a_newer_version_wrote_is_left_alone(tmp_path):
    """After a downgrade nothing is cut: the start is refused."""
    archive = tmp_path / "archive"
    path = left_open(archive, batch(1))
    header, frame = format.parse(path.read_bytes()).header, path.read_bytes()[-100:]
    content = b'{"v":2,"size":%d}' % len(frame)
    crc = format.zlib.crc32(content + frame).to_bytes(4, "little")
    newer = path.read_bytes()[:4] + (4 + len(content)).to_bytes(4, "little") + crc + content + frame
    path.write_bytes(newer)
    assert header.v == 1
    with pytest.raises(StorageError, match="format 2: this logbale reads up to 1; use a newer one"):
        writer_of(archive)
    assert path.read_bytes() == newer


def life(archive: Path, acknowledged: list[bytes]) -> None:
    """Two runs with rotation, merging and sealing; every line is noted once its commit has returned."""
    for start in (10, 20):
        writer = writer_of(archive, segment_bytes=2000, now=lambda: START)
        try:
            for number, padding in ((start, 0), (start + 1, 0), (start + 2, 4000), (start + 3, 0)):
                writer.commit([batch(number, stream="a", padding=padding), batch(number + 4, padding=padding)])
                acknowledged += lines_of([number, number + 4], padding)
        finally:
            with suppress(PowerOff):
                writer.close()


def tried(archive: Path) -> list[bytes]:
    """All lines of a whole life."""
    lines: list[bytes] = []
    life(archive, lines)
    return lines


def test_a_crash_at_any_call_loses_and_doubles_nothing(tmp_path, monkeypatch, caplog):
    """At every system call that changes the disk: what was acknowledged is read, and at most the commit under way."""
    whole = tried(tmp_path / "whole")
    for call in range(1000):
        archive = tmp_path / str(call)
        acknowledged: list[bytes] = []
        with power_off_at(monkeypatch, call) as struck, suppress(PowerOff):
            life(archive, acknowledged)
        if not struck:
            break
        stored = read(archive) if archive.exists() else []
        assert stored in (acknowledged, whole[: len(acknowledged) + 2])
        writer = writer_of(archive, now=lambda: START)
        writer.commit([batch(99)])
        writer.close()
        assert read(archive) == stored + lines_of([99])
        assert {path.suffix for path in archive.glob("*/*")} == {".zst"}
        shutil.rmtree(archive)
    assert call > 50


def test_a_crash_during_recovery_is_recovered_from(tmp_path, monkeypatch):
    """At every call of it, and again at the next: the third start works."""
    archive = tmp_path / "archive"
    path = left_open(archive, batch(1), batch(2))
    later = path.with_name(path.name.replace("00000001", "00000002"))
    later.write_bytes(path.read_bytes()[:-3])
    empty = path.with_name(path.name.replace("00000001", "00000003"))
    empty.write_bytes(b"\x50\x2a")
    path.with_name(path.stem + ".sealing").write_bytes(b"half")
    for call in range(1000):
        shutil.copytree(archive, tmp_path / "again")
        for _ in range(2):
            with power_off_at(monkeypatch, call) as struck, suppress(PowerOff):
                writer_of(tmp_path / "again", now=lambda: START).close()
        writer_of(tmp_path / "again", now=lambda: START).close()
        assert read(tmp_path / "again") == lines_of([1, 2, 1])
        shutil.rmtree(tmp_path / "again")
        if not struck:
            break
    assert call > 10


@pytest.mark.parametrize(
    ("spoil", "level", "words"),
    [
        (lambda data, first: data[: first - 5], "WARNING", "a block without its end"),
        (
            lambda data, first: data[: first - 9] + b"\0\0\0\0" + data[first - 5 : first],
            "ERROR",
            "acknowledged entries",
        ),
    ],
    ids=["cut short", "overwritten"],
)
def test_a_spoilt_last_block_is_cut_and_called_what_it_may_be(tmp_path, caplog, spoil, level, words):
    """A torn write, or damage of what was acknowledged: it is not called what cannot be known."""
    archive = tmp_path / "archive"
    path = left_open(archive, batch(1), batch(2))
    data = path.read_bytes()
    path.write_bytes(spoil(data, len(data)))
    writer_of(archive, now=lambda: START).close()
    [said] = [record for record in caplog.records if "cut" in record.message]
    assert said.levelname == level
    assert words in said.message
    assert "never acknowledged" not in said.message
    assert read(archive) == lines_of([1])
