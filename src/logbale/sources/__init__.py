"""Where entries come from: one file a source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from logbale.models import Chunk


class Source(Protocol):
    """Entries, many at a time. A source reads on only as fast as its chunks are taken: that is the back-pressure."""

    def chunks(self) -> AsyncIterator[Chunk]:
        """The entries from here on. Ends by itself where there is an end; cancelled otherwise."""
        ...
