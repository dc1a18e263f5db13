"""The floors: a file through a compressor, a pipe, a TCP connection and a decompressor, and nothing else."""

from __future__ import annotations

from against.peer import DEBIAN, End, Peer, Place, find

_NC = "nc.openbsd"  # others lack -N, which ends the connection at the end of the input


def _floor(compressor: str, level: str) -> Peer:
    def ends(place: Place) -> tuple[End, End]:
        program, nc = find(compressor) or compressor, find(_NC) or _NC
        listening = [[nc, "-l", "127.0.0.1", str(place.port)], [program, "-d", "-c"]]
        sending = [[program, level, "-c"], [nc, "-N", "127.0.0.1", str(place.port)]]
        return End(listening, stdout=place.destination), End(sending, stdin=place.source)

    return Peer(
        name=f"{compressor} {level} | nc | {compressor} -d",
        ends=ends,
        settings="one thread, as is their default",
        acks="no",
        programs={_NC: DEBIAN, compressor: DEBIAN},
        version=[compressor, "--version"],
    )


PEERS = [_floor("gzip", "-6"), _floor("zstd", "-3")]
