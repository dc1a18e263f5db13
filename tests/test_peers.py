"""The benchmark beside other shippers: it counts what is lost, and its figures are those of the kernel and of gzip."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))  # the script's own modules are beside it
_spec = importlib.util.spec_from_file_location("peers", BENCHMARKS / "peers.py")
peers = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = peers
_spec.loader.exec_module(peers)

COMPARED = [peer for peer in peers.PEERS if peer.name not in ("logbale", "logbale, adaptive")]
COUNT = 5000


def lines(count=COUNT):
    """No two alike, as a service writes them, with what a syslog daemon might not keep."""
    return [
        f"  2026-01-01 00:00:{n % 60:02} INFO\trequest {n} took {n * 7919 % 1000} ms é".encode() for n in range(count)
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("peers") / "lines.log"
    path.write_bytes(b"".join(line + b"\n" for line in lines()))
    return path


@pytest.fixture(scope="module")
def results(source):
    """One round of everybody who is here."""
    out = source.with_name("results.json")
    only = [word for peer in COMPARED for word in ("--only", peer.name)]
    command = [sys.executable, BENCHMARKS / "peers.py", source, "--rounds", "1", "--json", out, *only]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=100)
    return json.loads(out.read_text())


@pytest.mark.parametrize("peer", COMPARED, ids=lambda peer: peer.name)
def test_every_peer_that_is_here_delivers_every_line_as_it_was(results, peer):
    """Once, unchanged, tabs and leading blanks included; and every figure of its row is there."""
    of = results["results"][peer.name]
    if "absent" in of:
        pytest.skip(of["absent"])
    assert (of["lost"], of["duplicated"], of["damaged"]) == (0, 0, 0)
    assert of["entries_per_second"] > 0
    assert of["receive_memory"] > 1
    assert 0 < of["ship_cpu"] + of["receive_cpu"] < 30


def test_the_wire_bytes_are_those_that_were_sent(results, source):
    """gzip's output is known to the byte, and logbale counts its own frames: what the kernel adds is headers."""
    if not results["namespace"]:
        pytest.skip("no network namespace: others' traffic is counted with it")
    expected = {"logbale, level 2": results["results"]["logbale, level 2"]["own_wire_bytes"]}
    if "absent" not in results["results"]["gzip -6 | nc | gzip -d"]:
        zipped = subprocess.run(["gzip", "-6", "-c", source], capture_output=True, check=True).stdout
        expected["gzip -6 | nc | gzip -d"] = len(zipped)
    for name, sent in expected.items():
        assert sent <= results["results"][name]["wire_bytes"] < 1.05 * sent + 5000


def judged(tmp_path, stored):
    source = tmp_path / "source.log"
    source.write_bytes(b"".join(line + b"\n" for line in lines(1000)))
    (tmp_path / "stored.log").write_bytes(b"".join(line + b"\n" for line in stored))
    return peers.judged(source, tmp_path)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda all: all, {}),
        (lambda all: all[:500] + all[501:], {"lost": 1}),
        (lambda all: all[:-1], {"lost": 1}),
        (lambda all: [], {"lost": 1000}),
        (lambda all: [*all[:500], all[400], *all[500:]], {"duplicated": 1}),
        (lambda all: [*all[:500], all[400], *all[501:]], {"lost": 1, "duplicated": 1}),
        (lambda all: [*all[:500], all[500][:9], *all[501:]], {"lost": 1, "damaged": 1}),
        (lambda all: [*all[:500], all[501], all[500], *all[502:]], {"out_of_order": 1}),
    ],
    ids=["none", "a line removed", "the last", "all", "doubled", "doubled over another", "cut", "swapped"],
)
def test_each_harm_to_the_stored_lines_is_counted(tmp_path, harm, expected):
    """Lost, doubled, damaged and disordered lines are told apart, whatever the file's size says."""
    assert judged(tmp_path, harm(lines(1000))) == peers.fidelity.Fidelity(**expected)


def test_a_line_that_was_sent_twice_may_be_stored_twice():
    """Lines are a multiset: one of two alike that is missing is lost, a third is doubled."""
    sent = [b"a", b"b", b"a"]
    assert peers.fidelity.compare(sent, sent) == peers.fidelity.Fidelity()
    assert peers.fidelity.compare(sent, [b"a", b"b"]) == peers.fidelity.Fidelity(lost=1)
    assert peers.fidelity.compare(sent, [b"a", b"b", b"a", b"a"]) == peers.fidelity.Fidelity(duplicated=1)


def test_a_peer_that_is_not_here_is_named_with_the_way_to_get_it(monkeypatch):
    """It has a row and a reason, not a gap."""
    [fluent_bit] = [peer for peer in peers.PEERS if peer.name.startswith("Fluent Bit")]
    monkeypatch.setenv("PATH", "")
    results = peers.measure([fluent_bit], Path("unread"), 0, 1, Path("unused"))
    [row] = [row for row in peers.table([fluent_bit], results) if "Fluent Bit" in row]
    assert "absent: fluent-bit is not on PATH: its makers have packages" in row
