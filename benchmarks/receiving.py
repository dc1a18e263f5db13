"""A receiver to measure against: `logbale receive` in a process of its own, on a free port of the loopback."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

LOGBALE = (sys.executable, "-m", "logbale")


@contextlib.contextmanager
def receiving(
    directory: Path,
    *,
    command: Sequence[str] = LOGBALE,
    messages: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process, and HOST:PORT once it listens; it is stopped when the block ends, if it has not ended by then.

    `flags` are further ones of `logbale receive`. Without a sink of theirs its archive is `directory`/archive; what it
    says is in `messages` (without: `directory`/messages).
    """
    messages = messages or directory / "messages"
    stored = [] if "--sink" in flags else ["--archive", str(directory / "archive")]
    receive = ["receive", "--listen", "127.0.0.1:0", *stored, *flags]
    with messages.open("wb") as stderr:
        receiver = subprocess.Popen([*command, *receive], stdout=stderr, stderr=stderr, env=environ)
    try:
        while (listening := re.search(r"listening on (\S+).*\n", messages.read_text())) is None:
            if receiver.poll() is not None:
                raise SystemExit(messages.read_text())
            time.sleep(0.01)
        yield receiver, listening[1]
    finally:
        receiver.terminate()
        receiver.wait(60)


def certificates(directory: Path) -> tuple[list[str], list[str]]:
    """Flags for a receiver and for a shipper with TLS and a certificate at each end, made in `directory`."""
    subprocess.run([*LOGBALE, "certs", directory, "--client", "bench"], check=True, capture_output=True)
    receive, ship = (
        ["--tls-cert-file", f"{directory}/{name}.pem", "--tls-key-file", f"{directory}/{name}.key"]
        for name in ("receiver", "bench")
    )
    return [*receive, "--tls-client-ca-file", f"{directory}/ca.pem"], [*ship, "--tls-ca-file", f"{directory}/ca.pem"]
