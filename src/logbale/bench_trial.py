"""One algorithm at one level: batches there and back, as a session or the base protocol has them, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import thread_time

import msgspec

from logbale.compression import CompressionHandler, decompress, library
from logbale.context import ContextCompressor, ContextDecompressor
from logbale.context_budget import WINDOW_LOGS
from logbale.errors import DecompressionError
from logbale.protocol import HEADER_BYTES, Algorithm
from logbale.session import PREFIX_BYTES
from logbale.storing import LARGE_BYTES

_Encode = Callable[[bytes], tuple[Algorithm, bytes]]
_Decode = Callable[[Algorithm, bytes, int], bytes]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One algorithm at one level. Speeds are raw megabytes (10^6) a CPU second of one core; None for `none`."""

    algorithm: str
    level: int
    library: str
    """Which library does it, and what it calls the level: `zlib-ng 6`."""
    ratio: float
    """Raw bytes for each wire byte."""
    wire_bytes: int
    """Payloads and frame headers."""
    saved_bytes: int
    compress_mb_per_s: float | None
    decompress_mb_per_s: float | None
    cpu_seconds: float
    """Compressing and decompressing all that was measured, once."""

    @property
    def name(self) -> str:
        """As the texts call it: `zstd 3`."""
        return _name(self.algorithm, self.level)

    def cost(self, cpu_worth: float) -> float:
        """Wire bytes, and CPU seconds in wire bytes."""
        return self.wire_bytes + cpu_worth * self.cpu_seconds


class Trial:
    """One setting and its times."""

    def __init__(self, algorithm: Algorithm, level: int, *, bypass_threshold: int, in_session: bool) -> None:
        self._algorithm = algorithm
        self._level = level
        self._name = _name(algorithm.label, level)
        # Kept from batch to batch, as the shipper keeps it.
        self._handler = CompressionHandler(algorithm, level, bypass_threshold=bypass_threshold)
        self.in_session = in_session
        self._payload_bytes = 0
        self._times: list[tuple[float, float]] = []

    def run(self, batches: Sequence[bytes], *, keep: bool = True) -> None:
        """One pass there and back. CPU time of this thread: what else the machine does is not in it."""
        encode, decode = self._in_context() if self.in_session else (self._alone, _decode_alone)
        start = thread_time()
        encoded = [encode(raw) for raw in batches]
        middle = thread_time()
        try:
            restored = [
                decode(algorithm, payload, len(raw)) for (algorithm, payload), raw in zip(encoded, batches, strict=True)
            ]
        except DecompressionError as error:
            raise DecompressionError(error.reason, f"{self._name}: a batch did not come back: {error}") from error
        end = thread_time()
        for index, (raw, back) in enumerate(zip(batches, restored, strict=True)):
            if raw != back:
                raise DecompressionError("corrupt", f"{self._name}: batch {index} came back different")
        if keep:
            self._payload_bytes = sum(len(payload) for _, payload in encoded)
            self._times.append((middle - start, end - middle))

    def _alone(self, raw: bytes) -> tuple[Algorithm, bytes]:
        compressed = self._handler.compress(raw)
        return compressed.algorithm, compressed.payload

    def _in_context(self) -> tuple[_Encode, _Decode]:
        """Both ends of a session from its first batch on. What goes outside its context is as in OpenSession."""
        algorithm = self._algorithm
        if algorithm is Algorithm.NONE:
            return self._alone, _decode_alone
        window_log = max(WINDOW_LOGS)
        compressor = ContextCompressor(algorithm, self._level, window_log=window_log)
        decompressor = ContextDecompressor(algorithm, window_log=window_log)

        def is_large(raw_bytes: int) -> bool:
            return algorithm is Algorithm.ZSTD and raw_bytes >= LARGE_BYTES

        def encode(raw: bytes) -> tuple[Algorithm, bytes]:
            return self._alone(raw) if is_large(len(raw)) else (algorithm, compressor.compress(raw))

        def decode(used: Algorithm, payload: bytes, raw_bytes: int) -> bytes:
            if is_large(raw_bytes):
                return _decode_alone(used, payload, raw_bytes)
            return decompressor.decompress(payload, raw_bytes)

        return encode, decode

    def result(self, batches: Sequence[bytes]) -> Measurement:
        """What the passes over these batches gave: medians of the times."""
        raw_bytes = sum(map(len, batches))
        overhead = HEADER_BYTES + (PREFIX_BYTES if self.in_session else 0)
        wire_bytes = self._payload_bytes + overhead * len(batches)
        there, back = (median(times) for times in zip(*self._times, strict=True))
        idle = self._algorithm is Algorithm.NONE
        return Measurement(
            algorithm=self._algorithm.label,
            level=self._level,
            library=library(self._algorithm, self._level),
            ratio=raw_bytes / wire_bytes,
            wire_bytes=wire_bytes,
            saved_bytes=raw_bytes - wire_bytes,
            compress_mb_per_s=None if idle else raw_bytes / 1e6 / max(there, 1e-9),
            decompress_mb_per_s=None if idle else raw_bytes / 1e6 / max(back, 1e-9),
            cpu_seconds=0.0 if idle else there + back,
        )


def _decode_alone(algorithm: Algorithm, payload: bytes, raw_bytes: int) -> bytes:
    return decompress(algorithm, payload, max_raw=raw_bytes)


def _name(algorithm: str, level: int) -> str:
    return f"{algorithm} {level}" if level else algorithm
