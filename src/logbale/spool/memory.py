"""MemoryStore: where batches wait without a spool directory. What is in it is lost with the process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from logbale.sent_to import Noted
from logbale.session import batch_crc
from logbale.spool.batches import Record
from logbale.spool.format import Skip
from logbale.spool.identity import new_stream

log = logging.getLogger("logbale.spool")


class MemoryStore:
    """The same calls as DiskSpool. It has no bound of its own: who appends asks how much it holds."""

    def __init__(self, stream: str, *, owner: str = "") -> None:
        """`owner` is as for DiskSpool."""
        self.stream = stream
        self.owner = owner
        self.first = 1
        self.next_sequence = 1
        self.raw_bytes = 0
        """Bytes held."""
        self.free_bytes = self.max_bytes = sys.maxsize
        self.skipped = 0
        """It drops nothing."""
        self.has_cursors = False
        self.sent_up_to = 0
        """No process before this one has sent any of it."""
        self.sent_to: Noted | None = None
        self.counts = {"read": 0, "spooled": 0, "acknowledged": 0, "rejected": 0}
        self._batches: dict[int, tuple[Record, bytes]] = {}
        self._last_crc: dict[int, int] = {}

    @property
    def disk_bytes(self) -> int:
        """What it holds, though not on a disk."""
        return self.raw_bytes

    def limit(self, max_bytes: int) -> None:
        """It has none."""

    def append(
        self, batches: Sequence[tuple[bytes, int, Mapping[str, Any]]], bodies: Sequence[bytes | None] = ()
    ) -> list[Record]:
        """Numbers and keeps them, as they are."""
        records = []
        for raw, count, _ in batches:
            sequence = self.next_sequence
            record = Record(sequence, count, len(raw), batch_crc(sequence, raw), len(raw))
            self._batches[sequence] = record, raw
            self._add(read=count, spooled=count)
            self.raw_bytes += len(raw)
            self.next_sequence += 1
            records.append(record)
        return records

    def item(self, sequence: int) -> Record | Skip:
        """The batch, or a Skip where it was rejected."""
        if sequence in self._batches:
            return self._batches[sequence][0]
        return Skip(sequence, sequence, 0, "rejected")

    def read(self, sequence: int) -> bytes:
        """The raw batch."""
        return self._batches[sequence][1]

    def acknowledge(self, last: int) -> None:
        """Forgets every batch up to and including `last`."""
        while self.first <= min(last, self.next_sequence - 1):
            if (record := self._take(self.first)) is not None:
                self._add(acknowledged=record.count, spooled=-record.count)
                self._last_crc = {record.sequence: record.crc}
            self.first += 1

    def reject(self, sequence: int, reason: str) -> None:
        """Nothing can keep it: it is lost, counted and said."""
        if (record := self._take(sequence)) is not None:
            log.error(
                "%d entries of batch %d are lost: without a spool there are no dead letters", record.count, sequence
            )
            self._add(rejected=record.count, spooled=-record.count)

    def begin_sending(self) -> None:
        """No other process will ask what was sent."""

    def end_sending(self) -> None:
        """Likewise."""

    def note_receiver(self, noted: Noted) -> None:
        """No other process will ask."""
        self.sent_to = noted

    def drop_oldest(self, bytes_needed: int, sent_up_to: int) -> Skip | None:
        """Never asked for: it is never full."""
        return None

    def note_dropped(self, count: int, reason: str, cursors: Mapping[str, Any]) -> None:
        """Counts entries that were dropped before they were numbered."""
        self._add(read=count, **{f"dropped_{reason}": count})

    def note_cursors(self, cursors: Mapping[str, Any]) -> None:
        """Nobody will go on from here."""

    def settle(self) -> None:
        """What is acknowledged is gone."""

    def known_crcs(self) -> dict[int, int]:
        """Of what it holds, and of the last batch consumed."""
        return self._last_crc | {sequence: record.crc for sequence, (record, _) in self._batches.items()}

    def new_stream(self) -> None:
        """Another name, and what it holds numbered from 1. No copy of it can meet the name again."""
        waiting: list[tuple[bytes, int, dict[str, Any]]] = [
            (raw, record.count, {}) for record, raw in self._batches.values()
        ]
        counts = dict(self.counts)
        self._batches.clear()
        self._last_crc, self.raw_bytes = {}, 0
        self.stream, self.first, self.next_sequence = new_stream(self.owner), 1, 1
        self.append(waiting)
        self.counts = counts

    def close(self) -> None:
        """Nothing is open."""

    def _take(self, sequence: int) -> Record | None:
        if (found := self._batches.pop(sequence, None)) is None:
            return None
        self.raw_bytes -= len(found[1])
        return found[0]

    def _add(self, **counts: int) -> None:
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
