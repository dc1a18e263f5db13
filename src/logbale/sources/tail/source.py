"""TailSource: files by path or glob, from start, end or cursor, followed as they grow, rotate and shrink."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from logbale.errors import StorageError
from logbale.lines import MAX_LINE_BYTES
from logbale.models import Chunk
from logbale.ndjson import MAX_DEPTH
from logbale.sources import ResumableSource
from logbale.sources.tail.discovery import Discovery, by_inode, reason, search
from logbale.sources.tail.file import FollowedFile
from logbale.sources.tail.files import FollowedFiles
from logbale.sources.tail.identity import Cursors, FileName
from logbale.sources.tail.open_file import holds
from logbale.sources.tail.watch import Changes, Watcher, is_about_names

log = logging.getLogger("logbale.tail")

LOOK_INTERVAL = 1.0
"""Seconds between two looks at everything where events are to be had: network file systems tell of their own only."""

BEGUN = "files"
"""Names no file: a cursor that is there once a first run has begun, so that in a later one all files are new that no
cursor is known of, though the first one may have found none, or only empty ones."""

LOOK_SHARE = 0.1
"""Of the time may go into looking because names changed: a directory with 10,000 others must not cost a core."""


class TailSource(ResumableSource):
    """A Source of the lines of files. Its cursors are named by FileName and count bytes of content."""

    def __init__(
        self,
        patterns: Sequence[str],
        *,
        follow: bool,
        from_start: bool,
        fields: Mapping[str, Any],
        host: str,
        exclude: Sequence[str] = (),
        multiline: str | None = None,
        resume: Mapping[str, Any] | None = None,
        polling: bool = False,
        poll_interval: float = 0.25,
        max_line: int = MAX_LINE_BYTES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        """Raises StorageError for a named path that is no regular file, and for one that cannot be read.

        With `follow` the latter is only a warning: it is read from its start once it can be. `from_start` is about the
        files that are there now, in a first run; with `resume`, the cursors of an earlier one, those that it does not
        know are new and read from their start. `multiline` is a preset or a pattern: ConfigError. `polling` does
        without file events.
        """
        resume = resume or {}
        cursors = Cursors(resume.items())
        self._discovery = Discovery(patterns, exclude, follow=follow)
        self._files = FollowedFiles(
            self._discovery,
            cursors,
            follow=follow,
            fields=fields,
            host=host,
            multiline=multiline,
            max_line=max_line,
            max_depth=max_depth,
        )
        self._follow = follow
        self._poll_interval = poll_interval
        self._watcher = Watcher(polling=polling or not follow)
        self._left_bytes = 0
        self._looked = 0.0
        self._next_look = 0.0
        self._no_look_before = 0.0
        was_begun = bool(cursors) or BEGUN in resume
        self.begins_anew = from_start and not was_begun
        """Without a spool the same command reads all of it again."""
        self.needs_cursors = not from_start and not was_begun
        """The same command begins at the ends of the files, unless cursors of this run outlive it."""
        self._files.look(first=True, at_end=not from_start and not was_begun)
        # All or none of them become durable, or the next run took the others' files for new.
        self.begun = {**self._files.begun, BEGUN: 1} if follow and BEGUN not in resume else {}
        """The cursors of a first run, for who takes its chunks."""

    # what it gives

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The lines of all files in turn, so that a large one does not hold up the others.

        A chunk without entries says which cursors are of no use any more, or where blank lines are. Raises StorageError
        where a file cannot be read to its end, unless it is followed: then it is tried again. Cancelled while
        following, it leaves a last line that has no newline yet unread: the cursor is before it.
        """
        try:
            while self._files or self._follow or self._files.ready:
                progress = False
                for file in list(self._files.unread):
                    if file.waits_for_predecessor():
                        continue
                    chunk = await self._next_chunk(file)
                    if chunk is None:
                        self._files.unread.pop(file, None)
                        if not self._follow and file in self._files:
                            self._files.finish(file)
                    else:
                        progress = True
                        self._files.ready.append(chunk)
                    for ready in self._take_ready():
                        yield ready
                        await asyncio.sleep(0)  # Small reads and a fast consumer would keep the loop to themselves.
                self._files.let_go(time.monotonic())
                for ready in self._take_ready():
                    yield ready
                if self._follow:
                    await self._wait(busy=progress)
        finally:
            self._watcher.close()
            self._left_bytes = self.unread_bytes
            for file in self._files:
                self._files.forget(file)

    def _take_ready(self) -> list[Chunk]:
        ready = [chunk for chunk in self._files.ready if chunk.entries or chunk.source or chunk.forgotten]
        self._files.ready.clear()
        return ready

    def counts(self) -> dict[str, int]:
        """What had to be mended: invalid_utf8 and split_line; truncated, vanished_files and vanished_bytes if any."""
        return self._files.counts()

    def comes_again(self, name: str, cursor: int) -> bool:
        """Whether a later run finds the file with this cursor's name, and in it what this one read up to `cursor`."""
        if (known := FileName.parse(name)) is None:
            return False
        directories = self._discovery.directories() | {os.path.dirname(known.path)}
        inodes = by_inode({known.identity.inode})
        return holds(known, known.path, cursor) or any(
            holds(known, found.path, cursor) for found in search(directories, inodes).values()
        )

    def total_bytes(self) -> int | None:
        """What there is to read in all, of compressed files as they are; unknown while following."""
        return None if self._follow else self._files.total_bytes

    @property
    def read_bytes(self) -> int:
        """What has been read."""
        return self._files.read_bytes

    @property
    def unread_bytes(self) -> int:
        """What is left unread, or was when chunks() ended, at least; of compressed files as they are."""
        return self._left_bytes + sum(file.unread_bytes for file in self._files)

    # reading

    async def _next_chunk(self, file: FollowedFile) -> Chunk | None:
        try:
            chunk = await file.next_chunk()
        except FileNotFoundError:
            self._files.vanish(file)
            return None
        except (OSError, zlib.error) as error:
            why = reason(error) if isinstance(error, OSError) else f"its gzip is damaged: {error}"
            text = f"it cannot be read from byte {file.offset} on: {why}"
            if not self._follow:
                raise StorageError(f"{file.path}: {text}") from error
            self._discovery.leave_out(file.path, text)
            file.try_again()
            return None
        self._files.keep_open(file)
        return chunk

    # waiting

    async def _wait(self, *, busy: bool) -> None:
        """Until something may have happened, then notes what; while `busy` only looks around when that is due."""
        now = time.monotonic()
        changes: Changes = set()
        if not busy:
            changes = await self._watcher.wait(max(0.0, self._wake_at(now) - now))
            now = time.monotonic()
            for file in self._files:
                if file.is_leaving or not self._watcher.has_events:  # nobody tells of a deleted file
                    self._files.unread[file] = None
        for _, path in changes:
            if (changed := self._files.by_path.get(path)) is not None:
                self._files.unread[changed] = None
        if changes and is_about_names(changes):
            self._next_look = min(self._next_look, self._no_look_before)
        if now >= self._next_look or (busy and now - self._looked >= self._poll_interval):
            self._look()

    def _wake_at(self, now: float) -> float:
        soon = not self._watcher.has_events or any(file.is_leaving for file in self._files) or self._files.unread
        due = [self._next_look, now + self._poll_interval if soon else now + LOOK_INTERVAL]
        due += [at for file in self._files if (at := file.deadline) is not None]
        return min(due)

    def _look(self) -> None:
        """Finds out which files there are, and what the next look is due by."""
        began = time.monotonic()
        is_sure = self._files.look(first=False, at_end=False)
        now = self._looked = time.monotonic()
        self._no_look_before = now + (now - began) / LOOK_SHARE
        self._next_look = now + (LOOK_INTERVAL if self._watcher.has_events and is_sure else self._poll_interval)
        directories = self._discovery.directories() | {os.path.dirname(path) for path in self._files.by_path}
        if self._watcher.watch(directories):
            self._next_look = self._no_look_before  # for what happened before it was watched
