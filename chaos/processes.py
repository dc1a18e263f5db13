"""Both ends as their users start them: the `logbale` command, in processes and with an environment of their own.

Ended by their pids; whatever still runs when a fault is over is killed.
"""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

LOGBALE = (str(Path(sys.executable).with_name("logbale")),)
TAMPERED = (sys.executable, str(Path(__file__).with_name("tampered.py")))
"""The same command with system calls that lie; see there."""

_PORTS = iter(random.sample(range(10_000, 30_000), 20_000))

PATIENCE = 60.0
"""Seconds that anything may take before it counts as never."""


class Failed(Exception):
    """A promise that was not kept, in words."""


class Process:
    """One process; what it says is in a file of its own."""

    def __init__(self, directory: Path, command: Sequence[str | Path], environ: dict[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.messages = directory / f"messages-{time.monotonic_ns()}"
        with self.messages.open("wb") as messages:
            self._popen = subprocess.Popen(
                [str(part) for part in command],
                # A home of its own: no user's settings come in and no spool is left behind.
                env={"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8", "COLUMNS": "200"}
                # Runs are compared call by call: no first run may write what a second one only reads.
                | {"PYTHONDONTWRITEBYTECODE": "1"}
                | {name: os.environ[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
                | environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
            )
        self.pid = self._popen.pid

    @property
    def text(self) -> str:
        """What it said so far."""
        return self.messages.read_text(errors="replace")

    def says(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str] | None:
        """Waits until it has said something that matches; None where it ended before that. Raises Failed."""
        deadline = time.monotonic() + timeout
        while True:
            ended = self._popen.poll() is not None
            if (match := re.search(pattern, self.text)) is not None:
                return match
            if ended:
                return None
            if time.monotonic() > deadline:
                raise Failed(f"did not say {pattern!r} within {timeout:g} s: {self.text[-500:]}")
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        self._popen.send_signal(number)

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself or by a signal."""
        return self._popen.poll() is not None

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code, negative for a signal's number. Raises Failed."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"did not end within {timeout:g} s: {self.text[-500:]}") from None

    def freeze(self) -> None:
        """SIGSTOP, and waits until every thread stands still, none of them in the middle of a call. Raises Failed."""
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while not self.ended and any(state not in "Tt" for state in self._thread_states()):
            if time.monotonic() > deadline:
                raise Failed(f"does not stop: {self._thread_states()}")
            time.sleep(0.001)

    def _thread_states(self) -> list[str]:
        states = []
        for status in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # a thread may end
                states.append(status.read_text().rpartition(")")[2].split()[0])
        return states

    def kill(self) -> bool:
        """kill -9; False where it had ended before."""
        had_ended = self.ended
        with contextlib.suppress(ProcessLookupError):
            self._popen.kill()
        self._popen.wait()
        return not had_ended

    def stop(self, *, code: int = 0, timeout: float = PATIENCE) -> float:
        """SIGTERM; the seconds it took to end. Raises Failed where it did not end, or with another code."""
        began = time.monotonic()
        self.signal(signal.SIGTERM)
        got = self.wait(timeout)
        if got != code:
            raise Failed(f"exit code {got} after SIGTERM, expected {code}: {self.text[-1500:]}")
        return time.monotonic() - began

    @property
    def resident_bytes(self) -> int:
        """Memory in use."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu_seconds(self) -> float:
        """CPU time used, in the process and in the system for it."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port that nobody had a moment ago, and that the system gives to nobody while its receiver is down.

    So it lies below the range that outgoing connections take theirs from; each is handed out once.
    """
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise Failed("no port is free between 10,000 and 30,000")


def fetch(port: int, path: str) -> tuple[int, str]:
    """Status and body of an HTTP answer from loopback; 0 where there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, HTTPException):
        return 0, ""


class End:
    """What both ends share: a command that can be started again and again, and its numbers."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory / name
        self.metrics_port = free_port()
        self.process: Process | None = None
        self.environ: dict[str, str] = {}

    def command(self) -> list[str | Path]:
        """Subcommand and arguments."""
        raise NotImplementedError

    def spawn(self, *, under: Sequence[str] = (), program: Sequence[str] = LOGBALE, **environ: str) -> Process:
        """Starts it, perhaps under a tracer, with more settings for this once."""
        if self.process is not None and not self.process.ended:
            raise RuntimeError("still running")
        settings = {"METRICS_PORT": str(self.metrics_port)} | self.environ | environ
        self.process = Process(self.directory, [*under, *program, *self.command()], settings)
        return self.process

    def kill(self) -> bool:
        """kill -9 of what runs; False where nothing did."""
        return self.process is not None and self.process.kill()

    def metric(self, name: str) -> float:
        """A counter or gauge without labels; 0 where it cannot be had."""
        match = re.search(rf"^{name}(?:_total)? ([\d.e+-]+)$", fetch(self.metrics_port, "/metrics")[1], re.M)
        return float(match[1]) if match else 0.0


class Receiver(End):
    """`logbale receive` into an archive, on the same port from its first start on."""

    def __init__(
        self, directory: Path, archive: Path | None = None, *, host: str = "127.0.0.1", **environ: str
    ) -> None:
        super().__init__(directory, "receiver")
        self.host = host
        self.archive = archive or directory / "archive"
        self.port = free_port()
        self.environ = environ

    def command(self) -> list[str | Path]:
        return ["receive", "--listen", f"{self.host}:{self.port}", "--archive", self.archive]

    def start(self, **options: object) -> "Receiver":
        """Spawns it and waits until it listens. Raises Failed."""
        process = self.spawn(**options)  # type: ignore[arg-type]
        if process.says(r"listening on \S+") is None:
            raise Failed(f"the receiver ended with {process.wait()}: {process.text[-1500:]}")
        return self


class Shipper(End):
    """`logbale ship` of files to a port, or to one of several; with a spool where `spool` names its directory."""

    def __init__(
        self,
        directory: Path,
        port: int | list[int],
        *paths: Path | str,
        name: str = "shipper",
        once: bool = False,
        spool: Path | None = None,
        host: str = "127.0.0.1",
        **environ: str,
    ) -> None:
        super().__init__(directory, name)
        self.host = host
        self.ports = [port] if isinstance(port, int) else port
        self.spool = spool
        self._paths = paths
        self._once = once
        self.environ = {"DRAIN_TIMEOUT": "60", "COMPRESSION_ALGORITHM": "zstd"} | environ
        self.environ["SPOOL_DIR"] = "off" if spool is None else str(spool)

    def command(self) -> list[str | Path]:
        reach = ["--once"] if self._once else ["--from-start"]
        name = [] if self.spool is None else ["--name", "chaos"]
        to = ",".join(f"{self.host}:{port}" for port in self.ports)
        return ["ship", "--to", to, *reach, *name, *self._paths]

    @property
    def delivered(self) -> float:
        """Entries acknowledged to this process, or all that its spool knows of."""
        return self.metric("logbale_shipper_delivered_entries")

    def first_ack(self, timeout: float = PATIENCE, *, above: float | None = None) -> float:
        """Waits for the next ack; the seconds until then. Raises Failed."""
        began = time.monotonic()
        before = above
        while time.monotonic() - began < timeout:
            now = self.delivered
            if before is not None and now > before:
                return time.monotonic() - began
            if before is None and now:
                before = now
            if self.process is not None and self.process.ended:
                raise Failed(f"the shipper ended with {self.process.wait()}: {self.process.text[-800:]}")
            time.sleep(0.01)
        raise Failed(f"no ack within {timeout:g} s: {self.process.text[-800:] if self.process else ''}")
