"""Secrets: from the environment or from files, never shown by accident. A file that everybody can read is warned about.

Not refused: what Docker and Kubernetes mount as secrets has mode 0444, where nobody else can reach it.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path

from logbale.config.secret import reveal
from logbale.config.settings import Settings
from logbale.errors import ConfigError

log = logging.getLogger("logbale")

MIN_TOKEN = 16
"""Characters: the lockout makes guessing slow, not impossible."""

MAX_TOKEN = 512

MIN_PASSWORD = 8

_TOKEN = re.compile(rf"[!-~]{{{MIN_TOKEN},{MAX_TOKEN}}}")
_MAKE_ONE = "`openssl rand -hex 32` makes one"


_warned: set[tuple[str, str]] = set()
"""Variables and their files that were warned about: once a process is enough, however often a file is read."""


def secret_lines(file: str, variable: str) -> list[tuple[int, str]]:
    """The file's lines with their numbers, without blank ones and comments (#).

    Raises ConfigError, which shows nothing of them.
    """
    try:
        with Path(file).open(encoding="utf-8") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            lines = [line.strip() for line in opened]
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{variable}={file!r}: cannot read it: {why}") from None
    if stat.S_ISREG(mode) and mode & stat.S_IROTH and (variable, file) not in _warned:
        _warned.add((variable, file))
        log.warning("%s=%r: everybody on this host can read it; `chmod 600` it, or 640 for a group", variable, file)
    return [(number, line) for number, line in enumerate(lines, start=1) if line and not line.startswith("#")]


def receiver_tokens(settings: Settings) -> list[tuple[str, list[str]]]:
    """Each token of TOKENS_FILE and TOKENS, and the stream patterns that it is bound to; none where none are set.

    Raises ConfigError.
    """
    named: list[tuple[str, str]] = []
    if settings.tokens_file:
        lines = secret_lines(settings.tokens_file, "TOKENS_FILE")
        if not lines:
            raise ConfigError(
                f"TOKENS_FILE={settings.tokens_file!r}: no token in it, so nobody could ship; {_MAKE_ONE}"
            )
        named = [(f"TOKENS_FILE={settings.tokens_file!r}, line {number}", line) for number, line in lines]
    if settings.tokens:
        # A variable of one line is what most places that set variables can hold.
        parts = [part.strip() for part in re.split(r"[\n;]", reveal(settings.tokens))]
        parts = [part for part in parts if part and not part.startswith("#")]
        named += [(f"TOKENS, token {number}", part) for number, part in enumerate(parts, start=1)]
        if not named:
            raise ConfigError(f"TOKENS: no token in it, so nobody could ship; {_MAKE_ONE}")
    return [_token_and_patterns(where, line) for where, line in named]


def _token_and_patterns(where: str, line: str) -> tuple[str, list[str]]:
    token, *patterns = line.split()
    return _checked(token, where), patterns


def shipper_token(settings: Settings) -> str | None:
    """The token of TOKEN_FILE or TOKEN; None where neither is set. Raises ConfigError."""
    if settings.token_file and settings.token:
        raise ConfigError("TOKEN and TOKEN_FILE are both set: leave out one of them")
    if settings.token:
        return _checked(reveal(settings.token), "TOKEN")
    if not settings.token_file:
        return None
    lines = secret_lines(settings.token_file, "TOKEN_FILE")
    if len(lines) != 1:
        raise ConfigError(f"TOKEN_FILE={settings.token_file!r}: {len(lines)} lines, expected one token")
    number, token = lines[0]
    return _checked(token, f"TOKEN_FILE={settings.token_file!r}, line {number}")


def _checked(token: str, where: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"{where}: expected {MIN_TOKEN} to {MAX_TOKEN} printable ASCII characters without spaces, "
            f"this has {len(token)} characters; {_MAKE_ONE}"
        )
    return token


def dashboard_password(settings: Settings) -> str | None:
    """The first line of DASHBOARD_PASSWORD_FILE; None where it is not set. Raises ConfigError."""
    file = settings.dashboard_password_file
    if not file:
        return None
    lines = secret_lines(file, "DASHBOARD_PASSWORD_FILE")
    if len(lines) != 1 or len(lines[0][1]) < MIN_PASSWORD:
        raise ConfigError(
            f"DASHBOARD_PASSWORD_FILE={file!r}: expected one line, a password of {MIN_PASSWORD} characters or more; "
            f"{_MAKE_ONE}"
        )
    return lines[0][1]
