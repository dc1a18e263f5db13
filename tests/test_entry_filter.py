"""What a filter lets pass, whatever the entries are."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.entry_filter import EntryFilter, level_names

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3)
ENTRY = st.dictionaries(st.sampled_from(["level", "service", "message", "n"]), JSON)


def passes(wanted, *entries):
    return list(filter(wanted.predicate(), entries))


def test_a_filter_of_nothing_lets_everything_pass():
    """No function is called for an entry then."""
    assert EntryFilter().predicate() is None
    assert passes(EntryFilter(), b"{}", b'{"n":1}') == [b"{}", b'{"n":1}']


@pytest.mark.parametrize(
    ("entry", "fits"),
    [
        (b'{"level":"err","service":"web","message":"out of stock"}', True),
        (b'{"level":"ERROR","service":"web","message":"in stock"}', True),
        (b'{"level":"INFO","service":"web","message":"stock"}', False),
        (b'{"level":"ERROR","service":"db","message":"stock"}', False),
        (b'{"level":"ERROR","service":"web","message":"STOCK"}', False),
        (b'{"service":"web","message":"stock"}', False),
        (b'{"level":["ERROR"],"service":{"web":1},"message":"stock"}', False),
        (b"stock", False),
    ],
)
def test_text_level_and_service_must_all_fit(entry, fits):
    """The level by any of its names, the service as it is written, the text in the case in which it is written."""
    wanted = EntryFilter("stock", level_names(["error"]), frozenset(["web"]))
    assert passes(wanted, entry) == [entry] * fits


def test_entries_without_a_level_or_a_service_can_be_asked_for():
    """A dash stands for none, as where entries are shown."""
    none, empty, some = b'{"n":1}', b'{"level":"","service":null}', b'{"level":"INFO","service":"web"}'
    assert passes(EntryFilter(levels=level_names(["-"])), none, empty, some) == [none, empty]
    assert passes(EntryFilter(services=frozenset("-")), none, empty, some) == [none, empty]


@given(ENTRY, TEXT, st.booleans())
def test_text_inside_a_string_is_found_however_it_was_escaped(entry, text, ascii):
    """Whatever the writer of the JSON escaped without need."""
    entry["message"] = f"before {text} after"
    assert passes(EntryFilter(text), json.dumps(entry, ensure_ascii=ascii).encode("utf-8", "surrogatepass"))


@given(ENTRY, st.text(max_size=4), st.sets(st.sampled_from(["ERROR", "-", "7"])), st.sets(st.text(max_size=2)))
def test_no_entry_and_no_filter_breaks_it(entry, text, levels, services):
    """It says yes or no, for half a surrogate pair as well."""
    line = json.dumps(entry).encode()
    assert passes(EntryFilter(text, frozenset(levels), frozenset(services)), line) in ([], [line])


def test_what_is_nested_or_large_beyond_reason_is_passed_by():
    """A text that no parser follows has no level."""
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    assert passes(EntryFilter(levels=frozenset(["ERROR"])), deep, b'{"level":' + b"9" * 5000 + b"}") == []
    assert passes(EntryFilter("x"), b'{"a":"\\u0041",' + deep[1:]) == []
