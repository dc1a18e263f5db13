"""Where a command's words go: data to standard output, messages to standard error."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TextIO

from logbale.errors import StorageError
from logbale.terminal import escape, format_entry

INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended."""


def write(data: bytes) -> None:
    """Data, to standard output. Raises StorageError where that takes no more, BrokenPipeError where nobody reads it."""
    with _failures():
        sys.stdout.buffer.write(data)


def flush() -> None:
    """Returns when everything written has left; errors as for write()."""
    with _failures():
        sys.stdout.flush()


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # What is still in the buffer cannot be written: without this the interpreter would try again as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise StorageError(f"standard output: {error.strerror}") from error


def complain(message: str) -> None:
    """Says it on standard error, on one line with our name: a file may be called like two lines."""
    print(f"logbale: {escape(message)}", file=sys.stderr)


def start_messages() -> None:
    """Lets warnings of our own parts be said as complain() says them, until a command starts a log of its own."""
    handler = _Handler()
    handler.setFormatter(_Message())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def wants_color(stream: TextIO) -> bool:
    """Whether colours go there: to a terminal, unless NO_COLOR is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def start_log(level: str) -> None:
    """Lets our own messages from `level` on, a MESSAGE_LEVEL, and other libraries' warnings, onto standard error."""
    handler = _Handler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    set_log_level(level)


def set_log_level(level: str) -> None:
    """Another level for our own messages."""
    logging.getLogger("logbale").setLevel(level.upper())


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stderr is at the moment: a progress display puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Message(logging.Formatter):
    """Its text, with our name."""

    def format(self, record: logging.LogRecord) -> str:
        return f"logbale: {escape(record.getMessage())}"


class _Formatter(logging.Formatter):
    """A message looks like an entry of a service named logbale: the two often end up in one stream."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        line = format_entry(
            {"timestamp": f"{time}Z", "level": record.levelname, "service": "logbale", "message": record.getMessage()},
            color=wants_color(sys.stderr),
        )
        if record.exc_info:
            line += "".join(f"\n{escape(part)}" for part in self.formatException(record.exc_info).splitlines())
        return line
