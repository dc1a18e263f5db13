"""The archives that `cat` and `verify` are pointed at: paths, and file:/// as an archiver's --to has it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click

from logbale.cli.options import load_settings

_INSTEAD = {
    "s3": "copy it first: aws s3 sync {url} DIR",
    "gs": "copy it first: gcloud storage rsync --recursive {url} DIR",
    "az": "copy it first, with azcopy or rclone",
    "kafka": "archive it first: logbale archive {url} --to file:///DIR",
    "http": "what a receiver stores now is shown by logbale tail {url}",
    "https": "what a receiver stores now is shown by logbale tail {url}",
}
"""By a URL's scheme, the way to what it names."""


class ArchivePath(click.ParamType[Path]):
    """A path; a URL is refused with what to do instead, unless it is a file's."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """What file:/// names too, and a file whose name looks like a URL."""
        path = Path(value)
        if not isinstance(value, str) or "://" not in value or path.exists():
            return path
        scheme, _, rest = value.partition("://")
        if scheme == "file" and rest.startswith("/"):
            return Path(unquote(rest))
        instead = _INSTEAD.get(scheme, "file:///DIR is the only URL that is one").format(url=value)
        raise click.BadParameter(f"{value}: expected a directory or a file; {instead}", ctx, param)


def paths_argument() -> click.Argument:
    """[DIR|FILE]...."""
    return click.Argument(["paths"], nargs=-1, metavar="[DIR|FILE]...", type=ArchivePath())


def archives(paths: Iterable[Path], config: Path | None) -> list[Path]:
    """Each of them once, or that of the settings where there are none. Raises ConfigError, and StorageError."""
    from logbale.archive.reader import check_archive, each_once

    found = each_once(paths)
    if found and config is not None:
        raise click.UsageError("--config is for ARCHIVE_DIR, where no PATH is given: leave out one of them.")
    found = found or [Path(load_settings({}, config).settings.archive_dir)]
    for path in found:
        check_archive(path)
    return found
