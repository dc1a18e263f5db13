"""Hosts and ports as people write them; IPv6 addresses stand in brackets where a port follows."""

from __future__ import annotations

import re
from ipaddress import ip_address

_THIS_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def host_name(text: str) -> str:
    """A host name or an IP address, brackets taken off. Raises ValueError, saying what was expected."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ip_address(host)
    except ValueError:
        if not re.fullmatch(r"[\w.-]{1,253}", host) or not _is_encodable(host):
            raise ValueError("a host name or an IP address, without a port") from None
    return host


def _is_encodable(host: str) -> bool:
    """Whether it has a form to be looked up by: no part between its dots is empty or too long."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def split_address(text: str) -> tuple[str, str]:
    """Host and port of `HOST:PORT`, `[IPv6]:PORT`, `HOST` or `:PORT`; "" for what is left out.

    Neither is checked: that is done where settings are loaded. A number alone is taken for a port: as a host, 5012
    would mean 0.0.19.148. Raises ValueError for a colon with nothing behind it, where the port went missing.
    """
    if text.isdigit():
        return "", text
    try:
        ip_address(text)
    except ValueError:
        bracket = text.rfind("]")
        colon = text.find(":", bracket + 1) if bracket >= 0 else text.rfind(":")
        if 0 <= colon == len(text) - 1:
            raise ValueError("a port behind the colon, or no colon") from None
        return (text, "") if colon < 0 else (text[:colon], text[colon + 1 :])
    return text, ""


def split_addresses(text: str, host: str, port: int) -> list[tuple[str, int]]:
    """Each host and port of `a:5000,b,:5001`; `host` and `port` are what one leaves out.

    Raises ValueError, saying what was expected.
    """
    expected = "HOST or HOST:PORT, several with commas, ports from 1 to 65535"
    found: list[tuple[str, int]] = []
    for part in text.split(",") if text else ():
        one_host, one_port = split_address(part.strip())
        if one_port and not (one_port.isascii() and one_port.isdigit() and 0 < int(one_port) <= 65535):
            raise ValueError(expected)
        if not (one_host or one_port):
            raise ValueError(expected)
        found.append((host_name(one_host) if one_host else host, int(one_port or port)))
    return found


def format_address(host: str, port: int) -> str:
    """`127.0.0.1:5000`, `[::1]:5000`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this host can reach who listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def connect_host(host: str) -> str:
    """Where a client finds who listens on `host`: every address means this host."""
    return _THIS_HOST.get(host, host)
