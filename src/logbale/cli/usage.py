"""Which arguments and flags of `logbale ship` go together; settings.py and idle.py have it for the settings alone."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from typing import Any

import click

from logbale.config import SETTINGS

_OWN_FIELDS = {"timestamp", "level", "message"}
"""What a line gives an entry; a static field cannot."""

_FOR_DEMO = ("log_rate", "run_time")
_FOR_LINES = ("spool_max_bytes", "max_line_bytes", "max_json_depth")
"""Settings of what reads and keeps lines, which generated entries are not."""


def check_usage(
    paths: tuple[str, ...],
    *,
    demo: bool,
    once: bool,
    from_start: bool | None,
    fields: tuple[str, ...],
    exclude: tuple[str, ...],
    multiline: str | None,
    poll: bool,
    name: str | None,
    seed: int | None,
    given: Mapping[str, Any],
) -> None:
    """Raises UsageError for what contradicts each other, and for what would do nothing. `given` are settings' flags."""
    is_stdin = paths == ("-",)
    if not paths and not demo:
        raise click.UsageError("nothing to ship: name files (PATH), standard input (-) or generated entries (--demo).")
    if paths and demo:
        raise click.UsageError("--demo makes its own entries: leave out the PATHs, or --demo.")
    if "-" in paths and len(paths) > 1:
        raise click.UsageError("- is standard input and goes alone; a file of that name is ./-")
    if once and from_start is False:
        raise click.UsageError("--once reads what is there, and after --from-end nothing is: leave out one of them.")
    if from_start is not None and (demo or is_stdin):
        raise click.UsageError("--from-start and --from-end are for files.")
    if (exclude or multiline is not None or poll) and (demo or is_stdin):
        raise click.UsageError("--exclude, --multiline and --poll are for files.")
    if exclude and not any(map(glob.has_magic, paths)):
        # A shell that expands it hands over the files, each of which was asked for by its name.
        raise click.UsageError(
            "--exclude is for what a GLOB finds, and there is none: quote it, as in '/var/log/*.log'."
        )
    if once and poll:
        raise click.UsageError("--poll is for files that are followed: leave out --poll, or --once.")
    if demo:
        _check_demo(once, fields, name, given)
    else:
        flags = [SETTINGS[setting].flags[-1] for setting in _FOR_DEMO if given.get(setting) is not None]
        if seed is not None:
            flags.append("--seed")
        if flags:
            raise click.UsageError(f"{' and '.join(flags)} {'is' if len(flags) == 1 else 'are'} for --demo.")
    if name is not None and given.get("spool_dir") == "off":
        raise click.UsageError("--name is a spool's, and --spool-dir off keeps none on disk: leave out one of them.")


def _check_demo(once: bool, fields: tuple[str, ...], name: str | None, given: Mapping[str, Any]) -> None:
    if fields:
        raise click.UsageError("--field goes with lines that are read, not with --demo.")
    if once:
        raise click.UsageError("--demo ends by itself, after RUN_TIME: leave out --once.")
    flags = ["--name"] if name is not None else []
    flags += [SETTINGS[setting].flags[-1] for setting in _FOR_LINES if given.get(setting) is not None]
    if given.get("spool_dir") not in (None, "off"):
        flags.append("--spool-dir")
    if flags:
        raise click.UsageError(f"--demo reads no lines and keeps no spool on disk: leave out {' and '.join(flags)}.")


def attributes(fields: Iterable[str]) -> dict[str, str]:
    """The KEY=VALUEs of --field. Raises BadParameter."""
    return dict(map(_field, fields))


def _field(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r}: expected KEY=VALUE, for example service=web", param_hint="--field")
    if name in _OWN_FIELDS:
        raise click.BadParameter(f"{text!r}: {name} is a field of the entry's own", param_hint="--field")
    return name, value
