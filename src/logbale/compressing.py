"""Compressing: where a batch is compressed (on the loop or in the pool), and how long it took."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

from logbale.compression import Compressed, CompressionHandler
from logbale.context import ContextCompressor
from logbale.protocol import Flag

INLINE_BYTES = 64 * 1024
"""Batches below this are compressed on the loop: a trip to the pool costs about 40 µs, more than it saves."""

_T = TypeVar("_T")


class Compressing:
    """The shell around a CompressionHandler: it times, and gives large batches to threads. One batch at a time."""

    def __init__(self, handler: CompressionHandler) -> None:
        self.handler = handler
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="logbale-compress")

    async def alone(self, raw: bytes) -> Compressed:
        """The batch on its own."""
        compressed, seconds = await self._timed(len(raw), self.handler.compress, raw)
        self.handler.record(compressed, seconds)
        return compressed

    async def in_context(self, context: ContextCompressor, raw: bytes) -> bytes:
        """The next body of a context."""
        body, seconds = await self._timed(len(raw), context.compress, raw)
        self.handler.record(Compressed(body, context.algorithm, len(raw), bypassed=False), seconds)
        return body

    async def _timed(self, size: int, function: Callable[[bytes], _T], raw: bytes) -> tuple[_T, float]:
        if size < INLINE_BYTES:
            return _timed(function, raw)
        return await asyncio.get_running_loop().run_in_executor(self._pool, _timed, function, raw)

    def close(self) -> None:
        """Ends the pool."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def context_flags(context: ContextCompressor) -> Flag:
    """The flags of the next body of a context; ask before it is made."""
    return Flag.CONTINUED | Flag.NEW_CONTEXT if context.is_new else Flag.CONTINUED


def _timed(function: Callable[[bytes], _T], raw: bytes) -> tuple[_T, float]:
    start = perf_counter()
    return function(raw), perf_counter() - start
