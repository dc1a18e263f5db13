"""How a run of `logbale ship` failed, in words: what is left, why, where it waits, what sends it. It ends nothing."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from logbale.config import Settings, connect_host, format_address
from logbale.reports import REJECTED
from logbale.sources import ResumableSource, Source
from logbale.terminal import count

if TYPE_CHECKING:
    from logbale.ship_report import ShipReport
    from logbale.spool import DiskSpool


def failure(
    settings: Settings, report: ShipReport, spool: DiskSpool | None, source: Source, *, once: bool, waited: bool
) -> str:
    """What was not done of what was asked for; empty where all was.

    `once` is the promise to read to the end; `waited` says that DRAIN_TIMEOUT is over.
    """
    undelivered = "" if report.delivered else _undelivered(settings, report, waited=waited)
    if once and not report.source_ended:
        unread_bytes = source.unread_bytes if isinstance(source, ResumableSource) else None
        left = _stopped_midway(undelivered, report, spool, unread_bytes)
    else:
        left = undelivered + _whereabouts(report, spool) if undelivered else ""
    # Of who follows files and is stopped nobody asked for an end; what was given up then was an ERROR at its time.
    given_up = _given_up(report, spool) if once or report.source_ended else ""
    return ". ".join(filter(None, [left, given_up]))


def _given_up(report: ShipReport, spool: DiskSpool | None) -> str:
    """What will not be delivered: what the receiver would not have, and what was dropped."""
    parts = []
    for reason, entries in report.snapshot.dropped.items():
        them = f"{count(entries, 'entry', 'entries')} {'was' if entries == 1 else 'were'}"
        if reason == REJECTED:
            why = f" ({report.why_rejected})" if report.why_rejected else ""
            parts.append(f"{them} rejected by the receiver{why}{_letters(spool)}")
        elif (dropped := reason.removeprefix("dropped_")).startswith("drop_"):
            parts.append(f"{them} dropped, as the spool was full (SPOOL_POLICY={dropped})")
        elif dropped != reason:
            parts.append(f"{them} dropped ({dropped})")
    return "; ".join(parts)


def _letters(spool: DiskSpool | None) -> str:
    if spool is None:
        return ", and lost: without a spool there are no dead letters"
    from logbale.spool.dead_letters import DIRECTORY

    letters = spool.directory / DIRECTORY
    return f": as dead letters in {letters}, which {retry_command(spool)} and then the same command send again"


def retry_command(spool: DiskSpool) -> str:
    """What puts a spool's dead letters back into it."""
    return f"`logbale dead-letters retry {shlex.quote(str(spool.directory))}`"


def _undelivered(settings: Settings, report: ShipReport, *, waited: bool) -> str:
    """What is left of what was read."""
    receiver = " or ".join(format_address(connect_host(host), port) for host, port in settings.receiver_addresses)
    if not report.left_entries:
        return f"everything was sent, but {receiver} has not confirmed that it is stored"
    entries = count(report.left_entries, "entry", "entries")
    batches = count(report.left_batches, "batch", "batches")
    verb = "was" if report.left_entries == 1 else "were"
    timeout = f"; DRAIN_TIMEOUT is {settings.drain_timeout:g} s" if waited else ""
    why = f" ({report.why})" if report.why else ""
    return f"{entries} in {batches} {verb} not delivered to {receiver}{why}{timeout}"


def _whereabouts(report: ShipReport, spool: DiskSpool | None) -> str:
    """Where that is now: in the spool, still where it was read, or nowhere any more."""
    waiting = report.left_entries - report.reread_entries - report.lost_entries
    if not report.left_entries:
        return ""
    if waiting == report.left_entries and spool is not None:
        they, them, wait = ("It", "it", "waits") if waiting == 1 else ("They", "them", "wait")
        return f". {they} {wait} in {spool.directory}, and the same command sends {them}"
    parts = []
    if waiting and spool is not None:
        verb = "waits" if waiting == 1 else "wait"
        parts.append(f"{waiting:,} {verb} in {spool.directory}, and the same command sends what waits")
    if report.reread_entries and spool is not None:
        where = f"in the spool yet ({report.why_unstored})" if report.why_unstored else "in the spool yet"
        parts.append(f"{_are(report.reread_entries)} not {where}, but still in the files, and read again from there")
    elif report.reread_entries:
        parts.append("Without a spool (SPOOL_DIR=off), the same command begins at the start again")
    if report.lost_entries:
        parts.append(_lost(report, spool))
    return f". {'; '.join(parts)}"


def _lost(report: ShipReport, spool: DiskSpool | None) -> str:
    lost = f"{_are(report.lost_entries)} lost for good"
    if spool is None:
        return f"{lost}, as there is no spool: memory alone had what waited"
    why = f" ({report.why_unstored})" if report.why_unstored else ""
    return f"{lost}: not in the spool yet{why}, and where it was read it is not any more"


def _are(entries: int) -> str:
    return f"{entries:,} {'is' if entries == 1 else 'are'}"


def _stopped_midway(undelivered: str, report: ShipReport, spool: DiskSpool | None, unread_bytes: int | None) -> str:
    """What is left of a run that promised to read to the end; no `unread_bytes` for a source that cannot go on."""
    unread = f", with at least {count(unread_bytes, 'byte', 'bytes')} unread" if unread_bytes else ""
    read = undelivered or "what was read is delivered"
    if unread_bytes is None:
        where = f"{_whereabouts(report, spool)}. What it had not read is lost, unless its writer gives it again"
    elif spool is None:
        where = ". Without a spool (SPOOL_DIR=off), the same command begins at the start again"
    else:
        what = "What waits, and how far it read, are" if report.left_entries else "How far it read is"
        lost = f"; {_lost(report, spool)}" if report.lost_entries else ""
        where = f". {what} in {spool.directory}, and the same command goes on from there{lost}"
    return f"stopped before the end{unread}; {read}{where}"
