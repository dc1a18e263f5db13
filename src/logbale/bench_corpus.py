"""What `logbale bench` measures on: the user's own log lines, or generated ones, in batches as the wire has them."""

from __future__ import annotations

import io
import random
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from logbale.batch_buffer import BatchBuffer
from logbale.config import MiB, Settings
from logbale.errors import LogbaleError, StorageError
from logbale.lines import LineParser
from logbale.models import Batch, Chunk
from logbale.sources.generator import LogGenerator, as_lines

MAX_SOURCE_BYTES = 16 * MiB
"""Read from all files together; from one that is larger than its share, SLICES pieces spread over it."""

SLICES = 8

RUN = 16
"""Batches that a sample takes one after the other."""

NAMED = 5
"""A description names at most so many files."""

GENERATED_ENTRIES = 50_000
"""What is measured where no file is named."""


class Corpus(msgspec.Struct, frozen=True, kw_only=True):
    """Raw batches, and where they come from."""

    description: str
    batch_size: int
    batches: list[bytes]
    """At least one; each is lines of one JSON object, in UTF-8."""
    counts: list[int]
    """Entries of each batch."""

    @property
    def raw_bytes(self) -> int:
        """All batches together."""
        return sum(map(len, self.batches))

    @property
    def entries(self) -> int:
        """All batches together."""
        return sum(self.counts)

    def sample(self, raw_bytes: float) -> Corpus:
        """About so much of it, at least one batch: evenly spaced runs, in which a context finds what is near."""
        total = len(self.batches)
        kept = min(total, max(1, int(total * raw_bytes / self.raw_bytes)))
        runs = -(-kept // RUN)
        chosen = [
            run * total // runs + index
            for run in range(runs)
            for index in range(kept * (run + 1) // runs - kept * run // runs)
        ]
        return msgspec.structs.replace(
            self, batches=[self.batches[index] for index in chosen], counts=[self.counts[index] for index in chosen]
        )


def press(description: str, chunks: Iterable[Chunk], settings: Settings) -> Corpus:
    """The batches that a shipper with these settings makes of the chunks when it need not wait for entries."""
    buffer = BatchBuffer(size=settings.batch_size, interval=settings.batch_interval, max_bytes=settings.batch_max_bytes)
    batches: list[Batch] = []
    for chunk in chunks:
        batches += buffer.add(chunk, now=0.0)
    if (last := buffer.flush()) is not None:
        batches.append(last)
    if not batches:
        raise LogbaleError(f"{description}: no entries to measure")
    return Corpus(
        description=description,
        batch_size=settings.batch_size,
        batches=[batch.raw for batch in batches],
        counts=[batch.count for batch in batches],
    )


def from_files(
    paths: Sequence[Path],
    settings: Settings,
    *,
    fields: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_SOURCE_BYTES,
) -> Corpus:
    """The lines of the files as a shipper sends them that follows them all while they grow.

    So the files take turns in proportion to their lines, and each line has a time of its own, LOG_RATE a second:
    entries of one time and one file would compress better than live ones do. Raises LogbaleError for what is no text
    file.
    """
    sizes = [_size(path) for path in paths]
    turns: list[tuple[float, LineParser, bytes]] = []
    for path, size, share in zip(paths, sizes, _shares(sizes, max_bytes), strict=True):
        attributes = {"file": str(path.absolute()), "host": socket.gethostname(), **(fields or {})}
        parser = LineParser(str(attributes.pop("service", path.stem)), attributes)
        lines = _read_lines(path, size, share)
        turns += [((number + 0.5) / len(lines), parser, line) for number, line in enumerate(lines)]
    turns.sort(key=lambda turn: turn[0])
    return press(_describe(paths, sum(sizes), max_bytes), _stamped(turns, settings.log_rate), settings)


def generated(settings: Settings, *, entries: int = GENERATED_ENTRIES, seed: int = 1) -> Corpus:
    """Entries of the generator, LOG_RATE a second. Real logs compress better or worse: only your own can tell."""
    made = LogGenerator(settings.log_rate, 0, seed=seed).take(entries)
    return press(
        "generated entries (name your own log files for figures that are yours)", [Chunk(as_lines(made))], settings
    )


def _stamped(turns: Iterable[tuple[float, LineParser, bytes]], rate: float) -> Iterator[Chunk]:
    chance = random.Random(0)  # nosec B311  # for times that repeat, not for secrets
    now = time.time()
    for _, parser, line in turns:
        now += chance.expovariate(rate)
        yield parser.parse(line, now=now, start=0, source="")


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; expected text log files") from error
    if not stat.S_ISREG(status.st_mode):
        raise LogbaleError(f"{path}: not a regular file; expected text log files")
    return status.st_size


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """How much of each file is read: what small ones leave of their equal share goes to the larger ones."""
    shares = [0] * len(sizes)
    for done, index in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[index] = min(sizes[index], total // (len(sizes) - done))
        total -= shares[index]
    return shares


def _read_lines(path: Path, size: int, share: int) -> list[bytes]:
    """Whole lines, about `share` bytes of them: of the whole file, or of SLICES places in it."""
    pieces = 1 if size <= share else SLICES
    lines: list[bytes] = []
    try:
        with path.open("rb") as file:
            for start in (piece * size // pieces for piece in range(pieces)):
                file.seek(max(0, start - 1))
                if start:
                    file.readline(share)  # the end of the line before
                lines += io.BytesIO(file.read(share // pieces)).readlines()
                if file.tell() < size and len(lines) > 1:
                    del lines[-1]  # it goes on after the piece
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; expected text log files") from error
    if any(b"\0" in line for line in lines[:100]):
        raise LogbaleError(f"{path}: has zero bytes, so it is no text (compressed, perhaps); expected text log files")
    return lines


def _describe(paths: Sequence[Path], size: int, max_bytes: int) -> str:
    names = ", ".join(path.name for path in paths[:NAMED])
    if len(paths) > NAMED:
        names += f" and {len(paths) - NAMED} more"
    text = names if len(paths) == 1 else f"{len(paths)} files together: {names}"
    if size > max_bytes:
        text += f" ({max_bytes / 1e6:,.1f} of {size / 1e6:,.1f} MB; large files in {SLICES} pieces each)"
    return text
