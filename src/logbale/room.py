"""Room for what is decoded: a kilobyte may become megabytes, so memory is asked for before it is taken.

No clock, no event loop: the receiver's, which calls `wake` for what waits once there is room again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from logbale.compression import RATIO_FREE_BYTES
from logbale.config import Settings
from logbale.protocol import Algorithm, Flag, Frame
from logbale.session import PREFIX_BYTES


class Waiting(Protocol):
    """A connection whose next frame waits for room."""

    def go_on(self) -> None:
        """There is room again: takes up what waits."""


def raw_bytes_at_most(frame: Frame, settings: Settings) -> int:
    """What decoding a frame may give: a session's says so, a base frame has its ratio."""
    if frame.flags == Flag.CONTROL:
        return 0
    if frame.flags & Flag.SEQUENCED:
        return min(settings.max_raw_bytes, int.from_bytes(frame.payload[8 : PREFIX_BYTES - 4], "big"))
    if frame.algorithm is Algorithm.NONE:
        return len(frame.payload)
    return min(settings.max_raw_bytes, max(RATIO_FREE_BYTES, settings.max_ratio * len(frame.payload)))


class Room:
    """Bytes that are decoded, or being decoded, and not stored yet; whoever finds none waits in line."""

    def __init__(self, limit: Callable[[], int], wake: Callable[[Waiting, int], object]) -> None:
        """`limit`: half of all bytes that may be in flight.

        With all of it a flood that is there already would keep the receiver full, and others unread, until it is
        stored: 40 s for 8 clients that send frames of 3 MiB in 4 kB.
        """
        self.taken = 0
        self._limit = limit
        self._wake = wake
        self._line: deque[tuple[Waiting, int]] = deque()

    def has(self, size: int) -> bool:
        """Whether so much more may be decoded by one who comes now: not before those in line."""
        return not self._line and self._fits(size)

    def _fits(self, size: int) -> bool:
        return not self.taken or self.taken + size <= self._limit()

    def wait(self, who: Waiting, size: int) -> None:
        """`who` goes on when there is room for that, after those who came before."""
        self._line.append((who, size))

    def settled(self) -> None:
        """Something was given back: wakes the first in line where there is room, which is taken for it.

        Who is woken gives that back.
        """
        if self._line and self._fits(self._line[0][1]):
            who, size = self._line.popleft()
            self.taken += size  # promised, or everybody in line would be woken for the same room
            self._wake(who, size)
