"""How a command runs and ends: its event loop, its signals, its summary lines, its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from logbale.cli.output import INTERRUPTED, complain, flush, set_log_level, wants_color
from logbale.cli.service import ServiceManager
from logbale.config import Settings, format_address
from logbale.errors import ConfigError, LogbaleError, StorageError, UnavailableError
from logbale.reloading import Reloading

if TYPE_CHECKING:
    from logbale.kafka.metrics import AnySnapshot

log = logging.getLogger("logbale")

SUMMARY_INTERVAL = 10.0
"""Seconds between summary lines."""

REDRAW_INTERVAL = 0.25
"""Seconds between two looks of a display that is redrawn in place."""

LAST_WORDS = 0.2
"""Seconds that an end which is told twice has for saying what is left."""

THREADS_GRACE = 1.0
"""Seconds that threads whose work nobody waits for any more may delay the process's exit."""


def exit_code(action: Callable[[], int]) -> int:
    """The action's exit code, or that of its error, which is said on standard error.

    Who closes our standard output has seen enough: no error. What nobody foresaw keeps its traceback.
    """
    try:
        code = action()
        flush()
        return code
    except LogbaleError as error:
        # A configuration has a line for each thing that is wrong with it; nothing else has more than one.
        for line in str(error).split("\n") if isinstance(error, ConfigError) else [str(error)]:
            complain(line)
        return error.exit_code
    except BrokenPipeError:
        with contextlib.suppress(BrokenPipeError):
            flush()
        return 0
    except PermissionError as error:  # of whatever a command looks at
        complain(f"{error.filename}: {error.strerror}; give this user the right to it, or be one who has it")
        return StorageError.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Runs it on uvloop where there is one, on asyncio's own loop otherwise; the exit code, as exit_code() has it.

    The process ends soon after, whatever its threads still do: main() waits for those whose work counts.
    """
    gc.freeze()  # what was imported stays: no collection need walk through it
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop

        factory = new_event_loop
    code = 1
    runner = asyncio.Runner(loop_factory=factory)
    try:
        code = exit_code(lambda: runner.run(main))
    finally:
        # The runner waits five minutes for the loop's threads and the interpreter for ever for all of them. One may
        # be looking up a name where no name server answers, or reading from a disk that does not.
        _exit_after(THREADS_GRACE, code)
        runner.close()
    return code


def _exit_after(seconds: float, code: int) -> None:
    """Ends the process with this code where it has not ended by itself until then."""

    def wait() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=wait, name="logbale-exit", daemon=True).start()


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None], last_words: Callable[[], int]) -> Iterator[None]:
    """The first SIGTERM or SIGINT calls `stop`; the next one ends the process, whatever its loop and threads do.

    `last_words` says what is left and returns the exit code; where the loop has no time for it, the code is a shell's
    for that signal. What is on disk then is what kill -9 leaves, which every start takes up.
    """
    loop = asyncio.get_running_loop()
    is_stopping = False

    # Not the loop's own handlers, which wait for the loop. Not SIG_DFL: a container's first process does not die of it.
    def first(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        is_stopping = True
        _handle(second)
        loop.call_soon_threadsafe(tell, number)

    def tell(number: int) -> None:
        log.info("%s: stopping; once more ends at once", signal.Signals(number).name)
        stop()

    def second(number: int, frame: FrameType | None) -> None:
        _handle(_leave)
        _exit_after(LAST_WORDS, 128 + number)
        # On the loop, where nothing is half done. What threads compress, sync or seal is not waited for.
        loop.call_soon_threadsafe(lambda: os._exit(exit_code(last_words)))

    before = _handle(first)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, _leave if is_stopping else handler)


def _handle(handler: Any) -> dict[signal.Signals, Any]:
    """Sets the handler of both signals; those that they had."""
    return {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


class End(Protocol):
    """What a command runs."""

    reloading: Reloading
    started: asyncio.Event
    """Set once all its parts are there."""


@contextlib.asynccontextmanager
async def reloaded_by_sighup(
    end: End, load: Callable[[], Settings], manager: ServiceManager, *, stop: Callable[[], None]
) -> AsyncIterator[None]:
    """SIGHUP puts into force what `load` gives, as one transaction; what it came to is in the log.

    Where it comes because the terminal has gone, it means `stop`: nobody would see that the process lives on.
    """
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    terminals = [descriptor for descriptor in range(3) if os.isatty(descriptor)]
    end.reloading.add(lambda settings: partial(set_log_level, settings.message_level))

    async def follow() -> None:
        while await came.wait():
            came.clear()
            if terminals and not any(map(os.isatty, terminals)):
                _let_go(terminals)
                log.info("the terminal has gone: stopping")
                stop()
                continue
            await end.started.wait()  # a part that is not there yet would not hear of it
            manager.reloading()
            manager.ready(_reload(end.reloading, load))

    before = signal.signal(signal.SIGHUP, lambda number, frame: loop.call_soon_threadsafe(came.set))
    try:
        async with background(follow()):
            yield
    finally:
        # This process is about to end by itself: the default would kill it in between.
        signal.signal(signal.SIGHUP, signal.SIG_IGN if before is signal.SIG_DFL else before)


def _let_go(terminals: list[int]) -> None:
    """Where nobody reads any more, to write would be an error; and the shell may send a SIGHUP of its own."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    while terminals:
        os.dup2(nowhere, terminals.pop())
    os.close(nowhere)


def _reload(reloading: Reloading, load: Callable[[], Settings]) -> str:
    """What became of it, in a few words. Settings are named without their values: one may be a secret."""
    try:
        changes = reloading.reload(load())
    except LogbaleError as error:
        for line in str(error).splitlines():
            log.error("SIGHUP: nothing is changed: %s", line)
        return "the last reload was refused, the log says why"
    except Exception:
        log.exception("SIGHUP: an error that nobody foresaw; a restart makes sure of what is in force")
        return "the last reload failed, the log says why"
    if changes.waiting:
        log.warning("SIGHUP: needs a restart: %s", ", ".join(changes.waiting))
    outcome = f"changed: {', '.join(changes.changed)}" if changes.changed else "no setting is changed"
    log.info("SIGHUP: %s", outcome)
    return f"last reload: {outcome}"


@contextlib.asynccontextmanager
async def summaries(snapshot: Callable[[], AnySnapshot], *, interval: float = SUMMARY_INTERVAL) -> AsyncIterator[None]:
    """Logs a summary line every `interval` seconds while the body runs, if there is news, as SummaryLines has it."""
    from logbale.summary_lines import SummaryLines

    async def repeat() -> None:
        lines = SummaryLines()
        while True:
            await asyncio.sleep(interval)
            if line := lines.due(snapshot(), now=time.monotonic()):
                log.info("%s", line)

    async with background(repeat()):
        yield


@contextlib.asynccontextmanager
async def face(
    snapshot: Callable[[], AnySnapshot], terminal: contextlib.ExitStack, *, is_free: bool = True
) -> AsyncIterator[None]:
    """While the body runs: a status line on a terminal, if that `is_free`, and summary lines otherwise.

    Closing `terminal` gives the terminal back, before the end of the body too.
    """
    if not is_free or not has_terminal():
        async with summaries(snapshot):
            yield
        return
    from logbale.status_line import StatusLine

    with terminal:
        line = terminal.enter_context(StatusLine(color=wants_color(sys.stderr)))
        async with background(redraw(lambda: line.update(snapshot()))):
            yield


def has_terminal() -> bool:
    """Whether somebody looks at our messages as they come."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and log.isEnabledFor(logging.INFO)


async def redraw(draw: Callable[[], None]) -> None:
    """Again and again."""
    while True:
        draw()
        await asyncio.sleep(REDRAW_INTERVAL)


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
