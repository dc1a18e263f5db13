"""One partition's segments: what is in them, where they may end, and what the next owner makes of them."""

import json
from collections import Counter
from io import BytesIO

import msgspec
import pytest
from test_kafka_chain import base_client, batch, messages_of, reject, skip
from test_kafka_chain import long as long_batch
from test_kafka_message import compress

from logbale.archive import reader, verify
from logbale.archive.format import MAX_HEADER, BlockEncoder
from logbale.errors import StorageError
from logbale.kafka.chain import PART_PATIENCE, Place
from logbale.kafka.message import encode
from logbale.kafka.partition import Limits, PartitionArchive, look_up, put
from logbale.kafka.segment import FOOTER_GUESS, SegmentBuilder
from logbale.segment_store.directory import DirectoryStore
from logbale.sinks import Mark, RejectedSequence

NOW = 1_795_550_400.0
LIMITS = Limits(segment_bytes=100_000, segment_seconds=60, marks_days=1)
ENCODER = BlockEncoder(1)


class Log:
    """A partition of a topic."""

    def __init__(self):
        self.messages = []

    def add(self, *items, session="sink"):
        for item in items:
            self.messages += encode(item, limit=1 << 22, session=session, compress=compress)

    def add_raw(self, *messages):
        self.messages += [type("Raw", (), {"headers": headers, "value": value}) for headers, value in messages]


def owner(store, log, *, now=NOW):
    """A new owner of the partition that has read all there is."""
    archive = PartitionArchive("logs", 3, look_up(store, "logs", 3) or Place(), ENCODER, Counter())
    read(archive, log, now=now)
    return archive


def read(archive, log, *, now=NOW):
    for offset in range(archive.position, len(log.messages)):
        archive.add(offset, log.messages[offset].headers, log.messages[offset].value, now=now)


def cut_and_put(store, archive):
    finished = archive.cut(LIMITS)
    stored = put(store, finished)
    finished.body.close()
    return stored


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path)


@pytest.fixture
def log():
    return Log()


def texts(path):
    return [json.loads(line)["m"] for line in reader.lines(path)]


def damage(path):
    return [place.reason for segment in verify.verify(path) for place in segment.damage]


def test_a_segment_says_where_the_next_one_starts(store, log, tmp_path):
    """Its name is the offset at which the one before ended; owners follow each other without a word between them."""
    for part in range(3):
        log.add(*(batch(n) for n in range(10 * part + 1, 10 * part + 11)))
        archive = owner(store, log)
        assert cut_and_put(store, archive)
    names = sorted(path.name for path in (tmp_path / "logs/00003").iterdir())
    assert names == [f"{start:020}.ndjson.zst" for start in (0, 10, 20)]
    assert texts(tmp_path) == [f"s {n}" for n in range(1, 31)]
    assert damage(tmp_path) == []


def test_of_two_owners_one_has_its_segment_stored(store, log, tmp_path):
    """The other hears that the name is taken; what it read is in the chain by the winner, behind which it can go on."""
    log.add(batch(1), batch(2))
    sleeper = owner(store, log)
    log.add(batch(3))
    assert cut_and_put(store, owner(store, log))
    assert not cut_and_put(store, sleeper)
    log.add(batch(4))
    assert cut_and_put(store, owner(store, log))
    assert texts(tmp_path) == ["s 1", "s 2", "s 3", "s 4"]


def test_a_put_whose_answer_was_lost_is_known_again(store, log):
    """Tried again, the name is taken, by this very segment: that is no lost race."""
    log.add(batch(1))
    archive = owner(store, log)
    finished = archive.cut(LIMITS)
    assert put(store, finished)
    assert put(store, finished)
    finished.body.close()


def test_a_segment_is_cut_by_size_or_age(store, log):
    """And not before; a clock that goes back starts its age anew."""
    log.add(batch(1))
    archive = owner(store, log)
    assert not archive.is_due(LIMITS, NOW + 59)
    assert archive.is_due(LIMITS, NOW + 60)
    assert not archive.is_due(LIMITS, NOW - 1000)
    assert archive.is_due(LIMITS, NOW - 940)
    assert not archive.is_due(Limits(1, 60), NOW - 1000)  # the block is not full: nothing is in the file
    big = [batch(n, texts=["x" * 300_000]) for n in range(2, 5)]
    log.add(*big)
    read(archive, log)
    assert archive.is_due(Limits(1, 60), NOW - 1000)
    archive.discard()


def test_more_streams_than_a_footer_takes_stop_the_partition(store, log, monkeypatch):
    """And say what to do; they do not end the archiver, which has other partitions."""
    monkeypatch.setattr("logbale.archive.format.MAX_FOOTER", 1000)
    log.add(*(batch(1, stream=f"s{number}") for number in range(50)))
    with pytest.raises(StorageError, match=r"50 streams: a footer of \d+ bytes: .*lower .*MARKS_DAYS"):
        owner(store, log).cut(LIMITS)


def test_what_holds_nothing_is_stored_too(store, log, tmp_path):
    """A topic of others' messages: a segment without entries says how far it was read, so nobody reads that again."""
    log.add_raw(([], b"others'"), ([], b"too"))
    archive = owner(store, log)
    assert archive.is_due(LIMITS, NOW + 60)
    assert cut_and_put(store, archive)
    assert look_up(store, "logs", 3).next == 2
    assert (texts(tmp_path), damage(tmp_path)) == ([], [])


def test_between_parts_a_base_clients_message_is_stored_once(store, log, tmp_path):
    """A segment may end amid the parts of a batch: the next begins before them, and takes only what is missing."""
    first, *rest = messages_of(long_batch(1), "sink")
    log.add(batch(1, stream="t"), base_client("base 1"))
    log.add_raw(first)
    log.add(base_client("base 2"), session="other")
    archive = owner(store, log)
    assert cut_and_put(store, archive)
    assert (look_up(store, "logs", 3).next, look_up(store, "logs", 3).taken) == (2, 4)
    log.add_raw(*rest)
    log.add(base_client("base 3"), session="other")
    assert cut_and_put(store, owner(store, log))
    found = [text[:6] for text in texts(tmp_path)]
    assert found == ["t 1", "base 1", "base 2", texts(tmp_path)[3][:6], "base 3"]
    assert damage(tmp_path) == []


def test_a_segment_does_not_end_where_it_starts(store, log):
    """While parts at its very start wait for their rest, it cannot be cut: its name would be the next one's too."""
    first, *_ = messages_of(long_batch(1), "dead")
    log.add_raw(first)
    log.add(batch(1, stream="t"))
    archive = owner(store, log)
    assert not archive.is_due(LIMITS, NOW + 1000)
    for second in range(PART_PATIENCE + 2):
        archive.keep_reading(NOW + second)
    assert archive.is_due(LIMITS, NOW + PART_PATIENCE + 1)
    assert cut_and_put(store, archive)
    assert look_up(store, "logs", 3).next == 2


def test_rejects_and_skips_are_in_the_blocks(store, log, tmp_path):
    """verify finds no number missing, and a reader what became of each."""
    log.add(batch(1), reject(2), skip(3, 5), batch(6), batch(9, base=9))
    assert cut_and_put(store, owner(store, log))
    [block] = reader.blocks(tmp_path)
    assert [(note.sequence, note.reason) for note in block.header.rejects] == [(2, "no entries")]
    assert [(note.first, note.last) for note in block.header.skips] == [(3, 5), (7, 8)]
    assert damage(tmp_path) == []


def test_a_large_frame_is_a_block_as_it_came(store, log, tmp_path):
    """Between small batches, which are compressed together."""
    log.add(batch(1), batch(2), batch(3, texts=["x" * 300_000]), batch(4), batch(5))
    assert cut_and_put(store, owner(store, log))
    blocks = list(reader.blocks(tmp_path))
    assert [block.header.count for block in blocks] == [2, 1, 2]
    assert blocks[1].data.endswith(log.messages[2].value)


def test_silent_streams_are_forgotten(store, log):
    """Their marks leave the footers after MARKS_DAYS, by the clock of those who archive."""
    log.add(batch(1, stream="silent"))
    assert cut_and_put(store, owner(store, log))
    for day in range(1, 4):
        log.add(batch(day, stream="loud"))
        assert cut_and_put(store, owner(store, log, now=NOW + day * 86_400))
    assert set(look_up(store, "logs", 3).marks) == {"loud"}


def test_a_footer_may_be_long(store):
    """One of more streams than the first look at a segment's end can hold."""
    marks = {f"stream-{number:0100}": Mark(number, number, int(NOW)) for number in range(1, 4000)}
    finished = SegmentBuilder(ENCODER).finish("logs", 3, 0, Place(7, 7, marks))
    assert finished.size > FOOTER_GUESS
    assert put(store, finished)
    finished.body.close()
    assert look_up(store, "logs", 3) == Place(7, 7, marks)


@pytest.mark.parametrize("content", [b"", b"no segment at all", b"\x51\x2a\x4d\x18" + b"x" * 40])
def test_behind_a_damaged_segment_nothing_goes_on(store, content):
    """Whose end cannot be read does not say where to go on: an error, not a second history."""
    store.put("logs/00003/00000000000000000005.ndjson.zst", BytesIO(content))
    with pytest.raises(StorageError, match="no footer of a segment"):
        look_up(store, "logs", 3)


def test_behind_another_partitions_segment_nothing_goes_on(store, tmp_path):
    """A copy in the wrong folder is an error."""
    finished = SegmentBuilder(ENCODER).finish("logs", 4, 0, Place(7, 7))
    finished.body.seek(0)
    store.put("logs/00003/00000000000000000000.ndjson.zst", finished.body)
    finished.body.close()
    with pytest.raises(StorageError, match="not a segment of partition 3 of logs"):
        look_up(store, "logs", 3)


def test_notes_of_any_length_fit_a_block(store, log, tmp_path):
    """Thousands of rejects with long reasons: a block's header has a limit, and blocks are cut before it."""
    log.add(*(RejectedSequence("s" * 128, n, "r" * 400, n, 1) for n in range(1, 4001)))
    assert cut_and_put(store, owner(store, log))
    headers = [block.header for block in reader.blocks(tmp_path)]
    assert sum(len(header.rejects) for header in headers) == 4000
    assert max(len(msgspec.json.encode(header)) for header in headers) < MAX_HEADER
    assert damage(tmp_path) == []


# what reads them


def test_verify_tells_a_missing_segment_of_a_chain(store, log, tmp_path):
    """Each starts where the one before ends, or something was lost; partitions do not meet."""
    for part in range(3):
        log.add(*(batch(n) for n in range(10 * part + 1, 10 * part + 11)))
        assert cut_and_put(store, owner(store, log))
    (tmp_path / "logs/00003/00000000000000000010.ndjson.zst").unlink()
    [reason] = damage(tmp_path)
    assert "ends at offset 10" in reason


def test_a_chain_is_followed_across_segments(store, log, tmp_path):
    """cat -f shows what new segments bring, of every partition."""
    log.add(batch(1))
    assert cut_and_put(store, owner(store, log))
    with reader.ArchiveFollower(tmp_path) as follower:
        assert [json.loads(line)["m"] for line in follower.poll()] == ["s 1"]
        assert follower.poll() == []
        log.add(batch(2))
        assert cut_and_put(store, owner(store, log))
        assert [json.loads(line)["m"] for line in follower.poll()] == ["s 2"]
    with reader.ArchiveFollower(tmp_path, from_end=True) as follower:
        assert follower.poll() == []


@pytest.mark.parametrize("place", ["", "logs", "logs/00003", "logs/00003/00000000000000000000.ndjson.zst"])
def test_any_level_of_the_store_can_be_read(store, log, tmp_path, place):
    """A store, a topic, a partition or a segment."""
    log.add(batch(1))
    assert cut_and_put(store, owner(store, log))
    reader.check_archive(tmp_path / place)
    assert texts(tmp_path / place) == ["s 1"]
    assert damage(tmp_path / place) == []
