"""What verify promises: every damage is found and placed, nothing sound is blamed, and nothing is ever written."""

import json
import os
from pathlib import Path

import pytest
from archive_batches import START, batch, writer_of

from logbale.archive import format, reader
from logbale.archive.format import BlockEncoder, Footer, Range
from logbale.archive.verify import Verified, verify
from logbale.cli import main
from logbale.sinks import Mark, RejectedSequence, SkippedRange


def large(number: int, stream="a"):
    """A batch that sealing does not merge."""
    return batch(number, stream=stream, padding=300 * 1024)


def archive_of(directory: Path, *segments: list) -> list[Path]:
    """Sealed segments with one commit an item; their files, in order."""
    for items in segments:
        writer = writer_of(directory)
        for item in items:
            writer.commit([item])
        writer.close()
    return [segment.path for segment in reader.segments(directory)]


def reasons(path: Path) -> list[str]:
    """All that is wrong there, without the files' names."""
    return [damage.reason for segment in verify(path) for damage in segment.damage]


def encoded(streams: dict[str, Range], number=1) -> bytes:
    """A block of one entry."""
    line = b'{"n":%d}\n' % number
    return BlockEncoder(1).encode(line, count=1, first="", last="", streams=streams)


def forged(path: Path, made: list[bytes], marks: dict[str, Mark], **changes) -> None:
    """A sealed segment with these blocks, its footer right but for the changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    offsets = [sum(map(len, made[:index])) for index in range(len(made))]
    right = {"serial": 1, "blocks": offsets, "count": len(made), "raw": 8 * len(made), "first": "", "last": ""}
    footer = Footer(**(right | {"marks": marks} | changes))
    path.write_bytes(b"".join(made) + format.encode_footer(footer))


@pytest.fixture
def segment(tmp_path) -> Path:
    """The path of a first segment."""
    return tmp_path / "2026-11-24" / "00000001-20261124T200000Z.ndjson.zst"


def test_a_sound_archive_is_counted_and_not_blamed(tmp_path):
    """Merged and large blocks, rejects, skips, several streams and segments, and an open one that is being written."""
    items = [batch(1), large(1), batch(2, stream="a"), RejectedSequence("a", 3, "not_entries"), batch(1, stream="b")]
    archive_of(tmp_path, items, [SkippedRange("a", 4, 9, 5, "drop_oldest"), batch(10, stream="a")], [batch(3)])
    writer = writer_of(tmp_path)
    writer.commit([batch(11, stream="a")])
    with reader.segments(tmp_path)[-1].path.open("ab") as file:
        file.write(encoded({})[:50])
    found = list(verify(tmp_path))
    assert [one.damage for one in found] == [[]] * 4
    assert [(one.sealed, one.entries, one.unfinished) for one in found] == [
        (True, 4, 0),
        (True, 1, 0),
        (True, 1, 0),
        (False, 1, 50),
    ]
    assert found[0].first == batch(1).first
    assert found[0].size == found[0].path.stat().st_size
    writer.close()


def test_any_flipped_bit_is_found(tmp_path):
    """In blocks and the footer, at every byte: in the file where it is, and nowhere outside of the frame it is in."""
    [path] = archive_of(tmp_path, [batch(1, stream="a"), large(2), batch(3, stream="a")])
    whole = bytearray(path.read_bytes())
    offsets = [block.offset for block in reader.blocks(path)]
    small = [at for at in range(len(whole)) if not offsets[1] + 200 < at < offsets[2]]
    for at in [*small, offsets[1] + 5000]:
        whole[at] ^= 16
        path.write_bytes(whole)
        [found] = verify(path)
        assert any(damage.offset <= at < damage.offset + damage.size for damage in found.damage), at
        whole[at] ^= 16


def test_a_file_that_was_cut_at_any_byte_is_found(tmp_path):
    """Also between two blocks."""
    [path] = archive_of(tmp_path, [batch(1, stream="a")])
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        assert reasons(path)


def test_a_right_crc_over_a_wrong_frame_is_found(segment):
    """What a writer spoilt in its memory, before it took the CRC."""
    data = bytearray(encoded({}))
    data[-6] ^= 1
    data[8:12] = format.zlib.crc32(data[12:]).to_bytes(4, "little")
    forged(segment, [bytes(data)], {})
    [reason] = reasons(segment)
    assert "the zstd frame does not decompress" in reason


def test_missing_segments_are_named(tmp_path):
    """Between two others; what retention took at the beginning is not missed."""
    paths = archive_of(tmp_path, *([batch(number, stream="a")] for number in range(1, 7)))
    paths[0].unlink()
    assert reasons(tmp_path) == []
    paths[3].unlink()
    assert reasons(tmp_path) == ["the segment before it is missing: 4, deleted or lost"]
    paths[2].unlink()
    assert reasons(tmp_path) == ["the segments before it are missing: 3 to 4, deleted or lost"]


def test_streams_must_go_on_where_they_were(tmp_path):
    """A repetition and a gap are named; over segments too, and across rejects and skips there is none."""
    a = [large(number) for number in (5, 6, 6, 9)]
    archive_of(tmp_path / "one", a[:2], a[2:])
    assert reasons(tmp_path / "one") == [
        "stream a: sequence 6 again, after 6",
        "stream a: sequences 7 to 8 missing, neither rejected nor skipped",
    ]
    notes = [RejectedSequence("a", 7, "limit"), SkippedRange("a", 8, 8, 0, "damaged")]
    archive_of(tmp_path / "two", [a[0], a[1]], [*notes, a[3]])
    assert reasons(tmp_path / "two") == []


def test_a_repetition_says_how_much_it_repeats(segment):
    """Within one range of a block."""
    forged(segment, [encoded({"a": Range(1, 5, 0)}), encoded({"a": Range(3, 9, 0)})], {"a": Mark(9)}, raw=16)
    assert reasons(segment) == ["stream a: sequences 3 to 5 again, after 5"]


@pytest.mark.parametrize(
    ("marks", "changes", "reason"),
    [
        ({"a": Mark(2)}, {}, "stream a: the footer's mark is 2, the blocks end with 3"),
        ({"a": Mark(4)}, {}, "stream a: the footer's mark is 4, the blocks end with 3"),
        ({}, {}, "stream a: the footer has no mark of it, the blocks end with 3"),
        ({"a": Mark(3)}, {"blocks": [1]}, "the footer describes other blocks than there are"),
        ({"a": Mark(3)}, {"count": 2}, "the footer describes other blocks than there are"),
        ({"a": Mark(3)}, {"raw": 7}, "the footer describes other blocks than there are"),
        ({"a": Mark(3)}, {"last": "x"}, "the footer describes other blocks than there are"),
        ({"a": Mark(3)}, {"serial": 2}, "the footer's serial is 2, the name's 1"),
    ],
)
def test_a_footer_must_say_what_is_there(segment, marks, changes, reason):
    """Whatever in it differs from the blocks is named, and where the footer is."""
    block = encoded({"a": Range(1, 3, 0)})
    forged(segment, [block], marks, **changes)
    [found] = verify(segment)
    assert [(one.reason, one.offset) for one in found.damage] == [(reason, len(block))]
    assert found.damage[0].size == segment.stat().st_size - len(block)


def test_a_footer_in_the_middle_is_found(segment):
    """Nothing may follow it."""
    forged(segment, [encoded({})], {})
    data = segment.read_bytes()
    segment.write_bytes(data + data)
    assert reasons(segment) == ["a footer before the end of the segment"]


def test_damage_in_one_segment_blames_no_other(tmp_path):
    """Its footer still tells how far the streams had come."""
    paths = archive_of(tmp_path, [large(1), large(2)], [large(3)], [large(4)])
    data = bytearray(paths[0].read_bytes())
    data[[block.offset for block in reader.blocks(paths[0])][1] + 900] ^= 1
    paths[0].write_bytes(data)
    assert [len(one.damage) for one in verify(tmp_path)] == [1, 0, 0]


def test_it_writes_nothing(tmp_path, monkeypatch):
    """Not a byte, a name or a time of change, whatever is wrong; it takes no lock either."""
    paths = archive_of(tmp_path, [batch(1, stream="a")], [batch(2, stream="a")])
    paths[1].write_bytes(paths[1].read_bytes()[:-9])
    paths[1].with_name(paths[1].name + ".sealing").write_bytes(b"half")
    for path in [*tmp_path.rglob("*"), tmp_path]:
        os.utime(path, (START, START))
    before = {path: path.stat() for path in tmp_path.rglob("*")}

    def refuse(*arguments, **_):
        raise AssertionError(arguments)

    with monkeypatch.context() as patch:
        for name in ("pwrite", "write", "rename", "unlink", "ftruncate", "mkdir", "rmdir"):
            patch.setattr(os, name, refuse)
        assert reasons(tmp_path)
    after = {path: path.stat() for path in tmp_path.rglob("*")}
    assert {path: (of.st_size, of.st_mtime) for path, of in after.items()} == {
        path: (of.st_size, of.st_mtime) for path, of in before.items()
    }


# The command


@pytest.fixture
def run(capsysbinary):
    """Runs `logbale verify`; its exit code, standard output and standard error."""

    def run_command(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["verify", *map(str, arguments)])
        out, err = capsysbinary.readouterr()
        return ended.value.code, out.decode(), err.decode()

    return run_command


def test_the_command_says_sound_with_0(tmp_path, run):
    """A row for each segment and a sum, of all directories and files that are named."""
    paths = archive_of(tmp_path / "one", [batch(1)], [batch(2, 3)])
    archive_of(tmp_path / "two", [batch(4)])
    code, out, err = run(tmp_path / "one", tmp_path / "two", paths[0])
    assert (code, err) == (0, "")
    rows = out.splitlines()
    assert rows[0].split()[:3] == ["segment", "state", "blocks"]
    assert [row for row in rows if row.endswith(":")] == [
        f"{path}:" for path in (tmp_path / "one", tmp_path / "two", paths[0])
    ]
    assert rows[1] == f"{tmp_path / 'one'}:", "of which archive a segment is"
    assert rows[3].split()[:4] == [paths[1].name, "sealed", "1", "2"]
    assert rows[-1] == "4 segments, 5 sound entries, 0 places damaged or missing"


def test_the_command_says_damage_with_1(tmp_path, run):
    """Each with file, offset, size and reason."""
    [path] = archive_of(tmp_path, [large(1), large(2)])
    offsets = [block.offset for block in reader.blocks(path)]
    data = bytearray(path.read_bytes())
    data[offsets[1] + 900] ^= 1
    path.write_bytes(data)
    code, out, _ = run(tmp_path)
    assert code == 1
    assert "DAMAGED" in out
    size = next(damage.size for segment in verify(tmp_path) for damage in segment.damage)
    assert f"  {path}: damaged at byte {offsets[1]} ({size} bytes): the CRC differs\n" in out
    code, out, _ = run("--json", tmp_path)
    found = json.loads(out)
    assert code == 1
    assert (found["entries"], found["damaged"], found["unreadable"]) == (1, 1, 0)
    [damage] = found["segments"][0]["damage"]
    assert damage == {"path": str(path), "offset": offsets[1], "size": size, "reason": "the CRC differs"}


def test_the_command_says_unreadable_with_74(tmp_path, run):
    """An archive that is not there, and a segment that a newer version wrote; the others are verified all the same."""
    code, _, err = run(tmp_path / "nothing")
    assert code == 74
    assert "there is no archive here" in err
    first, _ = archive_of(tmp_path / "archive", [batch(1)], [batch(2)])
    content = b'{"v":2,"size":0}'
    block = b"".join(
        word.to_bytes(4, "little") for word in (format.BLOCK_MAGIC, 4 + len(content), format.zlib.crc32(content))
    )
    first.write_bytes(block + content)
    code, out, err = run(tmp_path / "archive")
    assert code == 74
    assert "format 2: this logbale reads up to 1; use a newer one" in err
    assert [row.split()[1] for row in out.splitlines()[1:3]] == ["unreadable", "sealed"]


def test_the_command_takes_the_archive_of_the_settings(tmp_path, run, monkeypatch):
    """As `logbale cat` does."""
    archive_of(tmp_path, [batch(1)])
    monkeypatch.setenv("ARCHIVE_DIR", str(tmp_path))
    assert run()[0] == 0


def test_an_archive_without_a_segment_is_sound(tmp_path):
    """There is nothing in it that could be wrong."""
    assert list(verify(tmp_path)) == []


def test_what_a_segment_holds_is_plain_data():
    """Each result has its own list of damage."""
    one, other = (Verified(path=Path("x"), serial=1, sealed=True) for _ in range(2))
    assert one.damage is not other.damage
