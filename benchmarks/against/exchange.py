"""One round: a receiver, a shipper, and what both took until the last line was in the destination.

The time is that from the start of the shipper's process to the last write of the destination. CPU is that of whole
processes, from their start to their end and with their children; memory is the kernel's own high-water mark (VmHWM),
looked at until a process ends; of a pipeline, both are sums.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline import usage

from against.loopback import free_port, is_listening, wire_bytes
from against.peer import End, Peer, Place, environment

LOOK_INTERVAL = 0.02
"""Seconds between two looks; the time that is measured comes from the file system, and is exact whatever this is."""
READY_TIMEOUT = 20.0
STILL_COMPLETE = 0.5
"""Seconds without a write after which a destination with all its bytes is done: what is doubled would come in them."""
STILL_INCOMPLETE = 35.0
"""The same while bytes are missing: rsyslog tries again after 30 s."""
END_TIMEOUT = 10.0


class Failed(Exception):
    """A peer does not run; says why."""


@dataclass(frozen=True)
class Taken:
    """What a round took, in the names of pipeline.py."""

    seconds: float
    wire_bytes: float
    ship_cpu: float
    receive_cpu: float
    ship_memory: float
    receive_memory: float


class Running:
    """One end in its processes."""

    def __init__(self, end: End, place: Place, name: str) -> None:
        for file, text in end.files.items():
            (place.directory / file).write_text(text)
        self._said = place.directory / f"{name}.err"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._memory: dict[int, float] = {}
        source = end.stdin.open("rb") if end.stdin else None
        sink = end.stdout.open("wb") if end.stdout else None
        with self._said.open("wb") as said:
            for command in end.commands:
                is_last = command is end.commands[-1]
                process = subprocess.Popen(
                    command,
                    stdin=source or subprocess.DEVNULL,
                    stdout=(sink or said) if is_last else subprocess.PIPE,
                    stderr=said,
                    env=environment(command[0]),
                )
                if source is not None:
                    source.close()  # ours; the process has its own
                source = process.stdout
                self._processes.append(process)
        if sink is not None:
            sink.close()

    def look(self) -> None:
        """Notes how much memory it has needed so far."""
        for process in self._processes:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                self._memory[process.pid] = int(found[1]) / 1024

    @property
    def has_ended(self) -> bool:
        return all(_has_ended(process) for process in self._processes)

    def end(self) -> tuple[float, float]:
        """Ends it, and gives the CPU seconds and the peak MiB that it took."""
        for process in self._processes:
            if not _has_ended(process):
                process.terminate()
        deadline = time.monotonic() + END_TIMEOUT
        while not self.has_ended and time.monotonic() < deadline:
            time.sleep(LOOK_INTERVAL)
        for process in self._processes:
            if not _has_ended(process):
                process.kill()
        return sum(usage(process)[0] for process in self._processes), sum(self._memory.values())

    def said(self) -> str:
        """The end of what it had to say."""
        return " ".join(self._said.read_text(errors="replace").split())[-300:]


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Left to be waited for: what a process took is only told then."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def exchange(peer: Peer, source: Path, directory: Path) -> Taken:
    """Runs it with files of its own in `directory`. Raises Failed where an end does not start or nothing arrives."""
    directory.mkdir()
    place = Place(source, directory, free_port())
    receiving, shipping = peer.ends(place)
    before = wire_bytes()
    ends = [Running(receiving, place, "receiver")]
    try:
        _wait_until_listening(ends[0], place.port)
        start = time.time()
        ends.append(Running(shipping, place, "shipper"))
        stored_at = _wait_until_stored(place.destination, source.stat().st_size, ends)
        if stored_at is None:
            said = ", ".join(f"{name}: {end.said()!r}" for name, end in zip(("receiver", "shipper"), ends, strict=True))
            raise Failed(f"nothing arrived; {said}")
    finally:
        took = [end.end() for end in reversed(ends)]  # the shipper first: a receiver may wait for its connections
    (ship_cpu, ship_memory), (receive_cpu, receive_memory) = took
    return Taken(stored_at - start, wire_bytes() - before, ship_cpu, receive_cpu, ship_memory, receive_memory)


def _wait_until_listening(receiver: Running, port: int) -> None:
    deadline = time.monotonic() + READY_TIMEOUT
    while not is_listening(port):
        if receiver.has_ended or time.monotonic() > deadline:
            raise Failed(f"the receiver does not listen: {receiver.said()!r}")
        time.sleep(LOOK_INTERVAL)


def _wait_until_stored(destination: Path, size: int, ends: list[Running]) -> float | None:
    """When it was last written, once no more is to be expected; None if it never was."""
    seen, seen_at = 0, time.monotonic()
    while True:
        for end in ends:
            end.look()
        ended = all(end.has_ended for end in ends)  # before the file is looked at: then nothing comes after
        found = destination.stat() if destination.exists() else None
        if found is not None and found.st_size != seen:
            seen, seen_at = found.st_size, time.monotonic()
        still = time.monotonic() - seen_at
        if ended or still > (STILL_COMPLETE if seen >= size else STILL_INCOMPLETE):
            return found.st_mtime if found is not None and seen else None
        time.sleep(LOOK_INTERVAL)
