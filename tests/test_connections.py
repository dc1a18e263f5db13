"""The benchmark of many sessions: small here, so that it still works when somebody needs its figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "connections.py"


@pytest.mark.parametrize("options", [["--sessions", "20", "--every", "0.2"], ["--sessions", "10", "--busy"]])
def test_every_batch_of_many_sessions_is_acknowledged(tmp_path, options):
    """It says how soon, and what that took."""
    out = tmp_path / "results.json"
    command = [sys.executable, SCRIPT, "--seconds", "1", "--entries", "3", "--dir", tmp_path, "--json", out, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    found = json.loads(out.read_text())
    assert found["sessions lost"] == 0
    assert found["batches sent"] == found["batches acknowledged"] > 40
    assert 0 < found["ack p50, ms"] <= found["ack p99, ms"] <= found["ack max, ms"]
    assert found["windows (2**n): sessions"] == {"17": int(options[1])}
