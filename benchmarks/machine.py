"""What a measurement was made on: machine, load, commit and Python, for the line beside the figures."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path


def describe() -> dict[str, str | int | float]:
    """As it is now: ask before measuring, or the load is the measurement's own."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": _commit(),
        "system": platform.platform(),
    }


def sentence(described: dict[str, str | int | float]) -> str:
    """The same for people."""
    return "{cpu}, {cores} cores, load {load} before; {python}; commit {commit}".format(**described)


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _commit() -> str:
    """With -dirty where the tree has changes; ? outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "?"
