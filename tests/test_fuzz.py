"""The fuzz targets (fuzz/targets.py), a few seconds each: what `make fuzz` does for hours, on every change."""

import ast
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import mutate, targets
from fuzz.receiving import Receiving
from fuzz.targets import TARGETS
from logbale.protocol import Algorithm, encode_frame, encode_header

ROOT = Path(__file__).parent.parent
SEEDS = {name: [path.read_bytes() for path in sorted((ROOT / "fuzz/corpus" / name).iterdir())] for name in TARGETS}


@pytest.fixture(autouse=True, scope="module")
def _closed():
    logger = logging.getLogger("logbale")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)
    targets.close()


every_target = pytest.mark.parametrize("name", TARGETS)


@every_target
def test_kept_inputs_and_mutations_of_them_break_no_promise(name):
    """Each kept input, and what a second makes of it."""
    assert mutate.run(TARGETS[name], SEEDS[name], seconds=1, seed=random.randrange(2**32)) > 0


@every_target
def test_any_bytes_break_no_promise(name):
    """Whatever hypothesis comes up with, alone or behind a piece of a kept input."""
    seeds = SEEDS[name]

    @settings(max_examples=150)
    @given(st.sampled_from([b"", *seeds]), st.integers(0, 4000), st.binary(max_size=300))
    def check(seed, cut, data):
        TARGETS[name](seed[:cut] + data)

    check()


def test_a_million_random_and_a_hundred_thousand_mutated_frames_are_short_here():
    """Nothing raises and nothing hangs. Here 20,000 and 2,000 of them; FUZZ_FRAMES=50 makes it all."""
    times = int(os.environ.get("FUZZ_FRAMES", "1"))
    receiving = Receiving(max_frame_bytes=64 * 1024)
    took = frames(receiving, times * 20, times * 2_000, random.Random())
    receiving.close()
    assert took < 1.0


def frames(receiving, thousands, mutated, chance):
    """Random frames, a thousand to a connection, and mutated ones; the longest that a connection took, in seconds."""
    sound = [encode_frame(b'[{"n":1,"message":"x"}]', Algorithm.NONE), *(seed[1:] for seed in SEEDS["connection"])]
    longest = 0.0
    for number in range(thousands + mutated):
        begins = time.process_time()
        receiving.take(b"\xff" + (thousand(chance) if number < thousands else mutate.mutated(sound, chance)))
        longest = max(longest, time.process_time() - begins)
    return longest


def thousand(chance):
    """A thousand frames of the base protocol with random payloads; half the time a wrong flags byte ends them early."""
    flags = (0, 3, 5, 7) if chance.random() < 0.5 else range(256)
    payloads = [chance.randbytes(chance.randrange(40)) for _ in range(1000)]
    return b"".join(encode_header(len(payload), chance.choice(flags)) + payload for payload in payloads)


def test_a_finding_is_told_with_its_input():
    """The plain driver ends with the error, and the input that it takes to see it again."""

    def target(data):
        assert b"b" not in data

    with pytest.raises(AssertionError) as caught:
        mutate.run(target, [b"aaab"], seconds=5, seed=1)
    assert b"b" in ast.literal_eval(caught.value.__notes__[0].removeprefix("input: "))


def test_an_error_that_nobody_foresaw_ends_its_connection_only(monkeypatch, caplog):
    """On the loop and in the pool: it is logged and counted, its frame is given back, and the next client is served."""
    receiving = Receiving()
    metrics = receiving._receiver.metrics
    small, large = (encode_frame(b'[{"m":"%s"}]' % (b"x" * size), Algorithm.NONE) for size in (1, 100_000))
    with monkeypatch.context() as patch:
        patch.setattr("logbale.base_receiving.decode_base", lambda *_: 1 / 0)
        for number, frame in enumerate((small, large), start=1):
            with pytest.raises(AssertionError, match="nobody foresaw"):
                receiving.take(b"\xff" + frame)
            assert metrics.errors["unforeseen"] == number
            assert metrics.in_flight_bytes == 0
    receiving.take(b"\xff" + small)
    assert metrics.received.entries == 1
    receiving.close()


def test_one_input_can_be_looked_at_again():
    """`python -m fuzz TARGET FILE` runs that input alone."""
    command = [sys.executable, "-m", "fuzz", "entry_json", "fuzz/corpus/entry_json/00"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
