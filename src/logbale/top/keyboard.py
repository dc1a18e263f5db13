"""Single keys from a terminal, without an echo of them; the terminal is given back as it was."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from typing import Any

_NAMES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1bOH": "home",
    b"\x1bOF": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
}


class Keyboard:
    """A context manager. Where standard input is no terminal, it has no keys, and waits all the same."""

    def __init__(self) -> None:
        self._ours, self._theirs = os.pipe()
        os.set_blocking(self._theirs, False)
        self._before: list[Any] | None = None
        self._resized: Any = None
        self._woken = -1

    def __enter__(self) -> Keyboard:
        # Python's own handlers run between two steps of its code: a signal just before select() would wait for its end.
        # This byte is written at once.
        self._woken = signal.set_wakeup_fd(self._theirs, warn_on_full_buffer=False)
        self._resized = signal.signal(signal.SIGWINCH, lambda *_: None)
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
        signal.signal(signal.SIGWINCH, self._resized)
        signal.set_wakeup_fd(self._woken)
        os.close(self._ours)
        os.close(self._theirs)

    def take(self) -> None:
        """Keys come one by one from now on."""
        if sys.stdin.isatty():
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)

    def give_back(self) -> None:
        """Lines again, as before."""
        if self._before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
            self._before = None

    def wake(self) -> None:
        """Ends a wait(); from any thread."""
        with contextlib.suppress(OSError):
            os.write(self._theirs, b".")

    def wait(self, seconds: float) -> str | None:
        """The next key; None where something else happened first: wake(), a resize, or nothing for so long."""
        descriptors = [self._ours] + ([sys.stdin.fileno()] if self._before is not None else [])
        ready = select.select(descriptors, [], [], seconds)[0]
        if self._ours in ready:
            os.read(self._ours, 1024)
        if len(ready) < 1 or ready == [self._ours]:
            return None
        pressed = os.read(sys.stdin.fileno(), 16)
        if not pressed:  # the terminal is gone
            return "q"
        return _NAMES.get(pressed) or pressed[:1].decode("ascii", "replace")
