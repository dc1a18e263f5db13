"""Which receivers may have which batches of a stream: what one is told that another may have had before (hello's sent).

It errs to one side only: where it is not known who had a batch, another one may have had it.
"""

from __future__ import annotations

import msgspec


class Noted(msgspec.Struct, frozen=True, array_like=True):
    """What a spool keeps of it, for the process after this one."""

    stream: str
    receiver: str
    """Whoever was sent to last; it may have all that was sent."""
    others: int
    """The highest sequence that others may ever have been sent; 0 for none."""
    counts_consumed: bool = False
    """False in a note from before `others` counted what is consumed too."""

    def counting_consumed(self, first: int) -> Noted:
        """The same; what is consumed, below `first`, may have been anybody's where that was not noted."""
        return self if self.counts_consumed else msgspec.structs.replace(self, others=max(self.others, first - 1))


class SentTo:
    """The highest sequence that each receiver may have been sent."""

    def __init__(self, *, up_to: int, noted: Noted | None = None) -> None:
        """`up_to` is the highest that processes before this one may have sent, to whom `noted` says, if anything."""
        self._sent = {"": up_to} if noted is None else {"": noted.others, noted.receiver: up_to}

    def add(self, receiver: str, up_to: int) -> None:
        """It may have everything up to there."""
        self._sent[receiver] = max(up_to, self._sent.get(receiver, 0))

    def elsewhere(self, receiver: str, first: int = 0) -> int:
        """The highest sequence that receivers other than this one may have, or 0 where that is below `first`."""
        highest = max((up_to for name, up_to in self._sent.items() if name != receiver), default=0)
        return highest if highest >= first else 0
