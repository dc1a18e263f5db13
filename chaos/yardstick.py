"""How slow the machine is now beside its own best: what a time limit may be stretched by, and by nothing else."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

INTERVAL = 0.5
"""Seconds between two samples; one takes about 20 ms of a processor."""
LOOKBACK = 2.0
"""Seconds that a window has at least, so that there are samples in it."""


def start_a_process() -> float:
    """Seconds that `python -c pass` takes."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.monotonic() - began


def sync_a_file() -> float:
    """Seconds of a bare fdatasync of 4 KiB, where the faults have their disks too."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(bytes(4096))
        began = time.monotonic()
        os.fdatasync(file.fileno())
        return time.monotonic() - began


class Yardstick:
    """Samples both beside the faults, from start() to stop()."""

    def __init__(
        self,
        *,
        process: Callable[[], float] = start_a_process,
        sync: Callable[[], float] = sync_a_file,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._process, self._sync, self._now = process, sync, now
        self._samples: list[tuple[float, float, float]] = []
        """When it was over, and what each took."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begins to sample; the first sample is there on return."""
        self.sample()
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._stopped.set()
        self._thread.join()

    def sample(self) -> None:
        """Takes one."""
        process, sync = self._process(), self._sync()
        self._samples.append((self._now(), process, sync))

    def allowed(self, limit: float, seconds: float) -> float:
        """The limit for something that has just taken so many seconds.

        It is stretched by how much longer a process took to start meanwhile than at its best, and by one bare sync.
        """
        recent = [sample for sample in self._samples if sample[0] >= self._now() - max(seconds, LOOKBACK)]
        if not recent:
            return limit
        best = min(process for _, process, _ in self._samples)
        mean = sum(process for _, process, _ in recent) / len(recent)
        return limit * mean / best + max(sync for _, _, sync in recent)

    def __str__(self) -> str:
        processes = sorted(process for _, process, _ in self._samples)
        syncs = sorted(sync for _, _, sync in self._samples)
        return "yardstick: " + "; ".join(
            f"{what} {times[0] * 1000:.1f} ms at best, {times[len(times) // 2] * 1000:.1f} median, "
            f"{times[-1] * 1000:.1f} at worst"
            for what, times in (("python -c pass", processes), ("a bare fdatasync", syncs))
        )

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self.sample()
