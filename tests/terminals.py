"""Programs on a terminal of their own: what they show, keys, sizes."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

from cli_process import CLEAN, LOGBALE

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>])")


class Terminal:
    """A command of logbale on a terminal; a context manager that ends it."""

    def __init__(self, *arguments, columns=120, lines=40, **environ):
        self._ours, theirs = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            [*LOGBALE, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=CLEAN | {"TERM": "xterm-256color"} | environ,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._theirs = theirs
        self.shown = ""
        """Everything that it wrote, as it wrote it."""
        self.pieces = []
        """The same as it came: what was written at once, or more of it."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self._theirs)
        os.close(self._ours)

    def _read(self, seconds):
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        with contextlib.suppress(OSError):  # how Linux says that the other end has closed
            self.pieces.append(os.read(self._ours, 65536).decode("utf-8", "replace"))
            self.shown += self.pieces[-1]
            return True
        return False

    def shows(self, pattern, since=0):
        """Waits until it has written something that matches, without the colours; where that ends."""
        deadline = time.monotonic() + 60
        while (match := re.search(pattern, plain(self.shown[since:]))) is None:
            assert time.monotonic() < deadline, self.shown[since:]
            self._read(0.1)
        return match

    def type(self, keys):
        """Presses keys; where what comes after that begins."""
        while self._read(0.05):
            pass
        os.write(self._ours, keys.encode())
        return len(self.shown)

    def resize(self, columns, lines):
        """Another size; who runs there is told."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def end(self, number=None):
        """Its exit code, after a signal if one is given; everything was read then, and the terminal is as it was."""
        if number is not None:
            self.process.send_signal(number)
        deadline = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.shown
            self._read(0.05)
        while self._read(0):
            pass
        assert termios.tcgetattr(self._theirs) == self.before
        return self.process.returncode


def plain(text):
    """Without colours and movements of the cursor."""
    return _ESCAPES.sub("", text)


def on_terminal(*arguments, **environ):
    """What a command shows on a terminal, and its exit code."""
    with Terminal(*arguments, **environ) as terminal:
        code = terminal.end()
        return terminal.shown, code
