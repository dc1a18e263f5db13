"""What counts as one address where a limit goes by it: one host, or the network that one customer has. No I/O."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

NO_ADDRESS = "?"
"""The host of a peer whose socket has none any more."""


def address_key(host: str) -> str | None:
    """IPv4 as it is, also inside IPv6; of IPv6 the first 64 bits, a single host has all the others to choose from.

    None for loopback, to which no limit applies: whoever is there shares it with everybody else. What is no address
    stays as it is.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return None if address.is_loopback else f"{IPv6Address(int(address) >> 64 << 64)}/64"
        address = address.ipv4_mapped
    return None if address.is_loopback else str(address)
