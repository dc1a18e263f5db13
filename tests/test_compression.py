"""Compression's promises: what goes in comes out, never larger, readable by standard tools, never beyond a limit."""

import contextlib
import gzip
import time
import tracemalloc
import zlib

import pytest
from bombs import gibibyte_of_zeros
from hypothesis import given
from hypothesis import strategies as st

from logbale.compression import MAX_MEMBERS, RATIO_FREE_BYTES, CompressionHandler, decompress, zstd
from logbale.errors import DecompressionError
from logbale.protocol import Algorithm

MiB = 1024 * 1024
COMPRESSED = [Algorithm.GZIP, Algorithm.ZLIB, Algorithm.ZSTD]
LOGLIKE = b"".join(b'{"message":"request %d took %d ms","level":"INFO"},' % (i * 7919, i % 313) for i in range(2000))
STANDARD_DECODERS = {Algorithm.GZIP: gzip.decompress, Algorithm.ZLIB: zlib.decompress, Algorithm.ZSTD: zstd.decompress}
STANDARD_ENCODERS = {Algorithm.GZIP: gzip.compress, Algorithm.ZLIB: zlib.compress, Algorithm.ZSTD: zstd.compress}


@given(st.binary(max_size=5000), st.sampled_from(Algorithm), st.integers(1, 9), st.integers(0, 1000))
def test_what_goes_in_comes_out_and_never_larger(raw, algorithm, level, threshold):
    """Every algorithm, level and threshold, on any bytes."""
    compressed = CompressionHandler(algorithm, level, bypass_threshold=threshold).compress(raw)
    assert decompress(compressed.algorithm, compressed.payload, max_raw=len(raw)) == raw
    assert len(compressed.payload) <= len(raw)


@pytest.mark.parametrize("algorithm", COMPRESSED)
@pytest.mark.parametrize("level", range(1, 10))
def test_the_standard_decoders_read_every_level(algorithm, level):
    """Any other implementation can receive what we send."""
    compressed = CompressionHandler(algorithm, level).compress(LOGLIKE)
    assert compressed.algorithm is algorithm
    assert STANDARD_DECODERS[algorithm](compressed.payload) == LOGLIKE


@pytest.mark.parametrize("level", [1, 6, 9])
@pytest.mark.parametrize("size", [200, 70_000, 3 << 20])
def test_a_batch_is_one_member(level, size):
    """Many readers of gzip and zstd take the first one for all of it."""
    raw = (LOGLIKE * (size // len(LOGLIKE) + 1))[:size]
    for algorithm, decoder in (
        (Algorithm.GZIP, zlib.decompressobj(wbits=31)),
        (Algorithm.ZLIB, zlib.decompressobj()),
        (Algorithm.ZSTD, zstd.ZstdDecompressor()),
    ):
        payload = CompressionHandler(algorithm, level, bypass_threshold=0).compress(raw).payload
        assert decoder.decompress(payload) == raw
        assert decoder.eof
        assert decoder.unused_data == b""


def test_a_handler_serves_many_batches_and_levels():
    """The level may change between two batches, and each batch stands alone."""
    handler = CompressionHandler(Algorithm.ZSTD, 1)
    for level in (1, 1, 9, 3, 3, 1):
        handler.level = level
        assert zstd.decompress(handler.compress(LOGLIKE).payload) == LOGLIKE


def test_small_batches_go_raw():
    """Below the threshold there is little to win; at the threshold compression begins."""
    handler = CompressionHandler(Algorithm.GZIP, 6, bypass_threshold=256)
    assert handler.compress(b"x" * 255).algorithm is Algorithm.NONE
    assert handler.compress(b"x" * 255).bypassed
    assert handler.compress(b"x" * 256).algorithm is Algorithm.GZIP


def test_what_would_grow_goes_raw():
    """Random bytes do not compress."""
    noise = bytes(range(256))
    compressed = CompressionHandler(Algorithm.GZIP, 9, bypass_threshold=0).compress(noise)
    assert (compressed.algorithm, compressed.bypassed) == (Algorithm.NONE, True)


@pytest.mark.parametrize("options", [{"algorithm": Algorithm.GZIP, "enabled": False}, {"algorithm": Algorithm.NONE}])
def test_switched_off_means_raw_and_not_bypassed(options):
    """A user who chose raw frames is not told that compression failed."""
    compressed = CompressionHandler(level=6, **options).compress(LOGLIKE)
    assert (compressed.payload, compressed.bypassed) == (LOGLIKE, False)


def test_statistics_are_the_sum_of_what_was_recorded():
    """Raw, wire, ratio, time and bypassed."""
    handler = CompressionHandler(Algorithm.ZLIB, 6)
    handler.record(handler.compress(LOGLIKE), seconds=0.5)
    handler.record(handler.compress(b"tiny"), seconds=0.25)
    stats = handler.stats
    assert (stats.batches, stats.raw_bytes, stats.bypassed, stats.seconds) == (2, len(LOGLIKE) + 4, 1, 0.75)
    assert stats.ratio == stats.raw_bytes / stats.wire_bytes > 4


def refused(algorithm, payload, *, max_raw):
    with pytest.raises(DecompressionError) as caught:
        decompress(algorithm, payload, max_raw=max_raw)
    return caught.value.reason


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_the_limit_holds_to_the_byte(algorithm):
    """limit - 1 and limit pass, limit + 1 does not."""
    compress = STANDARD_ENCODERS.get(algorithm, bytes)
    for size in (9_999, 10_000):
        assert len(decompress(algorithm, compress(LOGLIKE[:size]), max_raw=10_000)) == size
    assert refused(algorithm, compress(LOGLIKE[:10_001]), max_raw=10_000) == "limit"


@pytest.mark.parametrize("algorithm", COMPRESSED)
def test_a_bomb_is_refused_cheaply(algorithm):
    """A gibibyte of zeros costs neither its memory nor its time."""
    bomb = gibibyte_of_zeros(algorithm)
    tracemalloc.start()
    start = time.process_time()
    assert refused(algorithm, bomb, max_raw=32 * MiB) == "limit"
    cpu, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cpu < 0.2
    assert peak < 64 * MiB


@pytest.mark.parametrize("algorithm", COMPRESSED)
def test_a_ratio_that_no_log_has_is_refused_once_it_is_large(algorithm):
    """Up to 4 MiB any ratio passes: honest crash loops repeat one line for pages."""
    compress = STANDARD_ENCODERS[algorithm]
    assert len(decompress(algorithm, compress(bytes(RATIO_FREE_BYTES)), max_raw=32 * MiB)) == RATIO_FREE_BYTES
    assert refused(algorithm, compress(bytes(RATIO_FREE_BYTES + 1)), max_raw=32 * MiB) == "limit"


def test_a_content_size_that_lies_costs_nothing():
    """A zstd header that announces more than the limit is refused before anything is decoded."""
    assert refused(Algorithm.ZSTD, zstd.compress(bytes(100_000)), max_raw=1000) == "limit"


def test_a_window_beyond_the_limit_is_refused():
    """The decoder's memory is bounded by the window: 8 MiB at most."""
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    encoder = zstd.ZstdCompressor(options=options)
    payload = encoder.compress(LOGLIKE) + encoder.flush()
    assert refused(Algorithm.ZSTD, payload, max_raw=32 * MiB) == "limit"


@pytest.mark.parametrize("algorithm", COMPRESSED)
def test_several_members_are_one_batch(algorithm):
    """As gzip.decompress and zstdcat read them; sixteen at most."""
    compress = STANDARD_ENCODERS[algorithm]
    members = [compress(b"[%d]" % i) for i in range(MAX_MEMBERS)]
    assert decompress(algorithm, b"".join(members), max_raw=1000) == b"".join(b"[%d]" % i for i in range(MAX_MEMBERS))
    assert refused(algorithm, b"".join([*members, compress(b"")]), max_raw=1000) == "limit"


def test_empty_members_cost_no_time():
    """Four megabytes of empty gzip members would keep gzip.decompress busy for half a minute."""
    payload = gzip.compress(b"") * (4 * MiB // len(gzip.compress(b"")))
    start = time.process_time()
    assert refused(Algorithm.GZIP, payload, max_raw=32 * MiB) == "limit"
    assert time.process_time() - start < 0.2


@pytest.mark.parametrize("algorithm", COMPRESSED)
def test_cut_or_soiled_payloads_are_corrupt(algorithm):
    """A missing end, trailing garbage and plain nonsense are told from limits."""
    payload = STANDARD_ENCODERS[algorithm](LOGLIKE)
    for bad in (payload[:-1], payload[: len(payload) // 2], payload[:3], b"", payload + b"garbage", b"nonsense"):
        assert refused(algorithm, bad, max_raw=MiB) == "corrupt"


@pytest.mark.parametrize("algorithm", COMPRESSED)
def test_a_flipped_bit_never_gives_other_bytes(algorithm):
    """Each stand-alone frame carries its own checksum."""
    payload = CompressionHandler(algorithm, 6).compress(LOGLIKE[:2000]).payload
    for position in range(len(payload)):
        bad = bytearray(payload)
        bad[position] ^= 0x10
        with contextlib.suppress(DecompressionError):
            assert decompress(algorithm, bytes(bad), max_raw=MiB) == LOGLIKE[:2000]


@given(st.sampled_from(COMPRESSED), st.binary(max_size=200))
def test_any_bytes_decompress_or_raise_the_one_error(algorithm, payload):
    """No input raises anything else."""
    with contextlib.suppress(DecompressionError):
        decompress(algorithm, payload, max_raw=1000)
