#!/usr/bin/env python3
"""Runs a step of CI, and what failed of it once more: a test that fails one time in thousands must not refuse a change.

    once_more.py NOTES make check test      a step; where a test fails and then passes, NOTES says so
    once_more.py NOTES                      at the end: what NOTES says

At most three tests, or faults of chaos, each alone, one at a time. Where more fail, where one fails again or is skipped
then, where something was not collected or a process of pytest's died, and where anything but a test fails, the step has
failed.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

AT_MOST = 3
PYTEST, CHAOS = (".venv/bin/pytest", "-q"), (".venv/bin/python", "-m", "chaos")
TESTS_FAILED = 1
"""pytest's exit code for that, and for nothing else."""


def main(notes: str, *command: str) -> int:
    """The exit code: that of the step, or 0 where everything that failed then passed."""
    if not command:
        print(flaky(Path(notes).read_text().splitlines()), end="")
        return 0
    is_chaos = "chaos-smoke" in command
    code, report = run(command, is_chaos)
    failed = (failed_faults if is_chaos else failed_tests)(report) if code else {}
    if not 0 < len(failed) <= AT_MOST:
        return code
    for name, (alone, why) in failed.items():
        print(f"\n{name} failed: once more, alone", flush=True)
        again, report = run(alone, is_chaos)
        if again or not (report["faults"][0] if is_chaos else report).get("passed"):
            return code
        with open(notes, "a") as file:
            file.write(f"FLAKY {name}: {' '.join(why.split())[:300]}\n")
    return 0


def run(command: tuple[str, ...], is_chaos: bool) -> tuple[int, dict]:
    """Its exit code, and what it wrote of its tests; empty where it did not come to that."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        if command[: len(CHAOS)] == CHAOS:
            command = (*command, "--json", str(report))
        # tests/conftest.py writes what the one names; make hands the other on to `python -m chaos`.
        ask = {"ARGS": f"--json {report}"} if is_chaos else {"FAILED_TESTS": str(report)}
        code = subprocess.run(command, env=os.environ | ask, check=False).returncode
        return code, json.loads(report.read_text()) if report.exists() else {}


def failed_tests(report: dict) -> dict[str, tuple[tuple[str, ...], str]]:
    """By name: the command that runs it alone, and why it failed. None where something else is wrong as well."""
    if report.get("exit") != TESTS_FAILED or report["not_collected"] or report["crashed"]:
        return {}
    return {name: ((*PYTEST, name), why) for name, why in report["failed"].items()}


def failed_faults(report: dict) -> dict[str, tuple[tuple[str, ...], str]]:
    """The same of chaos: again with its seed, so that it does the same."""
    return {
        fault["number"]: (
            (*CHAOS, "--length", report["length"], "--seed", str(report["seed"]), fault["number"]),
            fault["failures"][0],
        )
        for fault in report.get("faults", ())
        if fault["failures"]
    }


def flaky(lines: list[str]) -> str:
    """What nobody shall overlook; nothing where there is nothing."""
    if not lines:
        return ""
    rule = "=" * 120
    what = "These failed, and passed when they ran once more, alone. A test or logbale is wrong: find out which."
    return "\n".join(["", rule, what, *lines, rule, ""])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
