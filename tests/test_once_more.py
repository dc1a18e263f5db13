"""scripts/once_more.py: a test that fails and then passes is named and ends nothing; whatever else fails does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path):
    """A directory with a .venv like ours and a test file to be written; `runs` has what ran, in order."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/conftest.py").symlink_to(ROOT / "tests/failures.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    (tmp_path / "notes").touch()
    (tmp_path / "runs").touch()
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def once_more(project, *command):
    """Its exit code, what ran, and the notes."""
    script = (sys.executable, ROOT / "scripts/once_more.py", "notes")
    environment = {name: value for name, value in os.environ.items() if not re.match("PYTEST|MAKE|MFLAGS|ARGS", name)}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}  # five times as fast
    done = subprocess.run(
        [*script, *command], cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    print(done.stdout, done.stderr)
    return done.returncode, (project / "runs").read_text().split(), (project / "notes").read_text()


TESTS = """
import os
import pytest

def ran(name):
    with open("runs", "a") as runs:
        runs.write(f"{name}\\n")
    return open("runs").read().split().count(name)

def test_well():
    ran("well")

@pytest.mark.xdist_group("some")
@pytest.mark.parametrize("value", ["a", "b - $HOME's"])
def test_flaky(value):
    assert ran(value[0]) > 1 or value == "a", "only\\nonce"
"""


def test_what_fails_once_is_run_alone_and_named(project):
    """With its first failure, under the name that pytest takes, though it ran beside others."""
    (project / "tests/test_it.py").write_text(TESTS)
    code, runs, notes = once_more(project, ".venv/bin/pytest", "-n", "2", "--dist", "loadgroup")
    assert code == 0
    assert (sorted(runs), runs[-1]) == (["a", "b", "b", "well"], "b")
    assert notes.startswith("FLAKY tests/test_it.py::test_flaky[b - $HOME's]: AssertionError: only once")
    assert notes.count("\n") == 1
    code, _, again = once_more(project)
    assert (code, again) == (0, notes)


@pytest.mark.parametrize(
    ("body", "code", "runs", "options"),
    [
        ("def test_bad():\n    assert ran('bad') > 2", 1, ["bad", "bad"], []),
        ("def test_bad():\n    if ran('bad') > 1:\n        pytest.skip()\n    assert False", 1, ["bad", "bad"], []),
        ("@pytest.mark.parametrize('n', range(4))\ndef test_bad(n):\n    assert ran('bad') > 4", 1, ["bad"] * 4, []),
        ("def test_bad():\n    assert ran('bad') > 1\ndef no_test() -> : ...", 1, [], ["-n", "1"]),
        ("def test_bad():\n    ran('bad') > 1 or os._exit(1)", 1, ["bad"], ["-n", "1"]),
        ("", 5, [], []),
    ],
    ids=["again", "skipped then", "four", "not collected", "worker gone", "no test"],
)
def test_what_is_more_than_that_has_failed(project, body, code, runs, options):
    """With the exit code that the step had, and without a word in the notes."""
    (project / "tests/test_it.py").write_text(TESTS.partition("def test_well")[0] + body)
    assert once_more(project, ".venv/bin/pytest", *options) == (code, runs, "")


def test_what_is_no_test_is_not_run_again(project):
    """A step that fails before its tests, or after them."""
    (project / "tests/test_it.py").write_text(TESTS.partition("@")[0])
    assert once_more(project, "false") == (1, [], "")
    assert once_more(project, "sh", "-c", ".venv/bin/pytest; exit 3") == (3, ["well"], "")


CHAOS = """#!/bin/sh
echo "$*" >> runs
count=$(wc -l < runs)
for report; do :; done
cat "report-$count" > "$report"
test "$(grep -c why "report-$count")" = 0
"""


@pytest.mark.parametrize(("second", "code"), [("passed", 0), ("failed", 1), ("skipped", 1)])
def test_a_fault_of_chaos_is_made_once_more_with_its_seed(tmp_path, second, code):
    """The same as with tests: alone, and it has to pass."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(CHAOS)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    (tmp_path / "Makefile").write_text("chaos-smoke:\n\t.venv/bin/python -m chaos --length smoke $(ARGS)\n")
    (tmp_path / "notes").touch()
    for number, states in enumerate([("passed", "failed"), (second,)], start=1):
        faults = [
            {
                "number": f"F{3 - len(states) + n}",
                "passed": state == "passed",
                "failures": ["why"] * (state == "failed"),
            }
            for n, state in enumerate(states)
        ]
        (tmp_path / f"report-{number}").write_text(json.dumps({"length": "smoke", "seed": 7, "faults": faults}))
    ended, runs, notes = once_more(tmp_path, "make", "chaos-smoke")
    assert ended == (0 if code == 0 else 2)  # make's
    assert " ".join(runs).count("-m chaos") == 2
    assert "-m chaos --length smoke --seed 7 F2 --json" in " ".join(runs)
    assert notes == ("FLAKY F2: why\n" if code == 0 else "")


def test_ci_says_at_its_very_end_what_was_flaky():
    """All of its steps that have tests run so, and no other target does: `make test` by itself runs nothing twice."""
    script = (ROOT / ".ci/run").read_text()
    steps = re.findall("^once_more make (.*)$", script, re.MULTILINE)
    assert steps == ["check test", "test-long", "chaos-smoke"]
    assert """trap 'python3 scripts/once_more.py "$flaky"; """ in script
    assert "once_more" not in (ROOT / "Makefile").read_text() + (ROOT / "scripts/runtime.sh").read_text()
