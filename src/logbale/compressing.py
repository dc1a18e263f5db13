"""Compressing: where a batch is compressed (on the loop or in the pool), and what that took, by level."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter, thread_time
from typing import TypeVar
from weakref import WeakSet

import msgspec

from logbale.compression import Compressed, CompressionHandler
from logbale.context import ContextCompressor
from logbale.level_table import Work
from logbale.protocol import Algorithm, Flag

INLINE_BYTES = 64 * 1024
"""Batches below this are compressed on the loop: a trip to the pool costs about 40 µs, more than it saves."""

HELPED_LEVEL = 3
"""Levels from which on two threads press: below, a batch takes a millisecond, and asking for help a twentieth of it."""

_T = TypeVar("_T")


class Pressed(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """A large batch as it is stored and sent, and what making it took."""

    payload: bytes
    """One zstd frame."""
    level: int
    raw_bytes: int
    seconds: float
    cpu_seconds: float


class Compressing:
    """The shell around a CompressionHandler: it times, and gives large batches to threads. One batch at a time."""

    def __init__(self, handler: CompressionHandler) -> None:
        self.handler = handler
        self._work: dict[int, Work] = {}
        self._pressers = [CompressionHandler(Algorithm.ZSTD, handler.level, bypass_threshold=0) for _ in range(2)]
        """The store's thread has the first one, who helps it the other."""
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

    def press(self, raws: Sequence[bytes]) -> list[Pressed]:
        """Batches that are stored and sent as one and the same frame each. On the store's thread, while others work."""
        level = self.handler.level
        waiting = deque(enumerate(raws))
        done: dict[int, Pressed] = {}

        def press_some(presser: CompressionHandler) -> None:
            presser.level = level
            with contextlib.suppress(IndexError):  # nothing waits any more
                while True:
                    index, raw = waiting.popleft()
                    payload, seconds, cpu_seconds = _timed(presser.compress_always, raw)
                    done[index] = Pressed(payload, level, len(raw), seconds, cpu_seconds)

        own, other = self._pressers
        help_comes = self._call_for_help(press_some, other) if len(raws) > 1 and level >= HELPED_LEVEL else None
        press_some(own)
        if help_comes is not None and not help_comes.cancel():
            help_comes.result()
        return [done[index] for index in range(len(raws))]

    def _call_for_help(
        self, work: Callable[[CompressionHandler], None], presser: CompressionHandler
    ) -> Future[None] | None:
        """Another thread that does the same, where there is a CPU for it."""
        if (os.cpu_count() or 1) < 2:
            return None
        with contextlib.suppress(RuntimeError):  # this end is about to end
            return self._pool.submit(work, presser)
        return None

    def sent(self, pressed: Pressed) -> None:
        """It left: from now on it counts. Where it left before, as sent once more, but not as compressed once more."""
        compressed = Compressed(pressed.payload, Algorithm.ZSTD, pressed.raw_bytes, bypassed=False)
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
        """Ends the pool."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def context_flags(context: ContextCompressor) -> Flag:
    """The flags of the next body of a context; ask before it is made."""
    return Flag.CONTINUED | Flag.NEW_CONTEXT if context.is_new else Flag.CONTINUED


def _timed(function: Callable[[bytes], _T], raw: bytes) -> tuple[_T, float, float]:
    """The result, and what it took in seconds of the clock and of this thread's CPU time."""
    start, cpu_start = perf_counter(), thread_time()
    return function(raw), perf_counter() - start, thread_time() - cpu_start
