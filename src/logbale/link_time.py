"""How long a connection was held up by the network, as the kernel counts it; not by the receiver, and not by us."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys

_BUSY_AND_FULL = struct.Struct("=QQ")
_OFFSET = 168
"""Of tcpi_busy_time and tcpi_rwnd_limited in Linux' struct tcp_info (since 4.10), both in microseconds."""


def link_seconds(writer: asyncio.StreamWriter | None) -> float | None:
    """Seconds since the connection began in which bytes were under way and the receiver's window had room for more.

    None where the system does not tell. A receiver that reads slowly closes its window, and then more compression helps
    nobody. (A window that is smaller than what the link holds looks the same; the kernel's grow with the need.)
    """
    if writer is None or sys.platform != "linux":
        return None
    try:
        connection: socket.socket = writer.get_extra_info("socket")
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _OFFSET + _BUSY_AND_FULL.size)
        busy, full = _BUSY_AND_FULL.unpack_from(told, _OFFSET)
    except (OSError, AttributeError, struct.error):  # closed meanwhile, or an older kernel's shorter struct
        return None
    return max(0, int(busy) - int(full)) / 1e6
