"""What a shipper tells of itself in `status`: small, whatever happens. Read with distrust: any client may send one.

No I/O, no clock. A report that is not one (wrong types, numbers beyond all reason, too many names) is not taken at all;
fields that this version does not know are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from logbale.durations import Latency
from logbale.metrics import ShipperSnapshot

MAX_REPORT_BYTES = 4000
"""With what surrounds it, a message of at most 4 KiB (messages.MAX_HELLO_BYTES)."""

MAX_CHANGES = 10
"""The last changes of the level that a report has."""

REJECTED = "rejected"
"""The reason among a snapshot's dropped entries that a report tells apart."""

MAX_REASON = 120
"""Characters of the reason for one of them, and of other texts."""

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""What a browser still counts exactly."""
_Number = Annotated[float, Meta(ge=0, le=1e15)]
_Text = Annotated[str, Meta(max_length=MAX_REASON)]
_Level = Annotated[int, Meta(ge=0, le=99)]
Change = tuple[_Number, _Level, _Level, _Text]
"""When (Unix seconds, by the shipper's clock), from which level, to which, and why."""


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One status. read = delivered + rejected + all of dropped + waiting_entries."""

    read: Count
    """Entries accepted from the sources, with what the spool held at the start."""
    delivered: Count
    """Of which the receiver has called durable."""
    rejected: Count = 0
    """Refused for good: kept as dead letters."""
    dropped: Annotated[dict[Annotated[str, Meta(max_length=64)], Count], Meta(max_length=32)] = {}
    """Entries that will never be delivered, by reason; rejected ones are not among them."""
    waiting_entries: Count
    waiting_batches: Count = 0
    spool_bytes: Count = 0
    oldest_waiting: _Number = 0.0
    """Seconds since the oldest entry that waits was read; 0 where none does."""
    algorithm: _Text = ""
    level: _Level = 0
    level_reason: _Text = ""
    cpu_percent: _Number | None = None
    backlog_bytes: Count = 0
    changes: Annotated[list[Change], Meta(max_length=MAX_CHANGES)] = []
    latency: Latency = Latency()
    """Read → durable, over the last minute."""
    reconnects: Count = 0
    choice: Count = 0
    """The receiver's place among several: 1 is the one that its stream wants most; 0 where there is one alone."""
    failovers: Count = 0
    """How often another receiver had to take the place of one that was lost."""
    entries_per_second: _Number = 0.0
    ended: bool = False
    """The shipper has delivered all there was, or goes to a receiver that it wants more. Whoever goes without this word
    may have been cut off."""

    @property
    def adds_up(self) -> bool:
        """Whether every entry that was read is somewhere."""
        return self.read == self.delivered + self.rejected + sum(self.dropped.values()) + self.waiting_entries


def report_of(snapshot: ShipperSnapshot, changes: Sequence[Change], *, ended: bool) -> Report:
    """What a shipper tells; `changes` are the last ones of its level."""
    others = {reason: count for reason, count in snapshot.dropped.items() if reason != REJECTED}
    return Report(
        read=snapshot.read_entries,
        delivered=snapshot.delivered_entries,
        rejected=snapshot.dropped.get(REJECTED, 0),
        dropped=others,
        waiting_entries=snapshot.waiting_entries,
        waiting_batches=snapshot.waiting_batches,
        spool_bytes=snapshot.spool_bytes,
        oldest_waiting=round(snapshot.oldest_waiting, 3),
        algorithm=snapshot.algorithm,
        level=snapshot.level,
        level_reason=snapshot.level_reason,
        cpu_percent=snapshot.cpu_percent,
        backlog_bytes=snapshot.backlog_bytes,
        changes=list(changes),
        latency=snapshot.latency,
        reconnects=snapshot.reconnects,
        choice=snapshot.receiver_choice if snapshot.receivers > 1 else 0,
        failovers=snapshot.failovers,
        entries_per_second=round(snapshot.rates.entries, 1),
        ended=ended,
    )


_decoder = msgspec.json.Decoder(Report)


def encode_report(report: Report) -> bytes:
    """Its JSON, in MAX_REPORT_BYTES: of the changes of the level, the oldest go where they do not fit."""
    cut = msgspec.structs.replace(
        report,
        level_reason=report.level_reason[:MAX_REASON],
        changes=[(when, old, new, why[:MAX_REASON]) for when, old, new, why in report.changes[-MAX_CHANGES:]],
    )
    while len(encoded := msgspec.json.encode(cut)) > MAX_REPORT_BYTES and cut.changes:
        cut = msgspec.structs.replace(cut, changes=cut.changes[1:])
    return encoded


def decode_report(text: bytes) -> Report | None:
    """The report, or None where it is none."""
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
