"""Lines to entries: nothing lost, every byte accounted for, JSON kept as it came, levels only where they are plain."""

import json
import tracemalloc
from itertools import pairwise, repeat

import msgspec
import pytest
from chunks import objects_of
from hypothesis import example, given
from hypothesis import strategies as st

from logbale.line_levels import LEVELS, LineLevels, Search
from logbale.lines import MAX_LINE_BYTES, LineCutter, LineParser
from logbale.models import entry_lines, joined, sizes_of
from logbale.ndjson import MAX_DEPTH, to_ndjson

NOW = 1_795_000_000.5
STAMP = "2026-11-18T11:06:40.500000Z"


def parse(data, *, attributes=None, start=0, max_line=1000):
    parser = LineParser("web", attributes or {}, max_line=max_line)
    chunk = parser.parse(data, now=NOW, start=start, source="log")
    entries = objects_of(chunk)
    return entries, chunk, parser


def messages(data, **options):
    return [entry["message"] for entry in parse(data, **options)[0]]


def test_a_line_becomes_the_message_with_file_host_and_fields():
    """Time, service, message and the attributes of its origin; the level where the line names one."""
    entries, _, _ = parse(b"ERROR: disk full\n", attributes={"file": "/var/log/x", "host": "h", "env": "prod"})
    assert entries == [
        {
            "timestamp": STAMP,
            "level": "ERROR",
            "service": "web",
            "message": "ERROR: disk full",
            "file": "/var/log/x",
            "host": "h",
            "env": "prod",
        }
    ]


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("2026-11-24 10:00:00 INFO ready", "INFO"),
        ("[Sun Dec 04 04:47:44 2005] [error] child died", "ERROR"),
        ("2026-11-24 10:00:00,123 - WARN  [main] slow", "WARNING"),
        ("<notice> hello", "NOTICE"),
        ("time=12 level=debug msg=x", "DEBUG"),
        ("Error: no such file", "ERROR"),
        ("FATAL out of memory", "FATAL"),
        ("[Sun Dec 04 04:47:44.123456 2005] [core:crit] [pid 7] no memory", "CRITICAL"),
        ("[10:00:00 WARN] slow", "WARNING"),
        ("WARNING:root:disk nearly full", "WARNING"),
        ("CRITICAL:shop.orders:no broker", "CRITICAL"),
        ("ERRORS:root:none", None),
        ("warning:root: prose", None),
        ("no info for this user", None),
        ("Info about an error in the text", None),
        ("without an error, and [info for all]", None),
        ("one two three four five six ERROR seven", None),
        ("", None),
    ],
)
def test_the_level_is_found_where_a_line_plainly_names_one(line, level):
    """Among its first words, decorated or in capitals; a word of prose is no level."""
    entries, _, _ = parse(line.encode() + b"\nx\n")
    assert entries[0].get("level") == level


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": 1.50, "message":"hi", "z":"\\u00e9"}',
        b'{"timestamp":"t","service":"s","level":"INFO"}',
        b"{}",
        b'{ "n":1e3 }',
    ],
)
def test_a_json_line_keeps_its_own_bytes(line):
    """Its fields come first, as they were written; only what it lacks is added."""
    _, chunk, _ = parse(line + b"\n", attributes={"host": "h"})
    out = bytes(chunk.entries[0])
    assert out.startswith(line.rstrip(b" }"))
    entry = msgspec.json.decode(out, type=dict[str, msgspec.Raw])
    assert {"timestamp", "service", "host"} <= entry.keys()


def test_a_json_line_is_not_overridden():
    """Its own service, time and attributes win over those of its origin."""
    line = b'{"service":"db","timestamp":"then","env":"test"}\n'
    entries, _, _ = parse(line, attributes={"env": "prod", "host": "h"})
    assert entries == [{"service": "db", "timestamp": "then", "env": "test", "host": "h"}]


@pytest.mark.parametrize("line", ["{not json}", "{", '{"a":1} trailing', "[1]", '"text"', '{"a":NaN}', '{"a":"\\x"}'])
def test_what_only_looks_like_json_is_text(line):
    """It becomes the message like any other line."""
    assert messages(line.encode()) == [line]


def test_an_object_that_nests_too_deep_travels_as_text():
    """As JSON the receiver would refuse its whole batch."""
    for levels in (MAX_DEPTH, MAX_DEPTH + 1, 5000):
        line = b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)
        _, chunk, _ = parse(line, max_line=1 << 20)
        assert to_ndjson(b"".join(chunk.entries), max_entries=1, in_session=True).count == 1


def test_line_ends_of_both_kinds_are_cut_off():
    """CRLF and LF; a carriage return inside a line stays."""
    assert messages(b"a\r\nb\nc\rd\n\r\ne") == ["a", "b", "c\rd", "e"]


def test_blank_lines_are_no_entries_but_their_bytes_count():
    """Every cursor between two entries is the start of a line."""
    data = b"\n\na\n\nb\n\n"
    _, chunk, _ = parse(data)
    assert len(chunk.entries) == 2
    assert chunk.measure() == [4, 4]
    assert parse(b"\n\n")[1].entries == []


@pytest.mark.parametrize("blanks", [" ", "\t", "   \t ", "\u3000"])
def test_a_line_of_blanks_alone_is_an_entry_as_it_came(blanks):
    """Only its writer knows whether they mean something."""
    assert messages(f"a\n{blanks}\nb\n".encode()) == ["a", blanks, "b"]


def test_bytes_that_are_no_utf8_stay_readable():
    """Spelled out and counted, by the line."""
    entries, _, parser = parse(b"caf\xe9 \xff\nfine \xc3\xa9\n")
    assert [entry["message"] for entry in entries] == ["caf\\xe9 \\xff", "fine é"]
    assert parser.invalid_utf8 == 1


def test_an_overlong_line_is_split_between_characters():
    """Each cut is counted; the pieces add up to the line."""
    line = "é" * 1200
    entries, chunk, parser = parse(line.encode() + b"\nnext\n", max_line=999)
    assert "".join(entry["message"] for entry in entries[:-1]) == line
    assert [len(entry["message"].encode()) for entry in entries] == [998, 998, 404, 4]
    assert (parser.split_lines, parser.invalid_utf8) == (2, 0)
    assert chunk.measure() == [998, 998, 405, 5]


@given(st.binary(max_size=300), st.integers(0, 10**12))
def test_every_byte_is_accounted_for(data, start):
    """The sizes add up, whatever comes; entries encode as a batch that the receiver takes."""
    _, chunk, _ = parse(data, start=start, max_line=20)
    assert chunk.start == start
    assert len(chunk.measure()) == len(chunk.entries)
    assert list(sizes_of(chunk.entries)) == list(map(len, chunk.entries))
    assert joined(chunk.entries) == b"".join(chunk.entries)
    if chunk.entries:
        assert sum(chunk.measure()) == len(data)
        assert to_ndjson(b"".join(chunk.entries), max_entries=1000, in_session=True).count == len(chunk.entries)


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"), min_size=1), min_size=1))
def test_text_lines_come_out_as_they_went_in(lines):
    """Messages are exact, and each cut between entries falls between lines."""
    data = "".join(f"{line}\n" for line in lines).encode()
    entries, chunk, _ = parse(data, max_line=10_000)
    plain = [entry["message"] for entry in entries if "message" in entry]
    assert plain == [line for line in lines if not is_object(line)]
    offset = 0
    for size in chunk.measure():
        offset += size
        assert data[offset - 1 : offset] == b"\n"


def is_object(line):
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def stream(pieces, max_line):
    """What a source makes of a stream: the entries with their bytes' places, and what it counted."""
    cutter, parser = LineCutter(max_line), LineParser("web", {}, max_line=max_line)
    placed, given, start = [], b"", 0
    for data in [*map(cutter.feed, pieces), cutter.finish()]:
        chunk = parser.parse(data, now=NOW, start=start, source="log")
        given += data
        for entry, size in zip(chunk.entries, chunk.measure(), strict=True):
            placed.append((entry, start, size))
            start += size
        start = len(given)
    return placed, given, cutter.split_lines + parser.split_lines, parser.invalid_utf8


PARTS = [b"a", b"\n", b"\n", b"\r", b"\r\n", b" INFO ", "é".encode(), "€".encode(), b"\xff", b"{}"]


@given(st.lists(st.sampled_from(PARTS)).map(b"".join), st.lists(st.integers(0, 60)), st.integers(4, 12))
@example(b"four\r\nb\n", [5], 4)
@example(b"four\rb\n", [5], 4)
@example("four€\n".encode(), [6], 4)
@example("aa€€ INFO €\r\r\n".encode(), [19], 4)
def test_the_entries_do_not_depend_on_how_the_stream_was_sliced(whole, ends, max_line):
    """Overlong lines are cut at the same places, whatever the pieces; no byte is lost, every cut is counted."""
    pieces = [whole[start:end] for start, end in pairwise([0, *sorted(ends), None])]
    placed, given, cuts, _ = stream(pieces, max_line)
    at_once, _, cuts_at_once, _ = stream([whole], max_line)
    assert given == whole
    assert cuts == cuts_at_once
    assert [entry for entry, _, _ in placed] == [entry for entry, _, _ in at_once]


@given(st.lists(st.binary(max_size=30)), st.integers(5, 40))
def test_a_cutter_gives_out_all_but_the_unfinished_line(pieces, max_line):
    """And of that holds no more than the limit, but for a carriage return that may be half of its end."""
    cutter = LineCutter(max_line)
    out = b""
    for piece in pieces:
        out += cutter.feed(piece)
        assert cutter.held_bytes <= max_line + 1
    assert out + cutter.finish() == b"".join(pieces)
    assert cutter.held_bytes == 0


@pytest.mark.parametrize("step", [1, 65536])
def test_a_line_without_an_end_costs_linear_time(step):
    """Held up to the limit, given out in pieces, never searched or joined twice."""
    cutter, size = LineCutter(), 3 << 20 if step == 1 else 100 << 20
    pieces = repeat(b"x" * step, size // step)
    assert sum(len(cutter.feed(piece)) for piece in pieces) + len(cutter.finish()) == size
    assert cutter.split_lines == size // MAX_LINE_BYTES - 1


WORDS = [b"ERROR", b"[warn]", b"level=info", b'"ERROR"', b"\\tERROR", b"DEBUG:app", b"a", b"7", "é".encode()]
GAPS = [b" ", b"  ", b"\t", b"\r", b"\x0b", b"\x0c", b"\\", b"\x1f"]


@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), min_size=1, max_size=9), st.binary(max_size=4)
)
@example([(b"10", b" "), (b"%", b"\r"), (b"ERROR:", b" ")], b"disk full")
@example([(b"say", b" "), (b'\\"ERROR\\"', b" ")], b"b")
def test_the_level_of_a_line_does_not_depend_on_the_lines_beside_it(words, end):
    """Whatever parts its words, and whether the chunk is escaped as a whole or, as with an object in it, one by one."""
    line = b"".join(map(b"".join, words)) + end.replace(b"\n", b"")
    (entry,) = parse(line + b"\n")[0]
    assert parse(b"{}\n" + line + b"\n")[0][1] == entry
    assert parse(b"a\tb\n" * 3 + line + b"\n")[0][3] == entry
    searched = entry.get("level", "")
    written = line.decode("utf-8", "backslashreplace").removesuffix("\r").encode()
    words = Search({word.encode(): level for word, level in LEVELS.items()})
    assert searched == LineLevels(words).of([written])[0]


OBJECTS = [
    b'{"a":1}',
    b'{"message":"m","timestamp":"t"}',
    b'{"timestamp":1,"host":null,"message":"m"}',
    b'{"host":"\\u0000","a":"}"}',
    b'{"service":"s","service":"twice"}',
    b'{"a":{"timestamp":"inner"}}',
    *(
        b"{}",
        b"{ }",
        b'{"a":1} ',
        b'{"a":1 }',
        b' {"a":1}',
        b'{"a":1}\r',
        b'{"a":1}{"b":2}',
        b'{"a":{',
        b'"b":1}}',
        b"[1]",
    ),
    *(b'{"a":NaN}', b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'{"\\ud800":1}', b"{", b"}", b"", b"text", b'{"a":1,}'),
    b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    b'{"a":"' + b"x" * 1000 + b'"}',
]


@given(st.lists(st.sampled_from(OBJECTS), min_size=1, max_size=4) | st.sampled_from(OBJECTS).map(lambda one: [one] * 3))
def test_objects_become_the_same_entries_together_and_one_by_one(lines):
    """Whichever fields they have and lack, whatever is the matter with one of them; no byte is missing."""
    attributes = {"host": "h", "file": "/var/log/é"}
    data = b"\n".join([*lines, b""])
    together, chunk, parser = parse(data, attributes=attributes)
    apart, others, parser_of_others = parse(b"text\n" + data, attributes=attributes)
    assert together == apart[1:]
    assert list(chunk.entries) == list(others.entries)[1:]
    assert list(sizes_of(chunk.entries)) == list(map(len, chunk.entries))
    assert list(chunk.measure()) == list(others.measure())[1:]
    assert (parser.split_lines, parser.invalid_utf8) == (parser_of_others.split_lines, parser_of_others.invalid_utf8)


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "\x00", "b\udcff", "", "ü", "field_0", "None"])
def test_attributes_of_any_name_go_into_objects(name):
    """Also those that only an escape can write, for one object and for many, which may have them already."""
    has_it = msgspec.json.encode({name.replace("\udcff", "\\xff"): 1}) + b"\n"
    for line, value in ((b'{"n":1}\n', "v"), (has_it, 1)):
        entries, _, _ = parse(line * 3, attributes={name: "v"})
        assert [entry[name.replace("\udcff", "\\xff")] for entry in entries] == [value] * 3
        assert not any("message" in entry for entry in entries)


def test_a_file_that_is_followed_costs_little_memory():
    """Tables of words and decoders are the same for all: ten thousand files are no gigabyte."""

    def parsed(number):
        parser = LineParser("web", {"file": f"/var/log/{number}", "host": "h"})
        for data in (b'{"n":1}\n', b"text\n", b"a\tb\n"):
            parser.parse(data, now=NOW, start=0, source="log")
        return parser

    parsed(0)
    tracemalloc.start()
    try:
        held = [parsed(number) for number in range(20)]
        assert tracemalloc.get_traced_memory()[0] / len(held) < 10_000
    finally:
        tracemalloc.stop()


def test_a_carriage_return_between_tokens_ends_no_entry():
    """JSON allows it there, and a JSON line keeps its bytes: a raw batch still has one entry a line."""
    _, chunk, _ = parse(b'{"a":\r1}\n{"b":2}\n')
    assert entry_lines(b"".join(chunk.entries)) == list(chunk.entries)
