"""logbale verify: whether an archive is whole, and where it is not."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from logbale.cli.archives import archives, paths_argument
from logbale.cli.options import Command, config_option
from logbale.cli.output import complain, write
from logbale.errors import StorageError
from logbale.terminal import count, escape

if TYPE_CHECKING:
    from logbale.archive.verify import Verified

EXAMPLES = """
logbale verify                                           all of ./archive
logbale verify /var/lib/logbale/archive && echo sound
logbale verify backup/00000042-20261123T195600Z.ndjson.zst
logbale verify --json | jq '.segments[].damage[]'
"""

_HEAD = ("segment", "state", "blocks", "entries", "raw bytes", "file bytes")


@click.command(
    cls=Command,
    short_help="Check that the archive is whole",
    examples=EXAMPLES,
    params=[
        paths_argument(),
        click.Option(["--json", "as_json"], is_flag=True, help="Print everything found as one JSON object"),
        config_option(),
    ],
)
def verify(paths: tuple[Path, ...], as_json: bool, config: Path | None) -> int:
    """Reads every byte of archives, or of single segments (default: ARCHIVE_DIR), and never writes.

    Checks each block's CRC and checksum, each footer against the blocks, that no segment is missing between two others,
    and that each stream's sequences rise without a gap or a repetition. Works beside a running receiver. The exit code
    is 0 where all is sound, 1 where something is not, and 74 where something cannot be read.
    """
    from logbale.archive.verify import verify

    found: list[Verified] = []
    named = archives(paths, config)
    for path in named:
        for number, segment in enumerate(verify(path)):
            found.append(segment)
            if not as_json:
                _print(segment, with_head=len(found) == 1, under=path if len(named) > 1 and number == 0 else None)
    write(_json(found) if as_json else _line(_summary(found)))
    if unreadable := [segment.unreadable for segment in found if segment.unreadable]:
        for reason in unreadable:
            complain(reason)
        return StorageError.exit_code
    return 1 if any(segment.damage for segment in found) else 0


def _print(segment: Verified, *, with_head: bool, under: Path | None) -> None:
    """`under` is the archive or file of which this is the first, where there are several."""
    if with_head:
        write(_row(_HEAD))
    if under is not None:
        write(_line(f"{under}:"))
    numbers = (segment.blocks, segment.entries, segment.raw, segment.size)
    write(_row((segment.path.name, _state(segment), *(f"{number:,}" for number in numbers))))
    for damage in segment.damage:
        write(_line(f"  {damage}"))
    for batches in segment.absent:
        write(_line(f"  {batches} are with another receiver"))


def _state(segment: Verified) -> str:
    if segment.unreadable:
        return "unreadable"
    if segment.damage:
        return "DAMAGED"
    return "sealed" if segment.sealed else "open"


def _row(cells: Iterable[str]) -> bytes:
    name, state, *numbers = cells
    return _line(f"{name:<44}  {state:<10}" + "".join(f"  {number:>14}" for number in numbers))


def _line(text: str) -> bytes:
    return f"{escape(text)}\n".encode(sys.stdout.encoding, "backslashreplace")


def _summary(found: list[Verified]) -> str:
    places = sum(len(segment.damage) for segment in found)
    entries = sum(segment.entries for segment in found)
    unfinished = sum(segment.unfinished for segment in found)
    sound = f"{count(len(found), 'segment', 'segments')}, {count(entries, 'sound entry', 'sound entries')}"
    words = [f"{sound}, {count(places, 'place', 'places')} damaged or missing"]
    if absent := sum(len(segment.absent) for segment in found):
        words.append(f"{absent:,} ranges of batches are with other receivers, which is no damage")
    if unfinished:
        words.append(f"{unfinished:,} bytes of an unfinished write, which is no damage")
    return "; ".join(words)


def _json(found: list[Verified]) -> bytes:
    totals = {
        "entries": sum(segment.entries for segment in found),
        "damaged": sum(len(segment.damage) for segment in found),
        "unreadable": sum(bool(segment.unreadable) for segment in found),
    }
    return msgspec.json.encode({"segments": found, **totals}, enc_hook=str) + b"\n"
