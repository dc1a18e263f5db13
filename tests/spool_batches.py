"""Batches for the spool's tests, and the ways in which a spool ends and begins again."""

import shutil
from contextlib import suppress
from pathlib import Path
from random import Random

from logbale.session import batch_crc
from logbale.spool import DamagedError, DiskSpool, Skip


def raw(number: int, padding: int = 0) -> bytes:
    """A batch of one entry with this number; half of the padding compresses away."""
    return b'[{"n":%d,"pad":"%s"}]' % (number, Random(number).randbytes(padding // 2).hex().encode())


def batch(number: int, padding: int = 0):
    """What append() takes; the cursor of `f` is the number."""
    return raw(number, padding), 1, {"f": number}


def spool_of(directory: Path, **options) -> DiskSpool:
    """An open spool."""
    spool = DiskSpool(directory, **({"max_bytes": 1 << 30} | options))
    spool.open()
    return spool


def crashed(directory: Path, to: Path) -> Path:
    """The spool as kill -9 would leave it now, elsewhere: a lock never outlives its process."""
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(directory, to)
    return to


def left(spool: DiskSpool) -> dict[int, bytes]:
    """Every batch that waits and can be read, by sequence."""
    found = {}
    for sequence in range(spool.first, spool.next_sequence):
        if isinstance(item := spool.item(sequence), Skip):
            assert item.first <= sequence <= item.last
            continue
        with suppress(DamagedError):
            found[sequence] = spool.read(sequence)
            assert item.crc == batch_crc(sequence, found[sequence])
    return found


def balanced(spool: DiskSpool) -> bool:
    """Whether the sum at the end of storage.md is right."""
    counts = dict(spool.counts)
    return counts.pop("read") == sum(counts.values())
