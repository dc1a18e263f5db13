"""What the writer of the archive promises: durable on return or not there at all, by whatever the disk answers."""

import errno
import os
import resource
import shutil
import stat
import subprocess
from types import SimpleNamespace

import pytest
from archive_batches import START, batch, lines_of, mark, syncs_of, writer_of
from hypothesis import given
from hypothesis import strategies as st

from logbale.archive import reader
from logbale.archive.blocks import BLOCK_BYTES
from logbale.archive.format import Range
from logbale.errors import LockedError, StorageError
from logbale.sinks import ReceivedBatch, Stored

zstd_program = pytest.mark.skipif(shutil.which("zstd") is None, reason="the zstd program is not installed")


def files(directory) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def read(directory) -> list[bytes]:
    damage = []
    lines = list(reader.lines(directory, on_damage=damage.append))
    assert damage == []
    return lines


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), max_size=6), st.integers(1, 3000))
def test_what_was_committed_is_read_again_in_order(tmp_path_factory, commits, segment_bytes):
    """Any grouping of batches, any size of segments: the same lines, while it is open and after it is closed."""
    directory = tmp_path_factory.mktemp("archive") / "deep" / "archive"
    writer = writer_of(directory, segment_bytes=segment_bytes)
    number, expected = 0, []
    for sizes in commits:
        group = []
        for size in sizes:
            group.append(batch(*range(number, number + size)))
            number += size
        assert writer.commit(group) == [Stored()] * len(group)
        expected = lines_of(range(number))
        assert read(directory) == expected
    writer.close()
    assert read(directory) == expected
    assert not [name for name in files(directory) if name.endswith(".part")]


def test_an_empty_archive_leaves_no_segment(tmp_path):
    """Neither opening nor an empty commit makes a file."""
    writer = writer_of(tmp_path)
    assert writer.commit([]) == []
    writer.tick()
    writer.close()
    assert files(tmp_path) == ["lock"]


def test_names_carry_the_serial_and_the_time(tmp_path):
    """Open while it is written, then sealed under the same name; the next serial follows."""
    writer = writer_of(tmp_path, now=lambda: START + 5)
    writer.commit([batch(1)])
    assert files(tmp_path) == ["2026-11-24/00000001-20261124T200005Z.ndjson.zst.part", "lock"]
    writer.close()
    writer = writer_of(tmp_path, now=lambda: START + 86400)
    writer.commit([batch(2)])
    assert files(tmp_path) == [
        "2026-11-24/00000001-20261124T200005Z.ndjson.zst",
        "2026-11-25/00000002-20261125T200000Z.ndjson.zst.part",
        "lock",
    ]
    writer.close()


def test_nobody_else_may_read_it(tmp_path):
    """Directories are 0700 and files 0600, under the most careless umask."""
    before = os.umask(0)
    try:
        writer = writer_of(tmp_path / "new" / "archive")
        writer.commit([batch(1)])
        writer.close()
    finally:
        os.umask(before)
    for path in (tmp_path / "new").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_group_shares_one_sync_and_new_names_are_synced_too(tmp_path, monkeypatch):
    """20 MiB in one commit take one fdatasync; a new segment's directories are synced before the return."""
    calls = syncs_of(monkeypatch)
    writer = writer_of(tmp_path / "archive", now=lambda: START)
    calls.clear()
    writer.commit([batch(number, padding=1 << 20) for number in range(20)])
    day = str(tmp_path / "archive" / "2026-11-24")
    segment = f"{day}/00000001-20261124T200000Z.ndjson.zst.part"
    made = [("fsync", str(tmp_path)), ("fsync", str(tmp_path / "archive"))]  # a crash may have left either unsynced
    assert calls == [*made, ("fdatasync", segment), ("fsync", day)]
    calls.clear()
    writer.commit([batch(20)])
    assert calls == [("fdatasync", segment)]
    writer.close()


def test_blocks_are_bounded_and_a_larger_batch_is_one_block(tmp_path):
    """At most 4 MiB raw each; only what came as one batch stays together."""
    writer = writer_of(tmp_path)
    mib = 1 << 20
    writer.commit([batch(1, padding=mib), batch(2, padding=6 * mib), *(batch(n, padding=mib) for n in range(3, 9))])
    sizes = [(block.header.count, block.header.raw > BLOCK_BYTES) for block in reader.blocks(tmp_path)]
    assert sizes == [(1, False), (1, True), (3, False), (3, False)]
    writer.commit([batch(number) for number in range(5000)])
    assert [block.header.count for block in reader.blocks(tmp_path)][4:] == [4096, 904]
    writer.close()


def test_streams_and_marks_are_kept_in_the_blocks_and_known_after_a_restart(tmp_path):
    """Each block says which sequences it holds; the newest footer and the open segment give every stream's mark."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1, stream="a"), batch(7, stream="b"), batch(2, stream="a"), batch(3)])
    [block] = reader.blocks(tmp_path)
    assert block.header.streams == {"a": Range(1, 2, 20), "b": Range(7, 7, 70)}
    assert writer.marks.known == {"a": mark(2), "b": mark(7)}
    writer.close()
    writer = writer_of(tmp_path)
    assert writer.marks.known == {"a": mark(2), "b": mark(7)}
    writer.commit([batch(3, stream="a")])
    writer.close()
    assert writer_of(tmp_path).marks.known == {"a": mark(3), "b": mark(7)}


def test_a_segment_is_sealed_at_its_size(tmp_path):
    """The commit that reaches it is the last one in it."""
    writer = writer_of(tmp_path, segment_bytes=1500)
    for number in range(4):
        writer.commit([batch(number, padding=4000)])
    writer.close()
    assert len(files(tmp_path)) == 5
    assert writer.statistics.sealed == writer.statistics.segments == 4
    assert read(tmp_path)


def test_a_segment_is_sealed_at_its_age_whatever_the_clock_does(tmp_path):
    """An hour on: sealed. An hour back, or forty years: an hour from then."""
    now = START
    writer = writer_of(tmp_path, segment_seconds=3600, now=lambda: now)

    def open_after(step: float) -> bool:
        nonlocal now
        now += step
        writer.tick()
        return any(segment.is_open for segment in reader.segments(tmp_path) if segment.serial == serial)

    serial = 1
    writer.commit([batch(1)])
    assert open_after(3599)
    writer.commit([batch(2)])
    open_after(1)
    writer.commit([batch(3)])
    serial = 2
    assert open_after(-40 * 365 * 86400)
    assert open_after(3599)
    open_after(1)
    writer.commit([batch(4)])
    writer.close()
    assert [segment.serial for segment in reader.segments(tmp_path)] == [1, 2, 3]
    assert len(read(tmp_path)) == 4


def test_a_trickle_shrinks_when_it_is_sealed(tmp_path):
    """Blocks of one line, larger than the line itself, become one."""
    writer = writer_of(tmp_path)
    for number in range(300):
        writer.commit([batch(number, stream="a")])
    before = writer.statistics.disk_bytes
    writer.close()
    assert writer.statistics.merged == 299
    assert writer.statistics.disk_bytes < before / 10
    assert writer.statistics.disk_bytes == sum(path.stat().st_size for path in tmp_path.glob("*/*"))
    assert read(tmp_path) == lines_of(range(300))
    [block] = reader.blocks(tmp_path)
    assert block.header.streams["a"].last == 299


@zstd_program
def test_other_programs_read_a_segment_as_plain_ndjson(tmp_path):
    """zstd tests it and zstdcat prints it, open as well as sealed and merged."""
    writer = writer_of(tmp_path)
    for number in range(20):
        writer.commit([batch(number), batch(number, padding=300_000)] if number % 5 == 0 else [batch(number)])
    for _ in ("open", "sealed"):
        [path] = tmp_path.glob("*/*")
        subprocess.run(["zstd", "-qt", path], check=True)
        plain = subprocess.run(["zstd", "-qdc", path], check=True, capture_output=True).stdout
        assert plain.splitlines() == read(tmp_path)
        writer.close()


def test_a_second_writer_is_refused(tmp_path):
    """It says which process holds the directory and what to do; afterwards the directory is free again."""
    writer = writer_of(tmp_path)
    with pytest.raises(LockedError, match=f"in use by process {os.getpid()}; stop that one, or .*--archive"):
        writer_of(tmp_path)
    writer.commit([batch(1)])
    writer.close()
    writer_of(tmp_path).close()


def test_a_deleted_lock_stops_the_writer(tmp_path):
    """Nothing keeps a second writer out then."""
    writer = writer_of(tmp_path)
    (tmp_path / "lock").unlink()
    with pytest.raises(StorageError, match=r"lock: deleted while in use, .* restart"):
        writer.commit([batch(1)])
    writer.close()


def test_a_deleted_segment_is_not_written_to_any_more(tmp_path, caplog):
    """What comes after is durable in a new one, and the loss is said."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1)])
    shutil.rmtree(reader.segments(tmp_path)[0].path.parent)
    writer.commit([batch(2)])
    assert read(tmp_path) == lines_of([2])
    assert "somebody deleted this segment" in caplog.text
    writer.close()
    assert writer.statistics.segments == 1


def test_a_directory_that_cannot_be_used_is_an_error_with_a_way_out(tmp_path):
    """A file in the place of the directory, and a directory above that is none."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match=r"cannot open the archive: .*; set --archive \(ARCHIVE_DIR\)"):
            writer_of(path)


def test_a_closed_writer_takes_nothing(tmp_path):
    """It does not come back to life by itself."""
    writer = writer_of(tmp_path)
    writer.close()
    writer.close()
    writer.tick()
    with pytest.raises(StorageError, match="the archive is not open"):
        writer.commit([batch(1)])


def test_short_writes_are_written_on(tmp_path, monkeypatch):
    """A system that takes seven bytes at a time costs time, not bytes."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:7], offset))
    writer = writer_of(tmp_path)
    writer.commit([batch(1), batch(2)])
    writer.close()
    assert read(tmp_path) == lines_of([1, 2])


def test_a_full_disk_takes_nothing_and_resumes_by_itself(tmp_path, fail):
    """Neither a first nor a later commit leaves a trace when it fails in the middle; the next one succeeds."""
    writer = writer_of(tmp_path)
    group = [batch(1, padding=3 << 20), batch(2, padding=3 << 20)]
    for known in ([], lines_of([9])):
        fail("pwrite", errno.ENOSPC, when=lambda fd, data, offset: offset > 1 << 20)
        with pytest.raises(StorageError, match=r"\.part: cannot write: No space left on device; free some space"):
            writer.commit(group)
        fail()
        assert read(tmp_path) == known
        if not known:
            assert files(tmp_path) == ["lock"]
            writer.commit([batch(9)])
    writer.commit(group)
    writer.close()
    assert len(read(tmp_path)) == 3
    assert [segment.serial for segment in reader.segments(tmp_path)] == [1]


def test_a_limit_on_file_sizes_is_met_with_a_real_short_write(tmp_path):
    """The system writes a part and then refuses: the part goes, what was there stays, and it goes on."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1, padding=30_000)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(StorageError, match="File too large; raise the limit on file sizes"):
            writer.commit([batch(2, padding=60_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.commit([batch(3)])
    assert read(tmp_path) == lines_of([1], padding=30_000) + lines_of([3])
    writer.close()


def test_nothing_of_a_failed_sync_is_ever_there(tmp_path, fail):
    """It is not retried: the segment ends at its last synced byte, and a new one takes what is sent again."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1)])
    fail("fdatasync", errno.EIO)
    with pytest.raises(StorageError, match=r"cannot sync: Input/output error; check the disk"):
        writer.commit([batch(2)])
    assert read(tmp_path) == lines_of([1])
    fail()
    writer.commit([batch(3)])
    assert [segment.serial for segment in reader.segments(tmp_path)] == [1, 2]
    assert read(tmp_path) == lines_of([1, 3])
    assert writer.marks.known == {}
    writer.close()
    assert read(tmp_path) == lines_of([1, 3])


def test_a_directory_that_cannot_be_synced_acknowledges_nothing(tmp_path, fail):
    """A file whose name is not durable would be gone with a power cut."""
    writer = writer_of(tmp_path)
    # the archive's own name, its name for the new day; the day: fails; the day: after removal
    day_is_synced = iter([False, False, True, False])
    fail("fsync", errno.EIO, when=lambda fd: next(day_is_synced, False))
    with pytest.raises(StorageError, match="cannot sync"):
        writer.commit([batch(1)])
    fail()
    assert files(tmp_path) == ["lock"]
    writer.commit([batch(2)])
    writer.close()
    assert read(tmp_path) == lines_of([2])


def test_a_file_that_cannot_be_cut_is_set_aside_and_its_good_part_copied(tmp_path, fail, monkeypatch):
    """The copy takes its name at once; the suspect file stays for whoever wants to look at it."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1)])
    size = reader.segments(tmp_path)[0].path.stat().st_size
    real = os.ftruncate
    syncs = iter([True])
    fail("fdatasync", errno.EIO, when=lambda fd: next(syncs, False))
    monkeypatch.setattr(os, "ftruncate", lambda fd, length: real(-1, length))
    with pytest.raises(StorageError, match="cannot sync"):
        writer.commit([batch(2)])
    fail()
    writer.commit([batch(3)])
    writer.close()
    assert read(tmp_path) == lines_of([1, 3])
    [suspect] = tmp_path.glob("*/*.suspect")
    assert suspect.stat().st_size > size


def test_without_an_inode_it_says_so(tmp_path, fail, monkeypatch):
    """The system's word is that of a full disk, and df would show room."""
    writer = writer_of(tmp_path)
    fail("open", errno.ENOSPC)
    with pytest.raises(StorageError, match="free some space"):
        writer.commit([batch(1)])
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_files=100, f_favail=0))
    with pytest.raises(StorageError, match=r"no inode is left \(df -i\): delete some files"):
        writer.commit([batch(1)])
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_files=0, f_favail=0))  # as btrfs has it
    with pytest.raises(StorageError, match="free some space"):
        writer.commit([batch(1)])
    fail()
    writer.commit([batch(1)])
    writer.close()
    assert read(tmp_path) == lines_of([1])


def test_while_an_unfinished_write_cannot_be_taken_back_nothing_is_written(tmp_path, fail, monkeypatch):
    """Every commit fails and says why, until the disk lets it be undone; then it goes on by itself."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1)])
    real = os.ftruncate
    fail("fdatasync", errno.EIO)
    monkeypatch.setattr(os, "ftruncate", lambda fd, length: real(-1, length))
    why = "cannot take back an unfinished write: Input/output error; check the disk"
    for expected in ("cannot sync", why, why):
        with pytest.raises(StorageError, match=expected):
            writer.commit([batch(2)])
        writer.tick()
    fail()
    writer.commit([batch(3)])
    writer.close()
    assert read(tmp_path) == lines_of([1, 3])


def test_a_sealing_that_fails_is_tried_again_and_stops_no_commit(tmp_path, fail, caplog):
    """The disk has no room for the sealed file: the open one stays as it is, readable, until there is."""
    now = START
    writer = writer_of(tmp_path, segment_seconds=10, now=lambda: now)
    writer.commit([batch(1)])
    fail("rename", errno.ENOSPC)
    now += 10
    writer.tick()
    writer.commit([batch(2)])
    writer.close()
    assert "cannot be sealed now: [Errno 28] No space left on device; nothing is lost" in caplog.text
    assert "not sealed; the next start does it" in caplog.text
    assert read(tmp_path) == lines_of([1, 2])
    assert [segment.is_open for segment in reader.segments(tmp_path)] == [True, True]
    fail()
    writer = writer_of(tmp_path)
    writer.commit([batch(3)])
    writer.close()
    assert [segment.is_open for segment in reader.segments(tmp_path)] == [False, False]
    assert read(tmp_path) == lines_of([1, 2, 3])


def test_other_failures_than_the_disks_leave_no_half_written_block(tmp_path, monkeypatch):
    """Whatever goes wrong between two blocks of a group, the next commit starts behind the last good one."""
    writer = writer_of(tmp_path)
    broken = ReceivedBatch(ndjson=None, count=1, first="", last="")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        writer.commit([batch(1, padding=5 << 20), broken])
    writer.commit([batch(2)])
    assert read(tmp_path) == lines_of([2])
    writer.close()


def test_sealing_never_leaves_the_only_copy_under_a_name_that_is_not_durable(tmp_path, monkeypatch):
    """Contents first, then the new name, then its directory, and only then does the old file go."""
    writer = writer_of(tmp_path)
    writer.commit([batch(1)])
    calls = []
    for name in ("fdatasync", "rename", "fsync", "unlink"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *of, name=name, real=real: (calls.append(name), real(*of)))
    writer.close()
    assert calls == ["fdatasync", "rename", "fsync", "unlink"]


def test_what_is_taken_back_is_gone_durably(tmp_path, fail, monkeypatch):
    """Else a power cut could bring it back, after its sender has sent it again."""
    writer = writer_of(tmp_path, now=lambda: START)
    writer.commit([batch(1)])
    fail("pwrite", errno.ENOSPC)
    calls = syncs_of(monkeypatch)
    with pytest.raises(StorageError):
        writer.commit([batch(2)])
    assert calls == [("fsync", str(reader.segments(tmp_path)[0].path))]
    fail()
    writer.close()
