"""Which messages of a partition its archive takes, one rule a row."""

from collections import Counter
from random import Random

import pytest
from test_kafka_message import TIME, batch_of, compress

from logbale.compression import zstd
from logbale.kafka.chain import DAMAGED, NOT_IN_LOG, PART_PATIENCE, ChainState, Place
from logbale.kafka.message import encode
from logbale.sinks import Mark, ReceivedBatch, RejectedSequence, SkippedRange

NOW = 1_795_550_400.0
LIMIT = 1 << 20


def batch(sequence, base=1, stream="s", crc=None, texts=None) -> ReceivedBatch:
    crc = sequence * 10 if crc is None else crc
    return batch_of(texts or [f"{stream} {sequence}"], stream=stream, sequence=sequence, base=base, crc=crc)


def reject(sequence, base=1) -> RejectedSequence:
    return RejectedSequence("s", sequence, "no entries", sequence * 10, base)


def skip(first, last, base=1) -> SkippedRange:
    return SkippedRange("s", first, last, 5, "damaged in the spool", base)


def base_client(text) -> ReceivedBatch:
    return batch_of([text])


class Log:
    """A partition's messages, added to a chain one by one."""

    def __init__(self, mark=0, *, next=0, taken=0):
        marks = {"s": Mark(mark, mark * 10)} if mark else {}
        self.counts = Counter()
        self.chain = ChainState(Place(next, taken, marks), self.counts)
        self.offset = next

    def add(self, *items, session="sink1", limit=LIMIT):
        """What is taken of these, as the numbers and texts that tell it."""
        messages = [
            message for item in items for message in encode(item, limit=limit, session=session, compress=compress)
        ]
        return self.add_messages(*((message.headers, message.value) for message in messages))

    def add_messages(self, *messages):
        taken = []
        for headers, value in messages:
            taken += self.chain.add(self.offset, headers, value, now=NOW)
            self.offset += 1
        return [_told(item) for item in taken]


def _told(item):
    if isinstance(item, SkippedRange):
        return "missing" if item.reason == NOT_IN_LOG else "skip", item.first, item.last
    if isinstance(item, RejectedSequence):
        return "damaged" if item.reason == DAMAGED else "reject", item.sequence
    return item.sequence or item.lines().decode()


@pytest.mark.parametrize(
    ("mark", "items", "taken"),
    [
        (0, [batch(1), batch(2), batch(3)], [1, 2, 3]),
        (0, [batch(57, base=57)], [57]),
        (0, [batch(58, base=57), batch(57, base=57), batch(58, base=57)], [57, 58]),
        (4, [batch(4), batch(5)], [5]),
        (4, [batch(6), batch(5), batch(6)], [5, 6]),
        (4, [batch(3), batch(4), batch(5), batch(3), batch(4), batch(5), batch(6)], [5, 6]),
        (4, [reject(5), batch(6)], [("reject", 5), 6]),
        (4, [reject(4), reject(6), batch(5)], [5]),
        (4, [skip(5, 7), batch(8)], [("skip", 5, 7), 8]),
        (4, [skip(3, 6), batch(7)], [("skip", 5, 6), 7]),
        (4, [skip(2, 4), skip(6, 9), batch(5)], [5]),
        (4, [batch(9, base=9), batch(10, base=9)], [("missing", 5, 8), 9, 10]),
        (4, [batch(10, base=9)], []),
        (4, [skip(6, 9, base=8), batch(10)], [("missing", 5, 5), ("skip", 6, 9), 10]),
        (4, [batch(1, base=1)], []),
    ],
    ids=[
        "in order",
        "a stream begins at its base",
        "a gap before the base is sent again",
        "a duplicate",
        "a producer that timed out on 5 while 6 landed",
        "sent again from the last acknowledged",
        "a reject has a place",
        "rejects that are duplicates and gaps",
        "a skip is a range",
        "a skip that begins in what is there",
        "skips that are duplicates and gaps",
        "what was acknowledged and is not here is noted",
        "a gap over the base too",
        "a skip over a hole",
        "from the beginning again",
    ],
)
def test_of_a_stream_only_the_next_is_taken(mark, items, taken):
    """Sequence max(mark + 1, base), and nothing else, whatever else is in the log."""
    assert Log(mark).add(*items) == taken


def test_streams_do_not_meet():
    """Each has a mark of its own."""
    log = Log()
    assert log.add(batch(1), batch(1, stream="t"), batch(2, stream="t"), batch(2)) == [1, 1, 2, 2]
    assert {name: mark.sequence for name, mark in log.chain.place.marks.items()} == {"s": 2, "t": 2}


def test_what_came_to_what_is_counted():
    """Every message is counted once, by what became of it."""
    log = Log(4)
    log.add(batch(5), batch(4), batch(8), reject(6), skip(7, 7), base_client("x"))
    log.add_messages(([], b"not ours"), ([("v", b"1"), ("kind", b"batch")], b"ours and senseless"))
    counts = {"batch": 2, "duplicate": 1, "gap": 1, "reject": 1, "skip": 1, "foreign": 1, "malformed": 1}
    assert +log.counts == Counter(counts)


def test_another_history_under_an_old_name_is_noticed():
    """The mark's number with another CRC is a duplicate, and counted as what it may be too."""
    log = Log(4)
    assert log.add(batch(4, crc=4711)) == []
    assert log.counts["other_history"] == 1
    log.add(batch(4))
    assert log.counts["other_history"] == 1


# base clients


def test_a_base_clients_message_is_taken_once_by_its_offset():
    """Below `taken` it is archived already, though the chain is read on from before it."""
    log = Log(next=10, taken=12)
    assert log.add(*map(base_client, "abc")) == ['{"m":"c"}\n']
    assert log.chain.place == Place(13, 13, {})


# parts


def long(sequence, base=1) -> ReceivedBatch:
    """A batch of several parts of 4096 bytes."""
    return batch(sequence, base, texts=[Random(sequence).randbytes(5000).hex()])


def messages_of(item, session):
    return [
        (message.headers, message.value) for message in encode(item, limit=4096, session=session, compress=compress)
    ]


def test_parts_are_put_together():
    """A batch in parts is one batch, and `next` stays at its first part until it has the last."""
    log = Log()
    first, *middle, last = messages_of(long(1), "a")
    log.add(batch(1, stream="t"))
    assert log.add_messages(first, *middle) == []
    assert (log.chain.place.next, log.chain.place.taken) == (1, 1 + 1 + len(middle))
    assert log.add_messages(last) == [1]
    assert log.chain.place.next == log.chain.position == log.offset


def test_the_parts_of_two_sinks_do_not_mix():
    """Of two sinks with the same batch the first that completes it counts, however their parts alternate."""
    log = Log()
    pairs = zip(messages_of(long(1), "a"), messages_of(long(1), "b"), strict=True)
    assert log.add_messages(*(message for pair in pairs for message in pair)) == [1]
    assert log.chain.place.next == log.offset


def test_what_is_complete_elsewhere_holds_nothing_back():
    """A sink that died amid a batch: when another brings that, `next` goes on."""
    log = Log()
    log.add_messages(messages_of(long(1), "dead")[0])
    assert log.add_messages(*messages_of(long(1), "alive")) == [1]
    assert log.chain.place.next == log.offset
    assert log.counts["orphaned"] == 1


def test_parts_whose_rest_never_comes_are_given_up():
    """A stream that never comes back does not hold `next` for ever."""
    log = Log()
    log.add_messages(messages_of(long(1), "dead")[0])
    for second in range(1, PART_PATIENCE + 1):
        log.chain.keep_reading(NOW + second)
    log.chain.expire_parts()
    assert log.chain.place.next == 0
    log.chain.keep_reading(NOW + PART_PATIENCE + 1)
    log.chain.expire_parts()
    assert (log.chain.place.next, log.counts["orphaned"]) == (1, 1)


@pytest.mark.parametrize("pause", [10 * PART_PATIENCE, -10 * PART_PATIENCE], ids=["on", "back"])
def test_parts_wait_over_any_pause_in_the_reading(pause):
    """A store that is down for hours, a sleep, a clock that is set: the rest is in the log, and acknowledged."""
    log = Log()
    first, *rest = messages_of(long(1), "a")
    log.add_messages(first)
    for headers, value in rest:
        now = NOW + pause
        log.chain.expire_parts()
        taken = log.chain.add(log.offset, headers, value, now=now)
        log.offset += 1
    assert [_told(item) for item in taken] == [1]


# what cannot be read


@pytest.mark.parametrize("harm", ["bytes", "count"])
def test_a_damaged_batch_leaves_its_place_and_a_note(harm):
    """A value that does not decompress to what its headers say is rejected in the archive; the stream goes on."""
    log = Log(4)
    [message] = encode(batch(5), limit=LIMIT, session="a", compress=compress)
    if harm == "bytes":
        frame = bytearray(message.value)
        frame[-5] ^= 1
        spoilt = (message.headers, bytes(frame))
    else:
        spoilt = ([(name, b"2" if name == "count" else value) for name, value in message.headers], message.value)
    assert log.add_messages(spoilt) == [("damaged", 5)]
    assert log.add(batch(6)) == [6]
    assert log.counts["damaged"] == 1


def test_a_frame_with_the_largest_window_of_a_receiver_is_archived():
    """MAX_WINDOW_BYTES may be 128 MiB: what a receiver acknowledged is not damaged for an archiver."""
    lines = b'{"m":"%s"}\n' % (b"x" * 1000) * 20_000
    window = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.checksum_flag: 1}
    compressor = zstd.ZstdCompressor(options=window)
    compressor.set_pledged_input_size(len(lines))
    frame = compressor.compress(lines, zstd.ZstdCompressor.FLUSH_FRAME)
    item = ReceivedBatch(b"", 20_000, "", "", stream="s", sequence=1, base=1, frame=frame, frame_raw_bytes=len(lines))
    assert Log().add(item) == [1]


def test_a_large_frame_stays_as_it_came():
    """What is large enough for a block of its own is not compressed again; the rest is joined with its neighbours."""
    log = Log()
    large = batch(1, texts=["x" * 300_000])
    [message] = encode(large, limit=LIMIT, session="a", compress=compress)
    [item] = log.chain.add(0, message.headers, message.value, now=NOW)
    assert (item.frame, item.raw_bytes) == (message.value, len(large.ndjson))
    [message] = encode(batch(2), limit=LIMIT, session="a", compress=compress)
    [item] = log.chain.add(1, message.headers, message.value, now=NOW)
    assert (item.frame, item.ndjson, item.first) == (b"", batch(2).ndjson, TIME)
