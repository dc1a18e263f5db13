"""A CA and pairs of it, for trying TLS out; with the cryptography package. Never writes over a file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from logbale.durable import make_directory, storage_error
from logbale.errors import ConfigError
from logbale.tls.names import is_name

CA = "ca"
RECEIVER = "receiver"

SKEW = timedelta(minutes=5)
"""A pair is valid from so long ago on: another machine's clock may be behind."""


class Authority:
    """The test CA of a directory: the one that is there, or a new one."""

    def __init__(self, directory: Path, days: int) -> None:
        """Reads; writes nothing yet. Raises ConfigError where the directory has half of one, or something else."""
        self._directory = directory
        self._days = days
        self._files: dict[Path, tuple[bytes, int]] = {}
        certificate, key = directory / f"{CA}.pem", directory / f"{CA}.key"
        self.is_new = not certificate.exists() and not key.exists()
        if self.is_new:
            self._key = ec.generate_private_key(ec.SECP256R1())
            self._name = _named(f"logbale test CA {secrets.token_hex(4)}")
            self._add(CA, self._key, self._certificate(self._name, self._key, _CA_EXTENSIONS))
            return
        try:
            read = serialization.load_pem_private_key(key.read_bytes(), None)
            self._name = x509.load_pem_x509_certificate(certificate.read_bytes()).subject
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{directory}: {CA}.pem and {CA}.key are no CA to go on with: {error}") from None
        if not isinstance(read, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{key}: expected the key of a CA that logbale certs has made")
        self._key = read

    @property
    def has_receiver(self) -> bool:
        """Whether the directory has a receiver's pair already."""
        return (self._directory / f"{RECEIVER}.pem").exists()

    def add_receiver(self, hosts: Sequence[str]) -> None:
        """A pair for a receiver that is reached by these names and addresses."""
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        self._issue(RECEIVER, hosts[0], names, ExtendedKeyUsageOID.SERVER_AUTH)

    def add_client(self, name: str) -> None:
        """A pair for a shipper of that name. Raises ConfigError where it could not begin a stream, or is taken."""
        if not is_name(name) or name.startswith((".", "-")) or name in (CA, RECEIVER):
            raise ConfigError(
                f"--client={name!r}: expected up to 90 of A-Z a-z 0-9 . _ @ -, and not {CA} or {RECEIVER}"
            )
        self._issue(name, name, [x509.DNSName(name)], ExtendedKeyUsageOID.CLIENT_AUTH)

    def write(self) -> list[Path]:
        """Writes all of it, keys for this user's eyes only; nothing where one of the files exists.

        Raises ConfigError for that, and StorageError where the directory cannot be written.
        """
        for path in self._files:
            if path.exists():
                raise ConfigError(f"{path} exists, and nothing is written over: remove it, or name another directory")
        try:
            make_directory(self._directory)
            for path, (content, mode) in self._files.items():
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                    file.write(content)
        except OSError as error:
            raise storage_error(self._directory, "write certificates", error, setting="DIR") from error
        return list(self._files)

    def _issue(self, file: str, name: str, names: list[x509.GeneralName], usage: x509.ObjectIdentifier) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(of_ca=False), True),
            (x509.ExtendedKeyUsage([usage]), False),
            (x509.SubjectAlternativeName(names), False),
        ]
        self._add(file, key, self._certificate(_named(name[:64]), key, extensions))

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + timedelta(days=self._days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())

    def _add(self, file: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        path = self._directory / f"{file}.key"
        if path in self._files:
            raise ConfigError(f"{file} is named twice")
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._files[path] = pem, 0o600
        self._files[self._directory / f"{file}.pem"] = certificate.public_bytes(serialization.Encoding.PEM), 0o644


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(*, of_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not of_ca,
        key_cert_sign=of_ca,
        crl_sign=of_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


_CA_EXTENSIONS: list[tuple[x509.ExtensionType, bool]] = [
    (x509.BasicConstraints(ca=True, path_length=0), True),
    (_key_usage(of_ca=True), True),
]
