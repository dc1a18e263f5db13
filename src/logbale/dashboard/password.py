"""Password: HTTP Basic, whatever the user's name. Compared in constant time; an address that guesses is locked out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from collections import Counter
from time import monotonic

from starlette.responses import PlainTextResponse, Response

from logbale.lockout import Lockout

log = logging.getLogger("logbale.dashboard")

MAX_AUTHORIZATION = 4096
"""Characters of the header; what is longer is no password of ours."""


class Password:
    """The dashboard's password, and who was wrong about it."""

    def __init__(self, password: str, lockout: Lockout, errors: Counter[str]) -> None:
        self.change(password)
        self._lockout = lockout
        self._errors = errors

    def change(self, password: str) -> None:
        """Another one from now on."""
        self._digest = _digest(password.encode())

    def refusal(self, authorization: str | None, host: str) -> Response | None:
        """What to answer in place of what was asked for; None where the header holds the password."""
        if self._lockout.is_locked_out(host, monotonic()):
            self._errors["dashboard_locked_out"] += 1
            text = "Too many wrong passwords came from your address: wait a while.\n"
            return PlainTextResponse(text, 429, {"Retry-After": f"{self._lockout.seconds:.0f}"})
        if authorization is None:  # how every browser begins
            return _ask("This dashboard wants a password; the name does not matter.\n")
        if hmac.compare_digest(_digest(_password_in(authorization)), self._digest):
            return None
        self._errors["dashboard_password"] += 1
        if self._lockout.failed(host, monotonic()):
            log.warning(
                "%s is locked out of the dashboard for %g s: %d wrong passwords within a minute",
                host,
                self._lockout.seconds,
                self._lockout.failures,
            )
        return _ask("That is not the password (DASHBOARD_PASSWORD_FILE).\n")


def _ask(text: str) -> Response:
    return PlainTextResponse(text, 401, {"WWW-Authenticate": 'Basic realm="logbale", charset="UTF-8"'})


def _password_in(authorization: str) -> bytes:
    """What the header holds as a password; nothing where it makes no sense."""
    scheme, _, encoded = authorization[:MAX_AUTHORIZATION].partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _digest(password: bytes) -> bytes:
    return hashlib.sha256(password).digest()
