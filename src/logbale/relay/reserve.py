"""A little room on the disk that nobody else gets: what a full disk needs in order to become emptier.

What is forwarded is deleted once the next file stands that says so; where there is no room for that one, nothing would
ever be deleted again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from logbale.durable import write_whole

NAME = "+reserve"
"""No stream's directory is called so."""

BYTES = 64 * 1024


class Reserve:
    """One file. It is not worth an error: without it a full disk needs somebody who frees some space."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def take(self) -> None:
        """Sets the room aside, where there is that much."""
        with suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                if os.fstat(fd).st_size < BYTES:
                    write_whole(fd, os.urandom(BYTES), 0)  # which no file system can make smaller
            except OSError:
                os.ftruncate(fd, 0)
            finally:
                os.close(fd)

    def give(self) -> None:
        """Gives it to who writes next."""
        with suppress(OSError):
            os.truncate(self._path, 0)
