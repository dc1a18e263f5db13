"""Whether the peer is still there, and whether the frame it has begun goes on. The caller passes `now`."""

from __future__ import annotations

from logbale.errors import ProtocolError
from logbale.messages import Ping
from logbale.protocol import FrameDecoder

PING_AFTER = 10.0
"""Seconds of silence after which a ping asks for a sign of life."""

DEAD_AFTER = 25.0
"""Seconds of silence after which the peer is gone."""

FRAME_SECONDS = 30.0
FRAME_BYTES = 30 * 1024
"""Every FRAME_SECONDS a frame that has begun ends, or grows by so much.

More than what a peer with nothing to send says in that time, a status of at most 4 KiB every 5 s, and an eighth of
what a link of 64 kbit/s carries.
"""


class Liveness:
    """Whether the peer is still there: any byte is life."""

    def __init__(self, now: float) -> None:
        self._heard = now
        self._pinged: float | None = None
        self._pings = 0

    def heard(self, now: float) -> None:
        """Something arrived."""
        self._heard = now
        self._pinged = None

    @property
    def heard_at(self) -> float:
        """When something arrived last."""
        return self._heard

    @property
    def deadline(self) -> float:
        """When tick() has something to say next."""
        return self._heard + (PING_AFTER if self._pinged is None else DEAD_AFTER)

    def tick(self, now: float) -> Ping | None:
        """A ping to send, once for each silence. Raises ProtocolError when the peer is gone."""
        if now - self._heard >= DEAD_AFTER:
            raise ProtocolError(f"nothing heard for {now - self._heard:.0f} s")
        if now - self._heard >= PING_AFTER and self._pinged is None:
            self._pinged = now
            self._pings += 1
            return Ping(self._pings)
        return None


class Due:
    """By when the frame that has begun has to be whole: FRAME_TIMEOUT, and its length at FRAME_MIN_RATE."""

    def __init__(self, seconds: float, rate: int) -> None:
        self._seconds = seconds
        self._rate = rate
        self._frame = -1
        self.since: float | None = None
        """When the frame that has begun did; None while none has."""

    def restart(self, now: float) -> None:
        """Nothing was read for a while, by our own will."""
        if self.since is not None:
            self.since = now

    def received(self, now: float, decoder: FrameDecoder) -> None:
        """To be called after what was received is decoded."""
        if not decoder.buffered_bytes:
            self.since = None
        elif self.since is None or decoder.taken_bytes != self._frame:
            self.since, self._frame = now, decoder.taken_bytes

    def check(self, now: float, decoder: FrameDecoder) -> None:
        """Raises ProtocolError where it is too late."""
        if self.since is None:
            return
        allowed = self._seconds + decoder.announced_bytes / self._rate
        if now - self.since >= allowed:
            raise ProtocolError(
                f"a frame of {decoder.announced_bytes} bytes of which {decoder.buffered_bytes} came in "
                f"{now - self.since:.0f} s (FRAME_TIMEOUT, FRAME_MIN_RATE)",
                reason="frame_timeout",
            )


class Pace:
    """Whether a frame that has begun goes on.

    A length with a flipped bit makes its reader wait for bytes that nobody sends, while pings and statuses, which end
    up inside that frame, keep the connection alive.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._frame = 0
        self._held = 0

    def restart(self) -> None:
        """Nothing was read for a while, by our own will."""
        self._since = None

    def check(self, now: float, decoder: FrameDecoder) -> None:
        """To be called about every second. Raises ProtocolError where the frame that has begun stands still."""
        frame, held = decoder.taken_bytes, decoder.buffered_bytes
        if not held:
            self._since = None
        elif self._since is None or frame != self._frame or held - self._held >= FRAME_BYTES:
            self._since, self._frame, self._held = now, frame, held
        elif now - self._since >= FRAME_SECONDS:
            raise ProtocolError(
                f"a frame of which {held - self._held} bytes came in {now - self._since:.0f} s", reason="frame_timeout"
            )
