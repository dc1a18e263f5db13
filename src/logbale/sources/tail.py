"""TailSource: files by path or glob, from their start or end, followed as they grow, rotate and shrink.

A rotated file is read to its end before it is let go; one that was truncated is read again from its start. Refuses what
is no regular file. How far a file was read is the Chunk's cursor; the file's path names it.
"""

from __future__ import annotations

import asyncio
import glob
import logging
import os
import stat
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from logbale.errors import StorageError
from logbale.lines import LineCutter, LineParser
from logbale.models import Chunk

log = logging.getLogger("logbale.tail")

READ_BYTES = 512 * 1024
INLINE_BYTES = 64 * 1024
"""Reads below this are done on the loop; a trip to a thread costs more than copying them from the page cache."""

ROTATED_GRACE = 5.0
"""Seconds without news after which a file that was renamed or deleted is let go: its writer may not know yet."""

Identity = tuple[int, int]
"""Device and inode."""


class TailSource:
    """A Source of the lines of files."""

    def __init__(
        self,
        patterns: Sequence[str],
        *,
        follow: bool,
        from_start: bool,
        fields: Mapping[str, Any],
        host: str,
        poll_interval: float = 0.25,
    ) -> None:
        """Raises StorageError where there must be something to read (`follow` is false) and there is not."""
        self._patterns = list(patterns)
        self._follow = follow
        self._from_start = from_start
        self._fields = dict(fields)
        self._host = host
        self._poll_interval = poll_interval
        self._files: dict[Identity, _File] = {}
        self._refused: set[str] = set()
        self._mended = {"invalid_utf8": 0, "split_line": 0}
        self._read_bytes_of_gone = 0
        for pattern in self._patterns:
            self._check(pattern)
        self._discover(first=True)

    def _check(self, pattern: str) -> None:
        paths = [path for path in _expand(pattern) if os.path.exists(path)]
        if paths or (self._follow and glob.has_magic(pattern)):
            return
        what = "no file matches" if glob.has_magic(pattern) else "no such file"
        if self._follow:
            log.warning("%s: %s yet; it is read from its start when it appears", pattern, what)
            return
        raise StorageError(f"{pattern}: {what}; check the path, or leave out --once to wait for it")

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The lines of all files in turn, so that a large one does not hold up the others."""
        try:
            looked = time.monotonic()
            while self._files or self._follow:
                busy = False
                for file in list(self._files.values()):
                    if (chunk := await file.next_chunk()) is not None:
                        busy = True
                        if chunk.entries:
                            yield chunk
                    elif not self._follow or file.is_gone(time.monotonic()):
                        if (chunk := file.finish()) is not None:
                            yield chunk
                        self._forget(file)
                if self._follow and (not busy or time.monotonic() - looked >= self._poll_interval):
                    if not busy:
                        await asyncio.sleep(self._poll_interval)
                    self._discover(first=False)
                    looked = time.monotonic()
        finally:
            for file in list(self._files.values()):
                self._forget(file)

    def counts(self) -> dict[str, int]:
        """Lines that had to be mended."""
        parsers = [file.parser for file in self._files.values()]
        return {
            "invalid_utf8": self._mended["invalid_utf8"] + sum(parser.invalid_utf8 for parser in parsers),
            "split_line": self._mended["split_line"] + sum(parser.split_lines for parser in parsers),
        }

    def total_bytes(self) -> int | None:
        """What there is to read in all; unknown while following."""
        if self._follow:
            return None
        return self._read_bytes_of_gone + sum(file.size() for file in self._files.values())

    @property
    def read_bytes(self) -> int:
        """What has been read."""
        return self._read_bytes_of_gone + sum(file.read_bytes for file in self._files.values())

    def _discover(self, *, first: bool) -> None:
        """Opens what the patterns match and is not open yet; tells open files whether a path still leads to them."""
        found: dict[Identity, str] = {}
        for pattern in self._patterns:
            for path in _expand(pattern):
                try:
                    status = os.stat(path)
                except OSError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.setdefault((status.st_dev, status.st_ino), path)
                else:
                    self._refuse(path, "it is no regular file", pattern)
        for identity, file in self._files.items():
            file.still_there(identity in found, time.monotonic())
        for identity, path in found.items():
            if identity not in self._files:
                self._open(path, identity, at_end=first and not self._from_start)

    def _open(self, path: str, identity: Identity, *, at_end: bool) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self._refuse(path, error.strerror or str(error), path)
            return
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != identity:  # rotated between stat and open: the next look finds it
            os.close(fd)
            return
        attributes = {"file": os.path.abspath(path), "host": self._host, **self._fields}
        service = str(attributes.pop("service", Path(path).stem))
        offset = status.st_size if at_end else 0
        self._files[identity] = _File(fd, path, identity, LineParser(service, attributes), offset)
        log.info("reading %s from %s", path, "its end" if at_end else "its start")

    def _refuse(self, path: str, reason: str, pattern: str) -> None:
        if not self._follow and not glob.has_magic(pattern):
            raise StorageError(f"{path}: cannot be read: {reason}")
        if path not in self._refused:
            self._refused.add(path)
            log.warning("%s is left out: %s", path, reason)

    def _forget(self, file: _File) -> None:
        self._mended["invalid_utf8"] += file.parser.invalid_utf8
        self._mended["split_line"] += file.parser.split_lines
        self._read_bytes_of_gone += file.read_bytes
        os.close(file.fd)
        del self._files[file.identity]


class _File:
    """One open file and how far it is read."""

    def __init__(self, fd: int, path: str, identity: Identity, parser: LineParser, offset: int) -> None:
        self.fd = fd
        self.path = path
        self.identity = identity
        self.parser = parser
        self.read_bytes = 0
        self._offset = offset
        self._cutter = LineCutter()
        self._gone_since: float | None = None

    def size(self) -> int:
        """Its length now."""
        return os.fstat(self.fd).st_size

    async def next_chunk(self) -> Chunk | None:
        """Whole lines of the next piece, perhaps none; None where there is nothing new."""
        size = self.size()
        if size < self._offset:
            log.warning("%s was truncated: reading it again from its start", self.path)
            self._cutter.finish()
            self._offset = 0
        if size == self._offset:
            return None
        wanted = min(size - self._offset, READ_BYTES)
        if wanted < INLINE_BYTES:
            data = os.pread(self.fd, wanted, self._offset)
        else:
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(None, os.pread, self.fd, wanted, self._offset)
        if not data:
            return None
        if self._gone_since is not None:
            self._gone_since = time.monotonic()
        start = self._offset - self._cutter.held_bytes
        self._offset += len(data)
        self.read_bytes += len(data)
        return self._parse(self._cutter.feed(data), start)

    def finish(self) -> Chunk | None:
        """The last line where it has no newline."""
        start = self._offset - self._cutter.held_bytes
        lines = self._cutter.finish()
        return self._parse(lines, start) if lines else None

    def still_there(self, there: bool, now: float) -> None:
        """Whether a path still leads to it."""
        if there:
            self._gone_since = None
        elif self._gone_since is None:
            log.info("%s was renamed or deleted: reading the rest of it", self.path)
            self._gone_since = now

    def is_gone(self, now: float) -> bool:
        """No path leads to it any more, and nothing new has come for a while."""
        return self._gone_since is not None and now - self._gone_since >= ROTATED_GRACE

    def _parse(self, lines: bytes, start: int) -> Chunk:
        return self.parser.parse(lines, now=time.time(), start=start, source=self.path)


def _expand(pattern: str) -> Iterator[str]:
    """The paths that a pattern means, in order of name."""
    return iter(sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern])
