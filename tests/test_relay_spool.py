"""What a relay keeps of one origin: batches under the origin's numbers, and what the origin was told."""

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from archive_batches import PowerOff, power_off_at
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_items import STREAM, batch, reject, skip, spool_of
from spool_batches import balanced, crashed

from logbale.errors import StorageError
from logbale.relay.spool import NEVER_CAME, REJECTED_HERE, OriginSpool, directory_name, stream_name
from logbale.relay.strand import Strand
from logbale.session import batch_crc
from logbale.sinks import Mark, ReceivedBatch
from logbale.spool import Skip
from logbale.spool.disk import MAX_REASONS

SEEN = 1_795_550_400


def taken(spool):
    """What a session upstream gets, in order: a batch by its sequence and lines, or a skip."""
    found, sequence = [], spool.first
    while sequence < spool.next_sequence:
        item = spool.item(sequence)
        if isinstance(item, Skip):
            found.append((max(item.first, sequence), item.last, item.reason))
            sequence = item.last
        else:
            assert item.crc == batch_crc(sequence, spool.read(sequence))
            found.append((sequence, spool.read(sequence)))
        sequence += 1
    return found


def told(item):
    """The same of what came."""
    if isinstance(item, ReceivedBatch):
        return [(item.sequence, item.ndjson)]
    if item.last_sequence and hasattr(item, "first"):
        return [(item.first, item.last, item.reason)]
    return [(item.sequence, item.sequence, REJECTED_HERE)]


def spread(items):
    """Each sequence with what stands for it: skips that lie side by side may be told as one."""
    found = {}
    for first, *rest in items:
        if isinstance(rest[0], bytes):
            found[first] = rest[0]
        else:
            found |= dict.fromkeys(range(first, rest[0] + 1), rest[1])
    return found


@settings(max_examples=60)
@given(
    st.integers(1, 1000),
    st.lists(
        st.one_of(
            st.tuples(
                st.just("keep"),
                st.lists(st.sampled_from(["batch", "large", "reject", "skip", "gap"]), min_size=1, max_size=5),
            ),
            st.tuples(st.just("again"), st.none()),
            st.tuples(st.just("acknowledge"), st.integers(0, 6)),
            st.tuples(st.just("reject"), st.integers(0, 3)),
            st.tuples(st.just("compact"), st.none()),
            st.tuples(st.just("restart"), st.booleans()),
        ),
        max_size=25,
    ),
)
def test_whatever_happens_the_numbers_are_the_origins_and_the_mark_is_what_it_was_told(tmp_path_factory, first, steps):
    """Any order of batches, rejects, skips, gaps, acks, rejects upstream, restarts and crashes."""
    root = tmp_path_factory.mktemp("relay")
    directory, copies = root / "0", 0
    spool, mark, expected, letters = spool_of(directory, first=first, max_bytes=64 << 10), Mark(), {}, 0
    following, last_items, has_begun = first, [], False
    for what, how in steps:
        if what == "keep":
            items = []
            for kind in how:
                following += 3 * (kind == "gap" and has_begun)
                if kind == "gap" and has_begun:
                    expected |= dict.fromkeys(range(following - 3, following), NEVER_CAME)
                has_begun = True
                made = {"reject": reject, "skip": lambda n: skip(n, n + 2, 4)}.get(kind, batch)
                item = batch(following, padding=9000) if kind == "large" else made(following)
                items.append(item)
                expected |= spread(told(item))
                following = item.last_sequence + 1
            kept, mark = spool.keep(items, mark, SEEN)
            assert [one.item for one in kept] == [one for one in items if isinstance(one, ReceivedBatch)]
            assert mark.sequence == following - 1
            last_items = items
        elif what == "again" and has_begun:
            assert spool.keep(last_items, mark, SEEN) == ([], mark)
        elif what == "acknowledge":
            spool.acknowledge(spool.first - 1 + how)
        elif what == "reject" and isinstance(expected.get(spool.first + how), bytes):
            expected.pop(spool.first + how)
            spool.reject(spool.first + how, "no")
            letters += 1
        elif what == "compact":
            spool.compact()
        elif what == "restart":
            before = spool.first
            if how:
                spool.close()
            else:
                copies += 1
                directory = crashed(directory, root / str(copies))
                spool.close()
            spool = spool_of(directory, first=first, max_bytes=64 << 10)
            assert spool.first <= before
            spool.acknowledge(before - 1)
        expected = {sequence: one for sequence, one in expected.items() if sequence >= spool.first}
        found = spread(taken(spool))
        assert {sequence: one for sequence, one in found.items() if one != "rejected"} == expected
        if has_begun:
            assert spool.mark == mark
            assert spool.next_sequence == following
        assert spool.counts["rejected"] == letters
        assert balanced(spool)
        assert spool.damaged == 0
        assert spool.stream == STREAM
    spool.close()


def test_the_mark_outlives_what_it_is_of(tmp_path):
    """Forwarded, given back and restarted: the origin is told the same sequence, CRC and rejects."""
    spool = spool_of(tmp_path / "s")
    _, mark = spool.keep([batch(1), reject(2), batch(3)], Mark(), SEEN)
    assert mark == Mark(3, batch(3).crc, SEEN, mark.rejects)
    assert [one.sequence for one in mark.rejects] == [2]
    spool.acknowledge(3)
    spool.compact()
    assert spool.disk_bytes < 1000
    spool.close()
    spool = spool_of(tmp_path / "s")
    assert spool.mark == mark
    assert (spool.first, spool.next_sequence) == (4, 4)
    spool.close()


@pytest.mark.parametrize("first", [1, 40])
def test_a_crash_at_any_call_loses_nothing_that_was_told(tmp_path, monkeypatch, first):
    """Killed at each call that changes the disk: what keep() returned is there, and the rest is whole or not there."""
    groups = [
        [batch(first), batch(first + 1, padding=5000)],
        [reject(first + 2)],
        [skip(first + 3, first + 5, 9), batch(first + 6)],
        [batch(first + 9)],
    ]
    for call in range(1000):
        directory, mark, told_of = tmp_path / str(call), Mark(), []
        spool = OriginSpool(directory, stream=STREAM, first=first, max_bytes=64 << 10)
        with power_off_at(monkeypatch, call) as struck, suppress(PowerOff):
            spool.open()
            for group in groups:
                _, mark = spool.keep(group, mark, SEEN)
                told_of += group
                if group is groups[2]:
                    spool.acknowledge(first + 1)
            spool.compact()
            spool.close()
        left = crashed(directory, tmp_path / f"{call}-left") if directory.exists() else directory
        spool = spool_of(left, first=first)
        found = spread(taken(spool))
        assert spool.mark.sequence == spool.next_sequence - 1
        assert spool.mark.sequence >= mark.sequence
        if spool.mark.sequence == mark.sequence:
            assert spool.mark.rejects == mark.rejects
        for item in told_of:
            for sequence, one in spread(told(item)).items():
                assert sequence < spool.first <= first + 2 or found[sequence] == one
        assert balanced(spool)
        assert spool.damaged == 0
        spool.close()
        if not struck:
            break
    assert 10 < call < 900


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_what_could_not_be_written_comes_again_and_is_kept_once(tmp_path, fail, call):
    """A full or failing disk in the middle of a group: the same group again goes on behind what is there."""
    spool = spool_of(tmp_path / "s")
    items = [batch(1), skip(2, 3), batch(4), reject(5), batch(6)]
    _, mark = spool.keep(items[:1], Mark(), SEEN)
    for allowed in range(4):
        left = [allowed]

        def full(*_, left=left):
            left[0] -= 1
            return left[0] < 0

        fail(call, errno.ENOSPC, when=full)
        try:
            _, after = spool.keep(items, mark, SEEN)
            break
        except StorageError:
            assert spool.next_sequence < 7
    fail()
    _, after = spool.keep(items, mark, SEEN)
    assert after.sequence == 6
    assert [one[0] for one in taken(spool)] == [1, 2, 4, 5, 6]
    assert balanced(spool)
    spool.close()
    spool = spool_of(tmp_path / "s")
    assert [one[0] for one in taken(spool)] == [1, 2, 4, 5, 6]
    assert spool.mark == after
    spool.close()


def test_many_rejects_are_one_skip_and_many_reasons_few_counts(tmp_path):
    """An origin that skips and skips makes neither the state nor the counts grow without end."""
    spool = spool_of(tmp_path / "s")
    _, mark = spool.keep([reject(number) for number in range(1, 301)], Mark(), SEEN)
    assert spool.skips == [Skip(1, 300, 0, REJECTED_HERE)]
    spool.keep([skip(number, number, 2, reason=f"reason {number}") for number in range(301, 401)], mark, SEEN)
    assert len(spool.counts) <= MAX_REASONS + 5  # a report may have 32 reasons
    assert balanced(spool)
    assert spool.counts["read"] == 200
    spool.close()


def test_where_upstream_knows_another_history_the_origins_numbers_stay(tmp_path):
    """It goes on upstream under another name of the same origin, from 1; what the origin is told is as before."""
    spool = spool_of(tmp_path / "s", first=40)
    _, mark = spool.keep([batch(40), batch(41)], Mark(), SEEN)
    spool.acknowledge(40)
    spool.new_stream()
    assert spool.stream.startswith("edge:")
    assert spool.stream != STREAM
    _, mark = spool.keep([batch(42), skip(43, 44), batch(45)], mark, SEEN)
    assert [one[0] for one in taken(spool)] == [1, 2, 3, 5]
    assert mark.sequence == spool.mark.sequence == 45
    spool.close()
    spool = spool_of(tmp_path / "s")
    assert [one[0] for one in taken(spool)] == [1, 2, 3, 5]
    assert spool.mark == mark
    spool.close()


@pytest.mark.parametrize("stream", ["", "web1:0123abcd", ".", "..", "lock", "-x", ".hidden", "a" * 128])
def test_a_streams_directory_tells_the_stream(stream):
    """And no stream's name leads out of the relay's directory or onto its lock."""
    name = directory_name(stream)
    assert stream_name(name) == stream
    assert name not in ("", ".", "..", "lock")
    assert "/" not in name


def test_a_strand_does_its_jobs_one_by_one_and_in_order():
    """On whatever thread of the pool; an error is that job's, and one that was cancelled is left out."""
    done, running = [], []

    def job(number):
        running.append(number)
        assert running == [number]
        time.sleep(0.001)
        running.clear()
        done.append(number)
        if number == 3:
            raise ValueError(number)
        return number

    with ThreadPoolExecutor(4) as pool:
        strand, gate = Strand(pool), threading.Event()
        first = strand.submit(gate.wait)
        futures = [strand.submit(job, number) for number in range(20)]
        assert futures[5].cancel()
        gate.set()
        assert first.result(60)
        assert futures[19].result(60) == 19
        assert isinstance(futures[3].exception(10), ValueError)
        assert done == [number for number in range(20) if number != 5]
        assert strand.submit(job, 20).result(60) == 20
