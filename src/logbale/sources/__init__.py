"""Where entries come from: one file a source."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from logbale.models import Chunk


class Source(Protocol):
    """Entries, many at a time. A source reads on only as fast as its chunks are taken: that is the back-pressure."""

    def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The entries from here on. Ends by itself where there is an end; cancelled otherwise."""
        ...

    def counts(self) -> dict[str, int]:
        """What had to be mended while reading, by what it was: invalid_utf8, split_line."""
        ...
