"""The make targets without Docker: `native.py run|client|logs|stop`.

The background receiver holds a lock on its pid file for as long as it lives, so a pid left behind by a crash is never
taken for a running receiver, and no other program that has got this pid is ever signalled.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / ".run"
PID_FILE = RUN / "server.pid"
LOG = RUN / "server.log"
START_TIMEOUT = 20.0
STOP_TIMEOUT = 30.0
"""Seconds that `stop` waits; the receiver's own deadline, DRAIN_TIMEOUT, is 10 unless it is set."""
TAIL_LINES = 100
THIS_HOST = ("", "0.0.0.0", "::", "::1", "127.0.0.1", "localhost")


def lock() -> int | None:
    """The pid file, opened and locked; None where a receiver holds the lock."""
    RUN.mkdir(exist_ok=True)
    descriptor = os.open(PID_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_running() -> bool:
    """Whether a receiver that `run` started still lives."""
    descriptor = lock()
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def address() -> tuple[str, str] | None:
    """Host and port that the receiver says it listens on; None as long as it says none."""
    for line in LOG.read_text(errors="replace").splitlines():
        _, found, rest = line.partition("listening on ")
        if found:
            host, _, port = rest.split()[0].rpartition(":")
            return host.strip("[]"), port
    return None


def run() -> int:
    """Starts a receiver in the background and waits until it listens."""
    descriptor = lock()
    if descriptor is None:
        host, port = address() or ("?", "?")
        print(f"already running, pid {PID_FILE.read_text()}, listening on {host}:{port}; make stop ends it")
        return 0
    with LOG.open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "server_main.py"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[descriptor],  # the lock lives as long as the receiver
        )
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(server.pid).encode())
    os.close(descriptor)
    deadline = time.monotonic() + START_TIMEOUT
    while (listening := address()) is None and server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if listening is None:
        print("the receiver did not start; it says:", file=sys.stderr)
        sys.stderr.write(LOG.read_text(errors="replace"))
        if server.poll() is None:
            server.kill()
        return server.wait() or 1
    host, port = listening
    archive = os.environ.get("ARCHIVE_DIR") or "archive"
    print(f"running, pid {server.pid}, listening on {host}:{port}, archive in {archive}")
    print("make client ships entries to it, make logs shows them, make stop ends it")
    return 0


def client() -> int:
    """Ships generated entries in the foreground, to the receiver of `run` unless the settings name another."""
    environment = dict(os.environ)
    if is_running() and (listening := address()):
        for name, value in zip(("SERVER_HOST", "SERVER_PORT"), listening, strict=True):
            environment[name] = environment.get(name) or value
    elif not environment.get("RECEIVERS") and environment.get("SERVER_HOST", "") in THIS_HOST:
        port = environment.get("SERVER_PORT") or "5000"
        waits = environment.get("DRAIN_TIMEOUT") or "10"
        print(
            f"no receiver runs: make run starts one, in another terminal; the client waits for one on this host's port "
            f"{port}, and gives up {waits} s after it has nothing more to read",
            flush=True,
        )
    os.execve(sys.executable, [sys.executable, str(ROOT / "client_main.py")], environment)


def logs() -> int:
    """Shows the receiver's last lines, then what comes, until it ends or Ctrl-C."""
    try:
        with LOG.open(errors="replace") as log:
            sys.stdout.writelines(log.readlines()[-TAIL_LINES:])
            while is_running():
                sys.stdout.write(log.read())
                sys.stdout.flush()
                time.sleep(0.2)
            sys.stdout.write(log.read())
    except FileNotFoundError:
        pass
    except BrokenPipeError:  # make logs | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    print("no receiver runs: make run starts one")
    return 0


def stop() -> int:
    """Asks the receiver to end and waits until it has."""
    if not is_running():
        print("no receiver runs")
        return 0
    pid = int(PID_FILE.read_text())
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT
    while is_running():
        if time.monotonic() > deadline:
            print(f"pid {pid} is still busy after {STOP_TIMEOUT:.0f} s; kill -9 {pid} ends it at once", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print("stopped")
    return 0


if __name__ == "__main__":
    try:
        sys.exit({"run": run, "client": client, "logs": logs, "stop": stop}[sys.argv[1]]())
    except KeyboardInterrupt:
        print()
