"""Compressing: where a batch is compressed (on the loop or in the pool), and what that took, by level."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from time import perf_counter, thread_time
from typing import TypeVar
from weakref import WeakSet

import msgspec

from logbale.compression import Compressed, CompressionHandler, decompress
from logbale.context import ContextCompressor
from logbale.level_table import Work
from logbale.protocol import Algorithm, Flag

INLINE_BYTES = 64 * 1024
"""Batches below this are compressed on the loop: a trip to the pool costs about 40 µs, more than it saves."""

PRESSES = 2
"""Large batches that are compressed at the same time, while the store is busy with those before them."""

AHEAD_LEVEL = 3
"""Levels from which on that is done. Below, a batch takes a millisecond, and handing it over a tenth of that."""

PRESS_NICENESS = 5
"""Of theirs: a third of another thread's share where both want all of a core."""

_T = TypeVar("_T")


class Pressed(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """A large batch as it is stored and, unless the level is raised meanwhile, sent; and what making it took."""

    payload: bytes
    """One zstd frame."""
    level: int
    raw_bytes: int
    seconds: float
    cpu_seconds: float


Pressing = Callable[[], Pressed | None]
"""Gives a batch that is being compressed; None where this end is ending and nobody compresses it any more."""


class Compressing:
    """The shell around a CompressionHandler: it times, and gives large batches to threads. One batch at a time."""

    def __init__(self, handler: CompressionHandler) -> None:
        self.handler = handler
        self._work: dict[int, Work] = {}
        self._pressers: list[CompressionHandler] = []
        """Those that no thread uses now."""
        self._presses = ThreadPoolExecutor(
            min(PRESSES, os.cpu_count() or 1), thread_name_prefix="logbale-press", initializer=_give_way
        )
        self._counted: WeakSet[Pressed] = WeakSet()
        """Those that left."""
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="logbale-compress")

    async def alone(self, raw: bytes) -> Compressed:
        """The batch on its own."""
        level = self.handler.level  # now: it may change while the pool works
        compressed, seconds, cpu_seconds = await self._timed(len(raw), self.handler.compress, raw)
        self._record(level, compressed, seconds, cpu_seconds)
        return compressed

    async def in_context(self, context: ContextCompressor, raw: bytes) -> bytes:
        """The next body of a context."""
        body, seconds, cpu_seconds = await self._timed(len(raw), context.compress, raw)
        self._record(context.level, Compressed(body, context.algorithm, len(raw), bypassed=False), seconds, cpu_seconds)
        return body

    def press(self, raw: bytes) -> Pressing:
        """Compresses a batch for the store, and to be sent as payload() has it: what is returned gives it, for the
        store's thread to call. From AHEAD_LEVEL on it is begun now."""
        level = self.handler.level
        if level >= AHEAD_LEVEL:
            with contextlib.suppress(RuntimeError):  # the threads have ended
                return partial(_result, self._presses.submit(self._press, raw, level))
        return partial(self._press, raw, level)

    def _press(self, raw: bytes, level: int) -> Pressed:
        try:
            presser = self._pressers.pop()
        except IndexError:
            presser = CompressionHandler(Algorithm.ZSTD, level, bypass_threshold=0)
        presser.level = level
        payload, seconds, cpu_seconds = _timed(presser.compress_always, raw)
        self._pressers.append(presser)
        return Pressed(payload, level, len(raw), seconds, cpu_seconds)

    async def payload(self, pressed: Pressed) -> bytes:
        """What leaves for it: its frame, or, where the level was raised since and that gives one, a smaller one. A
        backlog was compressed before anybody knew how slowly the link takes it."""
        level = self.handler.level
        if not 0 < pressed.level < level:
            self._sent(pressed)
            return pressed.payload
        payload, seconds, cpu_seconds = await self._timed(
            pressed.raw_bytes, partial(self._compress_anew, pressed.raw_bytes), pressed.payload
        )
        self._record(level, _as_sent(payload, pressed), seconds, cpu_seconds)
        return payload

    def _compress_anew(self, raw_bytes: int, payload: bytes) -> bytes:
        raw = decompress(Algorithm.ZSTD, payload, max_raw=raw_bytes, max_ratio=None)
        # A higher level can come out larger, and what was within the receiver's max_frame must not be refused for it.
        return min(payload, self.handler.compress_always(raw), key=len)

    def _sent(self, pressed: Pressed) -> None:
        """It left: from now on it counts. Where it left before, as sent once more, but not as compressed once more."""
        compressed = _as_sent(pressed.payload, pressed)
        if pressed in self._counted:
            self.handler.record(compressed, 0.0)
            return
        self._counted.add(pressed)
        self._record(pressed.level, compressed, pressed.seconds, pressed.cpu_seconds)

    def take_work(self) -> dict[int, Work]:
        """What compressing took since the last call, by level; what stayed raw says nothing about levels."""
        work, self._work = self._work, {}
        return work

    def _record(self, level: int, compressed: Compressed, seconds: float, cpu_seconds: float) -> None:
        self.handler.record(compressed, seconds)
        if compressed.algorithm is not Algorithm.NONE:
            work = self._work.setdefault(level, Work())
            work.add(compressed.raw_bytes, len(compressed.payload), cpu_seconds, seconds)

    async def _timed(self, size: int, function: Callable[[bytes], _T], raw: bytes) -> tuple[_T, float, float]:
        if size < INLINE_BYTES:
            return _timed(function, raw)
        return await asyncio.get_running_loop().run_in_executor(self._pool, _timed, function, raw)

    def close(self) -> None:
        """Ends the threads."""
        for pool in (self._pool, self._presses):
            pool.shutdown(wait=False, cancel_futures=True)


def _give_way() -> None:
    """Where a thread has a niceness of its own: whoever presses ahead yields to those who read, send and acknowledge,
    here and at a receiver beside it. Else these wait for a turn, and in the end the presses have nothing to do."""
    if sys.platform == "linux":
        os.nice(PRESS_NICENESS)


def _result(pressing: Future[Pressed]) -> Pressed | None:
    with contextlib.suppress(CancelledError):
        return pressing.result()
    return None


def _as_sent(payload: bytes, pressed: Pressed) -> Compressed:
    return Compressed(payload, Algorithm.ZSTD, pressed.raw_bytes, bypassed=False)


def context_flags(context: ContextCompressor) -> Flag:
    """The flags of the next body of a context; ask before it is made."""
    return Flag.CONTINUED | Flag.NEW_CONTEXT if context.is_new else Flag.CONTINUED


def _timed(function: Callable[[bytes], _T], raw: bytes) -> tuple[_T, float, float]:
    """The result, and what it took in seconds of the clock and of this thread's CPU time."""
    start, cpu_start = perf_counter(), thread_time()
    return function(raw), perf_counter() - start, thread_time() - cpu_start
