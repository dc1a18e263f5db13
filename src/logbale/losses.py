"""Losses: batches that were acknowledged here and are not here any more, as their shipper's hello shows; no I/O.

A shipper goes on behind what was acknowledged to it. Where that is beyond what this receiver has of the stream, other
receivers have what is between, up to `sent`; what is beyond was acknowledged by this one (decision 0015).
"""

from __future__ import annotations

import logging

from logbale.messages import Hello
from logbale.metrics import ReceiverMetrics
from logbale.sinks import Mark
from logbale.terminal import count

log = logging.getLogger("logbale.receiver")


class Losses:
    """What is lost, said and counted once. Owned by the receiver's event loop."""

    def __init__(self, metrics: ReceiverMetrics) -> None:
        self._metrics = metrics
        self._said: dict[str, int] = {}
        """How far each stream's were said; only streams with a mark are here, so they are as many as those at most."""

    def settled_below(self, hello: Hello, mark: Mark) -> int:
        """The sequence below which the stream is settled, here or at another receiver, as its hello has it.

        That is `next`, but where the stream is known here and batches of it are lost: the first of these.
        """
        stream, first, last = hello.stream, max(mark.sequence, hello.sent or 0) + 1, hello.next - 1
        if not mark.sequence or first > last:
            return hello.next
        said = self._said.get(stream, 0)
        self._said[stream] = max(said, last)
        if hello.sent is None:
            if last > said:
                log.warning(
                    "stream %s goes on with %d, and ends here with %d: its shipper does not say whether another "
                    "receiver has what is between, so that may be lost",
                    stream,
                    hello.next,
                    mark.sequence,
                )
            return hello.next
        if last > said:
            batches = last - max(first - 1, said)
            self._metrics.lost_batches += batches
            self._metrics.lost_streams[stream] = None
            log.error(
                "stream %s: %s (%d to %d) acknowledged at this address and not here, and no other receiver has them. A "
                "damaged disk, an older copy of the archive that was put back, or one address for several archives: "
                "logbale verify names the gap; keep a newer copy if there is one, logbale cat reads it",
                stream,
                count(batches, "batch", "batches"),
                max(first, said + 1),
                last,
            )
        return first
