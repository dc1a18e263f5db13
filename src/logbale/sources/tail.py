"""TailSource: files by path or glob, from their start or end, followed as they grow, rotate and shrink.

A rotated file is read to its end before its successor is begun; one that was truncated is read again from its start.
Refuses what is no regular file. How far a file was read is the Chunk's cursor; the file's path names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import logging
import os
import stat
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from logbale.errors import StorageError
from logbale.lines import LineCutter, LineParser
from logbale.models import Chunk
from logbale.sources.file_identity import HEAD_BYTES, Cursors, FileName, Identity

log = logging.getLogger("logbale.tail")

READ_BYTES = 128 * 1024
"""More at a time is slower by a tenth to a fifth: the lines made of it no longer fit the processor's cache."""

INLINE_BYTES = 64 * 1024
"""Reads below this are done on the loop; a trip to a thread costs more than copying them from the page cache."""

RENAMED_GRACE = 300.0
"""Seconds without news after which a renamed file is let go: a server may finish its requests before it reopens."""

DELETED_GRACE = 5.0
"""The same for a deleted one, which takes up disk space for as long as it is open here."""


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
        resume: Mapping[str, object] | None = None,
    ) -> None:
        """Goes on where the cursors of an earlier run (`resume`: Chunk.source to offset) say.

        Files that those do not know are then read from their start: they are newer. Raises StorageError for a named
        path that is no regular file, and for one that cannot be read.

        With `follow` the latter is only a warning: it is read from its start once it can be. `from_start` is about the
        files that are there now.
        """
        self._patterns = list(patterns)
        self._follow = follow
        self._from_start = from_start
        self._fields = dict(fields)
        self._host = host
        self._poll_interval = poll_interval
        self._files: dict[Identity, _File] = {}
        self._left_out: set[str] = set()
        self._cursors = Cursors((resume or {}).items())
        self._is_resumed = bool(self._cursors)
        self._counts_of_gone: Counter[str] = Counter({"invalid_utf8": 0, "split_line": 0})
        self._read_bytes_of_gone = 0
        self._find_renamed()
        self._discover(first=True)

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The lines of all files in turn, so that a large one does not hold up the others.

        Raises StorageError where a file cannot be read to its end, unless it is followed: then it is tried again.
        """
        try:
            for chunk in [file.cursor_only() for file in self._files.values() if file.offset]:
                yield chunk
            looked = time.monotonic()
            while self._files or self._follow:
                busy = False
                for file in list(self._files.values()):
                    if file.waits_for_predecessor():
                        continue
                    if (chunk := await self._next_chunk(file)) is not None:
                        busy = True
                        if chunk.entries or chunk.forgotten:
                            yield chunk
                            await asyncio.sleep(0)  # Small reads and a fast consumer would keep the loop to themselves.
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

    async def _next_chunk(self, file: _File) -> Chunk | None:
        try:
            return await file.next_chunk()
        except OSError as error:
            reason = f"it cannot be read from byte {file.offset} on: {_reason(error)}"
            if not self._follow:
                raise StorageError(f"{file.path}: {reason}") from error
            self._leave_out(file.path, reason)
            return None

    def counts(self) -> dict[str, int]:
        """What had to be mended."""
        return dict(sum((file.counts() for file in self._files.values()), start=self._counts_of_gone.copy()))

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
            if _is_glob(pattern):
                self._look_for_glob(pattern, found, first=first)
            else:
                self._look_for_path(pattern, found, first=first)
        now = time.monotonic()
        moved: dict[str, _File] = {}
        for identity, file in self._files.items():
            file.still_there(identity in found, now)
            if found.get(identity) != file.path:
                moved[file.path] = file
        for identity, path in found.items():
            if identity not in self._files:
                self._open(path, at_end=first and not self._from_start, predecessor=moved.get(path))
        if first and not self._follow and not self._files:
            raise StorageError(f"{', '.join(self._patterns)}: none of it can be read")

    def _find_renamed(self) -> None:
        """Opens the files of an earlier run that lie beside their old path under another name, to read the rest."""
        for path in {path for pattern in self._patterns for path in _beside(pattern)}:
            with contextlib.suppress(OSError):
                status = os.stat(path)
                if stat.S_ISREG(status.st_mode) and status.st_ino in self._cursors.inodes:
                    self._open(path, at_end=False, predecessor=None, only_known=True)

    def _look_for_path(self, path: str, found: dict[Identity, str], *, first: bool) -> None:
        try:
            status = os.stat(path)
        except OSError as error:
            if first and not self._follow:
                raise StorageError(f"{path}: {_reason(error)}; check the path, or leave out --once to wait") from error
            if first:
                log.warning("%s: %s; it is read from its start when it appears", path, _reason(error))
            return
        if (kind := _other_kind(status)) is None:
            found.setdefault(Identity.of(status), path)
        elif first:
            raise StorageError(f"{path}: {kind}")
        else:
            self._leave_out(path, kind)

    def _look_for_glob(self, pattern: str, found: dict[Identity, str], *, first: bool) -> None:
        paths = sorted(glob.glob(pattern, recursive=True))
        if not paths and first and not self._follow:
            raise StorageError(f"{pattern}: no file matches; check the pattern, or leave out --once to wait")
        if not paths and first:
            log.warning("%s: no file matches yet; what appears is read from its start", pattern)
        for path in paths:
            try:
                status = os.stat(path)
            except OSError:  # deleted since, or a link that leads nowhere
                continue
            if (kind := _other_kind(status)) is None:
                found.setdefault(Identity.of(status), path)
            elif not stat.S_ISDIR(status.st_mode):
                self._leave_out(path, kind)

    def _open(self, path: str, *, at_end: bool, predecessor: _File | None, only_known: bool = False) -> None:
        try:
            # O_NONBLOCK: should the path lead to a FIFO by now, open() must not wait for its writer.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if not self._follow and path in self._patterns:
                raise StorageError(f"{path}: cannot be opened: {_reason(error)}") from error
            self._leave_out(path, f"it cannot be opened: {_reason(error)}")
            return
        status = os.fstat(fd)
        identity = Identity.of(status)
        if identity in self._files or not stat.S_ISREG(status.st_mode):  # another file than a moment ago
            os.close(fd)
            return
        head = b""
        with contextlib.suppress(OSError):  # a disk that cannot read it says so when it is read
            head = os.pread(fd, HEAD_BYTES, 0)
        known = self._cursors.claim(identity, head)
        if known is None and only_known:
            os.close(fd)
            return
        self._left_out.discard(path)
        attributes = {"file": os.path.abspath(path), "host": self._host, **self._fields}
        service = str(attributes.pop("service", Path(path).stem))
        if known is not None:
            name, offset = known
            where = f"byte {offset}, where the last run ended"
        else:
            name = FileName.of(identity, head, path)
            at_end = at_end and not self._is_resumed
            offset, where = (status.st_size, "its end") if at_end else (0, "its start")
        self._files[identity] = _File(fd, path, name, LineParser(service, attributes), offset, predecessor)
        log.info("reading %s from %s", path, where)

    def _leave_out(self, path: str, reason: str) -> None:
        """Says so once, until it is opened."""
        if path not in self._left_out:
            self._left_out.add(path)
            log.warning("%s is left out: %s", path, reason)

    def _forget(self, file: _File) -> None:
        self._counts_of_gone.update(file.counts())
        self._read_bytes_of_gone += file.read_bytes
        del self._files[file.identity]
        file.close()


class _File:
    """One open file and how far it is read."""

    def __init__(
        self, fd: int, path: str, name: FileName, parser: LineParser, offset: int, predecessor: _File | None
    ) -> None:
        self.path = path
        self.identity = Identity.of(os.fstat(fd))
        self._name = name
        self.offset = offset
        self.read_bytes = 0
        self._fd = fd
        self._parser = parser
        self._cutter = LineCutter()
        self._predecessor = predecessor
        self._gone_since: float | None = None
        self._closed = False

    def size(self) -> int:
        """Its length now."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """Frees it; nothing is read any more."""
        self._closed = True
        os.close(self._fd)

    def counts(self) -> Counter[str]:
        """What had to be mended."""
        splits = self._parser.split_lines + self._cutter.split_lines
        return Counter({"invalid_utf8": self._parser.invalid_utf8, "split_line": splits})

    def waits_for_predecessor(self) -> bool:
        """Whether the file that had its path before is still being read; what is appended later does not count."""
        if (before := self._predecessor) is not None and (before._closed or before.size() <= before.offset):
            self._predecessor = None
        return self._predecessor is not None

    async def next_chunk(self) -> Chunk | None:
        """Whole lines of the next piece, perhaps none; None where there is nothing new. Raises OSError."""
        size = self.size()
        if size < self.offset:
            log.warning("%s was truncated: reading it again from its start", self.path)
            rest = self.finish()  # A half line was written, too.
            self.offset = 0
            if rest is not None:
                return rest
        if size == self.offset:
            return None
        wanted = min(size - self.offset, READ_BYTES)
        if wanted < INLINE_BYTES:
            data = os.pread(self._fd, wanted, self.offset)
        else:
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(None, os.pread, self._fd, wanted, self.offset)
        if not data:
            return None
        if self._gone_since is not None:
            self._gone_since = time.monotonic()
        start = self.offset - self._cutter.held_bytes
        self.offset += len(data)
        self.read_bytes += len(data)
        return self._parse(self._cutter.feed(data), start)

    def finish(self) -> Chunk | None:
        """The last line where it has no newline."""
        start = self.offset - self._cutter.held_bytes
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
        if self._gone_since is None:
            return False
        return now - self._gone_since >= (RENAMED_GRACE if os.fstat(self._fd).st_nlink else DELETED_GRACE)

    def cursor_only(self) -> Chunk:
        """No entries, but where reading begins: a run that is killed before the first one goes on there."""
        return Chunk([], [], source=str(self._name), start=self.offset)

    def _parse(self, lines: bytes, start: int) -> Chunk:
        chunk = self._parser.parse(lines, now=time.time(), start=start, source=str(self._name))
        forgotten = self._rename_grown()
        return Chunk(chunk.entries, chunk.sizes, chunk.overhead, str(self._name), start, forgotten)

    def _rename_grown(self) -> tuple[str, ...]:
        """A file that was short when it was named gets a name by more of it; returns the name that is no more its own.

        By few bytes it could be taken for another one that has its inode later. After a truncation other bytes count.
        """
        old = self._name
        has_grown = old.head_bytes < HEAD_BYTES and self.offset > old.head_bytes
        if has_grown or self.offset < old.head_bytes:
            with contextlib.suppress(OSError):
                head = os.pread(self._fd, min(HEAD_BYTES, self.offset), 0)
                self._name = FileName.of(self.identity, head, self.path)
        return (str(old),) if self._name != old else ()


def _beside(pattern: str) -> list[str]:
    """The paths in the directories of a pattern."""
    parents = glob.glob(os.path.dirname(pattern) or os.curdir)
    return [os.path.join(parent, name) for parent in parents if os.path.isdir(parent) for name in os.listdir(parent)]


def _is_glob(pattern: str) -> bool:
    """Whether it is no path itself: a file may well be named app[1].log."""
    return glob.has_magic(pattern) and not os.path.lexists(pattern)


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _other_kind(status: os.stat_result) -> str | None:
    """What it is and what to do about that; None for a regular file."""
    if stat.S_ISREG(status.st_mode):
        return None
    if stat.S_ISDIR(status.st_mode):
        return "a directory: expected files; name them with a pattern, for example '*.log'"
    return "no regular file: a stream can be shipped as standard input, with - instead of its path"
