"""FollowedFile: one file, how far it is read, and what shows that it is still the same one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter

import msgspec

from logbale.lines import MAX_LINE_BYTES, LineCutter, LineParser
from logbale.models import Chunk
from logbale.multiline import LineJoiner
from logbale.sources.tail.discovery import Found
from logbale.sources.tail.gunzip import MAGIC, Gunzip
from logbale.sources.tail.identity import HEAD_BYTES, FileName, Identity
from logbale.sources.tail.open_file import NEVER, OpenFile

log = logging.getLogger("logbale.tail")

READ_BYTES = 256 * 1024
"""With half as much both ends take 3 % more CPU; of twice as much, the lines no longer fit the processor's cache."""

TAIL_BYTES = 64
"""Bytes before the place where reading goes on that must be what they were: a truncated file may have grown again, and
have the same beginning."""

RENAMED_GRACE = 300.0
"""Seconds without news after which a renamed file is let go: a server may finish its requests before it reopens."""

DELETED_GRACE = 5.0
"""The same for a deleted one, which takes up disk space for as long as it is open here."""

SKIP_ALL = 1 << 62
"""The cursor of a gzip file that was there already and is not to be read."""

DELETED_LIMIT = 3600.0
"""Seconds after which a deleted file is let go whether there is news or not."""


class FollowedFile(OpenFile):
    """A file that is read."""

    def __init__(
        self,
        fd: int,
        path: str,
        identity: Identity,
        parser: LineParser,
        *,
        joiner: LineJoiner | None = None,
        predecessor: FollowedFile | None = None,
        max_line: int = MAX_LINE_BYTES,
    ) -> None:
        """Takes over `fd`. `path` is what it was first known under; `predecessor` had that path before."""
        super().__init__(fd, path, identity)
        self.path = path
        self.offset = 0
        """Bytes of content read."""
        self.read_bytes = 0
        """The same, of this run."""
        self.active = time.monotonic()
        """When there was news last."""
        self.head = b""
        self._parser = parser
        self._cutter = LineCutter(max_line)
        self._joiner = joiner
        self.predecessor = predecessor
        self._position = 0
        self._tail = b""
        self._skip = 0
        self._seen = NEVER
        self._name: str | None = None
        self._named_bytes = -1
        self._forgotten: list[str] = []
        self._counts: Counter[str] = Counter()
        self._gone_since: float | None = None
        self._ended = False
        # Seen while it is still empty, or half of its first two bytes are there, its name says what it is.
        self.is_gzip = path.endswith(".gz") and MAGIC.startswith(os.pread(fd, len(MAGIC), 0))
        self._gunzip = Gunzip() if self.is_gzip else None
        if path.endswith(".gz") and not self.is_gzip:
            log.warning("%s is called a gzip file and is none: its lines are shipped as they are", path)

    # where reading begins

    def begin_at_end(self) -> dict[str, int]:
        """Leaves out what is there now; the cursor there, where there is anything."""
        fd = self._must_fd()
        self.head = os.pread(fd, HEAD_BYTES, 0)
        size = max(os.fstat(fd).st_size, len(self.head))
        if self._gunzip is not None:
            self.offset = self._skip = SKIP_ALL
        else:
            self._position = self.offset = size
            self._remember_tail()
        return {self._names()[1]: self.offset} if size else {}

    def resume(self, name: FileName, offset: int, head: bytes) -> None:
        """Goes on where the cursor of this name is."""
        self._name = str(name)
        self.head = head[: name.head_bytes]
        if name.identity == self.identity:
            self._named_bytes = name.head_bytes
        if self._gunzip is not None:
            self._skip = offset  # gzip can only be read from its start
            return
        self._position = self.offset = offset
        self._remember_tail()

    def _remember_tail(self) -> None:
        start = max(0, self._position - TAIL_BYTES)
        self._tail = os.pread(self._must_fd(), self._position - start, start)

    def forget_name(self, name: FileName) -> None:
        """The cursor of this name was for what this file held before."""
        self._forgotten.append(str(name))

    # what is known of it

    @property
    def is_idle(self) -> bool:
        """Nothing is left to read as far as it was looked at, and a path leads to it."""
        return not self.is_leaving and self.has_all

    @property
    def has_all(self) -> bool:
        """Nothing is left to read as far as it was looked at."""
        return not self.unread_bytes and (self._gunzip is None or self._gunzip.is_hungry)

    @property
    def unread_bytes(self) -> int:
        """What it has beyond where reading is."""
        if self._skip >= SKIP_ALL:
            return 0
        return max(0, self.size() - self._position)

    @property
    def is_complete(self) -> bool:
        """Not a gzip that ends amid its content."""
        return self._gunzip is None or self._gunzip.is_whole or self._skip >= SKIP_ALL

    def differs_from(self, found: Found) -> bool:
        """Whether something was written since it was looked at."""
        return (found.size, found.mtime_ns) != self._seen

    def counts(self) -> Counter[str]:
        """What had to be mended."""
        splits = self._parser.split_lines + self._cutter.split_lines
        if self._joiner is not None:
            splits += self._joiner.split_entries
        return self._counts + Counter({"invalid_utf8": self._parser.invalid_utf8, "split_line": splits})

    def waits_for_predecessor(self) -> bool:
        """Whether the file that had its path before is still being read; what is appended later does not count."""
        if (before := self.predecessor) is not None and (
            before._ended or not (before.unread_bytes or before.waits_for_predecessor())
        ):
            self.predecessor = None
        return self.predecessor is not None

    # reading

    async def next_chunk(self) -> Chunk | None:
        """What the next piece holds, perhaps no entry; None where there is nothing new.

        Raises OSError, FileNotFoundError where it is gone, and zlib.error where its gzip is damaged.
        """
        if not self.find():
            raise FileNotFoundError(2, "it is gone")
        fd = self._must_fd()
        if self._skip >= SKIP_ALL:
            return None
        if self._gunzip is not None and not self._gunzip.is_hungry:
            return self._take_content()
        status = os.fstat(fd)
        size = status.st_size
        if size == self._position and (size, status.st_mtime_ns) == self._seen:
            return None
        seen, self._seen = self._seen, (size, status.st_mtime_ns)
        head = os.pread(fd, len(self.head), 0)
        if size < self._position or head != self.head:
            return self._begin_again(seen[0])
        wanted = len(self._tail) + min(size - self._position, READ_BYTES)
        data = await _read(fd, wanted, self._position - len(self._tail))
        if not data.startswith(self._tail):
            return self._begin_again(seen[0])
        fresh = bytes(memoryview(data)[len(self._tail) :])
        if not fresh:
            return None
        self._tail = bytes(data[-TAIL_BYTES:])
        if self._position <= len(self.head) < HEAD_BYTES:
            self.head += fresh[len(self.head) - self._position : HEAD_BYTES - self._position]
        self._position += len(fresh)
        self.active = time.monotonic()
        if self._gunzip is None:
            return self._take(fresh)
        self._gunzip.feed(fresh)
        return self._take_content()

    def _take_content(self) -> Chunk:
        assert self._gunzip is not None
        content = self._gunzip.take(READ_BYTES)
        skipped = min(self._skip, len(content))
        self._skip -= skipped
        self.offset += skipped
        return self._take(content[skipped:])

    def _take(self, data: bytes) -> Chunk:
        self.offset += len(data)
        self.read_bytes += len(data)
        start = self.offset - len(data) - self._held_bytes()
        lines = self._cutter.feed(data)
        if self._joiner is None:
            return self._parse(lines, start)
        return self._parse_joined(self._joiner.feed(lines, time.monotonic()), start)

    def _held_bytes(self) -> int:
        return self._cutter.held_bytes + (self._joiner.held_bytes if self._joiner is not None else 0)

    def _begin_again(self, seen_size: int) -> Chunk:
        """It was truncated, or written anew: what is held of it comes out, and reading begins at its start."""
        self._counts["truncated"] += 1
        if (lost := seen_size - self._position) > 0:
            self._counts["vanished_bytes"] += lost
            log.error("%s was truncated before %d bytes of it were read: they are lost", self.location, lost)
        else:
            log.warning("%s was truncated: reading it again from its start", self.location)
        rest = self.finish()
        self._position = self.offset = self._skip = 0
        self._named_bytes = -1
        self.head = self._tail = b""
        self._seen = NEVER
        if self._gunzip is not None:
            self._gunzip = Gunzip()
        return rest if rest is not None else Chunk([])

    def finish(self) -> Chunk | None:
        """What is held: an entry that may have gone on, a last line without a newline."""
        start = self.offset - self._held_bytes()
        rest = self._cutter.finish()
        if self._joiner is None:
            return self._parse(rest, start) if rest else None
        entries = self._joiner.feed(rest, time.monotonic())
        if last := self._joiner.finish():
            entries.append(last)
        return self._parse_joined(entries, start) if entries else None

    @property
    def deadline(self) -> float | None:
        """When (time.monotonic) the entry that is held must come out."""
        return self._joiner.deadline if self._joiner is not None else None

    def take_due(self, now: float) -> Chunk | None:
        """The entry that no further line came for."""
        if self._joiner is None:
            return None
        start = self.offset - self._held_bytes()
        due = self._joiner.take_due(now)
        return self._parse_joined([due], start) if due else None

    def _parse(self, lines: bytes, start: int) -> Chunk:
        return self._named(self._parser.parse(lines, now=time.time(), start=start, source=""))

    def _parse_joined(self, entries: list[bytes], start: int) -> Chunk:
        return self._named(self._parser.parse_joined(entries, now=time.time(), start=start, source=""))

    def _named(self, chunk: Chunk) -> Chunk:
        if not chunk.entries:
            return Chunk([])
        forgotten, name = self._names()
        return msgspec.structs.replace(chunk, source=name, forgotten=forgotten)

    def _names(self) -> tuple[tuple[str, ...], str]:
        """The names that are not its own any more, and the one that is."""
        if self._name is None or self._named_bytes != len(self.head):
            if self._name is not None:
                self._forgotten.append(self._name)
            self._name = str(FileName.of(self.identity, self.head, os.path.abspath(self.path)))
            self._named_bytes = len(self.head)
        forgotten = tuple(old for old in self._forgotten if old != self._name)
        self._forgotten.clear()
        return forgotten, self._name

    # its end

    def try_again(self) -> None:
        """It could not be read: it counts as never looked at, and is opened anew."""
        with contextlib.suppress(OSError):
            self.close()
        self._seen = NEVER

    def end(self) -> None:
        """Nothing is read any more."""
        self._ended = True
        self.close()

    def still_there(self, found: Found | None, now: float) -> None:
        """Whether a path still leads to it, and which."""
        if found is not None:
            self._gone_since = None
            if found.path != self.location:
                self.move_to(found.path)
        elif self._gone_since is None:
            log.info("%s was renamed or deleted: reading the rest of it", self.location)
            self._gone_since = now

    @property
    def is_leaving(self) -> bool:
        """No path of the patterns leads to it."""
        return self._gone_since is not None

    def is_gone(self, now: float) -> bool:
        """It has left, and nothing new has come for a while; or it is deleted and has been open for too long."""
        if self._gone_since is None:
            return False
        if not self.has_all:  # it waits for its turn, or the receiver makes everything wait
            return self.is_deleted and now - self._gone_since >= DELETED_LIMIT
        quiet = now - max(self._gone_since, self.active)
        if self.is_deleted:
            return quiet >= DELETED_GRACE or now - self._gone_since >= DELETED_LIMIT
        return quiet >= RENAMED_GRACE

    def names(self) -> tuple[str, ...]:
        """The cursors that are of no use once it has ended."""
        return tuple(self._forgotten) + ((self._name,) if self._name is not None else ())


async def _read(fd: int, size: int, offset: int) -> bytes | bytearray:
    """At most so many bytes of a file: from a disk on a thread, from memory (Linux can tell) without the trip to one.

    The trip takes longer than the copy, and up to 5 ms where another thread is at work on Python code.
    """
    if (flag := getattr(os, "RWF_NOWAIT", None)) is not None:
        buffer = bytearray(size)
        with contextlib.suppress(OSError):  # it would wait, or the file system cannot say
            if (count := os.preadv(fd, [buffer], offset, flag)) == size:
                return buffer
            del buffer[count:]
            if count > TAIL_BYTES:
                return buffer
    return await asyncio.get_running_loop().run_in_executor(None, os.pread, fd, size, offset)
