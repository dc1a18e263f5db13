"""The benchmark over real links leaves nothing behind; its figures are for people, not for a test."""

import contextlib
import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "adaptive_links", Path(__file__).parent.parent / "benchmarks" / "adaptive_links.py"
)
adaptive_links = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = adaptive_links  # dataclasses look their module up
_spec.loader.exec_module(adaptive_links)


def namespaces() -> set[str]:
    return {line.split()[0] for line in adaptive_links.command("ip netns list").splitlines()}


def test_namespaces_are_deleted_whatever_happens():
    """Also where the run inside fails: no namespace of its own is left."""
    if reason := adaptive_links.missing():
        pytest.skip(reason)
    ours = set()
    with contextlib.suppress(RuntimeError), adaptive_links.link("10mbit") as inside:
        ours = {words[-1] for words in inside.values()}
        assert ours <= namespaces()
        assert "tbf" in adaptive_links.command(" ".join([*inside["ship"], "tc qdisc show dev ship"]))
        raise RuntimeError("something went wrong")
    assert len(ours) == 2
    assert not ours & namespaces()
