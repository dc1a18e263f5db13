"""What both ends of a stream of server-sent events promise: what was said is heard, in whatever pieces it comes."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale import sse
from logbale.errors import ProtocolError
from logbale.sse import Event, EventDecoder, encode_event, encode_silence

EVENTS = st.lists(
    st.tuples(st.sampled_from(["entries", "skipped"]), st.text(), st.none() | st.integers(0, 2**63)), max_size=6
)


@given(EVENTS, st.lists(st.integers(1, 40), min_size=1))
def test_events_come_out_as_they_went_in(events, sizes):
    """Name, data and the last id before their end, however the network cuts them."""
    stream = b"".join(encode_event(name, json.dumps(data).encode(), id) for name, data, id in events)
    decoder = EventDecoder()
    heard, start = [], 0
    for size in itertools.cycle(sizes):
        if start >= len(stream):
            break
        heard += decoder.feed(stream[start : start + size])
        start += size
    ids = list(itertools.accumulate([id for _, _, id in events], lambda last, id: last if id is None else id))
    expected = [
        Event(name, json.dumps(data), "" if id is None else str(id))
        for (name, data, _), id in zip(events, ids, strict=True)
    ]
    assert heard == expected


@given(st.lists(st.binary(max_size=30)))
def test_no_stream_breaks_the_decoder(pieces):
    """Whatever the other end is, it yields events or none."""
    decoder = EventDecoder()
    for piece in pieces:
        assert all(isinstance(event, Event) for event in decoder.feed(piece))


def test_silence_is_no_event_but_moves_the_place_to_resume_from():
    """Where nothing fits a filter for long, a reconnect does not begin at its last match."""
    decoder = EventDecoder()
    assert decoder.feed(encode_event("entries", b"[]", 7) + encode_silence(9)) == [Event("entries", "[]", "7")]
    assert decoder.last_id == "9"


def test_an_id_counts_only_when_its_event_is_whole():
    """What broke off in the middle is asked for again."""
    decoder = EventDecoder()
    whole = encode_event("entries", b"[]", 8)
    assert decoder.feed(encode_event("entries", b"[]", 7) + whole[:-1]) == [Event("entries", "[]", "7")]
    assert decoder.last_id == "7"


def test_data_of_several_lines_and_other_ends_of_lines_are_understood():
    """As the format has it; fields that nobody knows are passed over."""
    decoder = EventDecoder()
    assert decoder.feed(b"retry: 5\r\ndata:a\r\ndata: b\r\nnews: x\r\n\r\n") == [Event("message", "a\nb")]


def test_an_event_that_never_ends_is_refused(monkeypatch):
    """Before it takes all memory; in one line or in many."""
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    for piece in (b"x" * 300, b"data: " + b"x" * 300 + b"\n"):
        decoder = EventDecoder()
        for _ in range(3):
            assert decoder.feed(piece) == []
        with pytest.raises(ProtocolError, match="more than 1,000 bytes"):
            decoder.feed(piece)
