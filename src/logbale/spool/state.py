"""What a spool knows beside its batches, without I/O: marks, cursors, counts, and what of it a record must still tell.

Everything in here counts in positions; DiskSpool turns them into sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from logbale.spool.format import BATCH, Delta, Header, Skip, Snapshot

ACKNOWLEDGED = "acknowledged"
REJECTED = "rejected"
UNNUMBERED = "unnumbered"
"""Entries that were dropped before they got a position: read, but never appended."""
DROPPED = "dropped_"
"""Starts the names of the counts of dropped entries, by reason."""


class State:
    """The state after the last record. Changes are kept until pending() was written and settle() says so."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.stream = snapshot.stream
        self.base = snapshot.base
        self.epoch = snapshot.epoch
        self.next = snapshot.next
        self.first = snapshot.first
        self.before = snapshot.before
        self.consumed_crc = snapshot.consumed_crc
        self.cursors = dict(snapshot.cursors)
        self.counts = dict(snapshot.counts)
        self.skips = list(snapshot.skips)
        self.rejects = dict(snapshot.rejects)
        self.sent = snapshot.sent
        """The send bound: up to this position batches may have been sent, in whatever process. See sent_up_to."""
        self.is_sending = False
        """Whether what is appended may be sent at once."""
        self.settle()

    @classmethod
    def new(cls, stream: str, *, position: int = 1, before: int = 0) -> State:
        """A stream that begins with the batch at `position`, before which the spool took `before` entries."""
        return cls(
            Snapshot(
                serial=0,
                stream=stream,
                base=position - 1,
                epoch=position,
                next=position,
                first=position,
                before=before,
                consumed_crc=None,
                cursors={},
                counts={ACKNOWLEDGED: before} if before else {},
                skips=[],
                rejects={},
                sent=position - 1,
            )
        )

    @classmethod
    def beginning(cls, stream: str, sequence: int) -> State:
        """A stream whose sequences somebody else gives, and of which `sequence` is the first to come: its positions are
        these sequences.
        """
        state = cls.new(stream)
        state.next = state.first = sequence
        state.sent = sequence - 1
        state.settle()
        return state

    def snapshot(self, serial: int) -> Snapshot:
        """All of it, for the start of a segment."""
        return Snapshot(
            serial=serial,
            stream=self.stream,
            base=self.base,
            epoch=self.epoch,
            next=self.next,
            first=self.first,
            before=self.before,
            consumed_crc=self.consumed_crc,
            cursors=self.cursors,
            counts=self.counts,
            skips=self.skips,
            rejects=self.rejects,
            sent=self.sent,
        )

    def settle(self) -> None:
        """What there is now is on disk."""
        self._written = self._small_parts()
        self._changed_cursors: dict[str, Any] = {}

    def _small_parts(self) -> tuple[int, int | None, dict[str, int], list[Skip], dict[int, int], int | None]:
        return self.first, self.consumed_crc, dict(self.counts), list(self.skips), dict(self.rejects), self.sent

    @property
    def is_settled(self) -> bool:
        """Whether all of it is on disk."""
        return not self._changed_cursors and self._written == self._small_parts()

    @property
    def are_cursors_unsettled(self) -> bool:
        """Whether the disk has other cursors."""
        return bool(self._changed_cursors)

    @property
    def has_cursors(self) -> bool:
        """Whether the disk has any."""
        return bool(self.cursors.keys() - self._changed_cursors.keys())

    @property
    def is_bound_unsettled(self) -> bool:
        """Whether the disk has another send bound."""
        return self._written[-1] != self.sent

    def pending(self) -> Delta:
        """What the next record must tell."""
        _, consumed_crc, counts, skips, rejects, sent = self._written
        delta = Delta(
            cursors=dict(self._changed_cursors),
            counts={name: number for name, number in self.counts.items() if counts.get(name) != number},
        )
        if self.consumed_crc != consumed_crc:
            delta.consumed_crc = self.consumed_crc
        if self.skips != skips:
            delta.skips = list(self.skips)
        if self.rejects != rejects:
            delta.rejects = dict(self.rejects)
        if self.sent is not None and self.sent != sent:
            delta.sent = self.sent
        return delta

    def changed(self, cursors: Mapping[str, Any], moved: Mapping[str, Any] = {}) -> dict[str, Any]:
        """Those of the cursors that are new or gone, once the state is `moved`."""
        return {name: value for name, value in cursors.items() if moved.get(name, self.cursors.get(name)) != value}

    def move_cursors(self, cursors: Mapping[str, Any], *, written: bool) -> None:
        """The sources are read so far; None takes a cursor away."""
        for name, value in cursors.items():
            if value is None:
                self.cursors.pop(name, None)
            else:
                self.cursors[name] = value
            if not written:
                self._changed_cursors[name] = value

    def replay(self, header: Header, delta: Delta) -> None:
        """Goes on over a record that was read."""
        self.next = header.position + (header.kind == BATCH)
        self.before = header.before + header.entries
        self.first = header.first
        self.move_cursors(delta.cursors, written=True)
        self.counts = self.counts | delta.counts
        if delta.consumed_crc is not msgspec.UNSET:
            self.consumed_crc = delta.consumed_crc
        if delta.skips is not msgspec.UNSET:
            self.skips = delta.skips
        if delta.rejects is not msgspec.UNSET:
            self.rejects = delta.rejects
        if delta.sent is not msgspec.UNSET:
            self.sent = delta.sent

    @property
    def sent_up_to(self) -> int:
        """The highest position that may have been sent; what is above it certainly was not."""
        highest = self.next - 1  # the bound may be above that: the write that it came with was torn, or failed
        return max(self.first - 1, highest if self.sent is None else min(self.sent, highest))

    def raise_bound(self, batches: int = 0) -> None:
        """All there are may be sent now, and so may be so many that are about to be appended."""
        if batches or self.sent_up_to < self.next - 1:
            self.sent = self.next - 1 + batches

    def count(self, name: str, entries: int) -> None:
        """Adds to a count. The old dict stays as it was: other threads may be reading it."""
        if entries:
            self.counts = {**self.counts, name: self.counts.get(name, 0) + entries}

    @property
    def spooled(self) -> int:
        """Entries that wait."""
        return (
            self.before
            + self.counts.get(UNNUMBERED, 0)
            - sum(number for name, number in self.counts.items() if name != UNNUMBERED)
        )

    @property
    def consumed(self) -> int:
        """Entries of all batches before `first`."""
        open_skips = sum(skip.entries for skip in self.skips)
        return self.before - self.spooled - sum(self.rejects.values()) - open_skips

    def skip(self, skip: Skip) -> None:
        """These positions will not be sent; their entries are dropped, counted by the reason."""
        self.count(DROPPED + skip.reason, skip.entries)
        self.skips = sorted([*self.skips, skip], key=lambda one: one.first)

    def in_stream(self, skip: Skip) -> Skip:
        """The same by sequence."""
        return Skip(skip.first - self.base, skip.last - self.base, skip.entries, skip.reason)

    def skip_at(self, position: int) -> Skip | None:
        """The open skip that holds a position."""
        return next((skip for skip in self.skips if skip.first <= position <= skip.last), None)

    def skipped(self, first: int, last: int) -> int:
        """Entries of the skips that begin within these positions."""
        return sum(skip.entries for skip in self.skips if first <= skip.first <= last)

    def rejected(self, first: int, last: int) -> int:
        """Entries of the rejects among these positions. A skip over one does not count them: they are no drop."""
        return sum(count for position, count in self.rejects.items() if first <= position <= last)

    def reject(self, position: int, entries: int) -> None:
        """A dead letter has this batch."""
        self.rejects[position] = entries
        self.count(REJECTED, entries)

    def consume(self, last: int, *, entries: int, crc: int | None) -> None:
        """Everything up to `last`, which holds so many entries in all, is settled at the receiver."""
        rejected = {position: count for position, count in self.rejects.items() if position <= last}
        gone = [skip for skip in self.skips if skip.last <= last]
        self.count(ACKNOWLEDGED, entries - sum(rejected.values()) - self.skipped(self.first, last))
        self.rejects = {position: count for position, count in self.rejects.items() if position > last}
        self.skips = [skip for skip in self.skips if skip not in gone]
        self.first = last + 1
        self.consumed_crc = crc

    def renumber(self, stream: str) -> Callable[[], None]:
        """A new stream, in which the lowest batch that is not consumed has the sequence 1; what undoes that."""
        saved = self.stream, self.base, self.epoch, self.consumed_crc, self.rejects, self.skips, self.sent

        def undo() -> None:
            self.stream, self.base, self.epoch, self.consumed_crc, self.rejects, self.skips, self.sent = saved

        self.stream = stream
        self.base = self.first - 1
        self.epoch = self.next
        self.consumed_crc = None
        self.sent = self.base
        # To the new stream, a rejected batch is a hole that has to be announced; it stays counted as rejected.
        dropped = {position: count for position, count in self.rejects.items() if self.skip_at(position) is not None}
        holes = [Skip(one, one, count, REJECTED) for one, count in self.rejects.items() if one not in dropped]
        self.skips = sorted([*self.skips, *holes], key=lambda skip: skip.first)
        self.rejects = dropped
        return undo
