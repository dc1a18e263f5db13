"""Runs the command line as its users do: in processes of its own, without the settings of the test run."""

import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from chaos.processes import free_port
from logbale.config import SETTINGS

LOGBALE = (sys.executable, "-m", "logbale")
SPOOLS = tempfile.mkdtemp(prefix="logbale-test-spools-")
atexit.register(shutil.rmtree, SPOOLS, ignore_errors=True)
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name
    not in {setting.variable for setting in SETTINGS.values()} | {"LOGBALE_CONFIG", "NO_COLOR", "COLUMNS", "LINES"}
} | {"SPOOL_DIR": SPOOLS}
"""The environment without the settings of the test run, and with a place for spools that goes with it."""
PATIENCE = 120
"""Seconds for what takes one or two on a machine that does nothing else."""


def logbale_run(*arguments, command=LOGBALE, input=None, cwd=None, **environ):
    """The finished process, its output as text."""
    return subprocess.run(
        [*command, *map(str, arguments)],
        input=input,
        cwd=cwd,
        env=CLEAN | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class Process:
    """A process that runs on; what it says on standard error is in a file."""

    def __init__(self, directory, *command, cwd=None, **environ):
        self.messages = directory / f"messages-{len(list(directory.glob('messages-*')))}"
        with self.messages.open("wb") as messages:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=cwd,
                env=CLEAN | environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
            )

    def says(self, pattern, *, after=0):
        """Waits until it has said something that matches, behind so many characters; the match."""
        deadline = time.monotonic() + PATIENCE
        while (match := re.compile(pattern).search(self.messages.read_text(), after)) is None:
            assert self.process.poll() is None, self.messages.read_text()
            assert time.monotonic() < deadline, self.messages.read_text()
            time.sleep(0.01)
        return match

    def until(self, is_so):
        """Waits until it is so, while it runs."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert self.process.poll() is None, self.messages.read_text()
            assert time.monotonic() < deadline, self.messages.read_text()
            time.sleep(0.01)

    def end(self, number=signal.SIGTERM):
        """Sends a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def running(directory, *arguments, command=LOGBALE):
    process = Process(directory, *command, *arguments)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.communicate()


@contextlib.contextmanager
def receiver(directory, *arguments, host="127.0.0.1"):
    """A receiver with its archive in `directory`/archive; its `address` is HOST:PORT, and free for a successor."""
    archive = directory / "archive"
    with running(
        directory, "receive", "--listen", f"{host}:{free_port()}", "--archive", archive, *arguments
    ) as process:
        process.address = process.says(r"listening on (\S+)")[1]
        yield process


def entries(text):
    return [json.loads(line) for line in text.splitlines()]
