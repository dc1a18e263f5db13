"""Asks for known advisories on everything that the lock files pin: pip-audit, and whether it could know of any.

pip-audit takes a service that knows none of the packages for good news: behind a mirror of the index it finds nothing,
and ends with 0. So it is asked about a version with a known advisory first. Where it does not find that one, nothing
was audited: the last line says SKIPPED and why. Exit code: 0 where there is none or nobody could be asked, 1 for a
finding, and with AUDIT=required for what could not be asked too.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-kafka.txt")
KNOWN_BAD = "starlette==0.48.0"
"""With CVE-2025-62727."""

EXCEPTIONS: dict[str, str] = {}
"""Advisories that do not count, each with the reason why not."""

TIMEOUT = 300.0


class Unanswered(Exception):
    """Nobody could be asked; the text says why."""


def findings(lock: Path) -> list[str]:
    """A line for each advisory on what a lock file pins for this Python. Raises Unanswered."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--disable-pip", "--no-deps"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    for name in EXCEPTIONS:
        command += ["--ignore-vuln", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise Unanswered(f"pip-audit had no answer after {TIMEOUT:g} s") from None
    try:
        audited = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Unanswered(f"pip-audit: {said[-1][:300]}") from None
    if unknown := [one for one in audited if "skip_reason" in one]:
        raise Unanswered(f"the service does not know {len(unknown)} of {len(audited)}: {unknown[0]['skip_reason']}")
    return [
        f"{one['name']} {one['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'no version'}"
        for one in audited
        for found in one["vulns"]
    ]


def main() -> int:
    """The exit code."""
    try:
        with tempfile.TemporaryDirectory() as directory:
            known = Path(directory) / "known.txt"
            known.write_text(f"{KNOWN_BAD}\n")
            if not findings(known):
                raise Unanswered(f"the service knows no advisory on {KNOWN_BAD}, which has one")
        found = sorted({line for lock in LOCKS for line in findings(ROOT / lock)})
    except Unanswered as why:
        print(f"pip-audit: SKIPPED, nothing was audited: {why}")
        return int(os.environ.get("AUDIT") == "required")
    for line in found:
        print(line)
    excepted = "".join(f"; {name} does not count: {reason}" for name, reason in EXCEPTIONS.items())
    print(f"pip-audit: {len(found)} known advisories on {', '.join(LOCKS)}{excepted}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
