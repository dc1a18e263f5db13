"""Who may ask the dashboard, and what the browser may do with its answers.

Where there is a password, who has it. A page of somebody else's that makes its name point here (DNS rebinding) gets
421. The browser is told to load, run and frame nothing but our own files.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from logbale.dashboard.password import Password
from logbale.origins import NO_ADDRESS

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


_HOST_HEADER = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]+))(?::\d{1,5})?")


def own_names(host: str, further: Callable[[], Iterable[str]] = tuple) -> Callable[[str], bool]:
    """Whether a Host header names this machine, for a dashboard bound to `host`.

    localhost and loopback addresses, `host` itself, the machine's host name and the `further` ones do, which are in
    lower case and may begin with `*.`, as a certificate's. Bound to every address (0.0.0.0, ::), any literal address
    does too: rebinding needs a name, and which addresses lead here only the network knows.
    """
    names = {"localhost", host.lower(), socket.gethostname().lower()}
    everywhere = host in ("", "0.0.0.0", "::")

    def is_own(header: str) -> bool:
        match = _HOST_HEADER.fullmatch(header.strip().lower())
        if match is None:
            return False
        name = match["ipv6"] or match["name"].removesuffix(".")
        if name in names or not {name, f"*.{name.partition('.')[2]}"}.isdisjoint(further()):
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return everywhere or address.is_loopback

    return is_own


class Guard:
    """Refuses other hosts' names and, where there is one, who lacks the password; puts the headers on every answer."""

    def __init__(self, app: ASGIApp, is_own: Callable[[str], bool], password: Password | None = None) -> None:
        self._app = app
        self._is_own = is_own
        self._password = password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        app, headers = self._app, Headers(scope=scope)
        if not self._is_own(headers.get("host", "")):
            app = PlainTextResponse(
                "This dashboard answers to localhost, to this machine's name, to DASHBOARD_HOST and to the names in "
                "TLS_CERT_FILE only.\n",
                421,
            )
        elif self._password is not None:
            host = scope["client"][0] if scope.get("client") else NO_ADDRESS
            app = self._password.refusal(headers.get("authorization"), host) or app
        await app(scope, receive, send_with_headers)
