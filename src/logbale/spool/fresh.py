"""FreshBatches: the newest batches, kept in memory as far as they fit: most are sent without being read back."""

from __future__ import annotations

from typing import NamedTuple

from logbale.compressing import Pressed
from logbale.spool.batches import Record


class Fresh(NamedTuple):
    """A batch that need not be read back: raw, or compressed where it will be sent so."""

    record: Record
    raw: bytes
    pressed: Pressed | None

    @property
    def size(self) -> int:
        """Bytes that it takes here."""
        return len(self.raw) if self.pressed is None else len(self.pressed.payload)


class FreshRoom:
    """What FreshBatches may hold, one or many together."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.taken = 0


class FreshBatches:
    """By sequence. What does not fit is not taken: it is on disk, too."""

    def __init__(self, room: FreshRoom) -> None:
        self.room = room
        self._batches: dict[int, Fresh] = {}

    def __len__(self) -> int:
        return len(self._batches)

    def keep(self, record: Record, raw: bytes, pressed: Pressed | None) -> None:
        """Takes a batch where there is room."""
        fresh = Fresh(record, raw if pressed is None else b"", pressed)
        if self.room.taken + fresh.size <= self.room.max_bytes:
            self._batches[record.sequence] = fresh
            self.room.taken += fresh.size

    def get(self, sequence: int) -> Fresh | None:
        """The batch, where it is here."""
        return self._batches.get(sequence)

    def forget(self, sequence: int) -> None:
        """Gives its room back, where it is here."""
        if (fresh := self._batches.pop(sequence, None)) is not None:
            self.room.taken -= fresh.size

    def forget_above(self, sequence: int) -> None:
        """Those of higher sequences; 0 forgets all."""
        for higher in [one for one in self._batches if one > sequence]:
            self.forget(higher)
