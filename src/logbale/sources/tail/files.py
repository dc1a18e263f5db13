"""FollowedFiles: which files are followed by now, under which cursors; opens them, and lets them go."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from logbale.errors import StorageError
from logbale.lines import LineParser
from logbale.models import Chunk
from logbale.multiline import LineJoiner, start_pattern
from logbale.sources.tail.discovery import Discovery, Found, by_inode, reason, rotations_between, search, service_of
from logbale.sources.tail.file import FollowedFile
from logbale.sources.tail.identity import HEAD_BYTES, Cursors, FileName, Identity, printable
from logbale.sources.tail.links import planted_link

log = logging.getLogger("logbale.tail")

MAX_OPEN = 256
"""Descriptors of files that have nothing new; the others stay closed until they have."""


class FollowedFiles:
    """The files that are read, by identity and by path."""

    def __init__(
        self,
        discovery: Discovery,
        cursors: Cursors,
        *,
        follow: bool,
        fields: Mapping[str, Any],
        host: str,
        multiline: str | None,
        max_line: int,
        max_depth: int,
    ) -> None:
        """Knows none yet: look() finds them. Raises ConfigError for a `multiline` that is no pattern."""
        self.unread: dict[FollowedFile, None] = {}
        """Files that may have something new, in the order in which that was noticed."""
        self.ready: list[Chunk] = []
        """What came out beside the reading: the last lines of files, cursors of no use any more."""
        self.begun: dict[str, int] = {}
        """The cursors of files that were begun at their end."""
        self.by_path: dict[str, FollowedFile] = {}
        """By every path that events may come from."""
        self._discovery = discovery
        self._cursors = cursors
        self._follow = follow
        self._fields = dict(fields)
        self._host = host
        self._max_line = max_line
        self._max_depth = max_depth
        self._start = start_pattern(multiline) if multiline is not None else None
        self._files: dict[Identity, FollowedFile] = {}
        self._open_files: dict[FollowedFile, None] = {}
        """Those with a descriptor, the one used last at the end."""
        self._counts_of_gone: Counter[str] = Counter({"invalid_utf8": 0, "split_line": 0})
        self._read_bytes_of_gone = 0

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[FollowedFile]:
        """Those of this moment: letting one go does not disturb."""
        return iter(list(self._files.values()))

    def __contains__(self, file: FollowedFile) -> bool:
        return self._files.get(file.identity) is file

    def counts(self) -> dict[str, int]:
        """What had to be mended: invalid_utf8 and split_line; truncated, vanished_files and vanished_bytes if any."""
        counts = self._counts_of_gone.copy()
        for file in self._files.values():
            counts.update(file.counts())
        return dict(counts)

    @property
    def read_bytes(self) -> int:
        """What has been read."""
        return self._read_bytes_of_gone + sum(file.read_bytes for file in self._files.values())

    @property
    def total_bytes(self) -> int:
        """What there is to read in all, of compressed files as they are."""
        return self._read_bytes_of_gone + sum(max(file.size(), file.read_bytes) for file in self._files.values())

    # finding and opening

    def look(self, *, first: bool, at_end: bool) -> bool:
        """Opens what is there and is not known yet, `at_end` or not; tells known files whether a path leads to them.

        False where some of it could not be opened: it may have been renamed a moment ago. Raises StorageError as
        Discovery.look() does, and without `follow` for what cannot be opened.
        """
        found = self._discovery.look(first=first)
        if self._cursors:
            self._open_known(found)
        moved = self._tell_files(found, time.monotonic())
        missed = False
        for identity, at in found.items():
            if (file := self._files.get(identity)) is not None and file.differs_from(at):
                self.unread[file] = None
        unknown = [item for item in found.items() if item[0] not in self._files]
        # A path that had another file goes first: it knows those that had it in between.
        for identity, at in sorted(unknown, key=lambda item: (_known_as(item[1].path) not in moved, item[1].mtime_ns)):
            if identity in self._files:
                continue
            predecessor = moved.get(_known_as(at.path)) if moved else None
            if predecessor is not None:
                predecessor = self._open_between(at.path, predecessor, identity, found)
            if self._open(at.path, at_end=at_end, predecessor=predecessor, expected=identity) is None:
                missed = True
        if first:
            self._drop_cursors(found)
            if not self._follow and not self._files:
                raise StorageError(f"{', '.join(self._discovery.patterns)}: none of it can be read")
        self.by_path = {path: file for file in self._files.values() for path in file.paths}
        return not missed

    def _open_known(self, found: Mapping[Identity, Found]) -> None:
        """Opens the files of an earlier run, also those that no pattern leads to any more, the oldest first."""
        inodes = self._cursors.inodes
        places = {identity: at for identity, at in found.items() if identity.inode in inodes}
        if inodes - {identity.inode for identity in places}:
            places = search(self._discovery.directories(), by_inode(inodes)) | places
        last: dict[str, FollowedFile] = {}
        for identity, at in sorted(places.items(), key=lambda item: item[1].mtime_ns):
            if (file := self._open(at.path, at_end=False, only_known=True, expected=identity)) is not None:
                file.predecessor = last.get(_known_as(file.path))
                last[_known_as(file.path)] = file

    def _drop_cursors(self, found: Mapping[Identity, Found]) -> None:
        """Says which files of an earlier run are gone, and gives up their cursors."""

        def is_gone(name: FileName) -> bool:
            cannot_be_read_now = name.identity in found and name.identity not in self._files
            return not cannot_be_read_now and os.path.isdir(os.path.dirname(name.path))

        for name, offset in self._cursors.drop(is_gone):
            self.ready.append(Chunk([], forgotten=(str(name),)))
            if name.path.endswith(".gz"):
                continue  # what is compressed does not grow
            self._counts_of_gone["vanished_files"] += 1
            log.warning(
                "%s is gone or was written anew since the last run: what it held beyond byte %d is lost, if anything",
                name.path,
                offset,
            )

    def _tell_files(self, found: Mapping[Identity, Found], now: float) -> dict[str, FollowedFile]:
        """The files that had a path and have it no more, by that path; the one that had it last."""
        moved: dict[str, FollowedFile] = {}
        for identity, file in list(self._files.items()):
            at = found.get(identity)
            if at is not None and not file.is_open and at.path != file.location and not file.is_at(at.path, file.head):
                self.vanish(file)  # another file has its inode
                continue
            if at is None and not file.is_leaving:
                # A path that leads elsewhere or nowhere: only an open descriptor keeps what is left of it.
                is_there = True
                with contextlib.suppress(OSError):  # then it is tried again
                    is_there = file.find()
                if not is_there:
                    self.vanish(file)
                    continue
                self.unread[file] = None
            file.still_there(at, now)
            if at is None or (at.path != file.path and _known_as(at.path) != _known_as(file.path)):
                moved[_known_as(file.path)] = file
        return moved

    def _open_between(
        self, path: str, before: FollowedFile, newer: Identity, found: Mapping[Identity, Found]
    ) -> FollowedFile:
        """Opens the files that had this path between two looks; the one before the newest."""
        for identity, at in rotations_between(path, before.mtime_ns, newer, self._files.keys()):
            log.info("%s had the name %s between two looks: reading it, too", at.path, path)
            between = self._open(at.path, at_end=False, predecessor=before, known_as=path, expected=identity)
            if between is not None:
                between.still_there(found.get(identity), time.monotonic())
                before = between
        return before

    def _open(
        self,
        path: str,
        *,
        at_end: bool,
        predecessor: FollowedFile | None = None,
        known_as: str | None = None,
        expected: Identity | None = None,
        only_known: bool = False,
    ) -> FollowedFile | None:
        """Opens a file and decides where its reading begins.

        `known_as` is the path that it had; `expected` refuses another file, `only_known` one without a cursor.
        """
        if (opened := self._open_descriptor(path)) is None:
            return None
        fd, identity, size, head = opened
        if identity in self._files or (expected is not None and expected != identity):
            os.close(fd)
            return None
        cursor = self._cursors.claim(identity, head)
        if only_known and cursor is None:
            os.close(fd)
            return None
        self._discovery.welcome(path)
        shown = known_as or path
        if cursor is not None and cursor[0].path != _known_as(path) and os.path.isabs(cursor[0].path):
            shown = cursor[0].path
        attributes = {"file": os.path.abspath(shown), "host": self._host, **self._fields}
        service = str(attributes.pop("service", service_of(shown)))
        joiner = LineJoiner(self._start, max_bytes=self._max_line) if self._start is not None else None
        parser = LineParser(service, attributes, max_line=self._max_line, max_depth=self._max_depth)
        file = FollowedFile(
            fd, shown, identity, parser, joiner=joiner, predecessor=predecessor, max_line=self._max_line
        )
        file.move_to(path)
        self._begin(file, cursor, size, head, at_end=at_end)
        self._files[identity] = file
        self.unread[file] = None
        self.keep_open(file)
        return file

    def _open_descriptor(self, path: str) -> tuple[int, Identity, int, bytes] | None:
        """A descriptor, what it leads to, the size of that and its first bytes; None where that is not to be had."""
        done = "opened"
        try:
            # O_NONBLOCK: should the path lead to a FIFO by now, open() must not wait for its writer.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise FileNotFoundError(2, "it is no regular file any more")
                if (link := planted_link(path, Identity.of(status))) is not None:
                    raise PermissionError(
                        1,
                        f"{link} leads to a file of another user: links of root, of our own user and of the file's "
                        "owner are followed",
                    )
                done = "read from byte 0 on"
                return fd, Identity.of(status), status.st_size, os.pread(fd, HEAD_BYTES, 0)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            why = f"it cannot be {done}: {reason(error)}"
            if not self._follow and self._discovery.is_named(path):
                raise StorageError(f"{path}: {why}") from error
            self._discovery.leave_out(path, why)
            return None

    def _begin(
        self, file: FollowedFile, cursor: tuple[FileName, int] | None, size: int, head: bytes, *, at_end: bool
    ) -> None:
        if cursor is not None:
            name, offset = cursor
            if size >= offset or file.is_gzip:
                file.resume(name, offset, head)
                log.info("reading %s on from byte %d", file.location, offset)
                return
            file.forget_name(name)
            log.warning("%s was truncated since the last run: reading it again from its start", file.location)
        elif at_end:
            self.begun |= file.begin_at_end()
            log.info("reading %s from its end", file.location)
        else:
            log.info("reading %s from its start", file.location)

    # keeping and letting go

    def keep_open(self, file: FollowedFile) -> None:
        """Notes that its descriptor was used, and closes the one used longest ago if they are many."""
        self._open_files.pop(file, None)
        self._open_files[file] = None
        if len(self._open_files) <= MAX_OPEN:
            return
        closable = [other for other in self._open_files if not other.is_leaving]
        if len(closable) > MAX_OPEN:
            # Rather one with bytes unread than none: it is found again, unless it is deleted.
            other = next((other for other in closable if other.is_idle), closable[0])
            del self._open_files[other]
            other.close()

    def let_go(self, now: float) -> None:
        """Entries that no line came for, and files that are gone."""
        for file in list(self._files.values()):
            if (chunk := file.take_due(now)) is not None:
                self.ready.append(chunk)
            if file.is_leaving and file.is_gone(now):
                if (unread := file.unread_bytes) > 0:
                    self._counts_of_gone["vanished_bytes"] += unread
                    log.error("%s is deleted and let go with %d bytes unread: they are lost", file.path, unread)
                self.finish(file)
                self.ready.append(Chunk([], forgotten=file.names()))

    def finish(self, file: FollowedFile) -> None:
        if not file.is_complete:
            if not self._follow:
                raise StorageError(f"{file.path}: its gzip has no end; the file was cut off, or is being written")
            log.error("%s: its gzip has no end", file.path)
        if (chunk := file.finish()) is not None:
            self.ready.append(chunk)
        self.forget(file)

    def vanish(self, file: FollowedFile) -> None:
        """Its inode is nowhere to be found, and no descriptor holds it."""
        unread = file.unread_bytes
        if not self._follow:
            raise StorageError(f"{file.location}: it was deleted with {unread} bytes unread")
        self._counts_of_gone["vanished_files"] += 1
        self._counts_of_gone["vanished_bytes"] += unread
        if unread:
            log.error("%s was deleted with %d bytes unread: they are lost", file.location, unread)
        else:
            log.info("%s was deleted; all that it was seen to hold is read", file.location)
        if (chunk := file.finish()) is not None:
            self.ready.append(chunk)
        self.ready.append(Chunk([], forgotten=file.names()))
        self.forget(file)

    def forget(self, file: FollowedFile) -> None:
        self._counts_of_gone.update(file.counts())
        self._read_bytes_of_gone += file.read_bytes
        self.unread.pop(file, None)
        self._open_files.pop(file, None)
        for path in file.paths:
            if self.by_path.get(path) is file:
                del self.by_path[path]
        self._files.pop(file.identity, None)
        file.end()


def _known_as(path: str) -> str:
    """A path as cursors name it."""
    return printable(os.path.abspath(path))
