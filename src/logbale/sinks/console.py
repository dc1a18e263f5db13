"""ConsoleSink: a view that prints entries as they are stored.

It never makes the pipeline wait. Formatting and writing happen in a thread of its own, which takes at most CPU_SHARE of
a core because it shares the interpreter with everything else; what waits for it is bounded; what does not fit is
skipped, counted and said. An output that is closed ends the view and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import time
from queue import SimpleQueue
from threading import Thread
from typing import Literal, TextIO

import msgspec

from logbale.sinks import ReceivedBatch
from logbale.terminal import escape_json, format_entry

log = logging.getLogger("logbale.receiver")

MAX_WAITING_BYTES = 1024 * 1024
"""Bytes of entries (and one batch more) that wait to be shown; over it, batches are skipped until half is shown."""

CPU_SHARE = 0.2
"""Of one core, so that a flood of entries costs the pipeline no more than this."""

LINES_AT_ONCE = 100
"""Entries a write: about a millisecond's work, the longest that the event loop has to wait for the interpreter."""

CLOSE_TIMEOUT = 2.0
"""Seconds that close() gives to what still waits."""


class _Piece(msgspec.Struct, frozen=True):
    """A batch on its way to the thread."""

    batch: ReceivedBatch
    skipped: int
    """Entries skipped since the start when this one was queued."""


class ConsoleSink:
    """Shows entries on `out` in UTF-8: one readable line each, or the JSON as it is.

    Both come without anything that a terminal would obey. Where `out` has a file descriptor, the view writes to that,
    past the buffer.
    """

    def __init__(self, out: TextIO, *, format: Literal["text", "json"] = "text", color: bool = False) -> None:
        self.shown = 0
        """Entries written."""
        # Each number has one writer, the event loop or the thread, so none needs a lock.
        self._offered = self._skipped = self._queued_bytes = 0  # the loop's
        self._taken_bytes = self._said = 0  # the thread's
        self._is_full = False
        self._ended = False
        self._closing = False
        self._format = format
        self._color = color
        self._output = _Output(out)
        self._pieces: SimpleQueue[_Piece | None] = SimpleQueue()
        # A daemon: an output that takes no more may hold it in a write for ever.
        self._thread = Thread(target=self._run, name="logbale-console", daemon=True)
        self._thread.start()

    @property
    def not_shown(self) -> int:
        """Entries offered and not written: skipped, or still waiting."""
        return self._offered - self.shown

    def show(self, batches: list[ReceivedBatch]) -> None:
        """Queues the batches, or skips them. Never waits."""
        for batch in batches:
            waiting = self._queued_bytes - self._taken_bytes
            self._is_full = waiting > (MAX_WAITING_BYTES // 2 if self._is_full else MAX_WAITING_BYTES)
            self._offered += batch.count
            if self._is_full or self._ended:
                self._skipped += batch.count
            else:
                self._queued_bytes += batch.raw_bytes
                self._pieces.put(_Piece(batch, self._skipped))

    async def close(self) -> None:
        """Shows what waits, for CLOSE_TIMEOUT seconds at most; says how many entries were not shown."""
        self._closing = True
        self._pieces.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_TIMEOUT)
        self._ended = True
        if self.not_shown:
            log.warning("not shown on the console: %s", _entries(self.not_shown))

    # the thread

    def _run(self) -> None:
        try:
            while (piece := self._pieces.get()) is not None and not self._ended:
                self._say_skipped(piece.skipped)
                self._write(piece.batch.lines())
                self._taken_bytes += piece.batch.raw_bytes
                if self._pieces.empty():
                    self._say_skipped(self._skipped)
            self._say_skipped(self._skipped)
        except OSError as error:
            log.warning("the console view has ended: %s", error)
        finally:
            self._ended = True
            self._output.close()

    def _write(self, ndjson: bytes) -> None:
        lines = ndjson.removesuffix(b"\n").split(b"\n")
        for start in range(0, len(lines), LINES_AT_ONCE):
            if self._ended:
                return
            began = time.thread_time()
            some = lines[start : start + LINES_AT_ONCE]
            self._output.write("".join(f"{self._line(line)}\n" for line in some))
            self.shown += len(some)
            if not self._closing:
                time.sleep((time.thread_time() - began) * (1 / CPU_SHARE - 1))

    def _line(self, line: bytes) -> str:
        return escape_json(line.decode()) if self._format == "json" else format_entry(line, color=self._color)

    def _say_skipped(self, skipped: int) -> None:
        """Says how many were skipped up to here; between lines of JSON that would be one line too many."""
        count, first = skipped - self._said, not self._said
        self._said = skipped
        if not count:
            return
        if self._format == "text":
            self._output.write(f"… {_entries(count)} not shown\n")
        elif first:
            log.warning("the console does not keep up: entries are skipped there, not in the archive")


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"


class _Output:
    """Writes whole texts to a descriptor of its own, or to a stream that has none (in a test).

    Not through the stream's buffer: a thread that is stuck in it keeps the interpreter from ending, or aborts it. And
    not to the stream's own descriptor: once closed, its number may belong to another file.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):  # io.UnsupportedOperation is one
            self._descriptor = os.dup(out.fileno())

    def write(self, text: str) -> None:
        """Blocks until all is written. Raises OSError where nobody reads any more."""
        if self._descriptor is None:
            self._out.write(text)
            self._out.flush()
            return
        rest = memoryview(text.encode())
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # someone who shares the terminal has set O_NONBLOCK
                select.select([], [self._descriptor], [])

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
