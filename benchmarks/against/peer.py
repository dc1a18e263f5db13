"""What a peer is: two ends, each a pipeline of commands with its configuration; and where its programs are found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

UNPACKED = Path(__file__).parents[2] / ".run" / "peers" / "root"
"""Where scripts/peers.sh unpacks Debian's packages; looked at before PATH."""
DEBIAN = "make bench-peers fetches it on Debian, where apt and the network are"


@dataclass(frozen=True)
class Place:
    """What one round has for itself."""

    source: Path
    directory: Path
    port: int

    @property
    def destination(self) -> Path:
        """Receives the lines as they were sent, each with its newline."""
        return self.directory / "stored.log"


@dataclass(frozen=True)
class End:
    """A shipper or a receiver: commands, each reading what the one before it writes."""

    commands: list[list[str]]
    files: Mapping[str, str] = field(default_factory=dict)
    """Name in the round's directory → text."""
    stdin: Path | None = None
    stdout: Path | None = None


@dataclass(frozen=True)
class Peer:
    """A shipper and its receiver, the way they are set up, and what they promise."""

    name: str
    ends: Callable[[Place], tuple[End, End]]
    """The receiver and the shipper."""
    settings: str
    """What is not their default, and why."""
    acks: str
    """Whether the shipper learns what has arrived."""
    programs: Mapping[str, str]
    """Program → how it is to be had."""
    version: list[str]
    parts: tuple[str, ...] = ()
    """Patterns of files below `usr/lib` without which it does not run."""
    synced: str = "no"

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        for program, way in self.programs.items():
            if find(program) is None:
                return f"{program} is not on PATH: {way}"
        for part in self.parts:
            if not any(library.glob(part) for library in libraries()):
                return f"{part} is not installed: {DEBIAN}"
        return None


def find(program: str) -> str | None:
    """The way to it, unpacked or on PATH."""
    places = [str(UNPACKED / below) for below in ("usr/sbin", "usr/bin", "sbin", "bin")]
    return shutil.which(program, path=os.pathsep.join([*places, os.environ.get("PATH", os.defpath), "/usr/sbin"]))


def libraries() -> list[Path]:
    """Where packages keep their modules: what is unpacked, and what is installed."""
    return [root / "usr/lib" for root in (UNPACKED, Path("/"))]


def modules(pattern: str) -> str | None:
    """The directory below `usr/lib` that holds the modules of an unpacked program; None is the program's own."""
    found = sorted((UNPACKED / "usr/lib").glob(pattern))
    return str(found[0]) if found else None


def environment(program: str) -> dict[str, str]:
    """An unpacked program's libraries are beside it, and nowhere else."""
    if not Path(program).is_relative_to(UNPACKED):
        return dict(os.environ)
    beside = [*UNPACKED.glob("lib/*-linux-*"), *UNPACKED.glob("usr/lib/*-linux-*"), UNPACKED / "usr/lib/syslog-ng"]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, beside))}
