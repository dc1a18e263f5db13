"""logbale's own rows: a round of pipeline.py, counted and judged as everybody's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pipeline

from against.exchange import Taken
from against.loopback import wire_bytes

ARCHIVE = "archive"
"""Where pipeline.py has it in the round's directory."""


@dataclass(frozen=True)
class Ours:
    """Flags of `logbale ship`; all else is as delivered."""

    name: str
    flags: str
    settings: str
    acks: str = "stored"
    synced: str = "yes"

    def missing(self) -> None:
        """It is here."""

    def take(self, source: Path, count: int, directory: Path) -> tuple[Taken, float]:
        """One round, and the wire bytes that logbale itself counted: frames, one way."""
        before = wire_bytes()
        found = pipeline.run(source, count, self.flags, directory)
        taken = Taken(
            found["seconds"],
            wire_bytes() - before,
            found["ship_cpu"],
            found["receive_cpu"],
            found["ship_memory"],
            found["receive_memory"],
        )
        return taken, found["wire_bytes"]


def extract(archive: Path, destination: Path) -> None:
    """Writes the messages of an archive as lines."""
    from msgspec.json import decode

    from logbale.archive import reader  # here: the process that measures stays small

    with destination.open("wb") as stored:
        stored.writelines(decode(line)["message"].encode() + b"\n" for line in reader.lines(archive))


PEERS = [
    Ours("logbale", "", "as it comes: a session, zstd at level 6, spool and archive on disk"),
    Ours("logbale, level 2", "--level 2", "--level 2"),
    Ours("logbale, adaptive", "--adaptive", "--adaptive"),
]
