"""Where spools lie, what they are called, and the stream id in each, with who was sent to last."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import msgspec

from logbale.durable import sync_directory, write_whole
from logbale.errors import ConfigError
from logbale.sent_to import Noted

_STREAM = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}")
_STREAM_FILE = "stream"
_RECEIVER_FILE = "receiver"


def spool_root(given: str = "", environ: Mapping[str, str] = os.environ, *, is_root: bool | None = None) -> Path:
    """The directory of all spools: as given (SPOOL_DIR), or where this platform keeps a program's state."""
    if given:
        return Path(given)
    if os.geteuid() == 0 if is_root is None else is_root:
        return Path("/var/lib/logbale/spool")
    home = environ.get("XDG_STATE_HOME", "")
    # The XDG specification wants relative paths ignored.
    state = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return state / "logbale" / "spool"


def spool_name(name: str | None, sources: Sequence[str]) -> str:
    """The directory's name: as given, or from the sources: readable, and with a hash to tell likes apart.

    Raises ConfigError where a given one could be a path.
    """
    if name is not None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--name={name!r}: expected up to 64 of A-Z a-z 0-9 . _ @ -, none of . - first")
        return name
    slug = re.sub(r"[^a-z0-9]+", "-", sources[0].rsplit("/", 1)[-1].lower()).strip("-")[:32] if sources else ""
    return f"{slug or 'spool'}-{sha256(chr(0).join(sources).encode()).hexdigest()[:8]}"


def new_stream(owner: str = "") -> str:
    """A stream id: the owner's name, else this host's for people, and 128 random bits."""
    name = owner or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64]
    return f"{name}:{uuid4().hex}"


def read_stream(directory: Path) -> str | None:
    """The stream id on file; None where there is none that could be one. Raises OSError."""
    try:
        text = (directory / _STREAM_FILE).read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    return text if is_stream(text) else None


def is_stream(text: str) -> bool:
    """Whether it could be a stream's id."""
    return _STREAM.fullmatch(text) is not None


def write_stream(directory: Path, stream: str) -> None:
    """Writes the id, durably and in one step. Raises OSError."""
    _write(directory, _STREAM_FILE, f"{stream}\n".encode())


def read_receiver(directory: Path) -> Noted | None:
    """Who was sent to last; None where that is not known."""
    try:
        return msgspec.json.decode((directory / _RECEIVER_FILE).read_bytes(), type=Noted)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def write_receiver(directory: Path, noted: Noted) -> None:
    """Writes it, durably and in one step; where that fails nothing is known any more. Raises OSError."""
    try:
        _write(directory, _RECEIVER_FILE, msgspec.json.encode(noted) + b"\n")
    except OSError:
        (directory / _RECEIVER_FILE).unlink(missing_ok=True)
        raise


def _write(directory: Path, name: str, content: bytes) -> None:
    unfinished = directory / f"{name}.new"
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_whole(fd, content, 0)
        os.fsync(fd)
        os.rename(unfinished, directory / name)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise
    finally:
        os.close(fd)
    sync_directory(directory)
