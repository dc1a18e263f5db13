"""Looks at stored batches for those who watch: batches in, what each filter lets pass out.

A large batch is decompressed no further than it is looked at, and nothing here is kept longer than a look takes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from logbale.compression import zstd
from logbale.entry_filter import EntryFilter
from logbale.sinks import ReceivedBatch
from logbale.sinks.viewer import Found

PORTION_BYTES = 16 * 1024
"""Of lines, about, that are looked at between two looks at the clock."""

EVENT_BYTES = 64 * 1024
"""Of entries from which on an event is full."""

MAX_ENTRY_BYTES = 256 * 1024
"""A longer entry is not looked at: it is for reading in the archive."""

REPLAY_BYTES = 256 * 1024
"""Of entries that one replay gives at most, the newest: half of what a viewer's queue takes."""

REPLAY_SHARE = 0.2
"""Of one core that a replay's thread takes: it shares the interpreter with the event loop."""


class Piece(msgspec.Struct, frozen=True):
    """A stored batch and the number of its first entry."""

    first: int
    batch: ReceivedBatch
    arrived: float
    """By the loop's clock."""

    @property
    def end(self) -> int:
        """The number of the first entry after it."""
        return self.first + self.batch.count


def portions(batch: ReceivedBatch) -> Iterator[list[bytes]]:
    """The batch's lines, some at a time."""
    begun: list[bytes] = []
    for some in _decompressed(batch.frame) if batch.frame else _cut(batch.ndjson):
        if b"\n" not in some:
            begun.append(some)
            continue
        *lines, rest = b"".join([*begun, some]).split(b"\n")
        begun = [rest]
        yield lines


def _cut(ndjson: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(ndjson):
        end = ndjson.find(b"\n", start + PORTION_BYTES) + 1 or len(ndjson)
        yield ndjson[start:end]
        start = end


def _decompressed(frame: bytes) -> Iterator[bytes]:
    decompressor = zstd.ZstdDecompressor()
    taken = 0
    while not decompressor.eof:
        fed = b""
        if decompressor.needs_input:
            fed = frame[taken : taken + PORTION_BYTES]
            taken += PORTION_BYTES
        yield decompressor.decompress(fed, PORTION_BYTES)


class Sieve:
    """What a filter has let pass since it was emptied."""

    def __init__(self, wanted: EntryFilter) -> None:
        self.skipped = 0
        """Entries that were too long."""
        self._predicate = wanted.predicate()
        self._passed: list[bytes] = []
        self._passed_bytes = 0

    @property
    def is_full(self) -> bool:
        """Enough for one event."""
        return self._passed_bytes >= EVENT_BYTES

    def pour(self, lines: list[bytes]) -> None:
        """Lets lines pass, or not."""
        passed = list(filter(self._predicate, lines))
        size = sum(map(len, passed))
        if size > MAX_ENTRY_BYTES:
            short = [line for line in passed if len(line) <= MAX_ENTRY_BYTES]
            self.skipped += len(passed) - len(short)
            passed, size = short, sum(map(len, short))
        self._passed += passed
        self._passed_bytes += size

    def empty(self, first: int, end: int) -> Found:
        """What has passed of the entries from `first` to before `end`."""
        found = Found(first, end, len(self._passed), _encode(self._passed), self.skipped)
        self._passed, self._passed_bytes, self.skipped = [], 0, 0
        return found


def _encode(lines: Sequence[bytes]) -> bytes:
    return msgspec.json.encode([line.decode() for line in lines]) if lines else b""


def replay(
    pieces: Sequence[Piece], wanted: EntryFilter, start: int, end: int, last: int | None
) -> tuple[list[Found], float]:
    """What the filter lets pass of the entries from `start` to before `end`: the newest, of which REPLAY_BYTES fit.

    At most the `last` ones. Also the CPU time that it took. For a thread: it takes its time, a fifth of a core.
    """
    predicate = wanted.predicate()
    kept: deque[tuple[int, bytes]] = deque()
    kept_bytes = 0
    missing: list[tuple[int, int]] = []  # number of the first, how many
    covered_from = end
    spent = 0.0
    for piece in reversed(pieces):
        missing.append((piece.end, covered_from - piece.end))
        found: list[tuple[int, bytes]] = []
        number = piece.first
        for lines in portions(piece.batch):
            began = time.thread_time()
            for line in lines:
                if not start <= number < end:
                    pass
                elif len(line) > MAX_ENTRY_BYTES:
                    missing.append((number, 1))
                elif predicate is None or predicate(line):
                    found.append((number, line))
                number += 1
            took = time.thread_time() - began
            spent += took
            time.sleep(took * (1 / REPLAY_SHARE - 1))
        kept.extendleft(reversed(found))
        kept_bytes += sum(len(line) for _, line in found)
        covered_from = max(start, piece.first)
        is_full = False
        while kept_bytes > REPLAY_BYTES or (last is not None and len(kept) > last):
            number, line = kept.popleft()
            covered_from, kept_bytes, is_full = number + 1, kept_bytes - len(line), True
        if is_full or len(kept) == last:
            break
    skipped = sum(count for number, count in missing if number >= covered_from and count > 0)
    return _as_events(kept, skipped, covered_from, end), spent


def _as_events(kept: Iterable[tuple[int, bytes]], skipped: int, first: int, end: int) -> list[Found]:
    """The lines in events that are not too large, which together cover everything from `first` to before `end`."""
    events = []
    sieve = Sieve(EntryFilter())
    sieve.skipped = skipped
    for number, line in kept:
        sieve.pour([line])
        if sieve.is_full:
            events.append(sieve.empty(first, number + 1))
            first = number + 1
    events.append(sieve.empty(first, end))
    return events
