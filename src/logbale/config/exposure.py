"""Combinations of settings that look safe and are not: refused at the start, with the way out.

What is open and looks so is only warned of.
"""

from __future__ import annotations

import logging
from pathlib import Path

from logbale.config.addresses import connect_host, is_loopback
from logbale.config.settings import Settings, sink_names
from logbale.errors import ConfigError

log = logging.getLogger("logbale")


def refuse_unsafe_receiver(settings: Settings) -> None:
    """Raises ConfigError with a line for each such combination."""
    problems = []
    if settings.has_tokens and not settings.tls_cert_file and not is_loopback(settings.server_host):
        problems.append(
            f"{_where_tokens(settings)} with SERVER_HOST={settings.server_host!r} and no TLS: whoever is on the way "
            "could read every token; set TLS_CERT_FILE and TLS_KEY_FILE, or SERVER_HOST=127.0.0.1 behind something "
            "that encrypts"
        )
    if settings.dashboard_open and settings.dashboard_password_file:
        problems.append("DASHBOARD_OPEN=true with DASHBOARD_PASSWORD_FILE: one says no password; leave out one of them")
    if "archive" in sink_names(settings.sink) and Path(settings.archive_dir).resolve() == Path("/"):
        problems.append(
            f"ARCHIVE_DIR={settings.archive_dir!r}: expected a directory of the archive's own, not the top of all"
        )
    is_guarded = settings.dashboard_password_file or settings.dashboard_open or is_loopback(settings.dashboard_host)
    if settings.dashboard_enabled and not is_guarded:
        problems.append(
            f"DASHBOARD_HOST={settings.dashboard_host!r} without a password: whoever reaches it reads the entries; set "
            "DASHBOARD_PASSWORD_FILE, or DASHBOARD_HOST=127.0.0.1 and come through ssh, or DASHBOARD_OPEN=true where "
            "something else guards it, such as a container's port that is published on 127.0.0.1"
        )
    _raise(problems)


def warn_of_open_receiver(settings: Settings) -> None:
    """Says so where whoever reaches the port may store entries, and read them on the way: it does not look safe."""
    if not (settings.tls_cert_file or settings.has_tokens or is_loopback(settings.server_host)):
        log.warning(
            "SERVER_HOST=%s without TLS and tokens: whoever reaches the port may store entries, under any name, and "
            "whoever is on the way reads them; set TLS_CERT_FILE and TOKENS_FILE or TLS_CLIENT_CA_FILE, or "
            "SERVER_HOST=127.0.0.1",
            settings.server_host,
        )


def refuse_unsafe_shipper(settings: Settings) -> None:
    """Raises ConfigError likewise."""
    problems = []
    name = "TOKEN_FILE" if settings.token_file else "TOKEN"
    if settings.has_token and settings.session_mode == "off":
        problems.append(
            f"{name} with SESSION_MODE=off: the base protocol has no token; set SESSION_MODE=on, or leave {name} out"
        )
    hosts = [connect_host(host) for host, _ in settings.receiver_addresses]
    where = f"RECEIVERS={settings.receivers!r}" if settings.receivers else f"SERVER_HOST={hosts[0]!r}"
    if settings.has_token and not settings.tls_ca_file and not all(map(is_loopback, hosts)):
        problems.append(
            f"{name} with {where} and no TLS: whoever is on the way could read the token; set "
            "TLS_CA_FILE, or reach the receiver through something that encrypts and ends on 127.0.0.1"
        )
    _raise(problems)


def _where_tokens(settings: Settings) -> str:
    return "TOKENS_FILE" if settings.tokens_file else "TOKENS"


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))
