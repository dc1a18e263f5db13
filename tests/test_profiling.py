"""Profiles of both ends: the list is made of py-spy's samples, and a tiny run has some."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def profiling(monkeypatch):
    """benchmarks/profiling.py as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import profiling

    return profiling


def test_samples_count_for_the_last_frame_of_their_stack(profiling):
    """Whoever called it; a thread without Python has a name, too."""
    stacks = "main (a.py:1);loop (b.py:7) 3\nother (a.py:9);loop (b.py:7) 2\nmain (a.py:1) 4\n 5\n"
    assert profiling.own_samples(stacks) == Counter({"loop (b.py:7)": 5, "main (a.py:1)": 4, "(outside of Python)": 5})


def test_the_list_has_functions_by_time_and_below_them_their_lines(profiling, monkeypatch, tmp_path):
    """Lines of our own code stand there as written; those with next to nothing are left out."""
    (tmp_path / "b.py").write_text("def loop():\n    first()\n    second()\n    third()\n")
    monkeypatch.setattr(profiling, "SOURCE", tmp_path)
    found = Counter({"loop (b.py:2)": 400, "loop (b.py:3)": 300, "loop (b.py:4)": 1, "memcpy (libc.so)": 299})
    assert profiling.listed(found) == [
        " 70.1%  loop (b.py)",
        "         40.0%  2: first()",
        "         30.0%  3: second()",
        " 29.9%  memcpy (libc.so)",
    ]


def test_a_run_leaves_a_flame_graph_and_a_list_of_each_end(tmp_path):
    """Both ends are profiled from their start to their end."""
    command = [sys.executable, BENCHMARKS / "profiling.py", "--lines", "2000", "--rounds", "1", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    if "ermission" in done.stderr + done.stdout:
        pytest.skip("this machine lets py-spy read no process")
    assert done.returncode == 0, done.stderr
    for end in ("shipper", "receiver"):
        assert "<svg" in (tmp_path / f"{end}.svg").read_text()
        assert re.search(rf"^{end}: [1-9]\d* samples, .*\n +\d+\.\d%  \S", done.stdout, re.MULTILINE)
