"""How busy the CPU is that this process may use; the level is chosen elsewhere (adaptive.py).

A process in a container sees the whole machine idle while its cgroup's quota is used up and the kernel makes it wait.
So both are read, and the higher one counts. What cannot be read (no cgroups, another system) limits nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_PROC_STAT = "proc/stat"
_PROC_CGROUP = "proc/self/cgroup"
_MOUNT = "sys/fs/cgroup"


class MachineMeter:
    """Percent busy from one call to the next, for each CPU that this process may run on."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root` is where proc/ is."""
        self._root = root
        self._last: dict[str, tuple[int, int]] = {}

    def __call__(self) -> Sequence[float]:
        """0 for a CPU that was not there before, none at all where nothing can be read."""
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        now = {cpu: times for cpu, times in self._times() if cpu in allowed} or dict(self._times())
        before, self._last = self._last, now
        return [_percent(before.get(cpu, times), times) for cpu, times in now.items()]

    def _times(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Each CPU's clock ticks since it started: idle ones, and all."""
        try:
            lines = (self._root / _PROC_STAT).read_text().splitlines()
        except OSError:
            return
        for line in lines:
            name, *numbers = line.split()
            if name.startswith("cpu") and name != "cpu":
                # user nice system idle iowait irq softirq steal; those of guests, which follow, are in the first two.
                ticks = [int(number) for number in numbers[:8]]
                yield name, (sum(ticks[3:5]), sum(ticks))


def _percent(before: tuple[int, int], now: tuple[int, int]) -> float:
    idle, everything = (after - then for then, after in zip(before, now, strict=True))
    # The kernel's count of waiting for input and output may go back.
    return min(100.0, max(0.0, 100 * (1 - idle / everything))) if everything > 0 else 0.0


def _psutil_percents() -> Sequence[float]:
    import psutil  # not above: where there is /proc, its modules would be a twentieth of a start

    percents: list[float] = psutil.cpu_percent(percpu=True)
    return percents


def _machine() -> Callable[[], Sequence[float]]:
    return MachineMeter() if sys.platform == "linux" else _psutil_percents


class CpuMeter:
    """Readings of the CPU from one call to the next. Each meter belongs to one thread."""

    def __init__(
        self,
        *,
        machine: Callable[[], Sequence[float]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        root: Path = Path("/"),
    ) -> None:
        """`machine` gives percents by CPU, by default those of this system; `root` is where proc/ and sys/ are."""
        self._machine = machine or _machine()
        self._clock = clock
        self._root = root
        self._last_time: float | None = None
        self._last_usage: dict[Path, float] = {}

    def read(self) -> float | None:
        """Percent (0 to 100) since the last call: of the machine or of the tightest quota, whichever is higher.

        None at the first call, which has nothing to compare with. Reads a handful of small files: about 0.2 ms.
        """
        percents = self._machine()
        quotas = {folder: (quota, usage) for folder, quota, usage in self._quotas()}
        now = self._clock()
        busy = [sum(percents) / len(percents)] if percents else []
        if self._last_time is not None and now > self._last_time:
            elapsed = now - self._last_time
            for folder, (quota, usage) in quotas.items():
                if folder in self._last_usage:
                    busy.append(100 * (usage - self._last_usage[folder]) / (quota * elapsed))
        first, self._last_time = self._last_time is None, now
        self._last_usage = {folder: usage for folder, (_, usage) in quotas.items()}
        return None if first or not busy else min(100.0, max(0.0, *busy))

    def _quotas(self) -> Iterator[tuple[Path, float, float]]:
        """Each cgroup above this process that has a quota: its folder, the quota in CPUs, the CPU seconds used."""
        paths = dict(self._memberships())
        mount = self._root / _MOUNT
        if "cpu" in paths:  # v1, also where v2 is mounted beside it: a controller lives in one of them only
            for folder in _with_parents(paths["cpu"]):
                quota = _read_numbers(mount / "cpu" / folder / "cpu.cfs_quota_us")
                period = _read_numbers(mount / "cpu" / folder / "cpu.cfs_period_us")
                usage = _read_numbers(mount / "cpuacct" / folder / "cpuacct.usage")
                if quota and period and usage and quota[0] > 0:  # −1 is no quota
                    yield mount / "cpu" / folder, quota[0] / period[0], usage[0] / 1e9
        elif "" in paths:
            for folder in _with_parents(paths[""]):
                limit = _read_numbers(mount / folder / "cpu.max")  # "max 100000" is no quota and not two numbers
                usage = _read_numbers(mount / folder / "cpu.stat", key="usage_usec")
                if usage and len(limit) == 2 and all(limit):
                    yield mount / folder, limit[0] / limit[1], usage[0] / 1e6

    def _memberships(self) -> Iterator[tuple[str, Path]]:
        """This process's place by controller; v2 is the controller with the empty name."""
        try:
            lines = (self._root / _PROC_CGROUP).read_text().splitlines()
        except OSError:
            return
        for line in lines:
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                yield controller, Path(path.lstrip("/"))


def _with_parents(path: Path) -> Iterator[Path]:
    """The folder and all above it: any of them may have a quota.

    In a container without a cgroup namespace the path is the host's and not visible here; the mount's root, which
    comes last, is then the container's own cgroup.
    """
    yield path
    yield from path.parents


def _read_numbers(path: Path, key: str = "") -> list[float]:
    """The numbers in a file, or after `key` in one of its lines; empty where there are none to read."""
    try:
        for line in path.read_text().splitlines():
            name, _, rest = line.partition(" ")
            if not key or name == key:
                return [float(word) for word in (rest if key else line).split()]
    except (OSError, ValueError):
        pass
    return []
