"""Batches for the archive's tests, and a disk that stops working at a chosen call."""

import os
from contextlib import contextmanager
from pathlib import Path
from random import Random

from logbale.archive.writer import ArchiveWriter
from logbale.sinks import Mark, ReceivedBatch

START = 1_795_550_400.0  # 2026-11-24T20:00:00Z


def time_of(number: int) -> str:
    """The time of the entry with this number, below 3600: one a second from 20:00 on."""
    return f"2026-11-24T20:{number // 60:02}:{number % 60:02}.000000Z"


def lines_of(numbers, padding=0) -> list[bytes]:
    """One entry a number, each about `padding` bytes longer than it need be, of which half compresses away."""
    return [
        b'{"timestamp":"%s","n":%d,"pad":"%s"}'
        % (time_of(n).encode(), n, Random(n).randbytes(padding // 2).hex().encode())
        for n in numbers
    ]


def batch(*numbers, stream="", padding=0) -> ReceivedBatch:
    """A batch with these entries; in a stream, its sequence is its first number and its CRC ten times that."""
    return ReceivedBatch(
        ndjson=b"".join(line + b"\n" for line in lines_of(numbers, padding)),
        count=len(numbers),
        first=time_of(min(numbers)),
        last=time_of(max(numbers)),
        stream=stream,
        sequence=numbers[0] if stream else 0,
        crc=numbers[0] * 10 if stream else 0,
    )


def mark(number: int, **others) -> Mark:
    """That of a stream whose last batch is this one, in a segment that was begun at START."""
    return Mark(number, number * 10, int(START), **others)


def writer_of(directory: Path, **options) -> ArchiveWriter:
    """An open writer, for ever at START, that does not seal by itself, unless told."""
    defaults = {"segment_bytes": 1 << 30, "segment_seconds": 1e9, "now": lambda: START}
    writer = ArchiveWriter(directory, **(defaults | options))
    writer.open()
    return writer


class PowerOff(BaseException):
    """The machine is off: nothing catches this, and no later call does anything."""


CHANGES = ("pwrite", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "link", "mkdir", "rmdir")


@contextmanager
def power_off_at(monkeypatch, call: int):
    """From the call with this number on, every system call that would change the disk raises PowerOff instead.

    Yields a list that is empty for as long as that has not happened, on any thread.
    """
    calls = iter(range(1 << 30))
    struck = []

    def guarded(real):
        def call_or_stop(*arguments, **options):
            if next(calls) >= call:
                struck.append(real)
                raise PowerOff
            return real(*arguments, **options)

        return call_or_stop

    with monkeypatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, guarded(getattr(os, name)))
        yield struck


def syncs_of(monkeypatch) -> list[tuple[str, str]]:
    """A list that grows with every sync from now on: the call, and the path that it was for."""
    calls: list[tuple[str, str]] = []

    def noted(name, real):
        def call(fd):
            calls.append((name, os.readlink(f"/proc/self/fd/{fd}")))
            real(fd)

        return call

    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    return calls
