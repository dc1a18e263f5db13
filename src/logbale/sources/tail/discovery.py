"""Which files there are for a list of paths and globs, and where to look for those that were renamed."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import fnmatch
from typing import NamedTuple

from logbale.errors import StorageError
from logbale.sources.tail.identity import Identity
from logbale.sources.tail.links import planted_link

log = logging.getLogger("logbale.tail")

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".Z")
"""Ends of the names of files that are copies of others, made smaller."""


_DATE = r"[.-]\d{4}-?\d\d-?\d\d(?:[-_.T]?\d\d(?:[-_:]?\d\d)*)?$"
_ROTATED = re.compile(rf"\.\d+$|\.(?:old|bak)$|{_DATE}")
"""What rotation adds to the end of a name: logrotate's .1 and -20261124, .2026-11-24 of Python's logging, .old."""
_DATED = re.compile(_DATE)
"""What it has before the extension: web-20261124.log."""


class Found(NamedTuple):
    """A file at the moment it was seen."""

    path: str
    size: int
    mtime_ns: int


class Discovery:
    """Paths and globs, and what is left out of them."""

    def __init__(self, patterns: Sequence[str], exclude: Sequence[str], *, follow: bool) -> None:
        """`exclude` are globs for a file's whole path or its name; they count for globs, not for paths."""
        self.patterns = list(patterns)
        self._exclude = list(exclude)
        self._follow = follow
        self._left_out: set[str] = set()

    def look(self, *, first: bool) -> dict[Identity, Found]:
        """The files that are there, each once.

        The first time raises StorageError for a named path that is no regular file, and without `follow` for one that
        is missing and for a glob that matches nothing.
        """
        found: dict[Identity, Found] = {}
        for pattern in self.patterns:
            if _is_glob(pattern):
                self._look_for_glob(pattern, found, first=first)
            else:
                self._look_for_path(pattern, found, first=first)
        return found

    def _look_for_path(self, path: str, found: dict[Identity, Found], *, first: bool) -> None:
        try:
            status = os.stat(path)
        except OSError as error:
            if first and not self._follow:
                raise StorageError(f"{path}: {reason(error)}; check the path, or leave out --once to wait") from error
            if first:
                log.warning("%s: %s; it is read from its start when it appears", path, reason(error))
            return
        if (kind := other_kind(status)) is None:
            _note(found, path, status)
        elif first:
            raise StorageError(f"{path}: {kind}")
        else:
            self.leave_out(path, kind)

    def _look_for_glob(self, pattern: str, found: dict[Identity, Found], *, first: bool) -> None:
        paths = sorted(path for path in glob.glob(pattern, recursive=True) if not self._is_excluded(path, pattern))
        if not paths and first and not self._follow:
            raise StorageError(f"{pattern}: no file matches; check the pattern, or leave out --once to wait")
        for path in paths:
            try:
                status = os.stat(path)
            except OSError:  # deleted since, or a link that leads nowhere
                continue
            if (kind := other_kind(status)) is None:
                _note(found, path, status)
            elif not stat.S_ISDIR(status.st_mode):
                self.leave_out(path, kind)

    def _is_excluded(self, path: str, pattern: str) -> bool:
        # app.log* also matches app.log.2.gz, and that is what app.log was: read already, as a rule.
        if path.endswith(COMPRESSED) and not pattern.endswith(COMPRESSED):
            return True
        return any(fnmatch(path, glob_) or fnmatch(os.path.basename(path), glob_) for glob_ in self._exclude)

    def leave_out(self, path: str, why: str) -> None:
        """Says so once, until it is welcome again."""
        if path not in self._left_out:
            self._left_out.add(path)
            log.warning("%s is left out: %s", path, why)

    def welcome(self, path: str) -> None:
        """It is read; should that end, it is said again."""
        self._left_out.discard(path)

    def is_named(self, path: str) -> bool:
        """Whether it is one of the patterns itself."""
        return path in self.patterns

    def directories(self) -> set[str]:
        """Where files of the patterns may appear; of a directory that is missing, the one where that may appear."""
        found: set[str] = set()
        for pattern in self.patterns:
            parent = os.path.dirname(pattern) or os.curdir
            if _is_glob(pattern) and glob.has_magic(parent):
                found |= {os.path.abspath(path) for path in glob.glob(parent, recursive=True) if os.path.isdir(path)}
                while glob.has_magic(parent):
                    parent = os.path.dirname(parent) or os.curdir
            parent = os.path.abspath(parent)
            while not os.path.isdir(parent):
                parent = os.path.dirname(parent)
            found.add(parent)
        return found


def _note(found: dict[Identity, Found], path: str, status: os.stat_result) -> None:
    """Adds a file. Of its paths the first one stands, unless that is a planted link: it must not hide the file."""
    identity = Identity.of(status)
    if (before := found.get(identity)) is not None:
        with contextlib.suppress(OSError):
            if before.path == path or planted_link(before.path, identity) is None:
                return
    found[identity] = Found(path, status.st_size, status.st_mtime_ns)


def search(directories: Iterable[str], wanted: Callable[[os.DirEntry[str]], bool]) -> dict[Identity, Found]:
    """The regular files in these directories that are wanted, links aside. What cannot be looked at is not there."""
    found = {}
    for directory in directories:
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if wanted(entry) and entry.is_file(follow_symlinks=False):
                        status = os.stat(entry.path)  # entry.stat() has no st_dev everywhere
                        found[Identity.of(status)] = Found(entry.path, status.st_size, status.st_mtime_ns)
        except OSError:
            continue
    return found


def by_inode(inodes: Collection[int]) -> Callable[[os.DirEntry[str]], bool]:
    """For search(): files with one of these inodes."""
    return lambda entry: entry.inode() in inodes


def rotations_between(
    path: str, older_mtime_ns: int, newer: Identity, known: Collection[Identity]
) -> list[tuple[Identity, Found]]:
    """Files that had this path for so short a time that nobody saw them there, the oldest first.

    They lie beside it, are named as rotation names them, were written to after the file that was seen there last, and
    nobody knows them.
    """
    directory, name = os.path.split(os.path.abspath(path))
    stem, extension = map(re.escape, os.path.splitext(name))
    # app.log.1, app.log-20261124, app.log.old, app-2026-11-24.log; app-2.log may well be a log of its own.
    rotated = re.compile(rf"{re.escape(name)}[._-]?(\d[\w.:-]*|old|bak)|{stem}[._-]\d{{4}}-?\d\d[\w.:-]*{extension}")
    near = search(
        [directory],
        lambda entry: rotated.fullmatch(entry.name) is not None and not entry.name.endswith(COMPRESSED),
    )
    between = [
        (identity, found)
        for identity, found in near.items()
        if found.mtime_ns >= older_mtime_ns and identity != newer and identity not in known
    ]
    return sorted(between, key=lambda item: item[1].mtime_ns)


def service_of(path: str) -> str:
    """The log's name without its extension and without what rotation adds: `web` of web.log as of web.log.2.gz."""
    name = os.path.basename(path)
    for ending in COMPRESSED:
        name = name.removesuffix(ending) or name
    stem = os.path.splitext(_ROTATED.sub("", name) or name)[0]
    return _DATED.sub("", stem) or stem


def reason(error: OSError) -> str:
    """What the system says, as the end of a sentence."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def other_kind(status: os.stat_result) -> str | None:
    """What it is and what to do about that; None for a regular file."""
    if stat.S_ISREG(status.st_mode):
        return None
    if stat.S_ISDIR(status.st_mode):
        return "a directory: expected files; name them with a pattern, for example '*.log'"
    return "no regular file: a stream can be shipped as standard input, with - instead of its path"


def _is_glob(pattern: str) -> bool:
    """Whether it is no path itself: a file may well be named app[1].log."""
    return glob.has_magic(pattern) and not os.path.lexists(pattern)
