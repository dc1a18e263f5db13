"""logbale certs: a CA and certificates of it, for trying TLS out."""

from __future__ import annotations

import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from logbale.cli.options import Command
from logbale.cli.output import complain, write
from logbale.config import host_name
from logbale.errors import ConfigError, LogbaleError

EXAMPLES = """
logbale certs certs                                      for a receiver on this machine
logbale certs certs --host logs.example.org --client web1 --client web2
logbale certs certs --client web3                        one more of the same CA
"""

THIS_HOST = ("localhost", "127.0.0.1", "::1")


@click.command(
    cls=Command,
    short_help="Make a CA and certificates, for trying TLS out",
    examples=EXAMPLES,
    params=[
        click.Argument(["directory"], metavar="DIR", type=click.Path(path_type=Path)),
        click.Option(
            ["--host", "hosts"],
            multiple=True,
            metavar="NAME",
            help="A name or address that shippers know the receiver by; repeatable. By default those of this machine",
        ),
        click.Option(
            ["--client", "clients"],
            multiple=True,
            metavar="NAME",
            help="Makes a pair for a shipper, NAME.pem and NAME.key; its streams are called so; repeatable",
        ),
        click.Option(
            ["--days"],
            type=click.IntRange(1, 3650),
            default=365,
            metavar="DAYS",
            help="How long they are valid; default 365",
        ),
    ],
)
def certs(directory: Path, hosts: tuple[str, ...], clients: tuple[str, ...], days: int) -> int:
    """Makes a CA in DIR (ca.pem, ca.key), and a pair for a receiver (receiver.pem, receiver.key).

    A CA that DIR has already signs the new ones, and no file is ever written over. Keys are readable for their owner.
    The CA's key lies beside the rest: good for trying TLS out, not for more.
    """
    if find_spec("cryptography") is None:
        raise LogbaleError(
            f"logbale certs needs the cryptography package: {sys.executable} -m pip install cryptography; TLS itself "
            "works without it, with certificates from elsewhere"
        )
    from logbale.tls.making import Authority

    authority = Authority(directory, days)
    if hosts or not authority.has_receiver:
        authority.add_receiver([_host(name) for name in hosts] or [*THIS_HOST, socket.gethostname()])
    for name in clients:
        authority.add_client(name)
    written = authority.write()
    if not written:
        complain(f"{directory} has a CA and a receiver's pair already; --client NAME adds one for a shipper")
        return 0
    write("".join(f"{path}\n" for path in written).encode())
    complain(f"the receiver: --tls-cert-file {directory}/receiver.pem --tls-key-file {directory}/receiver.key")
    complain(f"shippers: --tls-ca-file {directory}/ca.pem")
    for name in clients:
        complain(f"{name}: --tls-cert-file {directory}/{name}.pem --tls-key-file {directory}/{name}.key as well")
    if clients:
        complain(f"the receiver takes these clients only with --tls-client-ca-file {directory}/ca.pem")
    return 0


def _host(name: str) -> str:
    try:
        return host_name(name)
    except ValueError as error:
        raise ConfigError(f"--host={name!r}: expected {error}") from None
