"""The PROXY protocol's version 2, without I/O: what a balancer says of the connection that it hands on.

Refuses version 1 and whatever is longer than MAX_HEADER_BYTES, at the first byte that says so.
"""

from __future__ import annotations

from ipaddress import ip_address

import msgspec

from logbale.errors import ProtocolError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

FIXED_BYTES = len(SIGNATURE) + 4
"""The signature, version and command, family, and the length of what follows."""

MAX_HEADER_BYTES = 2048
"""An address takes 36 bytes at most; the rest is what balancers add, such as the names in a certificate."""

_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6 = 0x00, 0x11, 0x21
_ADDRESS_BYTES = {_TCP4: 4, _TCP6: 16}


class ProxyHeader(msgspec.Struct, frozen=True):
    """A whole header."""

    size: int
    """Bytes that it took."""
    client: tuple[str, int] | None
    """Address and port of who connected to the balancer; None where the connection is the balancer's own."""


def read_proxy_header(received: bytes) -> ProxyHeader | None:
    """The header at the start of a connection; None while it is not whole. Raises ProtocolError."""
    begun = received[: len(SIGNATURE)]
    if not SIGNATURE.startswith(begun):
        raise ProtocolError(f"no header of the PROXY protocol's version 2 ({begun!r})")
    if len(received) < FIXED_BYTES:
        return None
    command, family = received[12], received[13]
    size = FIXED_BYTES + int.from_bytes(received[14:16], "big")
    if command not in (_LOCAL, _PROXY):
        raise ProtocolError(f"a PROXY header of version and command 0x{command:02x}: expected 0x20 or 0x21")
    if size > MAX_HEADER_BYTES:
        raise ProtocolError(f"a PROXY header of {size} bytes: the limit is {MAX_HEADER_BYTES}")
    if len(received) < size:
        return None
    if command == _LOCAL or family == _UNSPECIFIED:
        return ProxyHeader(size, None)
    if (length := _ADDRESS_BYTES.get(family)) is None:
        raise ProtocolError(f"a PROXY header for 0x{family:02x}: expected TCP over IPv4 (0x11) or IPv6 (0x21)")
    if size < FIXED_BYTES + 2 * length + 4:
        raise ProtocolError(f"a PROXY header of {size} bytes, too short for its addresses")
    source = received[FIXED_BYTES : FIXED_BYTES + length]
    port_at = FIXED_BYTES + 2 * length
    return ProxyHeader(size, (str(ip_address(source)), int.from_bytes(received[port_at : port_at + 2], "big")))
