"""Joining lines to entries: where one begins, when it is given out, and that every byte is accounted for."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.errors import ConfigError
from logbale.multiline import LineJoiner, start_pattern

PYTHON = b"""\
2026-11-24 10:00:00 ERROR job failed
Traceback (most recent call last):
  File "/srv/app/worker.py", line 118, in run
    self.handle(job)
KeyError: 'price'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/srv/app/worker.py", line 121, in run
    raise shop.errors.Failed(job) from error
shop.errors.Failed: 17
2026-11-24 10:00:01 INFO next job
"""
JAVA = b"""\
10:00:00 ERROR [main] request failed
java.lang.IllegalStateException: pool is closed
\tat shop.db.Pool.take(Pool.java:88)
\t... 12 common frames omitted
Caused by: java.io.IOException: no space left
\tat shop.db.Disk.write(Disk.java:12)
10:00:01 INFO [main] next
Exception in thread "main" java.lang.Error: x
\tat shop.Main.main(Main.java:3)
"""


def join(data, pattern, **options):
    joiner = LineJoiner(start_pattern(pattern), **options)
    entries = joiner.feed(data, 0.0)
    return [*entries, joiner.finish()]


@pytest.mark.parametrize(("preset", "data", "lines"), [("python", PYTHON, [12, 1]), ("java", JAVA, [6, 1, 2])])
def test_a_preset_keeps_a_stack_trace_with_the_line_that_it_belongs_to(preset, data, lines):
    """Causes, chained exceptions and blank lines included; the next line of the log is an entry of its own."""
    assert [entry.count(b"\n") for entry in join(data, preset)] == lines


def test_a_pattern_of_one_s_own_names_the_first_lines():
    """Matched at the start of a line; what comes before the first of them is an entry, too."""
    assert join(b"rest\n[1] a\n b\n[2] c\n", r"\[\d+\]") == [b"rest\n", b"[1] a\n b\n", b"[2] c\n"]


def test_an_entry_is_given_out_when_nothing_has_come_for_a_while():
    """The last one need not wait for the next."""
    joiner = LineJoiner(start_pattern("python"), timeout=1.0)
    assert joiner.deadline is None
    assert joiner.feed(b"a\n b\n", 10.0) == []
    assert (joiner.deadline, joiner.held_bytes, joiner.take_due(10.9)) == (11.0, 5, b"")
    joiner.feed(b" c\n", 10.9)
    assert joiner.take_due(11.5) == b""
    assert joiner.take_due(11.9) == b"a\n b\n c\n"
    assert joiner.deadline is None


def test_an_entry_that_is_too_long_is_given_out_in_parts():
    """At the ends of lines, and counted."""
    joiner = LineJoiner(start_pattern("python"), max_bytes=10)
    assert joiner.feed(b"a\n 3456\n 89\nb\n", 0.0) == [b"a\n 3456\n", b" 89\n"]
    assert joiner.split_entries == 1


@pytest.mark.parametrize("pattern", ["(", "x" * 1001, ".*", "a?"])
def test_a_pattern_that_cannot_be_meant_is_refused(pattern):
    """No regular expression, one without an end, one that every line matches."""
    with pytest.raises(ConfigError):
        start_pattern(pattern)


PARTS = [b"[1] a", b" more", b"\n", b"\r\n", b"\r", b"[", b"\xff"]


@given(st.lists(st.sampled_from(PARTS)).map(b"".join), st.integers(1, 40))
def test_every_byte_is_in_one_entry_and_each_begins_where_a_line_does(data, max_bytes):
    """However large the limit is."""
    entries = join(data, r"\[\d", max_bytes=max_bytes)
    assert b"".join(entries) == data
    assert all(entry.endswith(b"\n") for entry in entries[:-1])


@given(st.lists(st.sampled_from(PARTS)), st.integers(5, 40))
def test_the_entries_do_not_depend_on_how_the_lines_came(parts, max_bytes):
    """Line by line or all at once."""
    data = b"".join(parts)
    joiner = LineJoiner(start_pattern(r"\[\d"), max_bytes=max_bytes)
    lines = re.findall(rb"[^\n]*\n|[^\n]+", data)
    pieces = [entry for line in lines for entry in joiner.feed(line, 0.0)]
    assert [*pieces, joiner.finish()] == join(data, r"\[\d", max_bytes=max_bytes)
