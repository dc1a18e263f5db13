"""A connection to a receiver, or in words why there is none; and a look at whether a session could be had."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from time import monotonic

from logbale.errors import ProtocolError
from logbale.messages import LINES_SINCE, MAX_CONTROL_BYTES, Error, Status, Welcome, encode_message
from logbale.protocol import FrameDecoder
from logbale.receivers import Receiver
from logbale.session import WELCOME_TIMEOUT, ShipperSession, Welcomed
from logbale.tls.client import open_connection
from logbale.tls.failures import TLSError
from logbale.tls.material import ShipperTLS

CONNECT_TIMEOUT = 10.0
READ_BYTES = 64 * 1024
UNSENT_BYTES = 64 * 1024
"""What the kernel holds of what it cannot send yet."""


class SessionEnded(Exception):
    """The connection is over: the text says why, `counter` under what that is counted."""

    def __init__(self, counter: str, reason: str) -> None:
        super().__init__(reason)
        self.counter = counter


async def connect(receiver: Receiver, tls: ShipperTLS | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to it. Raises SessionEnded."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            reader, writer = await open_connection(receiver.host, receiver.port, tls, address=receiver.address)
        _hold_little_unsent(writer)
        return reader, writer
    except TimeoutError:
        raise SessionEnded("connect", f"no answer within {CONNECT_TIMEOUT:g} s") from None
    except TLSError as error:
        raise SessionEnded(error.reason, str(error)) from None
    except OSError as error:
        raise SessionEnded("connect", error.strerror or str(error)) from None


def _hold_little_unsent(writer: asyncio.StreamWriter) -> None:
    """What has not left yet stays here, where its level can still be raised: else the kernel takes megabytes, and a
    slow link does not show before they are full."""
    with contextlib.suppress(AttributeError, OSError):  # a system without it, or a connection that has ended already
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


async def look(receiver: Receiver, tls: ShipperTLS | None, session: ShipperSession, hello: bytes, last: Status) -> None:
    """Returns once it has answered the hello with a welcome, and goes again with this `last` word.

    Raises SessionEnded where it does not. Nothing is sent in this session, so nothing can be lost with it.
    """
    reader, writer = await connect(receiver, tls)
    try:
        writer.write(hello)
        async with asyncio.timeout(WELCOME_TIMEOUT):
            await _welcome(reader, session)
        writer.write(encode_message(last))
        await writer.drain()
    except TimeoutError:
        raise SessionEnded("no_welcome", f"no welcome within {WELCOME_TIMEOUT:g} s") from None
    except TLSError as error:
        raise SessionEnded(error.reason, str(error)) from None
    except (OSError, RuntimeError, ProtocolError) as error:
        raise SessionEnded("connection_lost", str(error) or type(error).__name__) from None
    finally:
        try:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()
        finally:  # who is cancelled just here leaves no connection behind
            writer.transport.abort()


def refuse_too_old(welcome: Welcome) -> None:
    """Raises SessionEnded where the receiver cannot take what we send."""
    if welcome.version < LINES_SINCE:
        raise SessionEnded(
            "unsupported",
            f"the receiver speaks version {welcome.version} of the session, which has no lines in its batches: update "
            "the receiver first",
        )


async def _welcome(reader: asyncio.StreamReader, session: ShipperSession) -> None:
    decoder = FrameDecoder(MAX_CONTROL_BYTES, session=True)
    while data := await reader.read(READ_BYTES):
        decoder.feed(data)
        for frame in decoder.frames():
            event, _ = session.receive(frame, monotonic())
            if isinstance(event, Welcomed):
                refuse_too_old(event.welcome)
                return
            if isinstance(event, Error):
                raise SessionEnded(event.counter, f"the receiver says {event.code}: {event.detail}")
    raise SessionEnded("connection_lost", "the receiver closed the connection before its welcome")
