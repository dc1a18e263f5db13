"""Behind a balancer: whose word is believed, and that nobody gets past a limit, or another's address, by it."""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import struct
from collections import Counter

import msgspec
import pytest
from certificates import Certificates
from hypothesis import given
from hypothesis import strategies as st
from test_delivery import next_message, receiver
from test_tcp_server import exchange, in_thread
from test_tls import receiver as tls_receiver
from waiting import eventually

from logbale.config import load
from logbale.errors import ConfigError, ProtocolError
from logbale.messages import Hello, encode_message
from logbale.protocol import Algorithm, encode_frame
from logbale.proxies import Proxies
from logbale.proxy_protocol import MAX_HEADER_BYTES, SIGNATURE, ProxyHeader, read_proxy_header

FRAME = encode_frame(b'[{"n":1}]', Algorithm.NONE)


def header(client="192.0.2.7", port=4711, *, command=0x21, family=None, more=b""):
    address = ipaddress.ip_address(client)
    family = family if family is not None else 0x11 if address.version == 4 else 0x21
    body = address.packed * 2 + struct.pack("!HH", port, 5000) + more
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


# The header


@pytest.mark.parametrize(
    ("given", "client"),
    [
        (header(), ("192.0.2.7", 4711)),
        (header("2001:db8::7"), ("2001:db8::7", 4711)),
        (header(more=b"\x04\x00\x03abc"), ("192.0.2.7", 4711)),
        (header(command=0x20), None),
        (header(family=0), None),
        (SIGNATURE + b"\x20\x00\x00\x00", None),
    ],
    ids=["IPv4", "IPv6", "with more", "local", "unspecified", "local, empty"],
)
def test_a_header_says_who_the_client_is_however_it_is_cut(given, client):
    """Whole, byte by byte, and with the client's first bytes behind it."""
    assert read_proxy_header(given + b"more") == ProxyHeader(len(given), client)
    assert [read_proxy_header(given[:end]) for end in range(len(given))] == [None] * len(given)


@pytest.mark.parametrize(
    "given",
    [
        *(SIGNATURE[:at] + b"x" for at in range(12)),
        b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 5000\r\n",
        FRAME,
        b"\x16\x03\x01",
        header(command=0x11),
        header(command=0x22),
        header(family=0x12),
        header(family=0x31),
        header("192.0.2.7", family=0x21),
        SIGNATURE + b"\x21\x11\x00\x00",
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, MAX_HEADER_BYTES - 15),
        SIGNATURE + b"\x21\x11\xff\xff",
    ],
)
def test_what_is_no_such_header_is_refused_as_soon_as_it_shows(given):
    """Other protocols, version 1, other families, and lengths too small or too large, before they are waited for."""
    with pytest.raises(ProtocolError):
        read_proxy_header(given)


def test_a_header_may_be_as_long_as_the_limit():
    """At the limit, not beyond it."""
    longest = header(more=bytes(MAX_HEADER_BYTES - 28))
    assert len(longest) == MAX_HEADER_BYTES
    assert read_proxy_header(longest).size == MAX_HEADER_BYTES
    with pytest.raises(ProtocolError, match="the limit is 2048"):
        read_proxy_header(header(more=bytes(MAX_HEADER_BYTES - 27)))


@given(st.binary(max_size=64), st.integers(0, 28))
def test_no_bytes_have_another_end_than_a_header_or_a_refusal(noise, kept):
    """Whatever comes, also behind the beginning of a sound header."""
    try:
        found = read_proxy_header(header()[:kept] + noise)
    except ProtocolError:
        return
    assert found is None or found.size <= MAX_HEADER_BYTES


# Whom it is believed


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("10.0.0.4", True),
        ("::ffff:10.0.0.4", True),
        ("10.0.0.5", False),
        ("10.1.0.9", True),
        ("10.1.1.9", False),
        ("2001:db8::9", True),
        ("?", False),
    ],
)
def test_only_addresses_in_proxy_from_are_believed(host, trusted):
    """Single ones and networks."""
    assert Proxies("10.0.0.4, 10.1.0.7/24,2001:db8::/64", Counter(), lambda: 5.0).is_trusted(host) == trusted


@pytest.mark.parametrize("value", ["balancer", "10.0.0.1,", "10.0.0.1/33", "0.0.0.0/0", "::/0"])
def test_everybody_is_nobody_to_believe(value):
    """A network of all addresses would let each client choose its own; so would a mistake."""
    with pytest.raises(ConfigError, match="none of them everybody"):
        load({}, {"PROXY_FROM": value})


# At the receiver


def test_the_client_behind_a_balancer_is_known_by_its_own_address(run, caplog):
    """In the log, in the table of clients and in what is stored, whether the header comes whole or byte by byte."""
    caplog.set_level("INFO")

    async def scenario():
        async with receiver(proxy_from="127.0.0.1") as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(header("2001:db8::7") + encode_message(Hello(2, "web", 1)))
            assert (await next_message(reader))["type"] == "welcome"
            assert "[2001:db8::7]:4711 ships stream web" in caplog.text
            writer.close()
            reader, writer = await asyncio.open_connection(*server.address)
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in header() + FRAME:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            assert [item.peer for item in server.sink.items] == ["192.0.2.7:4711"]

    run(scenario)


def test_limits_by_address_are_those_of_the_client_not_of_the_balancer(run, tmp_path):
    """One that guesses tokens is locked out, the others behind the same balancer are not."""
    (tmp_path / "tokens").write_text("right-token-0123456789\n")

    async def answer(server, client, token):
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(header(client) + encode_message(Hello(2, "web", 1, token=token)))
        try:
            return (await next_message(reader))["type"]
        except (OSError, EOFError, AssertionError):
            return "closed"
        finally:
            writer.close()

    async def scenario():
        settings = {"proxy_from": "127.0.0.0/8", "tokens_file": str(tmp_path / "tokens"), "lockout_failures": 2}
        async with receiver(**settings) as server:
            for _ in range(2):
                assert await answer(server, "192.0.2.7", "wrong-token-0123456789") == "error"
            assert await answer(server, "192.0.2.7", "right-token-0123456789") == "closed"
            assert await answer(server, "192.0.2.8", "right-token-0123456789") == "welcome"
            assert server.metrics.errors["locked_out"] == 1

    run(scenario)


def test_tls_begins_behind_the_header(run, tmp_path):
    """The balancer's word comes in plain, then the client's handshake; without it there is no handshake."""
    files = Certificates(tmp_path)

    def exchange_with_tls(address, first):
        with socket.create_connection(address, timeout=60) as plain:
            plain.sendall(first)
            with files.client_context().wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                connection.sendall(FRAME)
                with contextlib.suppress(OSError):
                    connection.unwrap()

    async def scenario():
        async with tls_receiver(files, proxy_from="127.0.0.1") as server:
            await in_thread(exchange_with_tls, server.address, header())
            assert [item.peer for item in server.sink.items] == ["192.0.2.7:4711"]
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await in_thread(exchange_with_tls, server.address, b"")
            assert server.metrics.errors["proxy_header"] == 1

    run(scenario)


@pytest.mark.parametrize(
    ("proxy_from", "sent", "stored", "reason"),
    [
        ("127.0.0.1", FRAME, 0, "proxy_header"),
        ("127.0.0.1", b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 5000\r\n" + FRAME, 0, "proxy_header"),
        ("127.0.0.1", header(command=0x20) + FRAME, 1, None),
        ("192.0.2.1", header() + FRAME, 0, "protocol"),
        ("192.0.2.1", FRAME, 1, None),
    ],
    ids=["none", "version 1", "local", "from others", "others without"],
)
def test_a_header_is_wanted_from_balancers_and_refused_from_others(run, caplog, proxy_from, sent, stored, reason):
    """Each refusal is counted and named, and nothing behind it is stored."""

    async def scenario():
        async with receiver(proxy_from=proxy_from) as server:
            await in_thread(exchange, server.address, sent)
            await eventually(lambda: reason is None or server.metrics.errors[reason] == 1)
            assert len(server.sink.items) == stored
            assert server.metrics.in_flight_bytes == 0

    run(scenario)
    assert ("PROXY_FROM" in caplog.text) == (reason is not None)


def test_nothing_behind_a_header_is_taken_where_the_client_is_refused(run):
    """A connection over the limit stores nothing, though its frame came along with its header."""

    async def scenario():
        async with receiver(proxy_from="127.0.0.1", max_connections=1) as server:
            _, first = await asyncio.open_connection(*server.address)
            first.write(header())
            await eventually(lambda: server.metrics.clients == 1)
            await in_thread(exchange, server.address, header() + FRAME)
            await eventually(lambda: server.metrics.errors["too_many_connections"] == 1)
            assert not server.sink.items
            assert server.metrics.in_flight_bytes == 0
            first.close()

    run(scenario)


def test_a_header_that_does_not_come_ends_the_connection_and_delays_no_stop(run):
    """After HELLO_TIMEOUT; at a stop at once; a balancer that only looks whether the port is open is no fault."""

    async def scenario():
        async with receiver(proxy_from="127.0.0.1", hello_timeout=0.5) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(header()[:-1])
            with pytest.raises(ConnectionResetError):  # to a base client an orderly end is the word that all is stored
                await asyncio.wait_for(reader.read(), 5)
            writer.close()
            assert server.metrics.errors["proxy_header"] == 1
            _, looks = await asyncio.open_connection(*server.address)
            looks.close()
            server.settings = msgspec.structs.replace(server.settings, hello_timeout=60.0)
            reader, writer = await asyncio.open_connection(*server.address)
            await eventually(lambda: len(server._proxies.waiting) == 1)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert server.metrics.errors["proxy_header"] == 1

    run(scenario)
