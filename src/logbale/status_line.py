"""StatusLine: the last line of a terminal, redrawn in place; what else goes to standard error stands above it.

Each change is one write, so that nothing flickers, and the cursor is never hidden: whoever kills us leaves a sound
terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any, TextIO, cast

from logbale.kafka.metrics import AnySnapshot
from logbale.status import status

USUAL_WIDTH = 80
"""Columns of a terminal that does not say."""

_CLEAR = "\r\x1b[K"
_RESET = "\x1b[0m"
_COLOURS = {"good": "\x1b[32m", "odd": "\x1b[33m", "bad": "\x1b[1;31m"}


class StatusLine:
    """A context manager, for a standard error that is a terminal; `update` redraws the line."""

    def __init__(self, *, color: bool) -> None:
        self._color = color
        self._err = sys.stderr
        self._line = ""
        self._is_open = False
        """Somebody has written a part of a line."""
        self._lock = threading.Lock()

    def __enter__(self) -> StatusLine:
        self._err = sys.stderr
        sys.stderr = cast(TextIO, self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.stderr = self._err
        with contextlib.suppress(OSError):
            if not self._is_open:
                self._put(_CLEAR)

    def update(self, snapshot: AnySnapshot) -> None:
        """Shows these numbers."""
        self._line = line_of(snapshot, self._width(), color=self._color)
        # A terminal that was closed is no reason to stop the work.
        with self._lock, contextlib.suppress(OSError):
            if not self._is_open:
                self._put(f"{_CLEAR}{self._line}")

    def _width(self) -> int:
        with contextlib.suppress(OSError):
            return os.get_terminal_size(self._err.fileno()).columns or USUAL_WIDTH
        return USUAL_WIDTH

    def _put(self, text: str) -> None:
        self._err.write(text)
        self._err.flush()

    # as standard error

    def write(self, text: str) -> int:
        """Writes above the line."""
        with self._lock:
            clear = "" if self._is_open else _CLEAR
            self._is_open = not text.endswith("\n")
            self._put(f"{clear}{text}{'' if self._is_open else self._line}")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._err, name)


def line_of(snapshot: AnySnapshot, width: int, *, color: bool) -> str:
    """The line, for a terminal of so many columns: one stays free, or some terminals would begin a new line."""
    how, state, numbers = status(snapshot)
    line = f"{'○' if how == 'bad' else '●'} {state}  {numbers}"
    if len(line) > width - 1:
        line = f"{line[: max(0, width - 2)]}…"
    if not color:
        return line
    end = len(state) + 2
    return f"{_COLOURS[how]}{line[:end]}{_RESET}{line[end:]}"
