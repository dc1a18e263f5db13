"""What a service manager is told of this process: systemd's notification protocol. Nothing where nobody listens.

It is a datagram of assignments to the socket that NOTIFY_SOCKET names (sd_notify(3)), and not worth a dependency.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger("logbale")

SEND_TIMEOUT = 1.0
"""Seconds that a datagram may wait for a manager that does not read."""


class ServiceManager:
    """The one that `environ` names, if any."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "")
        self._watchdog = int(microseconds) / 1e6 if is_ours and microseconds.isdecimal() else 0.0
        """Seconds of silence after which this process counts as hung; 0 is never."""

    def ready(self, status: str) -> None:
        """What the process is there for works from now on, or again after a reload."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; ready() ends it, however it went."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._tell("STOPPING=1", "STATUS=stopping")

    async def keep_alive(self) -> None:
        """Says, for as long as the event loop turns, that it does; returns where nobody wants to know."""
        while self._address and self._watchdog:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog / 2)

    def _tell(self, *assignments: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(SEND_TIMEOUT)
                sender.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            log.warning("NOTIFY_SOCKET: cannot tell %s: %s", assignments[0], error)
