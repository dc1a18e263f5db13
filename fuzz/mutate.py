"""A plain mutation driver, for where atheris has no wheel: seeds, cut, joined and bent, without looking at coverage."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

NUMBERS = (0, 1, 5, 16, 63, 64, 127, 128, 255, 256, 4095, 4096, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


def mutated(seeds: Sequence[bytes], chance: random.Random, *, longest: int = 4096) -> bytes:
    """One seed with one to eight harms done to it; now and then random bytes that are none."""
    if not seeds or chance.random() < 0.1:
        return chance.randbytes(chance.randrange(200))
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(1, 9)):
        at = chance.randrange(len(data) + 1)
        harm = chance.randrange(7)
        if harm == 0:
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif harm == 1:
            del data[at : at + chance.randrange(1, 17)]
        elif harm == 2 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif harm == 3 and at < len(data):
            data[at] = chance.randrange(256)
        elif harm == 4:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(NUMBERS) % 256**width
            data[at : at + width] = number.to_bytes(width, chance.choice(("big", "little")))
        elif harm == 5:
            other = chance.choice(seeds)
            data[at:] = other[chance.randrange(len(other) + 1) :]
        else:
            data[at:at] = data[at : at + chance.randrange(1, 65)] * chance.choice((1, 2, 20))
    return bytes(data[:longest])


def run(target: Callable[[bytes], None], seeds: Sequence[bytes], *, seconds: float, seed: int) -> int:
    """Runs the target for so long; how often. Whatever it raises is raised, with the input in its notes."""
    chance = random.Random(seed)
    ends, times = time.monotonic() + seconds, 0
    while times < len(seeds) or time.monotonic() < ends:
        data = seeds[times] if times < len(seeds) else mutated(seeds, chance)
        begins = time.process_time()
        try:
            target(data)
            assert (took := time.process_time() - begins) < 5, f"it took {took:.1f} s of CPU"
        except BaseException as error:
            error.add_note(f"input: {data!r}")
            raise
        times += 1
    return times
