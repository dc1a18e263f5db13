"""An archiver's numbers for people; status.py has those of the other ends."""

from __future__ import annotations

from typing import Literal

from logbale.kafka.metrics import ArchiverSnapshot
from logbale.terminal import count, duration, escape, rate, ratio, size


def archiver_summary(snapshot: ArchiverSnapshot) -> str:
    """One line: what was stored since the start, and what is not as it should be."""
    stored = snapshot.stored
    parts = [
        f"stored {count(stored.entries, 'entry', 'entries')} in {count(snapshot.segments, 'segment', 'segments')}, "
        f"{size(stored.raw_bytes)} raw, {size(stored.wire_bytes)} stored ({ratio(stored.ratio)}), "
        f"of {count(snapshot.partitions, 'partition', 'partitions')}"
    ]
    parts += [
        f"{number:,} {what}"
        for number, what in (
            (snapshot.waiting_entries, "waiting"),
            (snapshot.messages.get("duplicate", 0), "duplicate messages"),
        )
        if number
    ]
    parts += _unusual(snapshot)
    if snapshot.problem:
        parts.append(escape(snapshot.problem))
    return "; ".join(parts)


def archiver_rows(snapshot: ArchiverSnapshot) -> list[tuple[str, str]]:
    """The table's lines: what, how much."""
    stored = snapshot.stored
    messages = sum(snapshot.messages.values())
    rows = [
        ("messages read", f"{messages:,}"),
        *((f"messages: {what}", f"{number:,}") for what, number in snapshot.messages.items() if number),
        *((what.replace("_", " "), f"{number:,}") for what, number in snapshot.noticed.items() if number),
        ("entries stored", f"{stored.entries:,}"),
        ("segments", f"{snapshot.segments:,}"),
        ("raw", size(stored.raw_bytes)),
        ("stored", size(stored.wire_bytes)),
        ("ratio", ratio(stored.ratio)),
    ]
    for what, number in (("races lost", snapshot.races_lost), ("offsets lost", snapshot.lost_offsets)):
        if number:
            rows.append((what, f"{number:,}"))
    if snapshot.waiting_entries:
        rows.append(("entries left to the next owner", f"{snapshot.waiting_entries:,}"))
    errors = ", ".join(f"{reason} {number:,}" for reason, number in sorted(snapshot.errors.items()) if number)
    return [*rows, ("errors", errors or "none"), ("time", duration(snapshot.uptime))]


def archiver_status(snapshot: ArchiverSnapshot) -> tuple[Literal["good", "odd", "bad"], str, str]:
    """How it is, in a few words, and its numbers."""
    how: Literal["good", "odd", "bad"] = "bad" if snapshot.problem else "odd" if _unusual(snapshot) else "good"
    parts = [
        rate(snapshot.rates.entries),
        ratio(snapshot.stored.ratio),
        f"stored {snapshot.stored.entries:,}",
        f"waiting {snapshot.waiting_entries:,}",
        f"lag {sum(snapshot.lag.values()):,} messages",
    ]
    state = escape(snapshot.problem) if snapshot.problem else count(snapshot.partitions, "partition", "partitions")
    return how, state, "  ".join(parts)


def _unusual(snapshot: ArchiverSnapshot) -> list[str]:
    return [f"{number:,} {what.replace('_', ' ')}" for what, number in snapshot.unusual.items() if number]
