"""What the bytes of a segment promise: they come back as they went in, or not at all."""

import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.archive import format
from logbale.archive.format import Block, BlockEncoder, Footer, NotAFrame, Quarantine, Range, Reject, Skip
from logbale.errors import StorageError
from logbale.messages import RejectedBatch
from logbale.sinks import Mark

try:
    from compression import zstd
except ImportError:
    from backports import zstd

encoder = BlockEncoder(1)
naturals = st.integers(0, 2**32 - 1)
streams = st.dictionaries(st.text(min_size=1, max_size=8), st.builds(Range, naturals, naturals, naturals), max_size=4)
rejects = st.lists(st.builds(RejectedBatch, naturals, st.text(max_size=8)), max_size=2)
marks = st.builds(Mark, naturals, naturals, naturals, rejects)
texts = st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=8)


def block(lines=(b'{"n":1}', b'{"n":2}'), first="a", last="b", streams=None, **lists) -> bytes:
    text = b"".join(line + b"\n" for line in lines)
    return encoder.encode(text, count=len(lines), first=first, last=last, streams=streams or {}, **lists)


def parsed(data: bytes) -> format.Frame:
    """As a reader does it: measured step by step, then parsed."""
    need = 0
    while (more := format.measure(data[:need])) > need:
        need = more
        if need > len(data):
            raise NotAFrame("cut short")
    return format.parse(data[:need])


@given(texts, streams, st.text(max_size=5), st.text(max_size=5))
def test_a_block_comes_back_as_it_went_in(lines, streams, first, last):
    """Lines and header survive the round trip, and the length is known from the start of the block."""
    rejects, skips = [Reject("s", 4, "not_entries")], [Skip("s", 5, 7, 90, "drop_oldest")]
    data = block(lines, first, last, streams, rejects=rejects, skips=skips)
    found = parsed(data + b"what follows")
    assert found.data == data
    assert found.ndjson() == b"".join(line + b"\n" for line in lines)
    header = found.header
    assert (header.count, header.first, header.last, header.streams) == (len(lines), first, last, streams)
    assert (header.rejects, header.skips) == (rejects, skips)


@given(st.dictionaries(st.text(max_size=8), marks, max_size=4), st.lists(naturals))
def test_a_footer_comes_back_as_it_went_in(marks, offsets):
    """It is found from the last four bytes of a file."""
    footer = Footer(serial=7, blocks=offsets, count=2, raw=30, first="a", last="b", marks=marks)
    data = format.encode_footer(footer)
    assert format.footer_length(data[-4:]) == len(data)
    assert parsed(data) == footer


def test_plain_zstd_reads_only_the_lines():
    """Header, footer and set-aside damage are nothing to a program that knows only zstd."""
    footer = format.encode_footer(Footer(serial=1, blocks=[0], count=4, raw=32, first="", last=""))
    data = block() + format.encode_quarantine(b"\x00broken") + block((b'{"n":3}',)) + footer
    assert zstd.decompress(data) == b'{"n":1}\n{"n":2}\n{"n":3}\n'


def test_any_flipped_bit_is_noticed():
    """One bit anywhere in a block, a footer or a quarantine, and it is no frame any more."""
    footer = format.encode_footer(
        Footer(serial=1, blocks=[0], count=2, raw=16, first="", last="", marks={"s": Mark(1, 2)})
    )
    for data in (block(), footer, format.encode_quarantine(b"bytes")):
        for bit in range(len(data) * 8):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(NotAFrame):
                parsed(bytes(flipped))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x50\x2a\x4d\x18", b"\x51\x2a\x4d\x18", block()[:40]]))
def test_any_bytes_are_a_frame_or_none(junk, start):
    """Whatever stands there, the answer is a frame or NotAFrame."""
    with suppress(NotAFrame):
        parsed(start + junk)


@pytest.mark.parametrize("magic", [format.BLOCK_MAGIC, format.FOOTER_MAGIC, format.QUARANTINE_MAGIC])
@pytest.mark.parametrize("length", [0, 3, 0xFFFFFFFF])
def test_a_lying_length_is_refused_on_the_first_twelve_bytes(magic, length):
    """No announced length is waited for, let alone allocated, beyond its limit."""
    with pytest.raises(NotAFrame):
        format.measure(magic.to_bytes(4, "little") + length.to_bytes(4, "little") + bytes(4))


def forged(content: bytes, frame: bytes = b"") -> bytes:
    crc = zlib.crc32(frame, zlib.crc32(content))
    words = (format.BLOCK_MAGIC, 4 + len(content), crc)
    return b"".join(word.to_bytes(4, "little") for word in words) + content + frame


def test_a_block_makes_no_more_bytes_than_its_header_says():
    """A frame that would unpack to 64 MiB under a header of ten bytes costs no such memory."""
    bomb = zstd.compress(bytes(64 << 20))
    data = forged(b'{"v":1,"size":%d,"count":1,"raw":10,"first":"","last":""}' % len(bomb), bomb)
    found = parsed(data)
    tracemalloc.start()
    with pytest.raises(NotAFrame, match="other entries"):
        found.ndjson()
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"v":1,"size":-1}', b'{"v":1,"size":0}', b"\xff", b"[" * 9999]
)
def test_a_sound_crc_over_nonsense_is_still_no_block(content):
    """A header is parsed strictly, and never with another exception."""
    with pytest.raises(NotAFrame):
        parsed(forged(content))


def test_a_newer_format_is_refused_and_not_taken_for_damage():
    """A downgrade must not cut what a newer version wrote."""
    with pytest.raises(StorageError, match="format 2: this logbale reads up to 1; use a newer one"):
        parsed(forged(b'{"v":2,"size":3,"other":[]}', b"abc"))


def test_merged_blocks_hold_what_the_single_ones_held():
    """Lines in order, one range a stream, the whole span of time, the lists one after another."""
    skip, reject = Skip("a", 1, 1, 5, "drop_newest"), Reject("b", 8, "limit")
    first = parsed(block((b"1", b"2"), "t1", "t2", {"a": Range(2, 3, 33), "b": Range(7, 7, 77)}, skips=[skip]))
    second = parsed(block((b"3",), "t0", "t1", {"a": Range(4, 5, 55)}, rejects=[reject]))
    merged = parsed(encoder.merge([first, second]))
    assert merged.ndjson() == b"1\n2\n3\n"
    assert merged.header.streams == {"a": Range(2, 5, 55), "b": Range(7, 7, 77)}
    assert (merged.header.first, merged.header.last, merged.header.count) == ("t0", "t2", 3)
    assert (merged.header.skips, merged.header.rejects) == ([skip], [reject])


def test_a_span_with_an_unknown_time_is_unknown():
    """Nothing may be skipped by a time that not every entry has."""
    assert format.span([("a", "b"), ("", "")]) == ("", "")
    assert format.span([]) == ("", "")


def test_a_header_that_could_not_be_read_again_is_not_written():
    """The writer keeps to the reader's limit."""
    many = {f"{index:0128}": Range(1, 2, 3) for index in range(10_000)}
    with pytest.raises(ValueError, match="use smaller blocks"):
        block(streams=many)


def test_a_footer_that_could_not_be_read_again_is_not_written(monkeypatch):
    """The same for its limit."""
    monkeypatch.setattr(format, "MAX_FOOTER", 100)
    with pytest.raises(ValueError, match="the limit is 100; lower MAX_STREAMS or MARKS_DAYS"):
        format.encode_footer(Footer(serial=1, blocks=[0] * 50, count=1, raw=1, first="", last=""))


def test_version_1_stays_readable():
    """These bytes were written by the first release."""
    kept = bytes.fromhex(VERSION_1)
    found = parsed(kept)
    assert isinstance(found, Block)
    assert found.ndjson() == b'{"timestamp":"2026-11-24T20:00:00.000000Z","message":"kept"}\n'
    assert found.header.streams == {"s": Range(1, 2, 3)}
    rest = kept[len(found.data) :]
    assert isinstance(parsed(rest), Quarantine)
    assert parsed(rest[16:]) == Footer(
        serial=1, blocks=[0], count=1, raw=61, first="", last="", marks={"s": Mark(2, 3)}
    )


VERSION_1 = (
    "502a4d18a30000005e9c125e7b2276223a312c2273697a65223a37342c22636f756e74223a312c22726177223a36312c2266"
    "69727374223a22323032362d31312d32345432303a30303a30302e3030303030305a222c226c617374223a22323032362d31"
    "312d32345432303a30303a30302e3030303030305a222c2273747265616d73223a7b2273223a5b312c322c335d7d2c227265"
    "6a65637473223a5b5d2c22736b697073223a5b5d7d28b52ffd243de901007b2274696d657374616d70223a22323032362d31"
    "312d32345432303a30303a30302e3030303030305a222c226d657373616765223a226b657074227d0a5fbedb07522a4d1808"
    "000000e1339131746f726e512a4d18630000002dca65bc7b2276223a312c2273657269616c223a312c22626c6f636b73223a"
    "5b305d2c22636f756e74223a312c22726177223a36312c226669727374223a22222c226c617374223a22222c226d61726b73"
    "223a7b2273223a5b322c335d7d7d6b000000"
)
