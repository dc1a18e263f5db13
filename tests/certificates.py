"""Certificates in files, as the settings name them, from a CA that lives as long as the test."""

import datetime
import ssl

import trustme
from cryptography import x509

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
PAST = {"not_before": NOW - 3 * DAY, "not_after": NOW - DAY}
FUTURE = {"not_before": NOW + DAY, "not_after": NOW + 3 * DAY}
SHORT = {"not_before": NOW - DAY, "not_after": NOW + DAY}


class Certificates:
    """A directory with a CA in ca.pem; `pair` adds a certificate and its key."""

    def __init__(self, directory):
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(directory / "ca.pem")

    def pair(self, file, *names, **dates):
        """Writes FILE.pem and FILE.key in one step each, as who renews them does; the settings that name them."""
        made = self.ca.issue_cert(*names, **dates)
        paths = []
        for suffix, content in (
            ("key", made.private_key_pem.bytes()),
            ("pem", b"".join(blob.bytes() for blob in made.cert_chain_pems)),
        ):
            path = self.directory / f"{file}.{suffix}"
            unfinished = path.with_suffix(".new")
            unfinished.write_bytes(content)
            unfinished.chmod(0o600)
            unfinished.rename(path)
            paths.append(str(path))
        return {"tls_key_file": paths[0], "tls_cert_file": paths[1]}

    def read(self, file):
        """What is in FILE.pem."""
        return x509.load_pem_x509_certificate((self.directory / f"{file}.pem").read_bytes())

    def receiver(self, *names, file="receiver", **dates):
        """A receiver's settings."""
        return self.pair(file, *(names or ("127.0.0.1", "localhost")), **dates)

    def trust(self):
        """A shipper's setting."""
        return {"tls_ca_file": str(self.directory / "ca.pem")}

    def client_trust(self):
        """A receiver's setting."""
        return {"tls_client_ca_file": str(self.directory / "ca.pem")}

    def client_context(self, pair=None, version=None):
        """For a client that is none of ours."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        if pair:
            context.load_cert_chain(pair["tls_cert_file"], pair["tls_key_file"])
        if version:
            context.minimum_version = context.maximum_version = version
        return context
