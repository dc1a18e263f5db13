"""TLSTransport: TLS between a socket's transport and a protocol that knows nothing of it.

Not asyncio's own, for what that cannot do (decision 0011): a peer that ends its stream is answered when all of it is
stored, a paused connection reads nothing ahead, and a handshake counts as a connection and says why it failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, cast

from logbale.tls.failures import TLSError, too_slow

HANDSHAKE_TIMEOUT = 5.0
"""Seconds."""

RECORD = 16 * 1024
"""The most that one holds. OpenSSL is given so many bytes at a time: its buffers stay as large as they once were, so a
burst of 60 KiB would leave 62 KiB with every connection; it leaves 20.
"""

FLUSHED = 4 * RECORD
"""Bytes that are encrypted between two writes to the socket."""

FAREWELL_SECONDS = 1.0
"""A socket that is closed with bytes unread takes our last words back, so what still comes is read for so long."""


class TLSTransport(asyncio.Transport, asyncio.Protocol):
    """To the socket's transport a protocol; to its protocol a transport, from the connection's first moment on.

    The protocol hears of the connection before the handshake and gets no byte before its end; where that fails, the
    connection is lost with a TLSError. What it writes before that is not sent.
    """

    def __init__(
        self,
        protocol: asyncio.BaseProtocol,
        context: ssl.SSLContext,
        *,
        server_name: str | None,
        timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        """`server_name` is that of the other end; None at the end that is the server. `timeout`: the handshake's."""
        super().__init__()
        self._timeout = timeout
        self._protocol = cast(asyncio.Protocol, protocol)
        self._context = context
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        self._raw: asyncio.Transport
        self._is_open = False
        """The handshake is over."""
        self._is_paused = False
        self._has_ended = False
        """The peer has said that nothing more will come."""
        self._has_told_end = False
        self._is_closing = False
        self._error: TLSError | None = None
        self._timer: asyncio.TimerHandle | None = None

    # what the two ends do in their own way

    def explain(self, error: ssl.SSLError) -> TLSError:
        """Why it failed, in words."""
        raise NotImplementedError

    def opened(self) -> None:
        """The handshake is over."""

    def failed(self, error: TLSError) -> bytes:
        """The handshake has failed; returns what the peer, which may speak no TLS, is to be told in plain."""
        return b""

    # what the socket's transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(self._timeout, self._expire)
        self._protocol.connection_made(self)
        if not self._is_closing:
            self._shake_hands()

    def data_received(self, data: bytes) -> None:
        view = memoryview(data)
        received: list[bytes] = []
        for at in range(0, len(view), RECORD):
            if self._is_closing or self._has_ended:  # nobody wants what comes now, and it is not to pile up
                break
            self._incoming.write(view[at : at + RECORD])
            if (self._is_open or self._shake_hands()) and not self._is_paused:
                self._decrypt(received)
        self._pass_on(received)

    def eof_received(self) -> bool:
        self._read_on()
        if self._is_closing:
            return False
        if not self._is_open:
            self._fail(_gone(), lingers=False)
        elif not self._has_ended:
            # Anybody on the way can end a TCP stream; only the peer can say that it was all.
            self._fail(TLSError("connection_lost", "the connection ended without TLS's closing message"))
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._end_timer()
        if not self._is_open and not self._is_closing:
            self._error = _gone()
            self.failed(self._error)
        self._is_closing = True
        # What OpenSSL holds for a connection is tens of KiB: freed now, not when the garbage collector comes by.
        del self._tls, self._incoming, self._outgoing
        self._protocol.connection_lost(self._error or error)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    # what the protocol calls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's own: `sslcontext`, `ssl_object` and `peercert`; the rest is the socket's."""
        if name == "sslcontext":
            return self._context
        if name == "ssl_object":
            return getattr(self, "_tls", default)
        if name == "peercert":
            return self._tls.getpeercert() if self._is_open and not self._is_closing else default
        return self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._is_closing or self._raw.is_closing()

    def is_reading(self) -> bool:
        return not self._is_paused and not self.is_closing()

    def pause_reading(self) -> None:
        """Nothing more is taken from the socket; a handshake goes on, since it has to end in time."""
        self._is_paused = True
        if self._is_open and not self._raw.is_closing():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._is_paused = False
        if self._is_open and not self.is_closing():
            self._raw.resume_reading()
            if self._incoming.pending:
                asyncio.get_running_loop().call_soon(self._read_on)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._raw.get_write_buffer_limits()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_open or self.is_closing():
            return
        view = memoryview(data)
        try:
            for at in range(0, len(view), FLUSHED):
                piece = view[at : at + FLUSHED]
                while piece:
                    piece = piece[self._tls.write(piece) :]
                self._flush()
        except ssl.SSLError as error:
            self._fail(self.explain(error))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Tells the peer that nothing more will come; what it still says is heard."""
        if self._is_open and not self.is_closing():
            self._say_end()

    def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        if self._is_open:
            self._say_end()
        self._raw.close()

    def abort(self) -> None:
        """Where nothing waits to leave, the peer is told that this is the end, and has a moment to take that."""
        if self._is_open and not self._is_closing and not self._raw.get_write_buffer_size():
            self.close()
            self._abort_later()
        else:
            self._is_closing = True
            self._raw.abort()

    # the handshake

    def _shake_hands(self) -> bool:
        """Goes on with the handshake; True when it is over."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._fail(self.explain(error))
            return False
        self._flush()
        self._end_timer()
        self._is_open = True
        if self._is_paused:
            self._raw.pause_reading()
        self.opened()
        return True

    def _expire(self) -> None:
        self._timer = None
        if not self._is_open:
            self._fail(too_slow(self._timeout))

    def _fail(self, error: TLSError, *, lingers: bool = True) -> None:
        """The end of it: the peer gets OpenSSL's alert, or what `failed` says, and some time to read that."""
        if self._is_closing:
            return
        self._is_closing = True
        self._error = error
        self._end_timer()
        if self._is_open:
            self._flush()
            self._raw.close()
            return
        said = self.failed(error)
        if self._raw.is_closing():
            return
        self._raw.write(said or self._outgoing.read())
        if not lingers:
            self._raw.close()
            return
        if self._raw.can_write_eof():
            self._raw.write_eof()
        self._raw.resume_reading()
        self._abort_later()

    def _abort_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._raw.abort)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # bytes

    def _decrypt(self, received: list[bytes]) -> None:
        """Adds what the records that are whole hold."""
        try:
            while self._incoming.pending and not self._has_ended:
                if data := self._tls.read(RECORD):
                    received.append(data)
                else:
                    self._has_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._has_ended = True
        except ssl.SSLError as error:
            self._fail(self.explain(error))
        self._flush()

    def _pass_on(self, received: list[bytes]) -> None:
        if received:
            self._protocol.data_received(received[0] if len(received) == 1 else b"".join(received))
        if self._has_ended and not self._has_told_end and not self._is_closing:
            self._has_told_end = True
            if not self._protocol.eof_received():
                self.close()

    def _read_on(self) -> None:
        """What came before the pause."""
        if not self._is_open or self._is_paused or self._is_closing:
            return
        received: list[bytes] = []
        self._decrypt(received)
        self._pass_on(received)

    def _say_end(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # raised always: it would wait for the peer's
            self._tls.unwrap()
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())


def _gone() -> TLSError:
    return TLSError("tls_closed", "it went away in the TLS handshake")
