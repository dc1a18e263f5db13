"""Contexts for both ends, made of the files that the settings name; and what combinations of settings make no sense.

Raises ConfigError for whatever is wrong with them. TLS 1.2 is the least, and the receiver's name is checked always.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from logbale.config import Settings, is_loopback
from logbale.errors import ConfigError
from logbale.tls.names import names_of

log = logging.getLogger("logbale")

SYSTEM = "system"
"""The TLS_CA_FILE that means what the operating system trusts."""

_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME, which ssl has no name for: whether a certificate has expired is looked at by hand."""

DAY = 86400.0


class Certificate(msgspec.Struct, frozen=True):
    """One of our own; times in Unix seconds."""

    names: tuple[str, ...]
    hosts: tuple[str, ...]
    """The DNS names as they stand in it, `*.` among them."""
    begins: float
    ends: float

    def problem(self, now: float) -> str | None:
        """Why nobody would accept it now."""
        if now >= self.ends:
            return f"it has expired on {_day(self.ends)}"
        return f"it is not valid before {_day(self.begins)}" if now < self.begins else None

    def __str__(self) -> str:
        return f"certificate of {', '.join(self.names) or 'no name'}, valid until {_day(self.ends)}"


class ReceiverTLS(msgspec.Struct, frozen=True):
    """What a receiver's listeners use from one load of the files to the next."""

    shippers: ssl.SSLContext
    """For the TCP port; asks for certificates where TLS_CLIENT_CA_FILE is set."""
    web: ssl.SSLContext
    """For the dashboard and the metrics: asks for none."""
    certificate: Certificate

    def __str__(self) -> str:
        return str(self.certificate)


class ShipperTLS(msgspec.Struct, frozen=True):
    """What a shipper uses."""

    context: ssl.SSLContext
    ca: str
    """As TLS_CA_FILE says it."""
    certificate: Certificate | None
    web: ssl.SSLContext | None
    """For the metrics, where they are encrypted."""

    def __str__(self) -> str:
        return f"CA from {self.ca}" + (f", {self.certificate}" if self.certificate is not None else "")


def own_name(tls: ShipperTLS) -> str:
    """What this shipper's streams are called by; "" where no certificate says."""
    return next(iter(tls.certificate.names), "") if tls.certificate is not None else ""


def receiver_files(settings: Settings) -> list[str]:
    """What a receiver's TLS is made of; empty where it has none. Raises ConfigError where that would only look safe."""
    if not settings.tls_cert_file:
        for name in ("tls_key_file", "tls_client_ca_file", "tls_bind_streams"):
            if getattr(settings, name):
                raise ConfigError(
                    f"{name.upper()} is set and TLS_CERT_FILE is not: nothing would be encrypted; set both"
                )
        metrics_are_encrypted(settings)
        return []
    if settings.tls_bind_streams and not settings.tls_client_ca_file:
        raise ConfigError("TLS_BIND_STREAMS needs TLS_CLIENT_CA_FILE: without it no client shows a certificate")
    return _named(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)


def shipper_files(settings: Settings) -> list[str]:
    """What a shipper's TLS is made of; empty where it has none. Raises ConfigError where that would only look safe."""
    if settings.tls_key_file and not settings.tls_cert_file:
        raise ConfigError("TLS_KEY_FILE is set and TLS_CERT_FILE is not: set both")
    if not settings.tls_ca_file:
        if settings.tls_cert_file:
            raise ConfigError(
                "TLS_CERT_FILE is set and TLS_CA_FILE is not: nothing would be encrypted; TLS_CA_FILE turns TLS on and "
                f"names the receiver's CA ({SYSTEM}: those that this machine trusts)"
            )
        metrics_are_encrypted(settings)
        return []
    ca = "" if settings.tls_ca_file == SYSTEM else settings.tls_ca_file
    return _named(ca, settings.tls_cert_file, settings.tls_key_file)


def _named(*files: str) -> list[str]:
    return [file for file in files if file]


def metrics_are_encrypted(settings: Settings) -> bool:
    """Only where that is said: probes and scrapers have to know. Raises ConfigError where it cannot be."""
    if settings.dashboard_tls == "on" and not settings.tls_cert_file:
        raise ConfigError("DASHBOARD_TLS=on needs TLS_CERT_FILE")
    return settings.dashboard_tls == "on"


def page_is_encrypted(settings: Settings) -> bool:
    """Where that is said, and where others than this host reach it. Raises ConfigError where it cannot be."""
    if settings.dashboard_tls != "auto":
        return metrics_are_encrypted(settings)
    return bool(settings.tls_cert_file) and not is_loopback(settings.dashboard_host)


def receiver_tls(settings: Settings) -> ReceiverTLS:
    """From files that receiver_files() found."""
    certificate = _own_certificate(settings, of_client=False)
    _look_at_the_key(settings)
    shippers, web = _server_context(settings), _server_context(settings)
    if settings.tls_client_ca_file:
        shippers.verify_mode = ssl.CERT_REQUIRED
        _trust(shippers, "TLS_CLIENT_CA_FILE", settings.tls_client_ca_file)
    return ReceiverTLS(shippers, web, certificate)


def shipper_tls(settings: Settings) -> ShipperTLS:
    """From files that shipper_files() found."""
    context = trusting(settings.tls_ca_file)
    certificate = None
    if settings.tls_cert_file:
        certificate = _own_certificate(settings, of_client=True)
        _look_at_the_key(settings)
        _load_pair(context, settings)
    web = None
    if metrics_are_encrypted(settings):
        _own_certificate(settings, of_client=False)
        web = _server_context(settings)
    return ShipperTLS(context, settings.tls_ca_file, certificate, web)


def trusting(ca: str) -> ssl.SSLContext:
    """For who connects: `ca` is a TLS_CA_FILE, where empty means the system's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which demands a certificate, and one for the host's name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca in ("", SYSTEM):
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, "TLS_CA_FILE", ca)
    return context


def _server_context(settings: Settings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 1  # by which a client of the base protocol, which gets no answers, knows that it is accepted
    _load_pair(context, settings)
    return context


def _load_pair(context: ssl.SSLContext, settings: Settings) -> None:
    cert, key = settings.tls_cert_file, settings.tls_key_file or settings.tls_cert_file
    _check_pem("TLS_CERT_FILE", cert, "CERTIFICATE")
    _check_pem("TLS_KEY_FILE" if settings.tls_key_file else "TLS_CERT_FILE without TLS_KEY_FILE", key, "PRIVATE KEY")
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"TLS_KEY_FILE={key!r} is not the key of TLS_CERT_FILE={cert!r}") from None
        raise ConfigError(f"TLS_CERT_FILE={cert!r}, TLS_KEY_FILE={key!r}: {error.reason or error}") from None


def _look_at_the_key(settings: Settings) -> None:
    """Says so where it is no secret on this machine; an orchestrator's mounts are made so, so it is no error."""
    key = Path(settings.tls_key_file or settings.tls_cert_file)
    if key.stat().st_mode & stat.S_IROTH:
        log.warning("%s, the key of TLS_CERT_FILE, can be read by every user of this machine: chmod 600", key)


def _trust(context: ssl.SSLContext, name: str, file: str) -> None:
    _check_pem(name, file, "CERTIFICATE")
    # What is in the file is trusted as it is, without an issuer of its own: an intermediate CA, one certificate alone.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise ConfigError(f"{name}={file!r}: {error.reason or error}: expected certificates in PEM") from None


def _check_pem(name: str, file: str, kind: str) -> None:
    """OpenSSL's own words for this are `PEM lib`."""
    try:
        text = Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}={file!r}: cannot be read: {error.strerror}") from None
    if kind.encode() + b"-----" not in text:
        raise ConfigError(f"{name}={file!r}: expected {kind.lower()} in PEM (-----BEGIN …{kind}-----)")


def _no_passphrase() -> NoReturn:
    raise ConfigError("the key of TLS_KEY_FILE has a passphrase, which nobody is there to give: store it without one")


# What a certificate says. ssl decodes that of a peer only, and only where it is trusted; so it is its own peer's here.


def _own_certificate(settings: Settings, *, of_client: bool) -> Certificate:
    """The certificate, once it has served in a handshake that checks everything but its issuer and its dates."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    _load_pair(server, settings)
    _load_pair(client, settings)
    judge = server if of_client else client
    judge.verify_mode = ssl.CERT_REQUIRED
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        judge.load_verify_locations(settings.tls_cert_file)  # it may be another file than a moment ago
        ends = _introduce(server, client)
    except ssl.SSLCertVerificationError as error:
        end = "shipper" if of_client else "receiver"
        raise ConfigError(
            f"TLS_CERT_FILE={settings.tls_cert_file!r} is no certificate for a {end}: {error.verify_message}"
        ) from None
    except ssl.SSLError as error:
        raise ConfigError(f"TLS_CERT_FILE={settings.tls_cert_file!r} cannot be used: {error.reason or error}") from None
    found: dict[str, Any] = ends[0 if of_client else 1].getpeercert() or {}
    begins, until = (ssl.cert_time_to_seconds(str(found[key])) for key in ("notBefore", "notAfter"))
    hosts = [str(name).lower() for kind, name in found.get("subjectAltName", ()) if kind == "DNS"]
    return Certificate(tuple(names_of(found)), tuple(hosts), float(begins), float(until))


def _introduce(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A handshake in memory. Raises SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up)
    for _ in range(3):  # each end has at most so many words to say
        for end in reversed(ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends


def _day(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")
