"""What failed in a run, for scripts/once_more.py: where FAILED_TESTS names a file, it is written there at the end."""

import json
import os
import re
from pathlib import Path


class Failures:
    """What failed, written to a file at the end: scripts/once_more.py runs it once more."""

    def __init__(self, file):
        self._file = Path(file)
        self._report = {"exit": None, "not_collected": 0, "crashed": 0, "passed": 0, "failed": {}}

    def pytest_collectreport(self, report):
        self._report["not_collected"] += report.failed

    def pytest_runtest_logreport(self, report):
        if report.failed:
            name = re.sub(r"@\w+$", "", report.nodeid)  # of a group: xdist adds it
            crash = getattr(report.longrepr, "reprcrash", None)
            self._report["failed"].setdefault(name, str(crash.message if crash else report.longrepr))
        self._report["crashed"] += report.when not in ("setup", "call", "teardown")  # xdist's, of a worker that is gone
        self._report["passed"] += report.passed and report.when == "call"

    def pytest_sessionfinish(self, exitstatus):
        self._report["exit"] = int(exitstatus)
        self._file.write_text(json.dumps(self._report))


def pytest_configure(config):
    if file := os.environ.pop("FAILED_TESTS", None):  # of this run alone: neither its workers nor what they start
        config.pluginmanager.register(Failures(file))
