"""The shipper's end of TLS, and of connections without it."""

from __future__ import annotations

import asyncio
import ssl

from logbale.tls.failures import TLSError, at_shipper, gone_in_handshake
from logbale.tls.material import ShipperTLS
from logbale.tls.transport import TLSTransport

ACCEPTANCE_TIMEOUT = 5.0
"""Seconds in which a receiver that accepts us says so, by a session ticket; not every server gives them."""

LIMIT = 64 * 1024
"""As asyncio's own streams have it."""


async def open_connection(
    host: str, port: int, tls: ShipperTLS | None, *, waits_for_acceptance: bool = False, address: str = ""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As asyncio.open_connection, with TLS where `tls` is given. Raises OSError, of which TLSError is one.

    `address` is the one of the host's to connect to; the certificate has to be the host's all the same.

    With TLS 1.3 a client whose certificate is refused hears of it after its handshake, when it may have sent already.
    Who gets no answers `waits_for_acceptance`: for the session ticket, which a receiver sends to whom it accepts.
    """
    if tls is None:
        return await asyncio.open_connection(address or host, port)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(LIMIT)
    protocol = asyncio.StreamReaderProtocol(reader)
    try:
        transport = _ClientTransport(protocol, tls, host, waits_for_acceptance=waits_for_acceptance)
    except ValueError as error:
        raise TLSError("tls_handshake", f"no certificate can be for {host!r}: {error}") from None
    await loop.create_connection(lambda: transport, address or host, port)
    try:
        await transport.ready
    except BaseException:
        transport.abort()
        raise
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class _ClientTransport(TLSTransport):
    def __init__(
        self, protocol: asyncio.BaseProtocol, tls: ShipperTLS, host: str, *, waits_for_acceptance: bool
    ) -> None:
        super().__init__(protocol, tls.context, server_name=host.partition("%")[0].removesuffix("."))
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the protocol may write."""
        self._host = host
        self._ca = tls.ca
        self._waits_for_acceptance = waits_for_acceptance

    def explain(self, error: ssl.SSLError) -> TLSError:
        return at_shipper(error, self._host, self._ca)

    def opened(self) -> None:
        if self._waits_for_acceptance:
            asyncio.get_running_loop().call_later(ACCEPTANCE_TIMEOUT, self._become_ready)
        else:
            self._become_ready()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_open and not self.ready.done() and not self._is_closing:
            session = self._tls.session
            # Before TLS 1.3 the server has the last word of the handshake.
            if self._tls.version() != "TLSv1.3" or (session is not None and session.has_ticket):
                self._become_ready()

    def failed(self, error: TLSError) -> bytes:
        if error.reason == "tls_closed":
            error = self._error = gone_in_handshake(self._host)
        if not self.ready.done():
            self.ready.set_exception(error)
        return b""

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self.ready.done():
            self.ready.set_exception(self._error or error or ConnectionResetError("the receiver closed the connection"))

    def _become_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
