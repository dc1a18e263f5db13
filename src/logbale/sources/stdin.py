"""StdinSource: the lines of a pipe, a terminal or a redirected file."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from logbale.lines import MAX_LINE_BYTES, LineCutter, LineParser
from logbale.models import Chunk
from logbale.ndjson import MAX_DEPTH

READ_BYTES = 128 * 1024


class StdinSource:
    """Reads a file descriptor to its end. What a slow writer wrote is passed on at once, line by line."""

    def __init__(
        self,
        *,
        fields: Mapping[str, Any],
        host: str,
        fd: int = 0,
        max_line: int = MAX_LINE_BYTES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        attributes = dict(fields)
        service = str(attributes.pop("service", "stdin"))
        self._parser = LineParser(service, {"host": host, **attributes}, max_line=max_line, max_depth=max_depth)
        self._cutter = LineCutter(max_line)
        self._fd = fd
        self.read_bytes = 0

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The lines, the last one also without a newline."""
        while data := await self._read():
            self.read_bytes += len(data)
            if lines := self._cutter.feed(data):
                yield self._parse(lines)
        if lines := self._cutter.finish():
            yield self._parse(lines)

    def _parse(self, lines: bytes) -> Chunk:
        # No source name: standard input cannot be resumed.
        return self._parser.parse(lines, now=time.time(), start=0, source="")

    async def _read(self) -> bytes:
        """The next bytes; empty at the end. A thread blocked in read() would keep the process from ending."""
        loop = asyncio.get_running_loop()
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(self._fd):
            readable = loop.create_future()
            loop.add_reader(self._fd, _resolve, readable)
            try:
                await readable
            finally:
                loop.remove_reader(self._fd)
            return os.read(self._fd, READ_BYTES)
        return await loop.run_in_executor(None, os.read, self._fd, READ_BYTES)

    def counts(self) -> dict[str, int]:
        """Lines that had to be mended."""
        return {
            "invalid_utf8": self._parser.invalid_utf8,
            "split_line": self._parser.split_lines + self._cutter.split_lines,
        }

    def total_bytes(self) -> int | None:
        """The size where standard input is a file, else unknown."""
        status = os.fstat(self._fd)
        return status.st_size if stat.S_ISREG(status.st_mode) else None


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
