"""A listener lives on, whatever goes wrong as a connection comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

log = logging.getLogger("logbale")


def unfailing(factory: Callable[..., asyncio.Protocol]) -> Callable[..., asyncio.Protocol]:
    """The protocol factory; where it fails, that connection is refused. uvloop's listener would accept nothing more."""

    def make(*given: object, **named: object) -> asyncio.Protocol:
        try:
            return factory(*given, **named)
        except Exception:
            log.exception("a connection is refused, because of an error that nobody foresaw")
            return _Refused()

    return make


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()
