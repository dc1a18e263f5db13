"""The wire format's promises: any slicing gives the same frames, a senseless header is refused, nothing else raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.errors import ProtocolError
from logbale.protocol import HEADER_BYTES, Algorithm, Frame, FrameDecoder, base_flags, encode_frame, encode_header

MAX_FRAME = 1000
BASE_FLAGS = {0x00: Algorithm.NONE, 0x03: Algorithm.GZIP, 0x05: Algorithm.ZLIB, 0x07: Algorithm.ZSTD}

messages = st.lists(st.tuples(st.binary(max_size=50), st.sampled_from(Algorithm)), max_size=10)


def decode(pieces, **options):
    decoder = FrameDecoder(MAX_FRAME, **options)
    frames = []
    for piece in pieces:
        decoder.feed(piece)
        frames += decoder.frames()
    decoder.close()
    return frames


@given(messages, st.data())
def test_frames_come_out_whole_however_the_network_sliced_them(messages, data):
    """Cut a stream anywhere, any number of times: the frames are those that went in."""
    stream = b"".join(encode_frame(payload, algorithm) for payload, algorithm in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [(frame.payload, frame.algorithm) for frame in decode(pieces)] == messages


def test_a_stream_may_come_byte_by_byte():
    """One byte at a time is a slicing like any other."""
    stream = encode_frame(b"[{}]", Algorithm.NONE) + encode_frame(b"", Algorithm.GZIP)
    assert decode(stream[i : i + 1] for i in range(len(stream))) == [Frame(0, b"[{}]"), Frame(3, b"")]


def test_the_header_is_five_bytes_big_endian():
    """The bytes that any implementation must send: length as uint32, then the flags."""
    assert encode_frame(b"[{}]", Algorithm.ZLIB) == b"\x00\x00\x00\x04\x05[{}]"
    assert {base_flags(algorithm): algorithm for algorithm in Algorithm} == BASE_FLAGS


@pytest.mark.parametrize("flags", range(256))
def test_each_of_the_256_flag_bytes_is_either_a_base_frame_or_refused(flags):
    """Outside a session, four flag bytes have a meaning."""
    frame = encode_header(2, flags) + b"[]"
    if flags in BASE_FLAGS:
        assert decode([frame])[0].algorithm is BASE_FLAGS[flags]
    else:
        with pytest.raises(ProtocolError, match=f"0x{flags:02x}"):
            decode([frame])


@pytest.mark.parametrize("flags", range(256))
def test_each_of_the_256_flag_bytes_in_a_session(flags):
    """In a session: 0x80 alone, or a sequenced frame whose bits agree with each other."""
    control, reserved, new, continued, sequenced = (bool(flags & bit) for bit in (0x80, 0x40, 0x20, 0x10, 0x08))
    compressed, algorithm = bool(flags & 1), bool(flags & 6)
    sound = flags == 0x80 or (
        not control
        and not reserved
        and sequenced
        and compressed == algorithm
        and (continued or not new)
        and (compressed or not continued)
    )
    frame = encode_header(0, flags)
    if sound:
        assert decode([frame], session=True) == [Frame(flags, b"")]
    else:
        with pytest.raises(ProtocolError):
            decode([frame], session=True)


@pytest.mark.parametrize("length", [0, 1, MAX_FRAME - 1, MAX_FRAME])
def test_a_length_up_to_the_limit_is_accepted(length):
    """The limit itself is still allowed."""
    assert len(decode([encode_frame(bytes(length), Algorithm.NONE)])[0].payload) == length


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_on_the_header_alone(length):
    """Nothing of such a frame is kept, and the connection never recovers."""
    decoder = FrameDecoder(MAX_FRAME)
    decoder.feed(encode_header(length, 0))
    with pytest.raises(ProtocolError, match=f"{length} bytes: the limit is {MAX_FRAME}"):
        list(decoder.frames())
    assert decoder.buffered_bytes == 0
    with pytest.raises(ProtocolError):
        decoder.feed(b"x")


def test_a_length_that_the_header_cannot_hold_is_refused():
    """More than uint32 is an error at the sender, not a wrong number on the wire."""
    with pytest.raises(ProtocolError, match="4294967296"):
        encode_header(2**32, 0)


def test_sound_frames_before_an_unsound_header_are_delivered():
    """What came whole before the error is not lost by it."""
    decoder = FrameDecoder(MAX_FRAME)
    decoder.feed(encode_frame(b"[{}]", Algorithm.NONE) + b"\x00\x00\x00\x00\xff")
    frames = decoder.frames()
    assert next(frames) == Frame(0, b"[{}]")
    with pytest.raises(ProtocolError):
        next(frames)


FOREIGN = {
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n": "HTTP",
    b"POST /v1/logs HTTP/1.1\r\n": "HTTP",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": "HTTP",
    b"HTTP/1.1 400 Bad Request\r\n": "HTTP",
    b"SSH-2.0-OpenSSH_10.0\r\n": "SSH",
} | {bytes([0x16, 3, 1, 2, low]): "TLS" for low in range(256)}


@pytest.mark.parametrize("session", [None, False, True])
def test_a_stream_that_is_meant_for_another_port_is_called_so(session):
    """HTTP, TLS (a hello of any length) and SSH, as soon as a header is there, at either end; only at the start."""
    for data, name in FOREIGN.items():
        decoder = FrameDecoder(8 * 1024 * 1024, session=session)
        decoder.feed(data[:4])
        assert list(decoder.frames()) == []
        decoder.feed(data[4:])
        with pytest.raises(ProtocolError, match=f"^the first bytes are {name}, not a frame"):
            list(decoder.frames())
    decoder = FrameDecoder(8 * 1024 * 1024)
    decoder.feed(encode_frame(b"[]", Algorithm.NONE) + b"GET / HTTP/1.1\r\n")
    with pytest.raises(ProtocolError, match="flags 0x2f"):
        list(decoder.frames())


@pytest.mark.parametrize("kept", range(1, HEADER_BYTES + 4))
def test_an_end_inside_a_frame_is_an_error(kept):
    """A stream that ends after 1 to n-1 bytes of a frame was cut."""
    with pytest.raises(ProtocolError, match=f"{kept} bytes"):
        decode([encode_frame(b"[{}]", Algorithm.NONE)[:kept]])


@given(st.lists(st.binary(max_size=30), max_size=10), st.booleans())
def test_any_bytes_give_frames_or_a_protocol_error(pieces, session):
    """No input raises anything else, and no more is kept than was fed."""
    decoder = FrameDecoder(MAX_FRAME, session=session)
    try:
        for piece in pieces:
            decoder.feed(piece)
            assert all(len(frame.payload) <= MAX_FRAME for frame in decoder.frames())
    except ProtocolError:
        assert decoder.buffered_bytes == 0
