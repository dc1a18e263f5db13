"""What the receiver promises about a batch's JSON: kept as it came, refused where it is none, never a spoiled line."""

import json
import tracemalloc
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.errors import EntryError
from logbale.ndjson import MAX_DEPTH, nests_too_deep, to_ndjson

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
batches = st.lists(st.dictionaries(st.text(), values, max_size=4), min_size=1, max_size=8)


@given(batches, st.sampled_from([None, 1]), st.booleans())
def test_every_batch_becomes_one_object_a_line_that_means_the_same(entries, indent, ascii_only):
    """Whatever JSON layout a client chooses, each line decodes to the entry that was sent."""
    lines = to_ndjson(
        json.dumps(entries, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"), max_entries=8
    )
    assert [json.loads(line) for line in lines.ndjson.splitlines()] == entries
    assert lines.count == len(entries)


def test_an_entry_is_kept_as_the_bytes_that_came():
    """Nothing is re-encoded without need: odd spacing, escapes and key order survive."""
    entries = [b'{"b": 1,  "a":"\\u00e9\\/"}', b'{"x":1e400}']
    assert to_ndjson(b"[" + b",".join(entries) + b"]", max_entries=2).ndjson == b"\n".join(entries) + b"\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b'["x"]',
        b"[null]",
        b"[{}",
        b"[{}]x",
        b"[[{}]]",
        b'[{"a":}]',
        b"\x00",
        b"[{},7]",
        b"nonsense",
    ],
)
def test_what_is_no_array_of_objects_is_refused(raw):
    """A payload that is not a batch raises EntryError and nothing else."""
    with pytest.raises(EntryError) as caught:
        to_ndjson(raw, max_entries=10)
    assert caught.value.reason == "not_entries"


@given(st.binary(max_size=60))
def test_any_bytes_give_lines_or_an_entry_error(raw):
    """No input raises anything else."""
    try:
        lines = to_ndjson(b"[{" + raw + b"}]", max_entries=10)
    except EntryError:
        return
    assert all(isinstance(msgspec.json.decode(line), dict) for line in lines.ndjson.splitlines())


def test_what_a_standard_library_client_may_send_is_not_lost():
    """NaN, Infinity, half a surrogate pair and stray bytes are spelled out as text that strict readers accept."""
    raw = b'[{"a":NaN,"b":-Infinity,"c":"x\\ud800y","d":"\xff\xfe","e":1}]'
    lines = to_ndjson(raw, max_entries=1)
    assert msgspec.json.decode(lines.ndjson) == {"a": "nan", "b": "-inf", "c": "x\\ud800y", "d": "\\xff\\xfe", "e": 1}
    assert lines.rewritten == 1


def test_only_the_odd_entry_counts_as_rewritten():
    """Entries beside an odd one keep their meaning."""
    lines = to_ndjson(b'[{"a":1},{"a":NaN},{"a":"\xc3\xa9"}]', max_entries=3)
    assert lines.rewritten == 1
    assert [msgspec.json.decode(line)["a"] for line in lines.ndjson.splitlines()] == [1, "nan", "é"]


def test_a_newline_between_tokens_does_not_split_a_line():
    """An entry that was pretty-printed is put on one line."""
    assert to_ndjson(b'[{"a":\n1},\n{"b":2}]', max_entries=2).ndjson == b'{"a": 1}\n{"b":2}\n'


def nested(levels):
    return b"[" + b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1) + b"]"


@pytest.mark.parametrize("levels", [MAX_DEPTH - 1, MAX_DEPTH])
def test_nesting_up_to_the_limit_is_stored(levels):
    """Depth 64 is an entry like any other."""
    assert to_ndjson(nested(levels), max_entries=1).count == 1


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 500, 100_000])
@pytest.mark.parametrize("prefix", [b"", b'{"odd":NaN},'])
def test_nesting_beyond_the_limit_is_refused(levels, prefix):
    """One level more is refused, on the slow path too, however deep."""
    with pytest.raises(EntryError, match="64 levels"):
        to_ndjson(b"[" + prefix + nested(levels)[1:], max_entries=2)


def test_brackets_in_a_message_are_not_nesting():
    """A message full of brackets is flat."""
    assert to_ndjson(json.dumps([{"message": "[{" * 200 + '"\\'}]).encode(), max_entries=1).count == 1


def test_too_many_entries_are_refused():
    """The limit holds exactly."""
    assert to_ndjson(b"[{},{}]", max_entries=2).count == 2
    with pytest.raises(EntryError, match="limit is 2") as caught:
        to_ndjson(b"[{},{},{}]", max_entries=2)
    assert caught.value.reason == "limit"


@pytest.mark.parametrize(
    ("times", "span"),
    [
        (
            ["2026-11-24T08:30:00.000001Z", "2026-11-24T08:30:00.000000Z"],
            ("2026-11-24T08:30:00.000000Z", "2026-11-24T08:30:00.000001Z"),
        ),
        (
            ["2026-11-24T09:30:00+01:00", "2026-11-24T08:29:59Z"],
            ("2026-11-24T08:29:59.000000Z", "2026-11-24T08:30:00.000000Z"),
        ),
        (["2026-11-24T09:30:00"], ("", "")),
        (["2026-11-24T08:30:00.000000Z", "soon"], ("", "")),
        (["2026-11-24T08:30:00.000000Z", "٢٠٢٦-11-24T08:30:00.000000Z"], ("", "")),
        (["2026-11-24T08:30:00.000000Z\n2026-11-24T08:30:00.000000Z"], ("", "")),
        (["2026-11-24T08:30:00.000000Z", None], ("", "")),
        ([{"s": 1}], ("", "")),
        ([12], ("", "")),
    ],
)
def test_the_span_of_a_batch_is_known_or_said_to_be_unknown(times, span):
    """Readers skip by time, so a time that cannot be read makes the span empty rather than wrong."""
    raw = json.dumps([{"timestamp": time} for time in times]).encode()
    lines = to_ndjson(raw, max_entries=9)
    assert (lines.first, lines.last) == span


@given(batches, st.booleans())
def test_lines_of_a_session_are_kept_as_they_came(entries, ascii_only):
    """One object a line is what the archive stores."""
    raw = "".join(json.dumps(entry, ensure_ascii=ascii_only) + "\n" for entry in entries).encode(
        "utf-8", "surrogatepass"
    )
    lines = to_ndjson(raw, max_entries=8, in_session=True)
    assert [json.loads(line) for line in lines.ndjson.splitlines()] == entries
    assert lines.count == len(entries)
    assert lines.rewritten or lines.ndjson == raw


TIMES = ["2026-11-26T07:28:40.123456Z", "2026-11-26T07:28:40.123457Z", "2025-01-01T00:00:00.000000Z"]


@given(st.lists(st.tuples(st.sampled_from(TIMES), st.integers(1, 3)), min_size=1, max_size=9), st.booleans())
def test_the_span_of_a_batch_is_that_of_its_entries(runs, plain):
    """However their times follow each other, and whether or not the time stands first."""
    times = [time for time, count in runs for _ in range(count)]
    line = '{"timestamp":"%s","message":"}"}\n' if plain else '{"message":"{","timestamp":"%s"}\n'
    lines = to_ndjson("".join(line % time for time in times).encode(), max_entries=30, in_session=True)
    assert (lines.count, lines.first, lines.last) == (len(times), min(times), max(times))


PIECES = [
    '{"timestamp":"2026-11-26T07:28:40.123456Z"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"a"',
    "1",
    "\n",
    " ",
    "\r",
    "{}",
    '{"a":1}',
    "}\n{",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_whatever_is_accepted_as_lines_is_one_object_a_line(text):
    """A newline between the tokens of an object never reaches the archive as the end of a line."""
    try:
        lines = to_ndjson(b"{" + text.encode() + b"}\n", max_entries=20, in_session=True)
    except EntryError:
        return
    stored = lines.ndjson.split(b"\n")
    assert stored.pop() == b""
    assert [type(json.loads(line)) for line in stored] == [dict] * lines.count
    assert b"\r" not in lines.ndjson


@pytest.mark.parametrize(
    "raw", [b'{"a":\n1}\n', b'{"a":1\n"b":2}\n', b"{}{}\n\n", b'{"x":"}","a":\n{"b":1}}\n', b"{}\n{", b"{}\n7\n"]
)
def test_what_is_not_one_object_a_line_is_refused(raw):
    """Also where a tolerant parser would find objects in it."""
    with pytest.raises(EntryError) as caught:
        to_ndjson(raw, max_entries=10, in_session=True)
    assert caught.value.reason == "not_entries"


def test_lines_are_for_sessions_only():
    """The base protocol has arrays, and an object is none."""
    with pytest.raises(EntryError):
        to_ndjson(b"{}\n", max_entries=10)


def test_a_line_of_a_session_nests_no_deeper_than_an_entry_of_an_array():
    """The same limit, to the level."""
    for levels, fits in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False)):
        raw = b'{"m":"[[{"}\n' + nested(levels)[1:-1] + b"\n"
        if fits:
            assert to_ndjson(raw, max_entries=2, in_session=True).count == 2
        else:
            with pytest.raises(EntryError, match="64 levels"):
                to_ndjson(raw, max_entries=2, in_session=True)


@pytest.mark.parametrize(
    "raw",
    [b'{"a":"' + b"[" * 1_000_000 + b'"}\n', b'{"a":"' + b'\\"[' * 300_000 + b'"}\n', b"{}\n" * 300_000],
    ids=["brackets", "escapes", "entries"],
)
def test_what_a_stranger_sends_takes_little_more_memory_than_its_own_bytes(raw):
    """A kilobyte on the wire may be a batch of 32 MiB: what checking it takes is what many clients at once can take."""
    tracemalloc.start()
    try:
        with suppress(EntryError):
            to_ndjson(raw, max_entries=1000, in_session=True)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(raw)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("in_session", [True, False])
def test_a_number_that_is_too_long_for_python_costs_no_batch(in_session):
    """As a time it would have to be looked at: it becomes text there, and the entries beside it are kept."""
    long = b'{"timestamp":' + b"1" * 5000 + b"}"
    raw = b'{"n":1}\n' + long + b"\n" if in_session else b'[{"n":1},' + long + b"]"
    lines = to_ndjson(raw, max_entries=2, in_session=in_session)
    assert lines.ndjson == b'{"n":1}\n' + long.replace(b":", b':"').replace(b"}", b'"}') + b"\n"


@given(st.text('[]{}\\"a', max_size=8), st.integers(MAX_DEPTH - 2, MAX_DEPTH + 2))
def test_brackets_inside_strings_are_no_depth(text, depth):
    """However strings are escaped, as names or as values."""
    value = [text, "[" * MAX_DEPTH]
    for _ in range(depth - 2):
        value = [text, value, text]
    line = json.dumps({text: value, "b": text}).encode()
    assert nests_too_deep(line) == (depth > MAX_DEPTH)
