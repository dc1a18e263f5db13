"""Waits until it is so: the limit is met by a failure alone, and what was waited for is returned."""

import asyncio
import time

PATIENCE = 60.0
"""Seconds for what takes moments on a machine that does nothing else."""


async def eventually(is_so, seconds=PATIENCE):
    """For what happens on this event loop."""
    async with asyncio.timeout(seconds):
        while not (found := is_so()):
            await asyncio.sleep(0.002)
    return found


def wait_until(is_so, seconds=PATIENCE):
    """For what another thread or process does."""
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.01)
    return found
