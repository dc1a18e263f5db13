"""What a shipper's report promises: small, complete, and believed only where it is one."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.messages import MAX_HELLO_BYTES, Status, encode_message
from logbale.metrics import ShipperMetrics
from logbale.reports import MAX_CHANGES, Report, decode_report, encode_report, report_of

texts = st.text(max_size=400)
counts = st.integers(0, 2**53)


@given(
    st.lists(st.tuples(st.floats(0, 1e15), st.integers(0, 9), st.integers(0, 9), texts), max_size=30),
    st.dictionaries(st.text(max_size=30), counts, max_size=8),
    texts,
)
def test_a_report_always_fits_into_its_message(changes, dropped, reason):
    """4 KiB, whatever the reasons say; of the changes the newest stay, and what is sent is read as it was."""
    report = Report(read=1, delivered=2, waiting_entries=3, dropped=dropped, changes=changes, level_reason=reason)
    text = encode_report(report)
    assert len(encode_message(Status(msgspec.Raw(text)))) - 5 <= MAX_HELLO_BYTES
    read = decode_report(text)
    assert read.dropped == dropped
    kept = read.changes
    assert len(kept) <= MAX_CHANGES
    assert [change[:3] for change in kept] == [change[:3] for change in changes[len(changes) - len(kept) :]]
    assert kept or not changes


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(msgspec.json.encode))
def test_any_bytes_are_a_report_or_none(text):
    """Never an exception."""
    report = decode_report(text)
    assert report is None or isinstance(report, Report)


@pytest.mark.parametrize(("depth", "is_read"), [(10, {True}), (1000, {True, False}), (100_000, {False})])
def test_a_nesting_that_no_parser_follows_is_no_report(depth, is_read):
    """At any depth there is an answer; how far a parser follows depends on the version of Python."""
    text = b'{"read":1,"delivered":1,"waiting_entries":0,"x":' + b"[" * depth + b"]" * depth + b"}"
    report = decode_report(text)
    assert (report is not None) in is_read
    assert report in (None, Report(read=1, delivered=1, waiting_entries=0))


def test_a_report_tells_rejected_entries_apart_and_adds_up():
    """read = delivered + rejected + all of dropped + waiting, as the snapshot has it."""
    metrics = ShipperMetrics(now=0.0, algorithm="zstd", level=6)
    metrics.read_entries, metrics.delivered_entries, metrics.waiting_entries = 100, 80, 5
    metrics.dropped = {"rejected": 7, "dropped_oldest": 8}
    report = report_of(metrics.snapshot(1.0), [(1.0, 6, 5, "busy")], ended=False)
    assert (report.read, report.delivered, report.rejected, report.dropped) == (100, 80, 7, {"dropped_oldest": 8})
    assert report.adds_up
    assert not msgspec.structs.replace(report, delivered=79).adds_up
    assert decode_report(encode_report(report)) == report
