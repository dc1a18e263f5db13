"""When an end sums up what it does."""

import pytest
from msgspec.structs import replace
from test_metrics_port import RECEIVER

from logbale.metrics import ReceiverMetrics, ShipperMetrics
from logbale.summary_lines import SummaryLines

INTERVAL = 10


def said(snapshots):
    """When a line is said, of one snapshot every ten seconds."""
    lines = SummaryLines()
    return [now for now, one in zip(range(0, 10**9, INTERVAL), snapshots, strict=False) if lines.due(one, now=now)]


def receiver(waiting):
    return replace(ReceiverMetrics(now=0.0).snapshot(1000.0), waiting_entries=waiting)


def shipper(waiting):
    return replace(ShipperMetrics(now=0.0).snapshot(1000.0), waiting_entries=waiting)


@pytest.mark.parametrize("end", [receiver, shipper])
def test_what_waits_is_said_again_ever_more_rarely(end):
    """After 1, 2, 4, 8 and then every 15 minutes, so that whoever looks an hour later finds it; nothing waits: once."""
    hour = 3600 // INTERVAL
    assert said([end(waiting=10_000)] * (hour + 1)) == [0, 60, 180, 420, 900, 1800, 2700, 3600]
    assert said([end(waiting=0)] * hour) == [0]


def test_news_is_said_at_once_and_begins_anew():
    """What changed is a minute old a minute later."""
    assert said([receiver(5)] * 20 + [receiver(6)] * 13) == [0, 60, 180, 200, 260]
    assert said([receiver(5)] * 2 + [receiver(0)] * 20) == [0, 20]


def test_that_a_relay_waits_longer_is_no_news():
    """The age changes with every look; the line that is said has it."""
    relays = [replace(RECEIVER, relay=replace(RECEIVER.relay, oldest_waiting=10.0 * n)) for n in range(30)]
    assert relays[0].relay.waiting_entries
    assert said(relays) == [0, 60, 180]
    assert "the oldest for 40.0 s" in SummaryLines().due(relays[4], now=0.0)
