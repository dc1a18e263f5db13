"""The receiver's end of TLS: a transport for each connection that comes, and what goes wrong counted and said."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable
from time import monotonic

from logbale.floods import is_worth_saying
from logbale.origins import NO_ADDRESS
from logbale.tls.failures import TLSError, at_receiver, plaintext
from logbale.tls.transport import HANDSHAKE_TIMEOUT, TLSTransport

log = logging.getLogger("logbale.receiver")

_HANDSHAKE = 0x16
"""What every TLS connection begins with; a frame that began so would be 352 MiB long."""

ADDRESSES = 1000
"""That are told apart in an hour; the others share one count."""

HOUR = 3600.0


class Failures:
    """Counts handshakes that failed, and says so: of an address the 1st, 2nd, 4th, 8th … in an hour."""

    def __init__(self, errors: Counter[str], *, clock: Callable[[], float] = monotonic) -> None:
        self._errors = errors
        self._clock = clock
        self._since = clock()
        self._by_address: Counter[str] = Counter()

    def add(self, address: str, error: TLSError) -> None:
        """One more."""
        self._errors[error.reason] += 1
        now = self._clock()
        if now - self._since >= HOUR:
            self._since = now
            self._by_address.clear()
        if address not in self._by_address and len(self._by_address) >= ADDRESSES:
            address = "other addresses"
        self._by_address[address] += 1
        count = self._by_address[address]
        if is_worth_saying(count):
            log.warning("%s: no connection by TLS (%d within an hour): %s", address, count, error)


_HTTPS_ONLY = b"This port speaks HTTPS only.\n"


def http_answer(_: bytes) -> bytes:
    """What a client that speaks no TLS is told on a port for browsers."""
    head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {len(_HTTPS_ONLY)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + _HTTPS_ONLY


class Listening:
    """What a listener with TLS needs: the context of the moment, and where failures go."""

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        failures: Failures,
        *,
        plain_answer: Callable[[bytes], bytes] = lambda _: b"",
        timeout: Callable[[], float] = lambda: HANDSHAKE_TIMEOUT,
    ) -> None:
        """`plain_answer` gives what a peer that speaks no TLS is told, from the first bytes that it sent; `timeout` the
        seconds that the next handshake may take.
        """
        self.timeout = timeout
        self.context = context
        self.failures = failures
        self.plain_answer = plain_answer

    def wrap(self, protocol: asyncio.BaseProtocol) -> asyncio.Protocol:
        """The protocol for a connection that came, which gives `protocol` what it decrypts."""
        return _ServerTransport(protocol, self)


class _ServerTransport(TLSTransport):
    def __init__(self, protocol: asyncio.BaseProtocol, listening: Listening) -> None:
        super().__init__(protocol, listening.context(), server_name=None, timeout=listening.timeout())
        self._listening = listening
        self._first = b""
        self._peer: tuple[str, int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._peer = transport.get_extra_info("peername")
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self._first:
            self._first = data[:16]
            if data[0] != _HANDSHAKE:
                self._fail(plaintext())
                return
        super().data_received(data)

    def explain(self, error: ssl.SSLError) -> TLSError:
        return at_receiver(error)

    def failed(self, error: TLSError) -> bytes:
        if not self._first and error.reason == "tls_closed":  # a health check, or a look whether the port is open
            return b""
        self._listening.failures.add(self._peer[0] if self._peer else NO_ADDRESS, error)
        return self._listening.plain_answer(self._first) if error.reason == "tls_plaintext" else b""
