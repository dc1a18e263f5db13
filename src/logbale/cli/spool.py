"""logbale spool and logbale dead-letters: what a shipper has not delivered, and what nobody would take."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from logbale.cli.group import Group
from logbale.cli.options import Command, config_option, load_settings, named_setting_options
from logbale.cli.output import complain, write
from logbale.errors import ConfigError, StorageError
from logbale.terminal import count, escape

_ONE = click.Argument(["name"], required=False, metavar="[NAME]")


def _line(text: str) -> bytes:
    return f"{escape(text)}\n".encode(sys.stdout.encoding, "backslashreplace")


def _root(spool_dir: str | None, config: Path | None, name: str | None = None) -> Path:
    """The directory of the spools. Raises UsageError where it is given for nothing, and ConfigError."""
    from logbale.spool import spool_root

    if spool_dir is not None and "/" in (name or ""):
        raise click.UsageError(
            "--spool-dir is where a NAME is looked for, and this one is a path: leave out one of them."
        )
    given = load_settings({"spool_dir": spool_dir}, config).settings.spool_dir
    return spool_root("" if given == "off" else given)


def _directory(root: Path, name: str | None) -> Path:
    """The spool of that name or path; without one, the only there is. Raises StorageError, and ConfigError."""
    from logbale.spool.inspect import is_spool, spool_directories

    if name is not None:
        directory = Path(name) if "/" in name else root / name
        if not is_spool(directory):
            raise StorageError(f"{directory}: there is no spool here; `logbale spool ls` lists them")
        return directory
    found = spool_directories(root)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(f"{root}: which spool? Name one of: {names} (--spool-dir or SPOOL_DIR names the directory)")
    return found[0]


def _directories(root: Path, name: str | None) -> list[Path]:
    """That spool; without a name all of them. Raises StorageError."""
    from logbale.spool.inspect import spool_directories

    return [_directory(root, name)] if name is not None else spool_directories(root)


@click.group(cls=Group, short_help="Look at what shippers have read and not delivered")
def spool() -> None:
    """Shows what shippers have read and not delivered."""


@spool.command(
    cls=Command,
    short_help="List the spools",
    examples="""
    logbale spool ls
    logbale spool ls --json | jq '.[] | select(.entries > 0)'
    """,
    params=[
        click.Option(["--json", "as_json"], is_flag=True, help="Print them as one JSON array"),
        *named_setting_options("spool_dir"),
        config_option(),
    ],
)
def ls(as_json: bool, spool_dir: str | None, config: Path | None) -> int:
    """Lists the spools with what waits in each, also beside the shippers that use them."""
    from logbale.spool import list_spools

    root = _root(spool_dir, config)
    found = list_spools(root)
    if as_json:
        write(msgspec.json.encode(found, enc_hook=str) + b"\n")
        return 0
    if not found:
        complain(f"no spools in {root}")
        return 0
    width = max(len("spool"), *(len(one.name) for one in found))
    write(_line(f"{'spool':<{width}}  {'waiting':>12}  {'batches':>17}  {'bytes':>14}  {'dead letters':>12}"))
    for one in found:
        batches = f"{one.first:,}–{one.next_sequence - 1:,}" if one.first < one.next_sequence else "–"
        numbers = f"{one.entries:>12,}  {batches:>17}  {one.disk_bytes:>14,}  {one.dead_letters:>12,}"
        write(_line(f"{one.name:<{width}}  {numbers}"))
    return 0


@spool.command(
    cls=Command,
    short_help="Check that a spool is whole",
    examples="""
    logbale spool verify                                     all of them
    logbale spool verify app-4c9e1d02 && echo sound
    """,
    params=[_ONE, *named_setting_options("spool_dir"), config_option()],
)
def verify(name: str | None, spool_dir: str | None, config: Path | None) -> int:
    """Reads every byte of a spool, by name or path, or of all of them, and never writes.

    The exit code is 1 where something is damaged.
    """
    from logbale.spool import verify

    root = _root(spool_dir, config, name)
    found = _directories(root, name)
    if not found:  # a mistyped directory must not look sound
        raise StorageError(f"{root}: there is no spool here; --spool-dir or SPOOL_DIR names the directory")
    is_damaged = False
    for directory in found:
        places = 0
        for damaged in verify(directory):
            places += 1
            write(_line(str(damaged)))
        write(_line(f"{directory}: {count(places, 'place', 'places')} damaged or missing"))
        is_damaged = is_damaged or places > 0
    return 1 if is_damaged else 0


@spool.command(
    cls=Command,
    short_help="Print the entries that wait",
    examples="""
    logbale spool export | jq -r .message
    logbale spool export app-4c9e1d02 > waiting.ndjson
    """,
    params=[_ONE, *named_setting_options("spool_dir"), config_option()],
)
def export(name: str | None, spool_dir: str | None, config: Path | None) -> int:
    """Prints the entries that wait in a spool as JSON lines; they stay there.

    Batches that are lost are passed over, named on standard error, and make the exit code 1.
    """
    from logbale.spool import export

    lost = 0

    def on_damage(sequence: int, reason: str) -> None:
        nonlocal lost
        lost += 1
        complain(f"batch {sequence} cannot be read: {reason}")

    for line in export(_directory(_root(spool_dir, config, name), name), on_damage=on_damage):
        write(line)
    return 1 if lost else 0


@click.group("dead-letters", cls=Group, short_help="List batches that no receiver would store, or send them again")
def dead_letters() -> None:
    """Shows batches that the receiver would not store, or has them sent again."""


@dead_letters.command(
    "ls",
    cls=Command,
    short_help="List the dead letters",
    examples="""
    logbale dead-letters ls                                  of all spools
    logbale dead-letters ls app-4c9e1d02
    """,
    params=[_ONE, *named_setting_options("spool_dir"), config_option()],
)
def list_letters(name: str | None, spool_dir: str | None, config: Path | None) -> int:
    """Lists the rejected batches of a spool or of all: when, which, how many entries, why, and the file with them."""
    from logbale.spool.dead_letters import letter_paths, letters

    root = _root(spool_dir, config, name)
    found = _directories(root, name)
    if not found:
        complain(f"no spools in {root}")
    elif not any(map(letter_paths, found)):
        complain("no dead letters in " + ", ".join(map(str, found)))
    for directory in found:
        for path, letter in letters(directory):
            entries = count(letter.count, "entry", "entries")
            write(_line(f"{letter.time}  batch {letter.sequence}  {entries}  {letter.reason}  {path}"))
    return 0


@dead_letters.command(
    cls=Command,
    short_help="Have dead letters sent again",
    examples="""
    logbale dead-letters retry                               all of the only spool
    logbale dead-letters retry app-4c9e1d02 --sequence 17    one of them
    """,
    params=[
        _ONE,
        click.Option(["--sequence"], type=click.IntRange(min=1), metavar="N", help="The letter of this batch only"),
        *named_setting_options("spool_dir", "spool_max_bytes"),
        config_option(),
    ],
)
def retry(
    name: str | None, sequence: int | None, spool_dir: str | None, spool_max_bytes: str | None, config: Path | None
) -> int:
    """Puts rejected batches back into the spool as new ones; the shipper of that name sends them when it starts.

    Not beside a running shipper: stop it first. A letter that is put back is removed.
    """
    from logbale.spool import DiskSpool
    from logbale.spool.dead_letters import letters
    from logbale.spool.inspect import is_of_relay

    directory = _directory(_root(spool_dir, config, name), name)
    if is_of_relay(directory):
        raise ConfigError(
            f"{directory}: a relay's: its numbers are the origin's, so nothing can be put back into it. Ship the "
            "entries as new ones: jq -c '.batch[]' FILE | logbale ship --once -, and remove the file"
        )
    wanted = [(path, letter) for path, letter in letters(directory) if sequence in (None, letter.sequence)]
    if not wanted:
        complain(f"{directory}: no such dead letter")
        return 0 if sequence is None else 1
    limit = load_settings({"spool_max_bytes": spool_max_bytes}, config).settings.spool_max_bytes
    disk = DiskSpool(directory, max_bytes=limit)
    disk.open()
    try:
        for path, letter in wanted:
            record = disk.retry(path, letter)
            write(_line(f"batch {letter.sequence} of {letter.stream} waits again as batch {record.sequence}"))
    finally:
        disk.close()
    return 0
