"""Which receiver a stream goes to: the same everywhere, shared evenly, and only what has to moves."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.rendezvous import preference, score

RECEIVERS = [f"logs{n}.example.org:5000" for n in range(5)]
STREAMS = [f"host-{n}:{n:032x}" for n in range(5000)]
NAMES = st.lists(st.sampled_from([f"10.0.0.{n}:5000" for n in range(8)]), min_size=1, max_size=8, unique=True)


def first_choices(receivers):
    return {stream: preference(stream, receivers)[0] for stream in STREAMS}


def test_the_hash_is_what_the_page_says():
    """docs/protocol.md names it: another one would move every stream of every fleet at an update."""
    assert score("web1:0123", "logs.example.org:5000") == 0x3AFD576AF7313036
    assert preference("web1:0123", ["a:5000", "b:5000", "c:5000"]) == ["b:5000", "c:5000", "a:5000"]


def test_every_process_comes_to_the_same_order():
    """No hash that is salted, and no memory of what was before."""
    code = f"from logbale.rendezvous import preference; print(preference('s', {RECEIVERS}))"
    seen = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
        for _ in range(3)
    }
    assert seen == {f"{preference('s', RECEIVERS)}\n"}


@given(stream=st.text(max_size=20), receivers=NAMES, chance=st.randoms(use_true_random=False))
def test_the_order_in_which_receivers_are_named_is_of_no_account(stream, receivers, chance):
    """Nor does it matter when one is named twice."""
    shuffled = [*receivers, receivers[0]]
    chance.shuffle(shuffled)
    assert preference(stream, shuffled) == preference(stream, receivers)


@given(stream=st.text(max_size=20), receivers=NAMES)
def test_without_one_receiver_the_others_keep_their_order(stream, receivers):
    """So where it is away, or was removed, each stream goes to what was next, and no other stream moves."""
    order = preference(stream, receivers)
    for gone in receivers:
        assert preference(stream, [one for one in receivers if one != gone]) == [one for one in order if one != gone]


def test_streams_are_shared_out_evenly():
    """Of 5,000 streams each of five receivers has a fifth, but for what chance does."""
    choices = list(first_choices(RECEIVERS).values())
    assert [choices.count(receiver) for receiver in RECEIVERS] == pytest.approx([1000] * 5, rel=0.1)


def test_a_new_receiver_takes_its_share_and_nothing_else_moves():
    """A sixth of the streams go to it, from each of the others; a stream that moves moves there."""
    before, after = first_choices(RECEIVERS), first_choices([*RECEIVERS, "new.example.org:5000"])
    moved = [stream for stream in STREAMS if before[stream] != after[stream]]
    assert {after[stream] for stream in moved} == {"new.example.org:5000"}
    assert len(moved) == pytest.approx(5000 / 6, rel=0.1)
    assert {before[stream] for stream in moved} == set(RECEIVERS)
