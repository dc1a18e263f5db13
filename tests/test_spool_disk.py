"""What the spool on disk promises while nothing is broken but, now and then, the disk is full or fails."""

import errno
import fcntl
import json
import os
import stat
from pathlib import Path

import pytest
from archive_batches import syncs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from spool_batches import balanced, batch, crashed, left, raw, spool_of

from logbale.errors import LockedError, StorageError
from logbale.session import batch_crc
from logbale.spool import Skip, removed_when_finished
from logbale.spool.format import encode_record, walk


@settings(max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.lists(st.integers(0, 3), min_size=1, max_size=5)),
            st.tuples(st.just("acknowledge"), st.integers(0, 6)),
            st.tuples(st.just("reject"), st.integers(0, 3)),
            st.tuples(st.just("drop"), st.integers(0, 4)),
            st.tuples(st.just("dropped"), st.integers(1, 9)),
            st.tuples(st.just("restart"), st.booleans()),
            st.tuples(st.just("new_stream"), st.none()),
        ),
        max_size=25,
    )
)
def test_whatever_happens_batches_keep_their_sequences_and_the_sum_is_right(tmp_path_factory, steps):
    """Any order of appends, acks, rejects, drops, new streams, restarts and crashes: what waits is what it was."""
    root = tmp_path_factory.mktemp("spools")
    directory, copies = root / "0", 0
    spool = spool_of(directory, max_bytes=32 << 10)
    waiting: dict[int, bytes] = {}
    number = 0
    for what, how in steps:
        if what == "append":
            group = [batch(number + i, padding=900 * size) for i, size in enumerate(how)]
            for (body, _, _), record in zip(group, spool.append(group), strict=True):
                assert record.crc == batch_crc(record.sequence, body) == spool.known_crcs()[record.sequence]
                waiting[record.sequence] = body
            number += len(group)
            assert spool.cursors["f"] == number - 1
        elif what == "acknowledge":
            last = spool.first - 1 + how
            spool.acknowledge(last)
            waiting = {sequence: body for sequence, body in waiting.items() if sequence >= spool.first}
        elif what == "reject" and spool.first + how in waiting:
            waiting.pop(spool.first + how)
            spool.reject(spool.first + how, "too strange")
            waiting = {sequence: body for sequence, body in waiting.items() if sequence >= spool.first}
        elif what == "drop":
            skip = spool.drop_oldest(1, spool.first - 1 + how)
            if skip is not None:
                assert skip.first >= spool.first + how
                for sequence in range(skip.first, skip.last + 1):
                    waiting.pop(sequence, None)
        elif what == "dropped":
            spool.note_dropped(how, "drop_newest", {"g": how})
        elif what == "new_stream":
            shift, before = spool.first - 1, spool.stream
            spool.new_stream()
            assert spool.stream != before
            assert spool.first == 1
            waiting = {sequence - shift: body for sequence, body in waiting.items()}
            for skip in spool.skips:
                for sequence in range(skip.first, skip.last + 1):
                    waiting.pop(sequence, None)
        elif what == "restart":
            known = spool.stream, spool.next_sequence, spool.cursors
            first = spool.first
            if how:
                spool.close()
            else:
                copies += 1
                directory = crashed(directory, root / str(copies))
                spool.close()
            spool = spool_of(directory, max_bytes=32 << 10)
            assert (spool.stream, spool.next_sequence, spool.cursors) == known
            assert spool.first == first if how else spool.first <= first
            spool.acknowledge(first - 1)
        assert {sequence: body for sequence, body in left(spool).items() if sequence in waiting} == waiting
        assert balanced(spool)
        assert spool.damaged == 0
    spool.acknowledge(spool.next_sequence - 1)
    assert spool.counts["spooled"] == 0
    assert balanced(spool)
    spool.close()


def test_a_group_shares_one_write_and_one_sync(tmp_path, monkeypatch):
    """Fifty batches at once take one fdatasync; a new segment's name is durable before anything is in it."""
    spool = spool_of(tmp_path / "s")
    calls = syncs_of(monkeypatch)
    spool.append([batch(0)])
    path = str(tmp_path / "s" / "00000001.spool")
    assert calls == [("fdatasync", f"{path}.new"), ("fsync", str(tmp_path / "s")), ("fdatasync", path)]
    calls.clear()
    assert len(spool.append([batch(n) for n in range(1, 51)])) == 50
    assert calls == [("fdatasync", path)]
    spool.close()


def test_it_keeps_to_itself(tmp_path):
    """Directories are 0700 and files 0600; a second shipper is refused, by the process id of the first."""
    spool = spool_of(tmp_path / "a" / "s")
    spool.append([batch(0)])
    spool.reject(1, "no")
    for path in (tmp_path / "a").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    with pytest.raises(LockedError, match=rf"in use by process {os.getpid()}; .*--name"):
        spool_of(tmp_path / "a" / "s")
    spool.close()
    spool_of(tmp_path / "a" / "s").close()


def test_a_spool_is_removed_before_anybody_else_gets_it(tmp_path, monkeypatch):
    """A second shipper is refused until the last file is gone; then it begins with an empty directory of its own."""
    directory = tmp_path / "s"
    spool = spool_of(directory)
    spool.append([batch(0)])
    refused = []
    unlink, rmdir = os.unlink, os.rmdir

    def attempt(call, path, **options):
        with pytest.raises(LockedError):
            spool_of(directory)
        refused.append(str(path))
        call(path, **options)

    second = []

    def late(path, **options):
        second.append(spool_of(directory))
        rmdir(path, **options)

    with removed_when_finished(spool, source_ended=lambda: True):
        spool.acknowledge(1)
        spool.close()
        with pytest.raises(LockedError):
            spool_of(directory)
        monkeypatch.setattr(os, "unlink", lambda path, **options: attempt(unlink, path, **options))
        monkeypatch.setattr(os, "rmdir", late)
    monkeypatch.undo()
    assert any(path.endswith(".spool") for path in refused)
    assert refused[-1].endswith("lock")
    second[0].append([batch(7)])
    assert left(second[0]) == {1: raw(7)}
    second[0].close()


def test_a_spool_in_which_something_is_left_is_not_removed(tmp_path):
    """A batch, or a dead letter."""
    for number, settle in enumerate((lambda spool: None, lambda spool: spool.reject(1, "odd"))):
        spool = spool_of(tmp_path / str(number))
        spool.append([batch(0)])
        settle(spool)
        with removed_when_finished(spool, source_ended=lambda: True):
            spool.close()
        assert (tmp_path / str(number) / "stream").exists()


def test_a_spool_whose_source_has_not_come_to_its_end_is_not_removed(tmp_path):
    """Nothing waits in it, but it knows how far the source was read."""
    spool = spool_of(tmp_path / "s")
    with removed_when_finished(spool, source_ended=lambda: False):
        spool.close()
    assert (tmp_path / "s" / "stream").exists()


def test_a_lock_whose_file_was_deleted_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """Between the opening of the file and the locking: it would lock nothing that others can see."""
    flock, calls = fcntl.flock, []

    def delete_first(fd, operation):
        if not calls:
            (tmp_path / "s" / "lock").unlink()
        calls.append(fd)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    spool = spool_of(tmp_path / "s")
    assert len(calls) == 2
    with pytest.raises(LockedError):
        spool_of(tmp_path / "s")
    spool.append([batch(0)])
    spool.close()


def test_a_restart_after_everything_was_acknowledged_knows_it(tmp_path):
    """Nothing waits, and neither the sequences nor the cursors begin anew."""
    spool = spool_of(tmp_path)
    spool.append([batch(n) for n in range(9)])
    crc = spool.known_crcs()[9]
    spool.acknowledge(9)
    stream = spool.stream
    spool.close()
    spool = spool_of(tmp_path)
    assert (spool.first, spool.next_sequence, spool.cursors, spool.stream) == (10, 10, {"f": 8}, stream)
    assert dict(spool.known_crcs()) == {9: crc}
    assert spool.append([batch(9)])[0].sequence == 10
    spool.close()


def test_finished_segments_go_and_the_newest_stays(tmp_path):
    """Space comes back as batches are acknowledged; the state is never without a file."""
    spool = spool_of(tmp_path, segment_bytes=4 << 10)
    for n in range(60):
        spool.append([batch(n, padding=1000)])
    assert len(list(tmp_path.glob("*.spool"))) > 5
    before = spool.disk_bytes
    spool.acknowledge(60)
    assert len(list(tmp_path.glob("*.spool"))) == 1
    assert spool.disk_bytes < before / 5
    assert spool.unconsumed_bytes == 0
    spool.close()


def test_a_single_batch_over_the_quota_does_not_block_for_ever(tmp_path):
    """Once it is acknowledged its segment makes room, though it was the newest."""
    spool = spool_of(tmp_path, max_bytes=64 << 10)
    spool.append([(os.urandom(90 << 10).hex().encode(), 1, {})])
    assert spool.is_full
    spool.acknowledge(1)
    assert not spool.is_full
    spool.close()


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_failed_append_leaves_nothing_and_the_next_one_works(tmp_path, fail, call, error):
    """The error names the way out; batches and sequences are as before, also for a process that starts afterwards."""
    directory = tmp_path / "s"
    spool = spool_of(directory)
    spool.append([batch(0)])
    fail(call, error)
    for _ in range(3):
        with pytest.raises(StorageError, match="free some space" if error == errno.ENOSPC else "check the disk"):
            spool.append([batch(1), batch(2)])
    fail()
    assert spool.next_sequence == 2
    assert left(spool) == {1: raw(0)}
    restarted = spool_of(crashed(directory, tmp_path / "copy"))
    assert left(restarted) == {1: raw(0)}
    restarted.close()
    assert [record.sequence for record in spool.append([batch(1), batch(2)])] == [2, 3]
    copy = spool_of(crashed(directory, tmp_path / "copy"))
    assert left(copy) == left(spool) == {1: raw(0), 2: raw(1), 3: raw(2)}
    assert copy.cursors == {"f": 2}
    copy.close()
    spool.close()


def test_after_a_failed_sync_a_file_is_never_written_again(tmp_path, fail):
    """The next batches go to a new segment, whose snapshot overrules what may still stand in the old one."""
    directory = tmp_path / "s"
    spool = spool_of(directory)
    spool.append([batch(0)])

    def fails(*_):
        return True

    fail("fdatasync", errno.EIO, fails)
    cut = os.ftruncate
    os.ftruncate = lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no cut either"))
    try:
        with pytest.raises(StorageError):
            spool.append([batch(7)])
    finally:
        os.ftruncate = cut
    fail()
    spool.append([batch(1)])
    assert len(list(directory.glob("*.spool"))) == 2
    for each in (spool, spool_of(crashed(directory, tmp_path / "copy"))):
        assert left(each) == {1: raw(0), 2: raw(1)}
        assert each.damaged == 0
        each.close()


def test_a_short_write_is_taken_back(tmp_path, monkeypatch):
    """Half a record followed by ENOSPC leaves the file as long as it was."""
    spool = spool_of(tmp_path)
    spool.append([batch(0)])
    path = tmp_path / "00000001.spool"
    size = path.stat().st_size
    real, calls = os.pwrite, iter([True, False])

    def short(fd, data, offset):
        if next(calls):
            return real(fd, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        with pytest.raises(StorageError):
            spool.append([batch(1)])
    assert path.stat().st_size == size
    spool.append([batch(1)])
    assert left(spool) == {1: raw(0), 2: raw(1)}
    assert not (tmp_path / "00000002.spool").exists()
    spool.close()


def test_short_writes_are_written_on(tmp_path, monkeypatch):
    """A system that takes seven bytes at a time costs time, not bytes: segments, notes, letters and the stream's id."""
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:7], offset))
        spool = spool_of(tmp_path / "s")
        spool.append([batch(n, padding=300) for n in range(3)])
        spool.note_cursors({"g": 1})
        spool.reject(2, "odd")
        stream = spool.stream
        copy = crashed(tmp_path / "s", tmp_path / "copy")
        spool.close()
    spool = spool_of(copy)
    assert left(spool) == {1: raw(0, 300), 3: raw(2, 300)}
    assert (spool.stream, spool.cursors, spool.damaged) == (stream, {"f": 2, "g": 1}, 0)
    spool.close()


@pytest.mark.parametrize("way", ["acknowledged", "dropped"])
def test_no_segment_goes_before_what_makes_it_needless_is_durable(tmp_path, monkeypatch, way):
    """The note of the acknowledgement, or of the drop, is synced before the first unlink."""
    spool = spool_of(tmp_path, segment_bytes=4 << 10)
    for n in range(20):
        spool.append([batch(n, padding=3000)])
    calls = syncs_of(monkeypatch)
    unlink = Path.unlink

    def noted(path, **options):
        calls.append(("unlink", path.name))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", noted)
    if way == "acknowledged":
        spool.acknowledge(15)
    else:
        assert spool.drop_oldest(1 << 30, 0) is not None
    what = [call for call, _ in calls]
    assert what.count("unlink") > 3
    assert "fdatasync" in what[: what.index("unlink")]
    spool.close()


def test_a_full_disk_does_not_keep_a_shipper_from_starting(tmp_path, fail):
    """What waits can be sent, and acknowledging it makes room."""
    spool = spool_of(tmp_path, segment_bytes=4 << 10)
    spool.append([batch(n, padding=3000) for n in range(3)])
    spool.append([batch(3)])
    spool.close()
    files = len(list(tmp_path.glob("*.spool")))
    fail("pwrite", errno.ENOSPC, lambda fd, data, offset: len(data) > 20)
    spool = spool_of(tmp_path)
    assert len(left(spool)) == 4
    spool.acknowledge(3)
    assert len(list(tmp_path.glob("*.spool"))) < files
    spool.close()
    fail()


def test_drop_oldest_spares_what_was_sent(tmp_path):
    """Whole segments go, the oldest first, none with a batch that was sent; the skip says what is gone."""
    spool = spool_of(tmp_path / "s", max_bytes=64 << 10)
    number = 0
    while not spool.is_full:
        spool.append([batch(number, padding=1000)])
        number += 1
    before = left(spool)
    skip = spool.drop_oldest(10_000, sent_up_to=3)
    assert skip is not None
    assert skip.first > 3
    assert skip.entries == skip.last - skip.first + 1
    assert spool.skips == [skip]
    assert not spool.is_full
    assert left(spool) == {n: body for n, body in before.items() if not skip.first <= n <= skip.last}
    assert spool.counts["dropped_drop_oldest"] == skip.entries
    copy = spool_of(crashed(tmp_path / "s", tmp_path / "copy"))
    assert copy.skips == [skip]
    assert copy.counts == spool.counts
    copy.close()
    spool.acknowledge(number)
    assert spool.skips == []
    assert spool.counts["acknowledged"] == number - skip.entries
    assert spool.drop_oldest(1, sent_up_to=number) is None
    spool.close()


def fill(spool, *, until):
    """Appends until there are so many batches, four in a segment."""
    while spool.next_sequence <= until:
        spool.append([batch(spool.next_sequence, padding=4000)])


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_may_have_been_sent_is_known_after_a_restart(tmp_path, is_killed):
    """Durable before it is sent: what waited at a welcome, and what was appended in a session; and nothing else."""
    spool = spool_of(tmp_path / "s", max_bytes=64 << 10)
    fill(spool, until=2)
    assert spool.sent_up_to == 0
    spool.begin_sending()
    assert spool.sent_up_to == 2
    fill(spool, until=4)
    spool.end_sending()
    fill(spool, until=8)
    assert spool.sent_up_to == 4
    if is_killed:
        again = spool_of(crashed(tmp_path / "s", tmp_path / "copy"), max_bytes=64 << 10)
        spool.close()
    else:
        spool.close()
        again = spool_of(tmp_path / "s", max_bytes=64 << 10)
    assert again.sent_up_to == 4
    skip = again.drop_oldest(1 << 30, again.sent_up_to)
    assert (skip.first, skip.last) == (5, 8)
    fill(again, until=9)
    again.begin_sending()
    again.new_stream()
    assert again.sent_up_to == 0
    again.close()


def test_a_batch_in_a_session_costs_no_write_of_its_own_for_the_send_bound(tmp_path, monkeypatch):
    """It carries it; and a welcome with nothing waiting, or with nothing new, writes nothing."""
    spool = spool_of(tmp_path / "s")
    spool.begin_sending()
    spool.append([batch(1)])
    calls = syncs_of(monkeypatch)
    spool.begin_sending()
    assert calls == []
    spool.append([batch(2), batch(3)])
    assert len(calls) == 1
    spool.end_sending()
    spool.append([batch(4)])
    calls.clear()
    spool.begin_sending()
    assert len(calls) == 1
    assert spool.sent_up_to == 4
    spool.close()


def test_in_a_spool_from_before_the_send_bound_all_may_have_been_sent(tmp_path):
    """It is read as ever, and nothing that an older logbale put there is dropped as unsent."""
    directory = tmp_path / "s"
    spool = spool_of(directory)
    spool.append([batch(n) for n in range(3)])
    spool.close()
    (path,) = directory.glob("*.spool")
    rewritten = b""
    for record in walk(path.read_bytes(), bodies=True):
        header, meta = record.header, json.loads(record.meta)
        meta.pop("sent", None)
        rewritten += encode_record(
            header.kind,
            meta,
            position=header.position,
            before=header.before,
            first=header.first,
            synced=header.synced,
            entries=header.entries,
            raw_bytes=header.raw_bytes,
            crc=header.crc,
            body=path.read_bytes()[record.end - header.body_bytes : record.end],
        )[1]
    assert len(rewritten) < path.stat().st_size
    path.write_bytes(rewritten)
    spool = spool_of(directory)
    assert left(spool) == {n + 1: raw(n) for n in range(3)}
    assert spool.sent_up_to == 3
    spool.append([batch(3)])
    again = spool_of(crashed(directory, tmp_path / "copy"))
    assert again.sent_up_to == 3
    again.close()
    spool.close()


def test_drops_before_numbering_keep_the_cursor_within_the_quota(tmp_path):
    """A full spool that drops for a week moves its cursors on, and grows no further than its reserve."""
    spool = spool_of(tmp_path / "s", max_bytes=256 << 10)
    while spool.free_bytes > 4000:
        spool.append([batch(1, padding=4000)])
    for n in range(3000):
        spool.note_dropped(10, "drop_newest", {"f": 1000 + n})
        assert spool.disk_bytes <= 256 << 10
    copy = spool_of(crashed(tmp_path / "s", tmp_path / "copy"))
    assert copy.cursors == {"f": 3999}
    assert copy.counts["dropped_drop_newest"] == 30_000
    assert copy.next_sequence == spool.next_sequence
    assert balanced(copy)
    copy.close()
    spool.close()


def test_a_cursor_of_none_is_taken_away(tmp_path):
    """A file that is done with leaves no trace behind; a value may be any JSON."""
    spool = spool_of(tmp_path)
    spool.append([(raw(1), 1, {"a": {"offset": 5, "inode": 7}, "b": 2})])
    spool.append([(raw(2), 1, {"b": None})])
    assert spool.cursors == {"a": {"offset": 5, "inode": 7}}
    spool.close()
    spool = spool_of(tmp_path)
    assert spool.cursors == {"a": {"offset": 5, "inode": 7}}
    spool.close()


def test_a_cursor_may_go_back_within_a_group(tmp_path):
    """A file that is truncated starts anew; a restart knows the last value, not the highest."""
    spool = spool_of(tmp_path / "s")
    spool.append([(raw(0), 1, {"f": 7})])
    spool.append([(raw(1), 1, {"f": 9}), (raw(2), 1, {"f": 7})])
    copy = spool_of(crashed(tmp_path / "s", tmp_path / "copy"))
    assert copy.cursors == spool.cursors == {"f": 7}
    copy.close()
    spool.close()


def test_a_reject_is_a_dead_letter_before_it_is_consumed(tmp_path):
    """It waits for the batches before it; a crash right after finds it again; a second one changes nothing."""
    spool = spool_of(tmp_path / "s")
    spool.append([batch(n) for n in range(4)])
    spool.reject(2, "too deep")
    spool.reject(2, "too deep")
    assert (spool.first, spool.counts["rejected"]) == (1, 1)
    copy = spool_of(crashed(tmp_path / "s", tmp_path / "copy"))
    assert copy.counts == spool.counts
    copy.acknowledge(1)
    assert copy.first == 3
    copy.close()
    spool.acknowledge(4)
    assert spool.counts == {"read": 4, "spooled": 0, "acknowledged": 3, "rejected": 1}
    spool.close()


def test_a_batch_that_is_not_there_is_refused(tmp_path):
    """The error names what is."""
    spool = spool_of(tmp_path)
    spool.append([batch(0), batch(1)])
    with pytest.raises(StorageError, match="batch 3 is not in the spool: 1 to 2 are"):
        spool.read(3)
    spool.acknowledge(17)
    assert spool.first == 3
    assert Skip(1, 1, 1, "x") not in spool.skips
    spool.close()
