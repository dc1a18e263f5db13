"""Where entries come from: one file a source."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, runtime_checkable

from logbale.models import Chunk


class Source(Protocol):
    """Entries, many at a time. A source reads on only as fast as its chunks are taken: that is the back-pressure."""

    def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The entries from here on. Ends by itself where there is an end; cancelled otherwise."""
        ...

    def counts(self) -> dict[str, int]:
        """What had to be mended while reading, by what it was: invalid_utf8, split_line."""
        ...


@runtime_checkable
class ResumableSource(Source, Protocol):
    """One of which a later run can give again what this one gave; of any other that is lost, unless a spool has it.

    The later run gets those of this one's cursors that became durable.
    """

    begun: dict[str, int]
    """Cursors that are to be noted before the first chunk, all of them at once: where a first run begins."""
    begins_anew: bool
    """A later run without any cursors reads all of it again."""
    needs_cursors: bool
    """A later run without any cursors gives nothing again."""

    def comes_again(self, name: str, cursor: int) -> bool:
        """Whether a later run finds what this one read up to the cursor of that name."""
        ...

    @property
    def unread_bytes(self) -> int:
        """What is left unread, at least."""
        ...
