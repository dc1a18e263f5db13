"""An end's numbers for people: a summary line, a line redrawn in place, how far finite work is, a table at exit.

All from snapshots, a few times a second at most; nothing here is done per entry.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Literal

from logbale.kafka.metrics import AnySnapshot, ArchiverSnapshot
from logbale.kafka.words import archiver_rows, archiver_status, archiver_summary
from logbale.metrics import ReceiverSnapshot, RelaySnapshot, ShipperSnapshot, Snapshot, Totals
from logbale.terminal import count, duration, escape, rate, ratio, size


def summary(snapshot: AnySnapshot) -> str:
    """One line: what was done since the start, the rate of the last seconds, and what is not as it should be."""
    if isinstance(snapshot, ArchiverSnapshot):
        return archiver_summary(snapshot)
    if isinstance(snapshot, ShipperSnapshot):
        done = f"delivered {count(snapshot.delivered_entries, 'entry', 'entries')}, sent {_totals(snapshot.sent)}"
        odd = [
            (snapshot.waiting_entries, "waiting"),
            (sum(snapshot.dropped.values()), "dropped"),
            (snapshot.reconnects, "reconnects"),
            (snapshot.failovers, "failovers"),
        ]
    else:
        done = f"stored {count(snapshot.stored_entries, 'entry', 'entries')}, received {_totals(snapshot.received)}"
        odd = [
            (snapshot.waiting_entries, "waiting"),
            (snapshot.duplicate_entries, "duplicate"),
            (snapshot.rejected_entries, "rejected"),
            (snapshot.skipped_entries, "skipped"),
        ]
    parts = [f"{done}, {rate(snapshot.rates.entries)}"]
    if isinstance(snapshot, ReceiverSnapshot):
        parts[0] += f" from {count(snapshot.clients, 'client', 'clients')}"
    parts += [f"{number:,} {what}" for number, what in odd if number]
    if isinstance(snapshot, ReceiverSnapshot) and snapshot.relay is not None:
        parts.append(_relayed(snapshot.relay))
    if not _connected(snapshot):
        parts.append("not connected")
    if errors := _errors(snapshot.errors):
        parts.append(f"errors: {errors}")
    return "; ".join(parts)


def _relayed(relay: RelaySnapshot) -> str:
    done = f"forwarded {count(relay.forwarded_entries, 'entry', 'entries')} to {relay.upstream}"
    odd = [(relay.rejected_entries, "rejected there"), (sum(relay.dropped.values()), "never came")]
    parts = [done, *(f"{number:,} {what}" for number, what in odd if number)]
    if relay.waiting_entries:
        parts.append(f"{relay.waiting_entries:,} to go, the oldest for {duration(relay.oldest_waiting)}")
    if relay.last_error and not relay.sessions:
        parts.append(f"no session with it: {escape(relay.last_error)}")
    return ", ".join(parts)


def _totals(totals: Totals) -> str:
    return (
        f"{count(totals.entries, 'entry', 'entries')} in {count(totals.batches, 'batch', 'batches')}, "
        f"{size(totals.raw_bytes)} raw, {size(totals.wire_bytes)} wire ({ratio(totals.ratio)})"
    )


def _connected(snapshot: Snapshot) -> bool:
    return not isinstance(snapshot, ShipperSnapshot) or snapshot.connected


def _errors(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{escape(reason)} {number:,}" for reason, number in sorted(errors.items()) if number)


def rows(snapshot: AnySnapshot, *, left_before: int = 0, reread: int = 0) -> list[tuple[str, str]]:
    """The table's lines: what, how much. Errors and the like only where there were any.

    `left_before` of a shipper's entries were not read, but waited when it began; `reread` of those that wait do so in
    their files.
    """
    if isinstance(snapshot, ArchiverSnapshot):
        return archiver_rows(snapshot)
    return (
        _shipper_rows(snapshot, left_before, reread)
        if isinstance(snapshot, ShipperSnapshot)
        else _receiver_rows(snapshot)
    )


def _shipper_rows(snapshot: ShipperSnapshot, left_before: int, reread: int) -> list[tuple[str, str]]:
    setting = f"{snapshot.algorithm} {snapshot.level}" if snapshot.algorithm != "none" else "none"
    return [
        *_where_any(("entries left from before", left_before)),
        ("entries read", f"{snapshot.read_entries - left_before:,}"),
        ("entries delivered", f"{snapshot.delivered_entries:,}"),
        *_where_any(
            *[(_fate(reason), entries) for reason, entries in snapshot.dropped.items()],
            ("entries waiting", snapshot.waiting_entries - reread),
            ("batches waiting", snapshot.waiting_batches),
            ("entries to be read again", reread),
        ),
        ("entries sent", f"{snapshot.sent.entries:,}"),
        *_weights(snapshot.sent, snapshot.mean_rates.entries),
        ("compression", f"{setting}, {duration(snapshot.compress_seconds)}"),
        *_where_any(("batches sent raw", snapshot.bypassed)),
        ("reconnects", f"{snapshot.reconnects:,}"),
        *_where_any(("failovers", snapshot.failovers)),
        *_error_rows(snapshot.errors),
        ("time", duration(snapshot.uptime)),
    ]


def _receiver_rows(snapshot: ReceiverSnapshot) -> list[tuple[str, str]]:
    by_algorithm = {name: totals.batches for name, totals in snapshot.by_algorithm.items()}
    return [
        ("entries received", f"{snapshot.received.entries:,}"),
        ("entries stored", f"{snapshot.stored_entries:,}"),
        *_where_any(
            ("entries duplicate", snapshot.duplicate_entries),
            ("entries rejected", snapshot.rejected_entries),
            ("entries skipped", snapshot.skipped_entries),
            ("batches lost", snapshot.lost_batches),
            ("entries waiting", snapshot.waiting_entries),
        ),
        *(_relay_rows(snapshot.relay) if snapshot.relay is not None else ()),
        *_weights(snapshot.received, snapshot.mean_rates.entries),
        ("batches by algorithm", ", ".join(f"{name} {number:,}" for name, number in by_algorithm.items()) or "none"),
        ("connections", f"{snapshot.connections:,}"),
        *_where_any(("bad frames", snapshot.bad_frames)),
        *_error_rows(snapshot.errors),
        ("time", duration(snapshot.uptime)),
    ]


def _relay_rows(relay: RelaySnapshot) -> list[tuple[str, str]]:
    return [
        ("entries forwarded", f"{relay.forwarded_entries:,}"),
        *_where_any(
            ("entries rejected upstream", relay.rejected_entries),
            *[(_fate(reason), entries) for reason, entries in relay.dropped.items()],
            ("entries to go", relay.waiting_entries),
        ),
        ("wire, forwarded", size(relay.sent.wire_bytes)),
    ]


def _fate(reason: str) -> str:
    """What became of entries: `entries rejected`, `entries dropped (drop_newest)`."""
    dropped = reason.removeprefix("dropped_")
    return f"entries dropped ({dropped})" if dropped != reason else f"entries {reason.replace('_', ' ')}"


def _error_rows(errors: Mapping[str, int]) -> list[tuple[str, str]]:
    """A reason a line: with all of them in one, the table would be as wide as they are."""
    found = [f"{escape(reason)} {number:,}" for reason, number in sorted(errors.items()) if number] or ["none"]
    return [("" if index else "errors", text) for index, text in enumerate(found)]


def _weights(totals: Totals, entries_per_second: float) -> list[tuple[str, str]]:
    return [
        ("batches", f"{totals.batches:,}"),
        ("raw", _exact(totals.raw_bytes)),
        ("wire", _exact(totals.wire_bytes)),
        ("ratio", ratio(totals.ratio)),
        ("entries/s, mean", rate(entries_per_second).removesuffix("/s")),
    ]


def _exact(number: int) -> str:
    """For whoever compares two runs, to the byte as well."""
    return size(number) if number < 1000 else f"{size(number)} = {number:,} B"


def _where_any(*counted: tuple[str, int]) -> Iterable[tuple[str, str]]:
    return [(what, f"{number:,}") for what, number in counted if number]


def print_table(snapshot: AnySnapshot, *, left_before: int = 0, reread: int = 0) -> None:
    """The table, on standard error. Two columns need no library, whose import takes as long as 50,000 entries."""
    found = rows(snapshot, left_before=left_before, reread=reread)
    whats, how_muches = (max(map(len, column)) for column in zip(*found, strict=True))
    titles = {ShipperSnapshot: "shipped", ArchiverSnapshot: "archived"}
    print(titles.get(type(snapshot), "received"), file=sys.stderr)
    for what, how_much in found:
        print(f"  {what:<{whats}}  {how_much:>{how_muches}}", file=sys.stderr)


def status(snapshot: AnySnapshot) -> tuple[Literal["good", "odd", "bad"], str, str]:
    """How it is, in three steps and in a few words, and then its numbers, what matters most first."""
    if isinstance(snapshot, ArchiverSnapshot):
        return archiver_status(snapshot)
    if isinstance(snapshot, ShipperSnapshot):
        dropped = sum(snapshot.dropped.values())
        parts = [
            *_where_any(("dropped", dropped)),
            (rate(snapshot.rates.entries), ""),
            (ratio(snapshot.ratio), ""),
            ("spool", size(snapshot.spool_bytes)),
            ("lag", duration(snapshot.oldest_waiting)),
            ("delivered", f"{snapshot.delivered_entries:,}"),
            (snapshot.algorithm, str(snapshot.level) if snapshot.algorithm != "none" else ""),
        ]
        how: Literal["good", "odd", "bad"] = "bad" if not snapshot.connected else "odd" if dropped else "good"
        state = "connected" if snapshot.connected else "not connected"
        if snapshot.connected and snapshot.receivers > 1:
            state += f" to {snapshot.receiver}, choice {snapshot.receiver_choice} of {snapshot.receivers}"
    else:
        parts = [
            *_where_any(("rejected", snapshot.rejected_entries)),
            (rate(snapshot.rates.entries), ""),
            (ratio(snapshot.ratio), ""),
            ("wire", f"{size(snapshot.rates.wire_bytes)}/s"),
            ("stored", f"{snapshot.stored_entries:,}"),
            ("waiting", f"{snapshot.waiting_entries:,}"),
        ]
        how = "odd" if snapshot.rejected_entries else "good"
        state = count(snapshot.clients, "client", "clients")
        if (relay := snapshot.relay) is not None:
            parts[-1:] = [
                ("forwarded", f"{relay.forwarded_entries:,}"),
                ("to go", f"{relay.waiting_entries:,}"),
                ("lag", duration(relay.oldest_waiting)),
            ]
            if relay.waiting_entries and not relay.sessions:
                how, state = "bad", f"{state}, not connected"
    return how, state, "  ".join(f"{name} {value}".strip() for name, value in parts)


class ShipProgress:
    """How far finite work has come, redrawn in place on standard error. A context manager; `update` redraws."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        # Redrawn by update() alone: a thread of rich's own would take the interpreter from the pipeline.
        self._progress = Progress(
            TextColumn("shipping"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task("", total=1.0, numbers="")

    def __enter__(self) -> ShipProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, snapshot: ShipperSnapshot, done: float, total: float | None) -> None:
        """`done` of `total`, in any unit; None where the end is not known."""
        self._progress.update(
            self._task, completed=done, total=total, numbers=progress_text(snapshot, done, total), refresh=True
        )


def progress_text(snapshot: ShipperSnapshot, done: float, total: float | None) -> str:
    """What stands beside the bar: `42 %  48,000 entries  4,800/s  7.9×  120 waiting`."""
    parts = [f"{done / total:4.0%}".replace("%", " %")] if total else []
    parts += [
        f"{snapshot.delivered_entries:,} entries",
        rate(snapshot.rates.entries),
        ratio(snapshot.ratio),
        f"{snapshot.waiting_entries:,} waiting",
    ]
    if not snapshot.connected:
        parts.append("not connected")
    return "  ".join(parts)
