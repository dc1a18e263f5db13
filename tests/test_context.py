"""Compression in context: in order it gives back what went in, far smaller; out of order or soiled it says so."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.compression import CompressionHandler
from logbale.context import ZSTD_CONTEXT_BYTES, ContextCompressor, ContextDecompressor, context_bytes
from logbale.errors import DecompressionError
from logbale.protocol import Algorithm

ALGORITHMS = [Algorithm.GZIP, Algorithm.ZLIB, Algorithm.ZSTD]
BATCHES = [
    b"".join(b'{"message":"request %d took %d ms","level":"INFO"},' % (i * 7919 + n, i % 313) for i in range(50))
    for n in range(20)
]


@given(st.sampled_from(ALGORITHMS), st.integers(1, 9), st.sampled_from([14, 17, 21]), st.lists(st.binary(max_size=400)))
def test_bodies_in_order_give_back_the_batches(algorithm, level, window_log, batches):
    """Each body decodes alone as soon as it has come, whatever the batches hold."""
    sender = ContextCompressor(algorithm, level, window_log=window_log)
    receiver = ContextDecompressor(algorithm, window_log=window_log)
    for raw in batches:
        assert receiver.decompress(sender.compress(raw), len(raw)) == raw


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_context_makes_small_batches_small(algorithm):
    """What earlier batches held need not be said again."""
    sender = ContextCompressor(algorithm, 6, window_log=17)
    in_context = sum(len(sender.compress(raw)) for raw in BATCHES)
    alone = sum(len(CompressionHandler(algorithm, 6).compress(raw).payload) for raw in BATCHES)
    assert in_context < 0.9 * alone


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_incompressible_batch_inside_a_context_is_carried(algorithm):
    """It grows by a trifle, and the batches after it decode as if nothing had been."""
    noise = bytes((i * i * 7919 >> 5) & 255 for i in range(20_000))
    sender = ContextCompressor(algorithm, 6, window_log=17)
    receiver = ContextDecompressor(algorithm, window_log=17)
    for raw in (BATCHES[0], noise, BATCHES[1]):
        assert receiver.decompress(sender.compress(raw), len(raw)) == raw


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("claim", [-1, 1, 1000])
def test_a_raw_length_that_lies_is_refused(algorithm, claim):
    """Neither more nor less than the prefix claims, and never memory beyond it."""
    body = ContextCompressor(algorithm, 6, window_log=17).compress(BATCHES[0])
    with pytest.raises(DecompressionError) as caught:
        ContextDecompressor(algorithm, window_log=17).decompress(body, len(BATCHES[0]) + claim)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_stream_that_ends_inside_a_context_is_refused(algorithm):
    """A whole stand-alone stream is no body of a context."""
    payload = CompressionHandler(algorithm, 6).compress(BATCHES[0]).payload
    with pytest.raises(DecompressionError, match="ends inside"):
        ContextDecompressor(algorithm, window_log=21).decompress(payload, len(BATCHES[0]))


def test_a_window_larger_than_agreed_is_refused():
    """The receiver's memory for a connection is what it offered."""
    body = ContextCompressor(Algorithm.ZSTD, 6, window_log=21).compress(BATCHES[0])
    with pytest.raises(DecompressionError):
        ContextDecompressor(Algorithm.ZSTD, window_log=17).decompress(body, len(BATCHES[0]))


@given(st.sampled_from(ALGORITHMS), st.lists(st.binary(max_size=100), max_size=5), st.integers(0, 1000))
def test_any_bytes_decode_or_raise_the_one_error(algorithm, bodies, raw_bytes):
    """No input raises anything else."""
    receiver = ContextDecompressor(algorithm, window_log=17)
    with contextlib.suppress(DecompressionError):
        for body in bodies:
            assert len(receiver.decompress(body, raw_bytes)) == raw_bytes


def test_what_a_context_costs_grows_with_its_window():
    """Never less than the window, and more where a peer fills the buffers; raw costs nothing."""
    costs = [context_bytes(Algorithm.ZSTD, window_log) for window_log in ZSTD_CONTEXT_BYTES]
    for window_log, cost in zip(ZSTD_CONTEXT_BYTES, costs, strict=True):
        assert 1 << window_log < cost.usual < cost.most
    assert costs == sorted(costs, key=lambda cost: cost.usual) == sorted(costs, key=lambda cost: cost.most)
    assert context_bytes(Algorithm.GZIP, 17) == context_bytes(Algorithm.ZLIB, 10)
    assert context_bytes(Algorithm.NONE, 17).most == 0
    with pytest.raises(ValueError, match="window_log=24: expected 10 to 23"):
        context_bytes(Algorithm.ZSTD, 24)


def test_the_table_of_costs_is_what_the_benchmark_measures():
    """In a fresh process that holds 300 contexts, with room for another allocator."""
    script = Path(__file__).parent.parent / "benchmarks" / "context_memory.py"
    if not script.exists() or not sys.platform.startswith("linux"):
        pytest.skip("not a checkout on Linux")
    for name, window_log in (("gzip", 15), ("zstd", 14), ("zstd", 17)):
        command = [sys.executable, str(script), "--contexts", "300", "--hold", name, str(window_log)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        cost = context_bytes(Algorithm.named(name), window_log)
        assert 0.6 * cost.usual < int(made.stdout) < 1.2 * cost.most
