"""The wire of a round: a loopback interface that nobody else uses, whose kernel counters say what went over it.

Nothing stands between the ends. The figure is that of both directions, headers and acknowledgements included. Where no
network namespace can be had, the machine's own loopback is counted, with all that is on it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

_INSIDE = "LOGBALE_PEERS_INSIDE"
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_LISTEN = "0A"


def enter_namespace() -> bool:
    """Starts this program anew in a network namespace of its own, as root or in a user's; False where there is none."""
    if os.environ.get(_INSIDE):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        return True
    for words in (["unshare", "--net"], ["unshare", "--net", "--map-root-user"]):
        try:
            subprocess.run([*words, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        os.environ[_INSIDE] = "1"
        os.execvp(words[0], [*words, sys.executable, *sys.orig_argv[1:]])
    return False


def wire_bytes() -> int:
    """What went over loopback until now."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Read from the kernel's table: a connection to try it would be taken for the shipper's."""
    sockets = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(local.endswith(f":{port:04X}") and state == _LISTEN for local, _, state in sockets)
