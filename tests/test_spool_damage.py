"""What a restart of the spool promises: whatever a crash or a bad disk left, no sound batch is lost or renumbered."""

import os
import re
import shutil
import struct
import time
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from archive_batches import CHANGES, PowerOff, power_off_at
from hypothesis import given, settings
from hypothesis import strategies as st
from spool_batches import balanced, batch, crashed, left, raw, spool_of

from logbale.spool import DamagedError, format, verify
from logbale.spool.format import BATCH, Found, walk
from logbale.spool.segment import read_snapshot


def files(directory):
    return sorted(directory.glob("*.spool"))


def batches_in(path):
    """Where each batch of a segment starts and ends."""
    found = walk(path.read_bytes(), bodies=True)
    return [(one.offset, one.end) for one in found if isinstance(one, Found) and one.header.kind == BATCH]


def filled(directory, numbers, **options):
    """A spool that was killed after it took these batches, one sync each."""
    spool = spool_of(directory.with_name("source"), **options)
    for number in numbers:
        spool.append([batch(number, padding=800)])
    crashed(directory.with_name("source"), directory)
    spool.close()
    shutil.rmtree(directory.with_name("source"))


def want(numbers):
    return {number + 1: raw(number, padding=800) for number in numbers}


def test_a_tail_torn_at_every_byte_of_the_last_two_records_is_cut(tmp_path):
    """Exactly the batches before it are left, and their cursors; the next batch takes the sequence that never was."""
    directory = tmp_path / "s"
    filled(directory, range(4))
    path = files(directory)[0]
    data = path.read_bytes()
    places = batches_in(path)
    for end in range(places[-2][0], len(data)):
        path.write_bytes(data[:end])
        whole = 2 + (end >= places[-1][0])
        spool = spool_of(directory)
        assert left(spool) == want(range(whole))
        assert spool.cursors == {"f": whole - 1}
        assert spool.torn_bytes == end - places[whole - 1][1]
        assert (spool.damaged, spool.skips) == (0, [])
        spool.close()


@pytest.mark.parametrize("what", ["flip", "zero", "truncate"])
@settings(max_examples=60)
@given(data=st.data())
def test_damage_anywhere_costs_the_damaged_batches_only(what, tmp_path_factory, data):
    """A flipped bit, 512 zeros, a cut: every other batch is there under its number; the sum tells what is gone."""
    root = tmp_path_factory.mktemp("damage")
    directory = root / "s"
    filled(directory, range(24), segment_bytes=4096)
    path = data.draw(st.sampled_from(files(directory)))
    is_newest = path == files(directory)[-1]
    content = bytearray(path.read_bytes())
    places = batches_in(path)
    numbers = [int(one.header.position) - 1 for one in walk(bytes(content), bodies=True) if one.header.kind == BATCH]
    at = data.draw(st.integers(0, len(content) - 1))
    whole = bytes(content)
    if what == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif what == "zero":
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    else:
        del content[at:]
    path.write_bytes(content)
    hit = {
        number for number, (start, end) in zip(numbers, places, strict=True) if content[start:end] != whole[start:end]
    }
    spool = spool_of(directory)
    found = left(spool)
    assert found == want(set(range(24)) - hit)
    assert balanced(spool)
    if not is_newest:
        assert spool.counts.get("dropped_damaged", 0) == len(hit)
        assert spool.next_sequence == 25
        assert spool.cursors == {"f": 23}
    (record,) = spool.append([batch(99)])
    assert record.sequence == spool.next_sequence - 1
    assert set(found) < {*found, record.sequence}
    spool.acknowledge(record.sequence)
    assert spool.counts["spooled"] == 0
    assert spool.skips == []
    spool.close()
    assert list(verify(directory)) == []


def test_damage_before_what_was_synced_keeps_the_sequence_and_the_cursors(tmp_path):
    """The batch may have been sent: its number is never given to another. Its bytes are kept aside, its loss told."""
    directory = tmp_path / "s"
    filled(directory, range(4))
    path = files(directory)[0]
    offset, end = batches_in(path)[1]
    data = bytearray(path.read_bytes())
    data[end - 5] ^= 64
    path.write_bytes(data)
    spool = spool_of(directory)
    assert left(spool) == want([0, 2, 3])
    assert [(skip.first, skip.last, skip.entries, skip.reason) for skip in spool.skips] == [(2, 2, 1, "damaged")]
    assert (spool.next_sequence, spool.cursors, spool.damaged) == (5, {"f": 3}, 1)
    assert (directory / "damaged" / f"{path.name}-{offset}").read_bytes() == data[offset:end]
    with pytest.raises(DamagedError, match="batch 2 is skipped: damaged"):
        spool.read(2)
    copy = spool_of(crashed(directory, tmp_path / "again"))
    assert copy.skips == spool.skips
    copy.close()
    spool.acknowledge(4)
    assert spool.skips == []
    assert spool.counts == {"read": 4, "spooled": 0, "acknowledged": 3, "rejected": 0, "dropped_damaged": 1}
    spool.close()


def test_a_batch_that_goes_bad_while_it_waits_is_skipped_once(tmp_path):
    """read() says what is lost, and the skip waits to be announced."""
    spool = spool_of(tmp_path)
    spool.append([batch(n, padding=300) for n in range(3)])
    path = files(tmp_path)[0]
    end = batches_in(path)[0][1]
    with open(path, "r+b") as file:
        file.seek(end - 3)
        file.write(b"\0\0\0")
    for _ in range(2):
        with pytest.raises(DamagedError) as caught:
            spool.read(1)
        assert spool.skips == [caught.value.skip]
    assert spool.counts["dropped_damaged"] == 1
    assert balanced(spool)
    spool.close()


def test_a_deleted_middle_segment_costs_its_own_batches(tmp_path):
    """They are one gap, of which the number of entries is known."""
    directory = tmp_path / "s"
    filled(directory, range(24), segment_bytes=4096)
    victim = files(directory)[1]
    gone = [one.header.position for one in walk(victim.read_bytes(), bodies=True) if one.header.kind == BATCH]
    victim.unlink()
    spool = spool_of(directory)
    assert left(spool) == {n: body for n, body in want(range(24)).items() if n not in gone}
    assert [(s.first, s.last, s.entries) for s in spool.skips] == [(gone[0], gone[-1], len(gone))]
    assert balanced(spool)
    spool.acknowledge(24)
    assert spool.counts["acknowledged"] == 24 - len(gone)
    spool.close()


def test_a_deleted_first_segment_is_not_taken_for_acknowledged(tmp_path):
    """What was never acknowledged is lost, and said to be."""
    directory = tmp_path / "s"
    filled(directory, range(24), segment_bytes=4096)
    victim = files(directory)[0]
    gone = len(batches_in(victim))
    victim.unlink()
    spool = spool_of(directory)
    assert [(s.first, s.last, s.entries, s.reason) for s in spool.skips] == [(1, gone, gone, "damaged")]
    assert balanced(spool)
    spool.acknowledge(24)
    assert (spool.counts["spooled"], spool.counts["acknowledged"]) == (0, 24 - gone)
    spool.close()


def test_two_swapped_segments_are_read_in_their_order(tmp_path):
    """The serial in the snapshot counts, not the one in the name."""
    directory = tmp_path / "s"
    filled(directory, range(24), segment_bytes=4096)
    one, two = files(directory)[1:3]
    one.rename(directory / "x")
    two.rename(one)
    (directory / "x").rename(two)
    spool = spool_of(directory)
    assert left(spool) == want(range(24))
    assert spool.append([batch(24)])[0].sequence == 25
    spool.acknowledge(25)
    assert len(files(directory)) == 1
    spool.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"no stream / at all\n", None])
def test_an_empty_stream_file_is_mended_from_the_snapshot(tmp_path, content):
    """The stream stays what it was."""
    spool = spool_of(tmp_path)
    spool.append([batch(0)])
    stream = spool.stream
    spool.close()
    (tmp_path / "stream").unlink()
    if content is not None:
        (tmp_path / "stream").write_bytes(content)
    spool = spool_of(tmp_path)
    assert spool.stream == stream
    assert (tmp_path / "stream").read_text() == f"{stream}\n"
    spool.close()


def test_without_any_snapshot_the_batches_go_into_a_new_stream(tmp_path):
    """Their numbers cannot be trusted any more; their contents can."""
    spool = spool_of(tmp_path)
    for n in range(4):
        spool.append([batch(n)])
    stream = spool.stream
    spool.close()
    path = files(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)
    spool = spool_of(tmp_path)
    assert spool.stream != stream
    assert list(left(spool).values()) == [raw(n) for n in range(4)]
    assert spool.first == 1
    assert balanced(spool)
    spool.close()


def test_a_length_that_damage_makes_up_costs_no_memory(tmp_path):
    """A header that claims 200 MiB of meta in a file of 200 bytes is damage, and nothing is set aside for it."""
    spool = spool_of(tmp_path)
    spool.append([batch(0)])
    spool.close()
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    at = format.HEADER_BYTES - struct.calcsize("<IIIQ")  # meta_bytes; body_bytes, body_crc and synced follow
    (found,) = struct.unpack_from("<I", data, at)
    assert found == format.parse_header(data).meta_bytes
    struct.pack_into("<I", data, at, 200 << 20)
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(format.NotARecord):
            read_snapshot(path)
        spool = spool_of(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert list(left(spool).values()) == [raw(0)]
    spool.close()


@pytest.mark.parametrize("newest", [True, False])
def test_an_emptied_segment_costs_what_was_in_it_and_nothing_else(tmp_path, newest):
    """As an editor or a killed copy may leave it. The cursors are those of a sound snapshot, never none."""
    directory = tmp_path / "s"
    filled(directory, range(24), segment_bytes=4096)
    paths = files(directory)
    victim = paths[-1 if newest else -2]
    gone = len(batches_in(victim))
    victim.write_bytes(b"")
    spool = spool_of(directory)
    assert len(left(spool)) == 24 - gone
    assert spool.cursors == {"f": 23 - gone if newest else 23}
    assert balanced(spool)
    spool.close()


def scenario(directory, step):
    """Appends over several segments, acks, a reject, drops, a new stream, a clean end; step(spool) after each."""
    spool = spool_of(directory, max_bytes=48 << 10)
    step(spool)
    for number in range(20):
        spool.append([batch(number, padding=1500)])
        step(spool)
        if number % 6 == 5:
            spool.acknowledge(spool.first + 3)
            step(spool)
    spool.reject(spool.first + 1, "odd")
    step(spool)
    spool.drop_oldest(1, spool.first + 1)
    step(spool)
    spool.note_dropped(3, "drop_newest", {"f": 50})
    step(spool)
    spool.new_stream()
    step(spool)
    spool.append([batch(60)])
    step(spool)
    spool.acknowledge(spool.next_sequence - 1)
    step(spool)
    spool.close()


def bodies(spool):
    return list(left(spool).values())


def test_killed_before_any_change_on_disk_it_finds_the_old_state_or_the_new_one(tmp_path, monkeypatch):
    """At every system call of a scenario: what waited before or after that step waits, in order, under one stream."""
    call = 0
    while True:
        directory = tmp_path / f"s{call}"
        seen = []

        def step(spool, seen=seen):
            seen.append((bodies(spool), spool.stream, spool.next_sequence, spool.cursors, spool.counts["read"]))

        with power_off_at(monkeypatch, call) as struck, suppress(PowerOff):
            scenario(directory, step)
        if not struck:
            break
        copy = crashed(directory, tmp_path / "copy") if directory.exists() else tmp_path / "none"
        found = spool_of(copy, max_bytes=48 << 10)
        assert found.damaged == 0
        assert balanced(found)
        now = bodies(found)
        if seen:
            before, stream, following, cursors, read = seen[-1]
            # An acknowledgement may be forgotten; a batch that waited may not be, and no step adds more than one.
            alive = [body for body in before if body in now]
            assert alive == before or found.skips or found.counts["rejected"] or found.first > 1
            assert found.counts["read"] in range(read, read + 4)
            if found.stream == stream:
                assert found.next_sequence in (following, following + 1)
                assert found.cursors in (cursors, {"f": 50}, {"f": found.counts["read"] - 1}, {"f": 60})
        again = spool_of(crashed(copy, tmp_path / "again"), max_bytes=48 << 10)
        assert (bodies(again), again.stream, again.counts) == (now, found.stream, found.counts)
        again.close()
        (record,) = found.append([batch(99)])
        assert found.read(record.sequence) == raw(99)
        found.close()
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(copy, ignore_errors=True)
        call += 1
    assert call > 80
    assert {"pwrite", "fdatasync", "rename", "unlink"} <= set(CHANGES)


def test_a_backlog_of_a_hundred_thousand_records_opens_in_a_second(tmp_path):
    """Of the processor's time. Only the newest segment is read whole."""
    spool = spool_of(tmp_path / "s")
    body = raw(0, padding=200)
    for _ in range(100):
        spool.append([(body, 1, {"f": 1})] * 1000)
    spool.close()
    start = time.process_time()
    spool = spool_of(tmp_path / "s")
    assert time.process_time() - start < 1
    assert (spool.first, spool.next_sequence) == (1, 100_001)
    assert spool.read(50_000) == body
    spool.close()
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize(
    "forged",
    [{"first": 5}, {"base": 1}, {"next": 2**63}, {"cursors": "[" * 1200 + "]" * 1200}],
    ids=str,
)
def test_a_snapshot_whose_numbers_contradict_each_other_is_damage(tmp_path, forged):
    """Its CRC may be right, as after an edit by hand: the stream begins anew, and nothing raises."""
    filled(tmp_path / "s", range(2))
    path = files(tmp_path / "s")[0]
    data = path.read_bytes()
    header, meta = format.check_header(data)
    name, value = next(iter(forged.items()))
    text = re.sub(
        rb'"%s":(\{\}|[0-9]+)' % name.encode(), b'"%s":%s' % (name.encode(), str(value).encode()), meta, count=1
    )
    assert text != meta
    packed = format._HEADER.pack(format.MAGIC, 0, *header._replace(meta_bytes=len(text)))[8:]
    checked = zlib.crc32(text, zlib.crc32(packed)).to_bytes(4, "little")
    path.write_bytes(format.MAGIC + checked + packed + text + data[header.size :])
    spool = spool_of(tmp_path / "s")
    assert list(left(spool).values()) == [raw(number, padding=800) for number in range(2)]
    spool.append([batch(2)])
    spool.close()
