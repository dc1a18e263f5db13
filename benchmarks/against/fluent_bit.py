"""Fluent Bit: tail → forward with gzip and acknowledgements → file. Written from its manual; Debian has no package."""

from __future__ import annotations

from against.peer import End, Peer, Place, find

_RECEIVER = """\
[SERVICE]
    Daemon off
[INPUT]
    Name forward
    Listen 127.0.0.1
    Port {port}
[OUTPUT]
    Name file
    Match *
    Path {directory}
    File {file}
    Format template
    Template {{log}}
"""
_SHIPPER = """\
[SERVICE]
    Daemon off
[INPUT]
    Name tail
    Path {source}
    Tag lines
    Read_from_Head true
[OUTPUT]
    Name forward
    Match *
    Host 127.0.0.1
    Port {port}
    Compress gzip
    Require_ack_response true
"""


def _ends(place: Place) -> tuple[End, End]:
    stored = place.destination
    receiving = _RECEIVER.format(port=place.port, directory=stored.parent, file=stored.name)
    return _end(place, "receiver", receiving), _end(
        place, "shipper", _SHIPPER.format(port=place.port, source=place.source)
    )


def _end(place: Place, name: str, text: str) -> End:
    command = [find("fluent-bit") or "fluent-bit", "--quiet", "--config", f"{place.directory}/{name}.conf"]
    return End([command], {f"{name}.conf": text})


PEERS = [
    Peer(
        name="Fluent Bit, forward, gzip",
        ends=_ends,
        settings="Compress gzip, Require_ack_response true; memory buffers, Flush 1 and the rest are its defaults",
        acks="received",
        programs={"fluent-bit": "its makers have packages"},
        version=["fluent-bit", "--version"],
    )
]
