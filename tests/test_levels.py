"""What counting levels promises: every entry once, under one name for each severity, and few names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.levels import MAX_LEVELS, MAX_NAME, OTHER, add_level, canonical_level, count_levels
from logbale.metrics import ReceiverMetrics
from logbale.ndjson import to_ndjson

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@given(st.lists(json_values, max_size=50))
def test_every_entry_is_counted_once(levels):
    """Whatever JSON has for a level, unhashable or of an odd type, the counts add up to the entries."""
    assert sum(count_levels(levels).values()) == len(levels)


def test_names_are_those_of_the_severities():
    """As `logbale cat --level` has them; no level and an empty one are none; a number is another one."""
    levels = ["INFO", "info", "warn", "WARNING", "err", "fatal", "Notice", None, "", "odd", 30, ["ERROR"], {}, "x" * 33]
    assert count_levels(levels) == {
        "INFO": 3,
        "WARNING": 2,
        "ERROR": 1,
        "CRITICAL": 1,
        "": 2,
        "ODD": 1,
        OTHER: 4,
    }


def test_a_flood_of_names_becomes_one():
    """Entries are strangers' words: the names that are counted apart are few, in one batch and over all."""
    counts = count_levels(f"level-{n}" for n in range(100_000))
    assert len(counts) <= MAX_LEVELS + 1
    assert sum(counts.values()) == 100_000
    metrics = ReceiverMetrics(now=0.0)
    for batch in range(100):
        metrics.levels_received(count_levels([f"{batch}-{n}" for n in range(10)]))
    levels = metrics.snapshot(1.0).levels
    assert len(levels) <= MAX_LEVELS + 1
    assert sum(levels.values()) == 1000
    assert all(len(name) <= MAX_NAME for name in levels)


def test_what_was_counted_first_keeps_its_name():
    """A flood later takes no level from the table."""
    counts = {}
    for name in ("ERROR", *map(str, range(100)), "ERROR"):
        add_level(counts, name, 1)
    assert counts["ERROR"] == 2


ENTRIES = [{"level": "ERROR"}, {"m": '"level":"ERROR"'}, {"level": "warn", "n": [1]}, {"a": {"level": "ERROR"}}]


@pytest.mark.parametrize(
    ("raw", "in_session"),
    [
        (json.dumps(ENTRIES).encode(), False),
        (json.dumps(ENTRIES, indent=1).encode(), False),
        ("".join(json.dumps(entry) + "\n" for entry in ENTRIES).encode(), True),
        (json.dumps([*ENTRIES, {"x": float("nan"), "level": "INFO"}]).encode(), False),
        ("".join(json.dumps(entry) + "\n" for entry in [*ENTRIES, {"x": float("inf")}]).encode(), True),
    ],
    ids=["array", "array over lines", "lines", "array that strict parsers refuse", "lines that strict parsers refuse"],
)
def test_a_level_is_the_entrys_own_field(raw, in_session):
    """Not text that looks like one, nor a field of a field; on each way that a batch is read, and only if asked."""
    lines = to_ndjson(raw, max_entries=100, in_session=in_session, with_levels=True)
    assert lines.levels["ERROR"] == lines.levels["WARNING"] == 1
    assert sum(lines.levels.values()) == lines.count
    assert to_ndjson(raw, max_entries=100, in_session=in_session).levels == {}


def test_a_name_for_each_severity():
    """Unknown names in upper case."""
    assert [canonical_level(name) for name in ("warn", "ERR", "fatal", "Notice", "info", " odd ")] == [
        "WARNING",
        "ERROR",
        "CRITICAL",
        "INFO",
        "INFO",
        "ODD",
    ]


@pytest.mark.parametrize("odd", ['["a"]', '{"a":1}'])
def test_a_level_that_is_no_text_does_not_hide_those_before_it(odd):
    """Each entry of a batch counts once, wherever the odd one stands."""
    raw = b'[{"level":"INFO"},{"level":%s},{"level":"warn"},{}]' % odd.encode()
    assert to_ndjson(raw, max_entries=9, with_levels=True).levels == {"INFO": 1, "OTHER": 1, "WARNING": 1, "": 1}
