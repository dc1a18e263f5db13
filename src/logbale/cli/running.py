"""How a command runs and ends: its event loop, its signals, its summary lines, its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any

from logbale.cli.output import complain, flush
from logbale.config import format_address
from logbale.errors import LogbaleError, UnavailableError
from logbale.metrics import Snapshot

log = logging.getLogger("logbale")

SUMMARY_INTERVAL = 10.0
"""Seconds between summary lines."""

INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended."""


def exit_code(action: Callable[[], int]) -> int:
    """The action's exit code, or that of its error, which is said on standard error.

    Who closes our standard output has seen enough: no error. What nobody foresaw keeps its traceback.
    """
    try:
        code = action()
        flush()
        return code
    except LogbaleError as error:
        complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        with contextlib.suppress(BrokenPipeError):
            flush()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Runs it on uvloop where there is one, on asyncio's own loop otherwise."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop

        factory = new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `stop`, each one anew."""
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        log.info("%s: stopping; once more ends at once", number.name)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def summaries(snapshot: Callable[[], Snapshot], *, interval: float = SUMMARY_INTERVAL) -> AsyncIterator[None]:
    """Logs a summary line every `interval` seconds while the body runs; none twice, so that an idle end is quiet."""
    from logbale.status import summary

    async def repeat() -> None:
        last = ""
        while True:
            await asyncio.sleep(interval)
            if (line := summary(snapshot())) != last:
                log.info("%s", line)
            last = line

    async with background(repeat()):
        yield


@contextlib.asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Does the work while the body runs, and no longer."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


METRICS_FLAG = "--metrics-port (METRICS_PORT) and --dashboard-host (DASHBOARD_HOST)"

_BOUND = re.compile(r"\('([^']*)', (\d+)")
"""The address in the message of an OSError."""


@contextlib.contextmanager
def explained_addresses(flags: Mapping[int, str]) -> Iterator[None]:
    """Turns the error for an address that cannot be had into one that names another one's flag; `flags` is by port."""
    try:
        yield
    except OSError as error:
        bound = _BOUND.search(str(error))
        if bound is not None:
            where = f" on {format_address(bound[1], int(bound[2]))}"
            reason = os.strerror(error.errno or 0)
        elif isinstance(error, socket.gaierror):
            where, reason = "", error.strerror or ""
        else:
            raise
        known = bound is not None and int(bound[2]) in flags
        flag = flags[int(bound[2])] if bound and known else " or ".join(flags.values())
        raise UnavailableError(f"cannot listen{where}: {reason}; choose another address with {flag}") from error
