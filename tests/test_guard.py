"""The guard of the hot path: it sees one statement more for each entry, and nothing that a busy machine changes."""

import gc
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def guard(monkeypatch):
    """benchmarks/guard.py as a module, without the processor's instructions: `make guard` counts those in CI."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import guard

    monkeypatch.setattr(guard.shutil, "which", lambda _: None)
    return guard


def plain(count):
    """A loop over entries."""
    entries = range(count)

    def run():
        for _ in entries:
            pass

    return run


def with_a_statement(count):
    """The same loop with a statement in it."""
    entries = range(count)

    def run():
        seen = None
        for one in entries:
            seen = one
        return seen

    return run


def with_a_statement_for_all(count):
    """The same with a statement beside it."""
    entries = range(count)

    def run():
        done = entries
        for _ in entries:
            pass
        return done

    return run


def test_a_statement_for_each_entry_is_seen(guard):
    """It counts more than what may come on top; a statement for all of them counts nothing."""
    assert guard.bytecodes(with_a_statement) - guard.bytecodes(plain) > guard.BYTECODES
    assert guard.bytecodes(with_a_statement_for_all) == guard.bytecodes(plain)
    assert guard.bytecodes(lambda count: lambda: bytes(count)) == 0


def test_counts_are_the_same_each_time(guard):
    """Exactly, also of the hot path, and where the garbage collector has Python to run meanwhile."""
    callback, thresholds = (lambda phase, info: None), gc.get_threshold()
    before = [guard.bytecodes(make) for make, _ in guard.WORK.values()]
    gc.callbacks.append(callback)
    gc.set_threshold(7)
    try:
        assert [guard.bytecodes(make) for make, _ in guard.WORK.values()] == before
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(callback)


@pytest.mark.parametrize(
    ("row", "grown", "shrunk"),
    [
        ({"bytecodes": 10, "units": 1.0}, [], []),
        ({"bytecodes": 10.8, "units": 1.02}, [], []),
        ({"bytecodes": 11, "units": 1.0}, ["parse: 10 → 11 bytecodes an entry"], []),
        ({"bytecodes": 10, "units": 1.021}, ["parse: 1 → 1.021 units an entry"], []),
        ({"bytecodes": 9, "units": 1.03}, ["parse: 1 → 1.03 units an entry"], ["parse: 10 → 9 bytecodes an entry"]),
        ({"bytecodes": 10, "units": 0.9}, [], ["parse: 1 → 0.9 units an entry"]),
        ({"bytecodes": 10}, [], []),
    ],
)
def test_what_grew_and_what_shrank_is_told_apart(guard, row, grown, shrunk):
    """Bytecodes by less than a statement and instructions within the tolerance are neither."""
    before = {"parse": {"bytecodes": 10, "units": 1.0}}
    assert guard.compare({"parse": row}, before, tolerance=0.02) == (grown, shrunk)


def test_what_the_baseline_does_not_know_is_no_success(guard):
    """New work needs a baseline."""
    grown, _ = guard.compare({"new": {"bytecodes": 1}}, {}, tolerance=0.02)
    assert grown == ["new: bytecodes are not in the baseline"]


def test_the_baseline_is_of_this_work(guard):
    """Each row names exactly what is guarded."""
    rows = json.loads(guard.BASELINE.read_text())
    assert rows
    for row in rows.values():
        assert row["work"].keys() == guard.WORK.keys()


def test_growth_fails_and_says_where(guard, monkeypatch, tmp_path, capsys):
    """Without valgrind the bytecodes are compared all the same, and that instructions were skipped is said."""
    monkeypatch.setattr(guard, "BASELINE", tmp_path / "baseline.json")
    monkeypatch.setattr(guard, "WORK", {"loop": (plain, plain)})
    row = {"made_with": [], "work": {"loop": {"bytecodes": guard.bytecodes(plain), "units": 1.0}}}
    guard.BASELINE.write_text(json.dumps({guard.PYTHON: row}))
    assert guard.main([]) == 0
    monkeypatch.setattr(guard, "WORK", {"loop": (with_a_statement, plain)})
    assert guard.main([]) == 1
    said = capsys.readouterr().out
    assert "instructions: skipped, valgrind is not installed" in said
    assert "MORE than the baseline: loop: " in said


def test_another_python_is_compared_with_no_other_pythons_figures(guard, monkeypatch, capsys):
    """It has a row of its own or none, and then says so."""
    monkeypatch.setattr(guard, "PYTHON", "3.99")
    assert guard.main([]) == 0
    assert "nothing is compared: the baseline has no row for Python 3.99" in capsys.readouterr().out


def test_half_a_baseline_is_not_written(guard, monkeypatch, tmp_path):
    """Without valgrind there is nothing to update with."""
    monkeypatch.setattr(guard, "BASELINE", tmp_path / "baseline.json")
    with pytest.raises(SystemExit, match="a baseline needs both figures"):
        guard.main(["--update"])
    assert not guard.BASELINE.exists()
