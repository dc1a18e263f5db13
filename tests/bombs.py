"""A gibibyte of zeros, compressed: small on the wire, and far more than anybody may be made to hold."""

import functools
import zlib

from logbale.compression import zstd
from logbale.protocol import Algorithm

MiB = 1 << 20
PIECE = bytes(16 * MiB)
PIECES = 64

ENCODERS = {
    Algorithm.GZIP: lambda: zlib.compressobj(9, zlib.DEFLATED, 31),
    Algorithm.ZLIB: lambda: zlib.compressobj(9),
    Algorithm.ZSTD: zstd.ZstdCompressor,
}


@functools.cache
def gibibyte_of_zeros(algorithm):
    """Of deflate, which takes two seconds for it, one piece repeated; the checksum is wrong, nobody comes so far."""
    encoder = ENCODERS[algorithm]()
    if algorithm is Algorithm.ZSTD:
        return b"".join(encoder.compress(PIECE) for _ in range(PIECES)) + encoder.flush()
    head = encoder.compress(b"") + encoder.flush(zlib.Z_FULL_FLUSH)
    piece = encoder.compress(PIECE) + encoder.flush(zlib.Z_FULL_FLUSH)
    return head + piece * PIECES + encoder.flush()
