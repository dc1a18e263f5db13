"""Access: who may ship to this receiver. It takes its tokens anew when their file changes; a bad file changes nothing.

A peer that is refused learns only that; why is counted, and logged without the token.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from time import monotonic

from logbale.config import Settings
from logbale.config.credentials import receiver_tokens
from logbale.errors import ConfigError
from logbale.lockout import FAILURES_WITHIN, Lockout
from logbale.messages import UNAUTHORIZED
from logbale.terminal import count
from logbale.tokens import Tokens

log = logging.getLogger("logbale.receiver")

REASONS = {
    "no_token": "it has no token",  # nosec B105  # why a client is refused, in words
    "wrong_token": "it has none of this receiver's tokens (TOKENS_FILE)",  # nosec B105  # likewise a reason
    "stream": "its token is bound to other streams (TOKENS_FILE)",
    "locked_out": "its address is locked out (LOCKOUT_FAILURES)",
    "base_client": "it is a base client, which has no token (BASE_CLIENTS)",
}

Signature = tuple[int, ...] | None


class Access:
    """What the settings say of who may ship. Raises ConfigError where their tokens make no sense."""

    def __init__(self, settings: Settings, errors: Counter[str]) -> None:
        self._settings = settings
        self._errors = errors
        self._lockout = Lockout(settings.lockout_failures, settings.lockout_seconds)
        self._file = self._signature()
        self._tokens: Tokens | None = None
        if settings.has_tokens:
            self._take(Tokens(receiver_tokens(settings)))
        self.refuses_base_clients = settings.base_clients == "refuse" or (
            settings.base_clients == "auto" and self._tokens is not None
        )
        if self._tokens is not None and not self.refuses_base_clients:
            log.warning("BASE_CLIENTS=allow: base clients, which have no token, may write all the same")

    def refusal(self, token: str | None, stream: str, host: str) -> str | None:
        """Why the client may not write this stream, one of REASONS, now counted; None where it may."""
        if self._tokens is None:
            return None
        if self.is_locked_out(host):  # since it connected: a thousand connections are no thousand guesses
            return "locked_out"
        if (reason := self._tokens.refusal(token, stream)) is None:
            return None
        self.count(reason)
        # Only a wrong token is a guess: none, or one for other streams, is a mistake, perhaps of a neighbour.
        if reason == "wrong_token" and self._lockout.failed(host, monotonic()):
            log.warning(
                "%s is locked out for %g s: %s within %g s (LOCKOUT_FAILURES, LOCKOUT_SECONDS)",
                host,
                self._lockout.seconds,
                count(self._lockout.failures, "wrong token", "wrong tokens"),
                FAILURES_WITHIN,
            )
        return reason

    def count(self, reason: str) -> None:
        """A client is refused."""
        self._errors[f"{UNAUTHORIZED}_{reason}"] += 1

    def is_locked_out(self, host: str) -> bool:
        """Whether nothing is taken from that address now; if so, counted."""
        if not self._lockout.is_locked_out(host, monotonic()):
            return False
        self._errors["locked_out"] += 1
        return True

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """For a reload, which takes the tokens of the same file anew, changed or not. Raises ConfigError."""
        if self._tokens is None:
            return lambda: None
        file, tokens = self._signature(), Tokens(receiver_tokens(settings))

        def commit() -> None:
            self._file = file
            self._take(tokens)

        return commit

    def refresh(self) -> None:
        """Takes the tokens anew where their file has changed; sessions that are open go on."""
        if self._tokens is None or (file := self._signature()) == self._file:
            return
        self._file = file
        try:
            tokens = Tokens(receiver_tokens(self._settings))
        except ConfigError as error:
            self._errors["tokens_file"] += 1
            log.error("the tokens are refused, those from before stay in use: %s", error)
            return
        self._take(tokens)

    def _take(self, tokens: Tokens) -> None:
        self._tokens = tokens
        log.info("%s, %d of them for every stream", count(len(tokens), "token", "tokens"), tokens.unbound)

    def _signature(self) -> Signature:
        """Changes when the file is written, replaced, or reached by another link."""
        if not self._settings.tokens_file:
            return None
        try:
            status = os.stat(self._settings.tokens_file)
        except OSError as error:
            return (error.errno or 0,)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
