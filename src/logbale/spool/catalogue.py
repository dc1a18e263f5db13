"""Which segment holds which positions, and how many entries lie between them; indexes are loaded when needed."""

from __future__ import annotations

from bisect import bisect_right

from logbale.spool.format import Header, NotARecord, Skip
from logbale.spool.segment import Segment
from logbale.spool.state import State

DAMAGED = "damaged"
"""The reason of a skip for batches that the disk lost."""

_INDEXES = 4
"""Segments whose index stays in memory beside the newest: sending and acknowledging walk through the same ones."""


class Catalogue:
    """The segments of a spool in their order."""

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments
        self._loaded: list[Segment] = []

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(segment.size for segment in self.segments)

    def add(self, segment: Segment) -> None:
        """The newest one from now on."""
        self.segments.append(segment)

    def remove(self, segment: Segment) -> None:
        """A segment whose file is gone."""
        self.segments.remove(segment)

    def _at(self, position: int) -> int:
        """The number of the last segment that starts at or before a position; -1 where there is none.

        Of several that start there, all but the last are empty.
        """
        return bisect_right(self.segments, position, key=lambda segment: segment.start) - 1

    def _load(self, segment: Segment) -> None:
        if segment.index is None:
            segment.load()
            self._loaded.append(segment)
            if len(self._loaded) > _INDEXES:
                oldest = self._loaded.pop(0)
                if oldest is not self.segments[-1]:
                    oldest.index = None

    def find(self, position: int) -> tuple[Segment, int, Header] | None:
        """Where a batch is; None where it is not there."""
        at = self._at(position)
        if at < 0 or position >= self.segments[at].end:
            return None
        segment = self.segments[at]
        self._load(segment)
        assert segment.index is not None
        found = segment.index.get(position)
        return None if found is None else (segment, *found)

    def read(self, position: int) -> bytes:
        """The raw batch, checked. Raises NotARecord where it is missing or damaged, and OSError."""
        found = self.find(position)
        if found is None:
            raise NotARecord("no sound record of it is left")
        segment, offset, header = found
        try:
            return segment.read(offset, header)
        except FileNotFoundError as error:
            raise NotARecord("its segment was deleted") from error

    def spoilt(self, position: int) -> tuple[Segment, int, Header] | None:
        """A batch turned out to be damaged: it counts as missing from now on. Where it was."""
        if (found := self.find(position)) is not None:
            assert found[0].index is not None
            found[0].index.damaged(position)
        return found

    def before(self, position: int) -> int:
        """Entries that the spool took before a position. All entries of a gap count to its first position."""
        at = self._at(position)
        if at < 0:
            return self.segments[0].before if self.segments else 0
        segment = self.segments[at]
        if position == segment.start:
            return segment.before
        if position >= segment.end:
            if position == segment.end or at + 1 == len(self.segments):
                return segment.end_before
            return self.segments[at + 1].before
        self._load(segment)
        assert segment.index is not None
        previous, following = segment.index.neighbours(position)
        if previous is not None and previous[1].position == position - 1:
            return previous[1].before + previous[1].entries
        return following[1].before if following is not None else segment.end_before

    def offset(self, position: int) -> int:
        """Bytes of all files before the record of a position: about, where that is damaged."""
        at = self._at(position)
        if at < 0:
            return 0
        earlier = sum(segment.size for segment in self.segments[:at])
        segment = self.segments[at]
        if position >= segment.end:
            return earlier + segment.size
        self._load(segment)
        assert segment.index is not None
        _, following = segment.index.neighbours(position)
        return earlier + (following[0] if following is not None else segment.size)

    def missing(self, position: int, state: State) -> Skip:
        """The gap that a missing position is in, as far as it is neither consumed nor skipped already."""

        def is_gap(position: int) -> bool:
            is_told = position in state.rejects or state.skip_at(position) is not None
            return not is_told and self.find(position) is None

        first = last = position
        while first > state.first and is_gap(first - 1):
            first -= 1
        while last + 1 < state.next and is_gap(last + 1):
            last += 1
        return Skip(first, last, self.before(last + 1) - self.before(first), DAMAGED)
