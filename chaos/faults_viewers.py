"""Those who look and take nothing: viewers of the live tail, and a console in front of a pipe that nobody reads."""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from chaos import load
from chaos.processes import Failed, Receiver, free_port
from chaos.suite import Run, fault

VIEWERS = 5
SEEN_RATE = 400
"""Entries a second of which a viewer sees every one."""
SEEN_SECONDS = 5
FAST = 150_000
"""Entries that come as fast as they can."""
PART = 0.95
MESSAGE = b'\\"message\\":'
"""Once in each entry, as an event has it: as JSON inside a string."""


@fault("F27", "viewers and a console that take nothing", full=5, smoke=2)
def stalled(run: Run) -> None:
    """Others lose less than 5 %: the archive, and another viewer.

    `times` are rounds beside those who take nothing and beside such as read. The best of each are compared: a busy
    machine makes them slower, never faster. Where it was too busy for that, the receiver's CPU time decides, and what
    it stored a second must be half as much at least: it did not wait for anybody.
    """
    rounds: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for _ in range(run.times):
        for reads in rounds:
            rounds[reads].append(_round(run, reads))
    free, beside = (min(seconds for seconds, _ in rounds[reads]) for reads in (True, False))
    cpu_free, cpu_beside = (min(cpu for _, cpu in rounds[reads]) for reads in (True, False))
    costs_no_more = PART * cpu_beside <= cpu_free and free >= 0.5 * beside
    run.expect(
        free >= PART * beside or costs_no_more,
        f"{FAST / beside:,.0f} entries a second, {FAST / free:,.0f} without them; {cpu_beside:.2f} s of CPU, "
        f"{cpu_free:.2f} without them",
    )
    run.note(
        f"{FAST / beside:,.0f} entries a second and {cpu_beside:.2f} s of CPU for {FAST:,} beside {VIEWERS} viewers "
        f"and a console that take nothing; {FAST / free:,.0f} and {cpu_free:.2f} s beside such as read"
    )


def _round(run: Run, reads: bool) -> tuple[float, float]:
    """Seconds that FAST entries take from the file to the last ack, and the receiver's CPU time of that.

    Another viewer is there in any case.
    """
    place = run.place()
    over = threading.Event()
    run.finally_do(over.set)
    receiver, page = _observed(run, place, over, reads)
    for _ in range(VIEWERS):
        _viewer(run, page, over, reads=reads)
    seen = _viewer(run, page, over, reads=True)
    # First slowly enough for a viewer to see each entry, then as fast as it goes.
    growing = load.Load(place / "load.log", rate=SEEN_RATE)
    run.finally_do(growing.stop)
    shipper = run.shipper(place, receiver.port, growing.path)
    shipper.spawn()
    shipper.first_ack(above=0)
    time.sleep(SEEN_SECONDS)
    count = growing.stop()
    _wait(lambda: shipper.delivered >= count and seen[0] >= PART * count, lambda: f"{seen[0]} of {count} were seen")
    load.write(place / "all.log", "load", FAST, start=count)
    began, cpu = time.monotonic(), receiver.process.cpu_seconds
    with growing.path.open("ab") as file:
        file.write((place / "all.log").read_bytes())
    _wait(lambda: shipper.delivered >= count + FAST, lambda: f"{shipper.delivered:.0f} of {count + FAST} delivered")
    seconds, cpu = time.monotonic() - began, receiver.process.cpu_seconds - cpu
    over.set()
    shipper.process.stop()
    receiver.process.stop()
    if not reads:
        run.bite("not shown on the console" in receiver.process.text)
    run.judge(receiver.archive, {"load": count + FAST})
    return seconds, cpu


def _observed(run: Run, place: Path, over: threading.Event, reads: bool) -> tuple[Receiver, int]:
    """A receiver with a console in a pipe, and the port of its page."""
    pipe, page = place / "console", free_port()
    os.mkfifo(pipe)
    console = os.open(pipe, os.O_RDWR)  # so that nobody waits for the other end to be opened
    run.finally_do(lambda: os.close(console))
    receiver = run.receiver(place, SINK="archive,console", DASHBOARD_ENABLED="true", DASHBOARD_PORT=str(page))
    receiver.start(under=("sh", "-c", f'exec "$0" "$@" >{pipe}'))

    def drain() -> None:
        while not over.is_set():
            if select.select([console], [], [], 0.2)[0]:
                os.read(console, 1 << 16)

    if reads:
        threading.Thread(target=drain, daemon=True).start()
    return receiver, page


def _viewer(run: Run, page: int, over: threading.Event, *, reads: bool) -> list[int]:
    """One who looks at the live tail; how many entries they have seen."""
    viewer = socket.socket()
    run.finally_do(viewer.close)
    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20 if reads else 1 << 12)
    viewer.connect(("127.0.0.1", page))
    viewer.sendall(b"GET /api/tail HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    viewer.recv(1)
    seen = [0]

    def read() -> None:
        left = b""
        with contextlib.suppress(OSError):
            while not over.is_set() and (data := viewer.recv(1 << 16)):
                seen[0] += (left + data).count(MESSAGE)
                left = (left + data)[1 - len(MESSAGE) :]

    if reads:
        threading.Thread(target=read, daemon=True).start()
    return seen


def _wait(condition: Callable[[], bool], what: Callable[[], str], timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"not within {timeout:g} s: {what()}")
        time.sleep(0.01)
