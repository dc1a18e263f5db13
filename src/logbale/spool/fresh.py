"""FreshBatches: batches kept in memory as far as they fit: the newest, most of which are sent without being read back,
and before them those that are sent next.
"""

from __future__ import annotations

from collections.abc import Iterable
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
        self.forgotten = 0
        """How often some were forgotten because the store has them no more, or will not: what was read before then may
        be of that kind."""
        self._batches: dict[int, Fresh] = {}
        self._taken = 0

    def __len__(self) -> int:
        return len(self._batches)

    def keep(self, record: Record, raw: bytes, pressed: Pressed | None) -> None:
        """Takes a batch where there is room."""
        fresh = Fresh(record, raw if pressed is None else b"", pressed)
        if self.room.taken + fresh.size <= self.room.max_bytes:
            self._batches[record.sequence] = fresh
            self._taken += fresh.size
            self.room.taken += fresh.size

    def keep_next(self, batches: Iterable[tuple[Record, bytes]], forgotten: int) -> None:
        """Takes those that are sent next, as they were read since `forgotten`; the highest make room for them."""
        if forgotten != self.forgotten:
            return
        highest: list[int] | None = None
        for record, raw in batches:
            if record.sequence in self._batches:
                continue
            while self.room.taken + len(raw) > self.room.max_bytes:
                highest = sorted(self._batches) if highest is None else highest
                if not highest or highest[-1] < record.sequence:
                    return
                self.forget(highest.pop())
            self.keep(record, raw, None)

    @property
    def room_for_next(self) -> int:
        """Bytes that keep_next() may take at most."""
        return self.room.max_bytes - self.room.taken + self._taken

    def get(self, sequence: int) -> Fresh | None:
        """The batch, where it is here."""
        return self._batches.get(sequence)

    def forget(self, sequence: int) -> None:
        """Gives its room back, where it is here."""
        if (fresh := self._batches.pop(sequence, None)) is not None:
            self._taken -= fresh.size
            self.room.taken -= fresh.size

    def forget_above(self, sequence: int) -> None:
        """Those of higher sequences; 0 forgets all."""
        self.forgotten += 1
        for higher in [one for one in self._batches if one > sequence]:
            self.forget(higher)
