"""Proxies: takes the PROXY header off the connections that trusted balancers hand on (PROXY_FROM).

What is behind it, TLS too, sees the client's address as its peer's. From a trusted address a connection without a
header is refused; from any other a header is what it looks like, no frame.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, cast

from logbale.config import format_address
from logbale.errors import ProtocolError
from logbale.origins import NO_ADDRESS
from logbale.proxy_protocol import read_proxy_header

log = logging.getLogger("logbale.receiver")


class Proxies:
    """The balancers that are believed, and their connections whose header is not here yet."""

    def __init__(self, networks: str, errors: Counter[str], timeout: Callable[[], float]) -> None:
        """`timeout` gives the seconds from a connection to its whole header."""
        self.errors = errors
        self.timeout = timeout
        self.waiting: set[_HeaderFirst] = set()
        self._networks = [ip_network(part.strip(), strict=False) for part in networks.split(",")]

    def wrap(self, protocol: asyncio.Protocol) -> asyncio.Protocol:
        """The protocol for a connection that came; `protocol` takes over behind the header, or at once."""
        return _HeaderFirst(protocol, self)

    def close(self) -> None:
        """Ends the connections that wait."""
        for connection in list(self.waiting):
            connection.abort()

    def is_trusted(self, host: str) -> bool:
        """Whether what this address says of a connection is believed."""
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


class _HeaderFirst(asyncio.Protocol):
    def __init__(self, protocol: asyncio.Protocol, proxies: Proxies) -> None:
        self._protocol = protocol
        self._proxies = proxies
        self._received = b""
        self._peer = (NO_ADDRESS, 0)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._timeout = proxies.timeout()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if (peer := transport.get_extra_info("peername")) is not None:
            self._peer = peer[:2]
        if not self._proxies.is_trusted(self._peer[0]):
            self._hand_over(self._transport)
            return
        self._proxies.waiting.add(self)
        self._timer = asyncio.get_running_loop().call_later(self._timeout, self._expire)

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            header = read_proxy_header(self._received)
        except ProtocolError as error:
            self._refuse(str(error))
            return
        if header is None:
            return
        self._stop_waiting()
        client = self._transport
        if header.client is not None:
            client = cast(asyncio.Transport, _Handed(self._transport, header.client))
        self._hand_over(client)
        # Not where it was refused: what it gets then, it would store.
        if (rest := self._received[header.size :]) and not self._transport.is_closing():
            self._protocol.data_received(rest)

    def eof_received(self) -> None:
        """A balancer that looks whether the port is open; whatever it sent, it is no header."""

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_waiting()

    def abort(self) -> None:
        """Ends it."""
        self._stop_waiting()
        self._transport.abort()

    def _hand_over(self, transport: asyncio.Transport) -> None:
        self._transport.set_protocol(self._protocol)
        self._protocol.connection_made(transport)

    def _expire(self) -> None:
        self._refuse(f"no whole PROXY header within {self._timeout:g} s (HELLO_TIMEOUT)")

    def _refuse(self, why: str) -> None:
        self._proxies.errors["proxy_header"] += 1
        log.warning("%s: %s; PROXY_FROM has its address, so its connection is closed", format_address(*self._peer), why)
        # By a reset: a base client would take the plain end of our stream for the word that all is stored.
        connected = self._transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def _stop_waiting(self) -> None:
        self._proxies.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Handed:
    """A transport whose peer is the balancer's client."""

    def __init__(self, transport: asyncio.Transport, client: tuple[str, int]) -> None:
        self._transport = transport
        self._client = client

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the transport's own, but for `peername`."""
        return self._client if name == "peername" else self._transport.get_extra_info(name, default)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
