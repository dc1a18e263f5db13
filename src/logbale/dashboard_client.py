"""Asks a dashboard, on this host or another, for what `logbale tail` and `logbale top` show.

Plain HTTP/1.1 of the standard library. What is answered is a stranger's: bounded here, escaped by whoever shows it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit

import msgspec

from logbale.config.addresses import format_address, host_name, split_address
from logbale.errors import ConfigError, NoAnswerError, UnavailableError

CONNECT_TIMEOUT = 10.0
"""Seconds for a connection and the beginning of an answer."""

SILENCE_TIMEOUT = 45.0
"""Seconds of silence after which a live tail is dead: it says something every 15."""

MAX_JSON_BYTES = 16 * 1024 * 1024

_T = TypeVar("_T")


class DashboardClient:
    """One dashboard's address. Every question is a connection of its own."""

    def __init__(
        self,
        address: str,
        *,
        host: str,
        port: int,
        scheme: str = "http",
        password: str | None = None,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        """`address` is a URL or HOST:PORT; what it leaves out is `scheme`, `host`, `port` and `password`.

        `tls` gives what https trusts. Raises ConfigError.
        """
        try:
            url = urlsplit(address if "://" in address else _as_url(address, scheme, host, port))
            self._host, self._port = host_name(url.hostname or ""), url.port or {"http": 80, "https": 443}[url.scheme]
        except (KeyError, ValueError):
            raise ConfigError(
                f"{_without_user(address)!r}: expected the address of a dashboard, HOST:PORT or http://HOST:PORT/"
            ) from None
        user, given = unquote(url.username or ""), unquote(url.password or "") or password
        self._headers = {"Accept-Encoding": "identity"}
        if given is not None:
            self._headers["Authorization"] = f"Basic {b64encode(f'{user}:{given}'.encode()).decode()}"
        self._tls = tls() if url.scheme == "https" else None
        self._path = quote(url.path.rstrip("/"), safe="/%")
        self.is_encrypted = self._tls is not None
        self.name = f"{url.scheme}://{format_address(self._host, self._port)}{self._path}"
        """The dashboard as a URL."""

    def json(self, path: str, type: type[_T]) -> _T:
        """What it answers to GET /api/PATH. Raises UnavailableError."""
        with self._answer(path, {}) as (answer, _):
            body = answer.read(MAX_JSON_BYTES + 1)
        try:
            if len(body) > MAX_JSON_BYTES:
                raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
            return msgspec.json.decode(body, type=type)
        except (ValueError, RecursionError) as error:
            raise UnavailableError(f"{self.name} answers what no logbale of this version does: {error}") from None

    @contextlib.contextmanager
    def stream(self, path: str, query: Mapping[str, str], headers: Mapping[str, str] = {}) -> Iterator[Iterator[bytes]]:
        """The pieces of an answer that goes on and on, as they come, to its end. Raises UnavailableError."""
        with self._answer(f"{path}?{urlencode(query)}", headers) as (answer, connection):
            connection.settimeout(SILENCE_TIMEOUT)
            yield iter(lambda: answer.read1(65536), b"")

    @contextlib.contextmanager
    def _answer(
        self, path: str, headers: Mapping[str, str]
    ) -> Iterator[tuple[http.client.HTTPResponse, socket.socket]]:
        connection = self._connection()
        answered = False
        try:
            connection.connect()
            transport = connection.sock  # the connection forgets it where the answer ends with it
            connection.request("GET", f"{self._path}/api/{path}", headers={**self._headers, **headers})
            with connection.getresponse() as answer:
                if answer.status != 200:
                    raise UnavailableError(self._refusal(answer))
                answered = True
                yield answer, transport
        except (OSError, http.client.HTTPException) as error:
            raise (UnavailableError(self._lost(error)) if answered else self._no_answer(error)) from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=CONNECT_TIMEOUT, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_TIMEOUT)

    def _refusal(self, answer: http.client.HTTPResponse) -> str:
        text = answer.read(500).decode("utf-8", "replace").strip()
        said = f"{self.name} answers {answer.status}: {text.splitlines()[0] if text else answer.reason}"
        if answer.status == 401:
            return f"{said} Name its file with --dashboard-password-file (DASHBOARD_PASSWORD_FILE)"
        if answer.status == 400 and "HTTPS" in text:  # tls/server.py says so to whoever speaks plain HTTP
            return f"{said} Ask https://{format_address(self._host, self._port)}{self._path}"
        if answer.status == 404:
            return f"{said}; is it the dashboard of a receiver, and of this version?"
        if answer.status == 421:
            return f"{said} From another host, go through ssh: `{self._tunnel()}`, and ask localhost:8080"
        return said

    def _lost(self, error: Exception) -> str:
        return f"the connection to {self.name} is lost ({_reason(error)})"

    def _no_answer(self, error: Exception) -> UnavailableError:
        port = "is it the port for shippers? The dashboard has one of its own, 8080 by default (DASHBOARD_PORT)"
        # A reset shows at the connect, at the question or at the answer, whichever comes first.
        if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
            return NoAnswerError(
                f"{self.name} ends the connection without an answer: it has all that it takes "
                f"(DASHBOARD_MAX_CONNECTIONS), or {port}"
            )
        if isinstance(error, http.client.HTTPException):
            return NoAnswerError(f"{self.name} speaks no HTTP: {port}")
        if isinstance(error, ssl.SSLCertVerificationError):
            return UnavailableError(
                f"{self.name} cannot be trusted: {error.verify_message}; --tls-ca-file (TLS_CA_FILE) names its CA"
            )
        said = (
            f"no dashboard at {self.name} ({_reason(error)}): a receiver has one with --dashboard "
            "(DASHBOARD_ENABLED=true)"
        )
        if _is_this_host(self._host):
            return NoAnswerError(said)
        return NoAnswerError(
            f"{said}, by default on its own loopback: `{self._tunnel()}` leads there, then ask localhost:8080"
        )

    def _tunnel(self) -> str:
        return f"ssh -L 8080:localhost:8080 {self._host}"


def _without_user(address: str) -> str:
    """The address as it may be shown: before an @ there may be a password."""
    before, at, host = address.rpartition("@")
    return f"…@{host}" if at else before + host


def _as_url(address: str, scheme: str, host: str, port: int) -> str:
    given_host, given_port = split_address(address)
    return f"{scheme}://{format_address((given_host or host).strip('[]'), int(given_port or port))}"


def _is_this_host(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return "it ended amid an answer"
    if isinstance(error, OSError) and error.errno and error.errno > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
