"""A client that knows only the base protocol, written from docs/protocol.md with the standard library alone.

Run as a program it sends entries of every kind in every slicing to HOST PORT and prints how many it sent.
"""

import gzip
import json
import socket
import struct
import sys
import zlib

FLAGS = {"raw": 0x00, "gzip": 0x03, "zlib": 0x05}
COMPRESS = {"raw": bytes, "gzip": gzip.compress, "zlib": zlib.compress}


def frame(entries, kind):
    """One frame: payload length as big-endian uint32, the flags byte, a JSON array, compressed as the flags say."""
    payload = COMPRESS[kind](json.dumps(entries).encode())
    return struct.pack("!IB", len(payload), FLAGS[kind]) + payload


def connect(address):
    """A connection whose small writes leave at once, each in its own segment."""
    connection = socket.create_connection(address, timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def finish(connection):
    """Ends the stream and waits until the receiver has ended too: then it has stored what came before."""
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(4096):
        raise AssertionError("a receiver never writes to a base client")
    connection.close()


def is_refused(address, data=b""):
    """Whether a receiver resets this connection: an end would be its word that it has stored what came.

    A reset shows at connect(), at a send or at a recv, whichever the machine comes to first, and a shutdown that comes
    after it finds nothing connected.
    """
    try:
        with connect(address) as connection:
            connection.sendall(data)
            finish(connection)
    except (TimeoutError, ConnectionRefusedError):
        raise
    except OSError:
        return True
    return False


def send_everything(address):
    """Raw, gzip and zlib frames: whole, byte by byte, and ten in one segment. Returns the entries sent."""
    sent = 0

    def entries(note):
        nonlocal sent
        sent += 2
        return [{"message": f"{note} {number}", "number": number} for number in (sent - 2, sent - 1)]

    connection = connect(address)
    for kind in FLAGS:
        connection.sendall(frame(entries(f"{kind}, whole,"), kind))
        for byte in frame(entries(f"{kind}, byte by byte,"), kind):
            connection.sendall(bytes([byte]))
        connection.sendall(b"".join(frame(entries(f"{kind}, one of ten in a segment,"), kind) for _ in range(10)))
    finish(connection)
    return sent


if __name__ == "__main__":
    print(send_everything((sys.argv[1], int(sys.argv[2]))))
