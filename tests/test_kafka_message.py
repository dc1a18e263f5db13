"""What a message in Kafka promises: it says all of its item, fits the topic's limit, and nothing else passes as one."""

from contextlib import suppress
from random import Random

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import logbale.kafka.assembly
import logbale.kafka.message
from logbale.compression import CompressionHandler, decompress
from logbale.errors import DecompressionError, EntryError, MessageError
from logbale.kafka.assembly import Assembler
from logbale.kafka.message import MAX_RAW_BYTES, SMALLEST_LIMIT, Part, decode, encode, encode_lines
from logbale.protocol import Algorithm
from logbale.sinks import ReceivedBatch, RejectedSequence, SkippedRange

compress = CompressionHandler(Algorithm.ZSTD, 3).compress_always
TIME = "2026-11-24T20:00:00.000000Z"

sequences = st.integers(1, 2**63 - 1)
crcs = st.integers(0, 2**32 - 1)
streams = st.from_regex(r"[A-Za-z0-9._:@-]{1,128}", fullmatch=True)
entries = st.lists(st.binary(max_size=3000).map(bytes.hex), min_size=1, max_size=8)
limits = st.integers(SMALLEST_LIMIT, 2 * SMALLEST_LIMIT)


def lines_of(texts) -> bytes:
    return b"".join(b'{"m":"%s"}\n' % text.encode() for text in texts)


def batch_of(texts, **fields) -> ReceivedBatch:
    return ReceivedBatch(lines_of(texts), len(texts), TIME, TIME, **fields)


batches = st.builds(batch_of, entries, stream=streams, sequence=sequences, crc=crcs, base=sequences)
rejects = st.builds(RejectedSequence, streams, sequences, st.text(), crcs, sequences)
skips = st.builds(
    lambda stream, ends, entries, reason, base: SkippedRange(stream, min(ends), max(ends), entries, reason, base),
    streams,
    st.tuples(sequences, sequences),
    st.integers(0, 2**63 - 1),
    st.text(),
    sequences,
)


def parts_of(item, session="s1", limit=SMALLEST_LIMIT) -> list[Part]:
    """An item, encoded and decoded."""
    messages = encode(item, limit=limit, session=session, compress=compress)
    assert all(message.size <= limit for message in messages)
    return [decode(message.headers, message.value) for message in messages]


def assembled(parts, assembler=None) -> list:
    """The items that come out, each beside where it began; offsets are counted from 0."""
    assembler = assembler or Assembler()
    wholes = [assembler.add(part, offset=offset) for offset, part in enumerate(parts)]
    return [(whole.item, whole.offset) for whole in wholes if whole is not None]


def plain(batch: ReceivedBatch) -> ReceivedBatch:
    """The batch with its lines outside of a frame."""
    return msgspec.structs.replace(batch, ndjson=batch.lines(), frame=b"", frame_raw_bytes=0)


def incompressible(number: int, **fields) -> ReceivedBatch:
    """A batch that takes three messages of SMALLEST_LIMIT."""
    text = Random(number).randbytes(9000).hex()
    return batch_of([text], stream="a:1", sequence=number, base=1, crc=number, **fields)


@given(batches, limits)
def test_a_batch_of_a_session_comes_out_as_it_went_in_whatever_the_limit(batch, limit):
    """Lines, place in the stream, base and CRC survive; in one message or in parts none of which is over the limit."""
    (item, offset), *others = assembled(parts_of(batch, limit=limit))
    assert (plain(item), offset, others) == (batch, 0, [])


@given(batches)
def test_a_frame_that_a_batch_brought_is_the_value(batch):
    """Nothing is compressed twice: what the shipper made of the lines is what Kafka and the archive keep."""
    frame = compress(batch.ndjson)
    framed = msgspec.structs.replace(batch, ndjson=b"", frame=frame, frame_raw_bytes=len(batch.ndjson))
    ((item, _),) = assembled(parts_of(framed))
    assert item == framed


@given(rejects | skips)
def test_rejects_and_skips_come_out_as_they_went_in(note):
    """All but a reason that is too long or not fit to be printed, of which the start is kept."""
    ((item, _),) = assembled(parts_of(note))
    assert msgspec.structs.replace(item, reason="") == msgspec.structs.replace(note, reason="")
    if note.reason.isascii() and note.reason.isprintable() and len(note.reason) <= 400:
        assert item.reason == note.reason


@given(entries.filter(lambda texts: max(map(len, texts)) < 1000), limits)
def test_a_base_clients_batch_is_cut_between_entries(texts, limit):
    """It has no place in a stream, so its pieces are batches themselves; no key, so any partition takes them."""
    messages = encode(batch_of(texts), limit=limit, session="s1", compress=compress)
    assert {message.key for message in messages} == {None}
    items = [item for item, _ in assembled([decode(m.headers, m.value) for m in messages])]
    assert b"".join(item.lines() for item in items) == lines_of(texts)
    assert all(not item.stream and not item.sequence and item.lines().count(b"\n") == item.count for item in items)


def test_a_base_clients_entry_over_the_limit_is_refused_with_both_figures():
    """It can never be published, so it must not be tried for ever."""
    batch = msgspec.structs.replace(incompressible(1), stream="", sequence=0)
    with pytest.raises(EntryError, match=r"message of \d+ bytes: the topic's limit is 4096"):
        encode(batch, limit=SMALLEST_LIMIT, session="s1", compress=compress)


def test_a_limit_too_small_for_any_headers_is_refused():
    """No message would have room for its value."""
    with pytest.raises(ValueError, match="4095 bytes: expected 4096 or more"):
        encode(incompressible(1), limit=SMALLEST_LIMIT - 1, session="s1", compress=compress)


def test_the_longest_names_leave_room_for_a_value():
    """With a stream of 128 characters and the highest numbers a message of SMALLEST_LIMIT still carries 3 KiB."""
    item = msgspec.structs.replace(
        incompressible(2), stream="s" * 128, sequence=2**63 - 1, base=2**63 - 1, crc=2**32 - 1
    )
    first = encode(item, limit=SMALLEST_LIMIT, session="s" * 64, compress=compress)[0]
    assert len(first.value) > 3072


def test_lines_for_others_are_one_message_each():
    """The value is the entry as the archive would keep it, the key its stream; no header is ours."""
    messages = encode_lines(batch_of(["a", "b"], stream="x"), limit=SMALLEST_LIMIT)
    assert [(m.key, m.headers, m.value) for m in messages] == [(b"x", [], b'{"m":"a"}'), (b"x", [], b'{"m":"b"}')]
    with pytest.raises(MessageError) as error:
        decode(messages[0].headers, messages[0].value)
    assert error.value.reason == "foreign"
    with pytest.raises(EntryError, match="limit is 4096"):
        encode_lines(incompressible(1), limit=SMALLEST_LIMIT)


# parts among each other


@given(st.data())
def test_parts_of_several_sinks_may_be_interleaved(data):
    """Each sink's are in order; whatever comes between them, every batch comes out once, whole, with its own bytes."""
    queues = {
        session: [part for n in range(1, 4) for part in parts_of(incompressible(10 * number + n), session)]
        for number, session in enumerate(("s1", "s2", "s3"))
    }
    parts = []
    while any(queues.values()):
        parts.append(queues[data.draw(st.sampled_from([name for name, queue in queues.items() if queue]))].pop(0))
    assembler = Assembler()
    items = [plain(item) for item, _ in assembled(parts, assembler)]
    assert sorted(items, key=lambda item: item.sequence) == [
        incompressible(10 * number + n) for number in range(3) for n in range(1, 4)
    ]
    assert (assembler.orphaned, assembler.lowest_open, assembler.bytes_held) == (0, None, 0)


@given(st.lists(st.booleans(), min_size=15, max_size=15))
@example([True] * 15)
def test_parts_that_are_missing_cost_their_own_batch_only(kept):
    """A batch comes out if and only if all of its parts are there; those of others are counted, or still held."""
    batches = [incompressible(n) for n in range(1, 4)]
    parts = [parts_of(batch) for batch in batches]
    assert [len(of_batch) for of_batch in parts] == [3, 3, 3]
    flags = iter(kept)
    left = [[part for part in of_batch if next(flags)] for of_batch in parts]
    assembler = Assembler()
    items = [plain(item) for item, _ in assembled([part for of_batch in left for part in of_batch], assembler)]
    assert items == [batch for batch, of_batch in zip(batches, left, strict=True) if len(of_batch) == 3]
    assembler.settle("a:1", 3)
    assert assembler.orphaned == sum(len(of_batch) for of_batch in left if len(of_batch) < 3)


def test_a_sink_that_tries_again_begins_again():
    """A commit that failed amid a batch is repeated from its start: the parts before are given up."""
    first, second, third = parts_of(incompressible(1))
    assembler = Assembler()
    ((item, offset),) = assembled([first, second, first, second, third], assembler)
    assert (plain(item), offset, assembler.orphaned) == (incompressible(1), 2, 2)


def test_what_is_held_says_from_where_to_read_again():
    """An archiver that stops amid a batch must not go on behind its first part."""
    parts = parts_of(incompressible(1), "s1"), parts_of(incompressible(2), "s2")
    assembler = Assembler()
    assembler.add(parts[0][0], offset=7)
    assembler.add(parts[1][0], offset=9)
    assert assembler.lowest_open == 7
    assembler.add(parts[0][1], offset=10)
    assembler.add(parts[0][2], offset=11)
    assert assembler.lowest_open == 9


def test_what_a_dead_sink_left_is_given_up_once_its_stream_has_come_further():
    """Its batch came through another sink. Before that it is held: its last part may still come."""
    first, second, third = parts_of(incompressible(5), "dead")
    assembler = Assembler()
    assembler.add(first, offset=0)
    assembler.settle("a:1", 4)
    assembler.settle("other", 5)
    assert assembler.lowest_open == 0
    assembler.settle("a:1", 5)
    assert (assembler.lowest_open, assembler.orphaned) == (None, 1)
    assert assembled([second, third], assembler) == []
    assert assembler.orphaned == 3


def test_what_was_begun_long_ago_is_given_up():
    """The stream may never come again either."""
    assembler = Assembler()
    assembler.add(parts_of(incompressible(1), "s1")[0], offset=0, at=1000)
    assembler.add(parts_of(incompressible(2), "s2")[0], offset=1, at=2000)
    assembler.expire(before=2000)
    assert (assembler.lowest_open, assembler.orphaned) == (1, 1)


@pytest.mark.parametrize("limit", ["MAX_OPEN", "MAX_HELD_BYTES"])
def test_what_is_held_has_a_limit(limit, monkeypatch):
    """Batches that somebody begins without end do not take all memory: the oldest are given up, and counted."""
    monkeypatch.setattr(logbale.kafka.assembly, limit, {"MAX_OPEN": 3, "MAX_HELD_BYTES": 3 * SMALLEST_LIMIT}[limit])
    assembler = Assembler()
    for offset in range(10):
        first, *_ = parts_of(incompressible(1), session=f"s{offset}")
        assert assembler.add(first, offset=offset) is None
    assert assembler.lowest_open == 7
    assert assembler.orphaned == 7
    assert 0 < assembler.bytes_held <= 3 * SMALLEST_LIMIT


def test_parts_with_other_bytes_are_no_batch():
    """All are there, and are not a frame: that is said, not archived."""
    messages = encode(incompressible(1), limit=SMALLEST_LIMIT, session="s", compress=compress)
    parts = [decode(message.headers, message.value[::-1]) for message in messages]
    assembler = Assembler()
    with pytest.raises(MessageError, match="3 parts that are no zstd frame"):
        assembled(parts, assembler)
    assert assembler.lowest_open is None


# hostile headers

NAMES = ["v", "kind", "stream", "sequence", "last", "base", "count", "algorithm", "raw", "crc", "first", "last_time"]
NAMES += ["reason", "entries", "part", "session", "other"]
WORDS = [b"", b"0", b"1", b"-1", b"+1", b"01", b"1_0", b" 1", b"1\n", b"9" * 5000, b"batch", b"reject", b"skip"]
WORDS += [b"zstd", b"gzip", b"1/2", b"2/1", b"0/0", b"1/1", b"1/999999", b"a\n", b"\xff", b"a" * 129, TIME.encode()]
values = st.none() | st.binary(max_size=40) | st.sampled_from(WORDS) | st.integers(0, 2**70).map(lambda n: b"%d" % n)
named = st.sampled_from(NAMES)


@given(st.none() | st.lists(st.tuples(named | st.text(), values)), st.none() | st.binary())
def test_any_headers_give_a_part_or_a_message_error(headers, value):
    """Nothing else is raised, whatever stands in a topic."""
    with suppress(MessageError):
        assert decode(headers, value).item.last_sequence < 2**63


@given(batches | rejects | skips, named, values, st.sampled_from(["set", "drop", "double"]))
def test_one_changed_header_never_gives_what_cannot_be_stored(item, name, value, how):
    """What passes has sequences, counts and names within the limits of a session, and one header of each name."""
    (message,) = encode(item, limit=2**20, session="s1", compress=compress)
    headers = [(known, old) for known, old in message.headers if known != name or how == "double"]
    headers += [(name, value)] * (how != "drop")
    try:
        part = decode(headers, message.value)
    except MessageError:
        return
    changed = part.item
    assert 1 <= part.index <= part.count
    assert changed.last_sequence <= 2**63 - 1
    assert len(changed.stream) <= 128
    if isinstance(changed, ReceivedBatch):
        assert 1 <= changed.count <= changed.raw_bytes // 3
        assert bool(changed.stream) == bool(changed.sequence) == bool(changed.base)
        if part.count == 1:
            assert changed.lines() == item.ndjson


def test_a_batch_that_no_archiver_would_decompress_is_refused_before_it_is_acknowledged(monkeypatch):
    """MAX_RAW_BYTES of a receiver may be more: a session's batch is rejected then, a base client's is cut."""
    monkeypatch.setattr(logbale.kafka.message, "MAX_RAW_BYTES", 100)
    batch = batch_of(["x" * 40] * 4, stream="x", sequence=1, base=1)
    with pytest.raises(EntryError, match=r"a batch of \d+ bytes: Kafka's archivers take 100"):
        encode(batch, limit=2**20, session="s1", compress=compress)
    halves = encode(batch_of(["x" * 40] * 4), limit=2**20, session="s1", compress=compress)
    assert [decode(half.headers, half.value).item.count for half in halves] == [2, 2]
    with pytest.raises(EntryError, match="limit is 100"):
        encode(batch_of(["x" * 100]), limit=2**20, session="s1", compress=compress)


def test_what_claims_more_than_any_batch_is_not_held():
    """Neither as parts, whose memory it would take, nor to be decompressed."""
    first, *_ = encode(incompressible(1), limit=SMALLEST_LIMIT, session="s1", compress=compress)
    headers = [(name, b"%d" % (MAX_RAW_BYTES + 1) if name == "raw" else value) for name, value in first.headers]
    with pytest.raises(MessageError, match="header raw"):
        decode(headers, first.value)


def test_a_newer_version_is_told_from_nonsense():
    """An older archiver must stop there, not pass over what a newer receiver wrote."""
    (message,) = encode(incompressible(1), limit=2**20, session="s1", compress=compress)
    future = {"v": b"2", "kind": b"of the future"}
    headers = [(name, future.get(name, value)) for name, value in message.headers]
    with pytest.raises(MessageError, match="version 2: expected 1") as error:
        decode(headers, message.value)
    assert error.value.reason == "newer"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "a value of 0 bytes"),
        (b"x" * 100_000, "a value of 100000 bytes for 18009 bytes of lines"),
        (compress(b'{"a":1}\n' * 9), "not one zstd frame of 18009 bytes"),
        (compress(incompressible(1).ndjson) + compress(b"{}\n"), "not one zstd frame"),
    ],
)
def test_a_value_that_is_not_one_frame_of_that_size_is_refused(value, why):
    """Before anything is decompressed: the archive will copy it as it is."""
    (message,) = encode(incompressible(1), limit=2**20, session="s1", compress=compress)
    with pytest.raises(MessageError, match=why):
        decode(message.headers, value)


def test_the_frames_are_what_the_archive_keeps():
    """One zstd frame with its size and a checksum: a flipped bit does not pass."""
    (message,) = encode(incompressible(1), limit=2**20, session="s1", compress=compress)
    broken = message.value[:-1] + bytes([message.value[-1] ^ 1])
    with pytest.raises(DecompressionError):
        decompress(Algorithm.ZSTD, broken, max_raw=2**20)
