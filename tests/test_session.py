"""Both ends of a session tested as one: joined through lists, cut anywhere, fed anything."""

import itertools
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.errors import ProtocolError
from logbale.liveness import Liveness, Pace
from logbale.messages import (
    MAX_HELLO_BYTES,
    Ack,
    Context,
    Error,
    Goaway,
    Hello,
    Ping,
    Pong,
    Reject,
    RejectedBatch,
    Skip,
    Status,
    Welcome,
    decode_from_client,
    decode_from_receiver,
    encode_message,
)
from logbale.protocol import Algorithm, Flag, Frame, FrameDecoder, encode_header
from logbale.session import (
    ReceiverSession,
    SequencedBatch,
    ShipperSession,
    Welcomed,
    batch_crc,
    encode_batch,
)

MAX_RAW = 1000


def frames(data):
    decoder = FrameDecoder(100_000, session=True)
    decoder.feed(data)
    return list(decoder.frames())


def shipper(first=1, assigned=10, window=10_000, crcs=()):
    return ShipperSession(
        stream="web-1", first=first, assigned=assigned, window_bytes=window, now=0.0, last_crc=dict(crcs)
    )


def greet(client, last=0, last_crc=0, rejects=()):
    """Hello and welcome; returns the receiver's end and what the client made of the welcome."""
    server = ReceiverSession(max_raw=MAX_RAW)
    (frame,) = frames(client.hello(agent="logbale/test", host="here"))
    assert server.receive(frame).stream == "web-1"
    welcome = server.welcome(
        last=last, last_crc=last_crc, rejects=list(rejects), max_frame=5000, max_entries=9, window_log=17
    )
    (frame,) = frames(welcome)
    event, answer = client.receive(frame, now=0.0)
    assert answer == b""
    return server, event


def batch(sequence, raw=b"[{}]"):
    return encode_batch(sequence, len(raw), batch_crc(sequence, raw), raw, Algorithm.NONE)


def deliver(server, data):
    return [server.receive(frame) for frame in frames(data)]


def hear(client, message):
    (frame,) = frames(encode_message(message))
    return client.receive(frame, now=1.0)[0]


def test_a_batch_arrives_with_its_sequence_length_and_crc():
    """The 16-byte prefix: uint64 sequence, uint32 raw length, uint32 CRC-32 of sequence and raw body."""
    raw = b'[{"a":1}]'
    crc = zlib.crc32((7).to_bytes(8, "big") + raw)
    server, _ = greet(shipper(first=7))
    (arrived,) = deliver(server, encode_batch(7, len(raw), crc, zlib.compress(raw), Algorithm.ZLIB))
    assert (arrived.sequence, arrived.raw_bytes, arrived.crc, arrived.duplicate) == (7, len(raw), crc, False)
    assert zlib.decompress(arrived.body) == raw
    assert batch_crc(7, raw) == crc


def test_the_client_resumes_after_the_last_durable_batch():
    """Everything above welcome.last is sent again, nothing below it."""
    for first, last, resume in [(1, 0, 1), (1, 4, 5), (3, 9, 10), (6, 2, 6), (11, 10, 11)]:
        _, event = greet(shipper(first=first, assigned=10), last=last)
        assert (event.resume_at, event.other_history) == (resume, False)


def test_a_receiver_that_cannot_know_gets_everything_unacknowledged():
    """welcome.last is null where a log behind the receiver deduplicates."""
    _, event = greet(shipper(first=4), last=None)
    assert event.resume_at == 4


def test_unacked_batches_are_duplicates_after_a_reconnect_that_resends_them():
    """Lower sequences than expected are decoded and acknowledged, and told from new ones."""
    server, _ = greet(shipper(first=2), last=0)
    arrived = deliver(server, batch(2) + batch(3) + batch(2) + batch(3) + batch(4))
    assert [(b.sequence, b.duplicate) for b in arrived] == [(2, False), (3, False), (2, True), (3, True), (4, False)]


def test_a_gap_is_a_protocol_error():
    """A batch that is missing must not look stored because a later one is."""
    server, _ = greet(shipper(), last=3)
    with pytest.raises(ProtocolError, match="batch 6: expected 4"):
        deliver(server, batch(6))


def test_a_skip_takes_the_place_of_its_batches():
    """After it the next sequence is expected; one that would leave a gap, or runs backwards, is refused."""
    server, _ = greet(shipper(), last=0)
    deliver(server, batch(1) + encode_message(Skip(2, 5, 40, "drop_oldest")) + batch(6))
    with pytest.raises(ProtocolError):
        deliver(server, encode_message(Skip(9, 9, 1, "gap")))
    with pytest.raises(ProtocolError):
        deliver(server, encode_message(Skip(7, 6, 1, "backwards")))


@pytest.mark.parametrize(
    "data",
    [
        batch(1),
        encode_message(Ping(1)),
        encode_message(Status()),
        encode_message(Skip(1, 1, 1, "")),
        encode_header(2, 0x80) + b"{}",
        encode_header(10, 0x80) + b'{"type":1}',
        encode_header(MAX_HELLO_BYTES + 1, 0x80) + b" " * (MAX_HELLO_BYTES + 1),
    ],
)
def test_nothing_comes_before_hello(data):
    """The first message says who speaks."""
    with pytest.raises(ProtocolError):
        deliver(ReceiverSession(max_raw=MAX_RAW), data)


def test_no_data_comes_before_welcome_and_no_second_hello_after_it():
    """Only the welcome says from where on to send."""
    server = ReceiverSession(max_raw=MAX_RAW)
    hello = encode_message(Hello(1, "web-1", 1))
    deliver(server, hello)
    with pytest.raises(ProtocolError, match="between hello and welcome"):
        deliver(server, batch(1))
    server, _ = greet(shipper())
    with pytest.raises(ProtocolError, match="second hello"):
        deliver(server, hello)


@pytest.mark.parametrize("name", ["", "a" * 129, "../x", "a/b", "a b", "a\n", "a\x00", "é", "\u202eabc", "a\n\n"])
def test_hostile_stream_names_are_refused(name):
    """1 to 128 characters of [A-Za-z0-9._:@-]."""
    with pytest.raises(ProtocolError):
        deliver(ReceiverSession(max_raw=MAX_RAW), encode_message(Hello(1, name, 1)))


@pytest.mark.parametrize(("raw_bytes", "accepted"), [(MAX_RAW, True), (MAX_RAW + 1, False), (2**32 - 1, False)])
def test_the_announced_raw_length_is_checked_before_anything_is_decoded(raw_bytes, accepted):
    """The limit itself passes; one byte more closes the connection."""
    server, _ = greet(shipper())
    data = encode_batch(1, raw_bytes, 0, b"x", Algorithm.ZSTD)
    if accepted:
        assert deliver(server, data)[0].raw_bytes == raw_bytes
    else:
        with pytest.raises(ProtocolError, match="limit is 1000"):
            deliver(server, data)


def test_acks_free_the_window_and_are_cumulative():
    """A bounded number of bytes is open, or one batch, whichever is more."""
    client = shipper(window=100)
    greet(client)
    assert client.has_room(5000), "one batch always fits"
    client.sent(1, 60)
    assert client.has_room(40)
    assert not client.has_room(41)
    client.sent(2, 40)
    assert hear(client, Ack(2)) == Ack(2)
    assert client.unacked_bytes == 0
    hear(client, Ack(1))  # an older one changes nothing


def test_an_ack_of_what_was_never_sent_is_a_protocol_error():
    """A receiver that confirms the future cannot be trusted with the past."""
    client = shipper()
    greet(client)
    client.sent(1, 10)
    with pytest.raises(ProtocolError, match="2 acknowledged"):
        hear(client, Ack(2))


def test_rejects_are_repeated_by_the_welcome_from_hello_next_on():
    """A reject that was not read before a crash comes again; older ones were consumed."""
    rejects = [RejectedBatch(2, "old"), RejectedBatch(5, "too deep")]
    _, event = greet(shipper(first=4), last=6, rejects=rejects)
    assert event.welcome.rejects == [RejectedBatch(5, "too deep")]
    assert event.resume_at == 7


def test_a_reject_names_a_batch_that_is_open():
    """Anything else is a protocol error."""
    client = shipper()
    greet(client)
    client.sent(1, 10)
    client.sent(2, 10)
    assert hear(client, Reject(1, "not wanted")).sequence == 1
    hear(client, Ack(2))
    for sequence in (2, 3):
        with pytest.raises(ProtocolError):
            hear(client, Reject(sequence, "not wanted"))


@pytest.mark.parametrize(
    ("last", "last_crc", "other"),
    [(10, 77, False), (10, 78, True), (11, 0, True), (9, 5, False), (0, 0, False), (10, 0, False)],
)
def test_a_restored_or_cloned_spool_is_noticed(last, last_crc, other):
    """A mark above what was ever assigned, or another CRC for a known batch, is somebody else's history."""
    _, event = greet(shipper(first=9, assigned=10, crcs={10: 77}), last=last, last_crc=last_crc)
    assert event.other_history is other


def test_a_frame_that_stands_still_ends_the_connection_and_a_slow_one_does_not():
    """A header with a flipped bit waits for bytes that nobody sends; a slow link sends, however long it takes."""
    # Bytes that come each second, of a frame that never ends, and whether they keep it alive.
    for speed, lives in [(0, False), (800, False), (2048, True), (8000, True)]:
        decoder, pace = FrameDecoder(1 << 30, session=True), Pace()
        decoder.feed(encode_header(1 << 29, 0x08))
        if lives:
            tick(decoder, pace, speed, seconds=1000)
        else:
            with pytest.raises(ProtocolError, match="a frame of which"):
                tick(decoder, pace, speed, seconds=61)


def test_whole_frames_are_no_frame_that_stands_still():
    """Small ones come for as long as they like, and between them nothing; our own pause is nobody's fault."""
    decoder, pace = FrameDecoder(1000, session=True), Pace()
    frame = encode_message(Ping(1))
    for second in range(100):
        decoder.feed(frame[:-1])
        pace.check(float(second), decoder)
        decoder.feed(frame[-1:])
        assert len(list(decoder.frames())) == 1
    decoder.feed(frame[:-1])
    pace.check(100.0, decoder)
    pace.restart()
    pace.check(1000.0, decoder)


def tick(decoder, pace, speed, seconds):
    for second in range(seconds):
        decoder.feed(b"x" * speed)
        list(decoder.frames())
        pace.check(float(second), decoder)


def test_silence_is_asked_about_and_then_ends_the_connection():
    """10 s without a byte: one ping; 25 s: gone. Any byte is life."""
    live = Liveness(now=100.0)
    assert live.deadline == 110
    assert live.tick(109.9) is None
    assert live.tick(110.0) == Ping(1)
    assert live.tick(115.0) is None
    assert live.deadline == 125
    live.heard(120.0)
    assert live.tick(125.0) is None
    assert live.tick(130.0) == Ping(2)
    with pytest.raises(ProtocolError, match="25 s"):
        live.tick(145.0)


def test_a_ping_is_answered_at_once():
    """With its own id."""
    client = shipper()
    (frame,) = frames(encode_message(Ping(9)))
    assert client.receive(frame, now=1.0) == (None, encode_message(Pong(9)))


def test_a_context_is_answered_where_it_was_read():
    """With the same message: behind it the old context is gone at both ends."""
    client = shipper()
    server, _ = greet(client)
    (frame,) = frames(encode_message(Context(14)))
    event, answer = client.receive(frame, now=1.0)
    assert event == Context(14)
    assert deliver(server, answer) == [Context(14)]


def test_a_receiver_takes_no_context_before_its_welcome():
    """There is none to end."""
    server = ReceiverSession(max_raw=MAX_RAW)
    deliver(server, encode_message(Hello(2, "web-1", 1)))
    with pytest.raises(ProtocolError, match="between hello and welcome"):
        deliver(server, encode_message(Context(14)))


@pytest.mark.parametrize("window_log", [-1, 1, 9, 28])
def test_no_message_has_a_window_that_no_zstd_takes(window_log):
    """0 is none, and 10 to 27 are; a shipper would fail with any other."""
    client = shipper()
    greet(client)
    with pytest.raises(ProtocolError, match="window_log"):
        client.receive(Frame(Flag.CONTROL, b'{"type":"context","window_log":%d}' % window_log), now=0.0)


@pytest.mark.parametrize("message", [Ack(1), Reject(1, "x"), Context(14)])
def test_no_verdict_comes_before_the_welcome(message):
    """Nor a data frame at any time."""
    client = shipper()
    with pytest.raises(ProtocolError):
        hear(client, message)
    (frame,) = frames(batch(1))
    with pytest.raises(ProtocolError):
        client.receive(frame, now=0.0)


def test_why_a_connection_ends_reaches_the_shipper():
    """error and goaway are events."""
    client = shipper()
    assert hear(client, Error("superseded", "another connection")) == Error("superseded", "another connection")
    assert hear(client, Goaway("restart")) == Goaway("restart")


def test_unknown_fields_are_ignored_and_unknown_types_are_not():
    """Either end may be newer."""
    assert decode_from_receiver(b'{"type":"ack","last":3,"novel":[1]}') == Ack(3)
    for payload in (b'{"type":"novel"}', b"{}", b"[]", b'{"type":"ack"}', b'{"type":"ack","last":"3"}', b"\xff"):
        with pytest.raises(ProtocolError):
            decode_from_receiver(payload)


CONTROL = [
    Hello(2, "web-1", 1, ["zstd"], "logbale/1", "here", name="app"),
    Welcome(2, 7, 1000, 1000, 77, rejects=[RejectedBatch(5, "too deep")]),
    Skip(2, 5, 40, "drop_oldest"),
    Status(msgspec.Raw(b'{"read":12}')),
    Ack(12),
    Reject(3, "not entries"),
    Error("decode", "batch 7"),
    Goaway(),
    Ping(9),
]


@pytest.mark.parametrize("message", CONTROL, ids=lambda message: type(message).__name__.lower())
def test_any_flipped_bit_of_a_message_is_noticed_in_version_2(message):
    """None of its bits, turned over, gives another message or the same; hello and welcome need no version told."""
    decode = decode_from_client if isinstance(message, Hello | Skip | Status) else decode_from_receiver
    version = 1 if isinstance(message, Hello | Welcome) else 2
    payload = encode_message(message)[5:]
    assert decode(payload, version) == message
    for bit in range(8 * len(payload)):
        with pytest.raises(ProtocolError):
            decode(flipped(payload, bit), version)


def flipped(data, bit):
    harmed = bytearray(data)
    harmed[bit // 8] ^= 1 << bit % 8
    return bytes(harmed)


def test_the_crc_is_made_and_checked_in_three_lines():
    """As docs/protocol.md has it: of the message without the member, as eight hexadecimal digits, and last."""
    text = b'{"type":"ack","last":3}'
    payload = text[:-1] + b',"crc":"%08x"}' % zlib.crc32(text)
    assert encode_message(Ack(3))[5:] == payload
    assert decode_from_receiver(payload, 2) == Ack(3)


@pytest.mark.parametrize("end", [b"", b',"crc":"00000000"', b',"crc":7', b',"crc":"F6CFCD5C"'])
def test_version_2_has_no_message_without_its_crc(end):
    """None, or a wrong one, is a protocol error; so it is in a hello or a welcome that says that it is of version 2."""
    for decode, text in [
        (decode_from_receiver, b'{"type":"ack","last":3'),
        (decode_from_client, b'{"type":"hello","version":2,"stream":"a","next":1'),
        (decode_from_client, b'{"type":"hello","version":3,"stream":"a","next":1'),
        (decode_from_receiver, b'{"type":"welcome","version":2,"last":0,"max_frame":1,"max_raw":1'),
    ]:
        with pytest.raises(ProtocolError, match="crc"):
            decode(text + end + b"}", 2)


def test_a_peer_of_version_1_needs_no_crc_and_may_send_none_that_is_wrong():
    """The session is of the lower of both versions; a version that a flipped bit lowered is not believed."""
    server = ReceiverSession(max_raw=MAX_RAW)
    assert server.receive(Frame(Flag.CONTROL, b'{"type":"hello","version":1,"stream":"a","next":1}')).version == 1
    (welcome,) = frames(server.welcome(last=0, last_crc=0, rejects=[], max_frame=5000, max_entries=9, window_log=17))
    assert decode_from_receiver(welcome.payload).version == server.version == 1
    assert server.receive(Frame(Flag.CONTROL, b'{"type":"ping","id":4}')) == Ping(4)

    client = shipper()
    old = b'{"type":"welcome","version":1,"last":0,"max_frame":5000,"max_raw":1000}'
    assert client.receive(Frame(Flag.CONTROL, old), now=0.0)[0].resume_at == 1
    client.sent(1, 10)
    assert client.receive(Frame(Flag.CONTROL, b'{"type":"ack","last":1}'), now=0.0)[0] == Ack(1)

    (hello,) = frames(shipper().hello(agent="", host=""))
    lowered = hello.payload.replace(b'"version":2', b'"version":1')
    with pytest.raises(ProtocolError, match="crc"):
        ReceiverSession(max_raw=MAX_RAW).receive(Frame(Flag.CONTROL, lowered))


def test_a_session_of_version_2_hears_nothing_without_a_crc():
    """At either end."""
    client = shipper()
    server, _ = greet(client)
    assert server.version == 2
    client.sent(1, 10)
    with pytest.raises(ProtocolError, match="without a crc"):
        client.receive(Frame(Flag.CONTROL, b'{"type":"ack","last":1}'), now=0.0)
    with pytest.raises(ProtocolError, match="without a crc"):
        server.receive(Frame(Flag.CONTROL, b'{"type":"ping","id":1}'))


@given(st.binary(max_size=200))
def test_any_payload_is_a_message_or_a_protocol_error(payload):
    """No input raises anything else."""
    for decode in (decode_from_client, decode_from_receiver):
        for data in (payload, b'{"type":"hello",' + payload, b'{"type":"welcome"' + payload):
            try:
                decode(data)
            except ProtocolError:
                continue


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=6), st.booleans())
def test_any_frames_give_events_or_a_protocol_error(messages, greeted):
    """Both ends, in any state."""
    client = shipper()
    server = greet(client)[0] if greeted else ReceiverSession(max_raw=MAX_RAW)
    for flags, payload in messages:
        decoder = FrameDecoder(100, session=True)
        try:
            decoder.feed(encode_header(len(payload), flags) + payload)
            for frame in decoder.frames():
                server.receive(frame)
                client.receive(frame, now=0.0)
        except ProtocolError:
            continue


class Link:
    """A receiver that stores, a shipper that resends, and a wire that is cut after any number of bytes."""

    def __init__(self, count):
        self.batches = {n: b"[%d]" % n for n in range(1, count + 1)}
        self.stored = []
        self.consumed = 0

    def connect(self, to_receiver, to_shipper):
        """One connection on which so many bytes pass each way before it breaks; the sink stores what it gets."""
        client = shipper(first=self.consumed + 1, assigned=len(self.batches))
        server = ReceiverSession(max_raw=MAX_RAW)
        ends = FrameDecoder(1000, session=True), FrameDecoder(1000, session=True)
        budget = [to_receiver, to_shipper]

        def pass_on(way, data):
            data = data[: budget[way]]
            budget[way] -= len(data)
            ends[way].feed(data)
            return list(ends[way].frames())

        for frame in pass_on(0, client.hello(agent="", host="")):
            server.receive(frame)
            last = len(self.stored)
            welcome = server.welcome(last=last, last_crc=0, rejects=[], max_frame=1000, max_entries=9, window_log=17)
            for back in pass_on(1, welcome):
                event, _ = client.receive(back, now=0.0)
                self.ship(client, server, event, pass_on)

    def ship(self, client, server, event, pass_on):
        assert isinstance(event, Welcomed)
        self.consumed = event.resume_at - 1
        for sequence in range(event.resume_at, len(self.batches) + 1):
            data = batch(sequence, self.batches[sequence])
            client.sent(sequence, len(data))
            for frame in pass_on(0, data):
                arrived = server.receive(frame)
                assert isinstance(arrived, SequencedBatch)
                if not arrived.duplicate:
                    self.stored.append(arrived.body)
                for back in pass_on(1, encode_message(Ack(len(self.stored)))):
                    ack, _ = client.receive(back, now=0.0)
                    self.consumed = ack.last


def test_a_link_cut_at_every_byte_in_both_directions_stores_each_batch_once():
    """Wherever the cable is cut, the next connection goes on: nothing lost, nothing twice, in order."""
    whole = 900  # more bytes than four batches take in either direction
    for to_receiver, to_shipper in itertools.chain(
        ((cut, whole) for cut in range(400)), ((whole, cut) for cut in range(500))
    ):
        link = Link(4)
        link.connect(to_receiver, to_shipper)
        link.connect(whole, whole)
        assert link.stored == list(link.batches.values())
        assert link.consumed == 4


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=6))
def test_a_link_cut_again_and_again_stores_each_batch_once(cuts):
    """Any history of broken connections ends the same."""
    link = Link(5)
    for to_receiver, to_shipper in cuts:
        link.connect(to_receiver, to_shipper)
    link.connect(2000, 2000)
    assert link.stored == list(link.batches.values())


def test_the_welcome_names_the_limits():
    """The shipper cuts its batches to what the receiver takes."""
    _, event = greet(shipper())
    assert isinstance(event.welcome, Welcome)
    assert (event.welcome.max_frame, event.welcome.max_raw, event.welcome.window_log) == (5000, MAX_RAW, 17)


def test_a_continued_frame_says_so():
    """CONTINUED with NEW_CONTEXT for the first body of a context."""
    server, _ = greet(shipper())
    first = encode_batch(1, 1, 0, b"x", Algorithm.ZSTD, context=Flag.CONTINUED | Flag.NEW_CONTEXT)
    second = encode_batch(2, 1, 0, b"y", Algorithm.ZSTD, context=Flag.CONTINUED)
    arrived = deliver(server, first + second)
    assert [(b.continued, b.new_context, b.algorithm) for b in arrived] == [
        (True, True, Algorithm.ZSTD),
        (True, False, Algorithm.ZSTD),
    ]
