"""Strand: one job at a time, in order, on threads that many share. A thread for each stream would cost its stack."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Strand(Executor):
    """An executor of one line. shutdown() is the pool's owner's part."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._is_running = False
        self._lock = threading.Lock()

    def submit(self, function: Callable[_P, _T], /, *arguments: _P.args, **named: _P.kwargs) -> Future[_T]:
        """The future of the job, which begins when those before it have ended."""
        future: Future[_T] = Future()
        with self._lock:
            self._jobs.append((future, partial(function, *arguments, **named)))
            if self._is_running:
                return future
            self._is_running = True
        self._pool.submit(self._run)
        return future

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._is_running = False
                    return
                future, job = self._jobs.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = job()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
