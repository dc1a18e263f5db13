"""Waits until something changes in a set of directories, or a time has passed."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from logbale.sources.tail.identity import Identity

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

log = logging.getLogger("logbale.tail")

STEP_MS = 1
"""How often the watcher looks into its own queue. watchfiles' default of 50 makes an append 79 ms old when it is seen,
this one 2; it costs 2 % of a core while all is quiet."""

DEBOUNCE_MS = 5
"""Changes that follow each other without a pause of a step are given out after so long."""

Changes = set[tuple[int, str]]
"""What happened (watchfiles.Change), and to which path."""


class Watcher:
    """Events from the system where it has them; where it has none, only the time."""

    def __init__(self, *, polling: bool) -> None:
        """With `polling` nothing is watched."""
        self._polling = polling
        self._watched: dict[str, Identity] = {}
        self._notify: RustNotify | None = None
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="logbale-watch")

    @property
    def has_events(self) -> bool:
        """Whether wait() can return before its time."""
        return self._notify is not None

    def watch(self, directories: Iterable[str]) -> bool:
        """Watches these instead of the ones before. True where that changed something: events may be missed then."""
        wanted = {} if self._polling else _existing(directories)
        if wanted == self._watched:
            return False
        # A directory that was deleted and made again is another one, though it has the same path.
        self._watched = wanted
        self._notify = None
        if not wanted:
            return True
        from watchfiles._rust_notify import RustNotify  # imports a third of asyncio's size; --once watches nothing

        try:
            self._notify = RustNotify(sorted(wanted), False, False, 0, False, True)
        except (OSError, RuntimeError) as error:
            self._polling, self._watched = True, {}
            log.warning("no file events here, the files are looked at by the clock instead: %s", error)
        return True

    async def wait(self, timeout: float) -> Changes:
        """What changed since the last call; empty after `timeout` seconds. Not to be cancelled and called again."""
        if self._notify is None:
            await asyncio.sleep(timeout)
            return set()
        found = await asyncio.get_running_loop().run_in_executor(
            self._thread, self._notify.watch, DEBOUNCE_MS, STEP_MS, max(1, round(timeout * 1000)), self._stop
        )
        return found if isinstance(found, set) else set()

    def close(self) -> None:
        """Ends the watching; the thread follows within a step."""
        self._stop.set()
        self._thread.shutdown(wait=False)
        self._notify = None


def is_about_names(changes: Changes) -> bool:
    """Whether a file appeared, went, or has another name."""
    from watchfiles import Change

    return any(kind != Change.modified for kind, _ in changes)


def _existing(directories: Iterable[str]) -> dict[str, Identity]:
    found = {}
    for directory in directories:
        try:
            found[directory] = Identity.of(os.stat(directory))
        except OSError:
            continue
    return found
