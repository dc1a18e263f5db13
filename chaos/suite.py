"""What a fault is and how one runs: its counts, its workplace, its seed, what it found, and what it could not do."""

import itertools
import random
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from chaos import oracle, sums
from chaos.processes import PATIENCE, Failed, Process, Receiver, Shipper
from chaos.yardstick import Yardstick

T = TypeVar("T")


class Skipped(Exception):
    """The fault cannot be made here; the text says what is missing and how to get it. An open point, not a pass."""


@dataclass(frozen=True)
class Fault:
    """One row of the list: a number, what is harmed, and how often at each length of the suite."""

    number: str
    title: str
    full: int
    smoke: int
    """0: not in the smoke run."""
    action: Callable[["Run"], None]
    tools: tuple[str, ...] = ()

    def times(self, length: str) -> int:
        """How often: all, a tenth (but no less than in a smoke run), or the few of a smoke run."""
        return {"full": self.full, "tenth": max(self.full // 10, self.smoke, 1), "smoke": self.smoke}[length]


FAULTS: list[Fault] = []

YARDSTICK = Yardstick()
"""Of this run; every limit on a time is judged by it."""

HOW_TO_GET = {
    "strace": "apt-get install strace, and the right to trace (CAP_SYS_PTRACE)",
    "mkfs.ext4": "apt-get install e2fsprogs",
    "mount": "run as root with CAP_SYS_ADMIN, with /dev/loop* there",
    "zstd": "apt-get install zstd",
    "prlimit": "apt-get install util-linux",
    "nsenter": "apt-get install util-linux",
    "ip": "apt-get install iproute2",
    "tc": "apt-get install iproute2",
    "iptables": "apt-get install iptables",
    "faketime": "apt-get install faketime",
}


def fault(number: str, title: str, *, full: int, smoke: int, tools: Iterable[str] = ()) -> Callable[[T], T]:
    """Adds a function to the list."""

    def add(action: T) -> T:
        FAULTS.append(Fault(number, title, full, smoke, action, ("zstd", *tools)))  # type: ignore[arg-type]
        return action

    return add


@dataclass
class Result:
    """What a fault came to."""

    number: str
    title: str
    seed: int
    times: int = 0
    """How often it bit."""
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    damaged: int = 0
    stored: int = 0
    recovery: list[float] = field(default_factory=list)
    """Seconds from the end of each fault to the first ack after it."""
    looks: int = 0
    """Times that the sums of an end were read off its metrics, and held."""
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Nothing went wrong that must not; a skipped one has not passed."""
        return not self.failures and not self.skipped


class Run:
    """One fault at work. Its methods may be called from several threads."""

    def __init__(self, fault: Fault, times: int, seed: int, directory: Path) -> None:
        self.fault = fault
        self.times = times
        """How often it shall bite."""
        self.seed = seed
        self.directory = directory
        self.result = Result(fault.number, fault.title, seed)
        self.chance = random.Random(f"{seed} {fault.number}")
        self._numbers = itertools.count()
        self._ends: list[Receiver | Shipper] = []
        self._clean_ups: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._sums = sums.Watch(self._running, self.fail)

    # The workplace.

    def place(self, name: str = "part") -> Path:
        """A new empty directory."""
        directory = self.directory / f"{name}-{next(self._numbers)}"
        directory.mkdir(parents=True)
        return directory

    def receiver(self, directory: Path, archive: Path | None = None, **options: str) -> Receiver:
        """A receiver, not started; killed at the end."""
        return self.kept(Receiver(directory, archive, **options))

    def shipper(self, directory: Path, port: int | list[int], *paths: Path | str, **options: object) -> Shipper:
        """A shipper, not started; killed at the end."""
        return self.kept(Shipper(directory, port, *paths, **options))  # type: ignore[arg-type]

    def kept(self, end: T) -> T:
        """An end that is killed when the fault is over."""
        with self._lock:
            self._ends.append(end)  # type: ignore[arg-type]
        return end

    def _running(self) -> list[Receiver | Shipper]:
        with self._lock:
            return list(self._ends)

    def finally_do(self, action: Callable[[], object]) -> None:
        """Something to be done when the fault is over, however; the last one first."""
        self._clean_ups.append(action)

    def each(self, items: Iterable[T], action: Callable[[T], None], *, at_a_time: int = 4) -> None:
        """Does something for each item, some at a time: most of a fault is waiting. One failure fails only its item."""

        def one(item: T) -> None:
            try:
                action(item)
            except Failed as error:
                self.fail(f"{item}: {error}")

        with ThreadPoolExecutor(at_a_time) as pool:
            list(pool.map(one, items))

    # What was found.

    def bite(self, times: int = 1) -> None:
        """The fault has happened."""
        with self._lock:
            self.result.times += times

    def recovered(self, seconds: float, *, within: float | None = None) -> None:
        """An ack came so long after the fault's end. Later than `within` is a failure."""
        with self._lock:
            self.result.recovery.append(seconds)
        if within is not None:
            self.expect_within(seconds, within, "the first ack came")

    def expect_within(self, seconds: float, limit: float, what: str) -> None:
        """Fails where something that has just happened took longer than its limit, as far as this machine can keep it.

        Where it kept it only by the yardstick, the report says so.
        """
        allowed = YARDSTICK.allowed(limit, seconds)
        if seconds > max(limit, allowed):
            self.fail(f"{what} after {seconds:.2f} s, expected within {limit:g} s; by the yardstick {allowed:.2f} s")
        elif seconds > limit:
            self.note(f"{what} after {seconds:.2f} s, over {limit:g} s; the yardstick allows {allowed:.2f} s")

    def fail(self, what: str) -> None:
        """A promise was not kept."""
        with self._lock:
            self.result.failures.append(what)

    def note(self, what: str) -> None:
        """A figure for the report."""
        with self._lock:
            self.result.notes.append(what)

    def expect(self, promise: object, what: str) -> None:
        """Fails where it is not so."""
        if not promise:
            self.fail(what)

    def judge(self, archive: Path, expected: Mapping[str, int], *, about: str = "") -> oracle.Verdict:
        """The oracle's word on an archive at rest, added to the result; anything but all of it once is a failure."""
        verdict = oracle.verdict(archive, expected)
        with self._lock:
            result = self.result
            result.stored += verdict.stored
            result.lost += verdict.lost
            result.duplicated += verdict.duplicated
            result.out_of_order += verdict.out_of_order
            result.damaged += verdict.damaged
        self.expect(verdict.clean, f"{about}: {verdict}" if about else str(verdict))
        return verdict

    def wait_until_stored(self, archive: Path, entries: int, *, timeout: float = PATIENCE) -> None:
        """Until the archive has so many entries, whichever. Raises Failed."""
        deadline = time.monotonic() + timeout
        while (now := oracle.count(archive)) < entries:
            if time.monotonic() > deadline:
                said = [end.process.text[-600:] for end in self._ends if isinstance(end.process, Process)]
                raise Failed(f"{now} of {entries} entries stored after {timeout:g} s; {said[-2:]}")
            time.sleep(0.2)

    def close(self) -> None:
        """Kills what still runs and cleans up, all of it, whatever fails on the way."""
        self.result.looks = self._sums.looks
        for action in (self._sums.close, *(end.kill for end in self._ends), *reversed(self._clean_ups)):
            try:
                action()
            except Exception:
                self.fail(f"cleaning up: {traceback.format_exc(limit=-4)}")


def perform(fault: Fault, times: int, seed: int, *, keep: bool = False) -> Result:
    """Runs one fault in a directory of its own, which goes unless it failed and `keep` says so."""
    directory = Path(tempfile.mkdtemp(prefix=f"chaos-{fault.number}-"))
    run = Run(fault, times, seed, directory)
    began = time.monotonic()
    try:
        if missing := [tool for tool in fault.tools if shutil.which(tool) is None]:
            raise Skipped("; ".join(f"no {tool}: {HOW_TO_GET.get(tool, 'install it')}" for tool in missing))
        fault.action(run)
        run.expect(run.result.times, "it did not bite: nothing happened that could have done harm")
    except Skipped as why:
        run.result.skipped = str(why)
    except Failed as error:
        run.fail(str(error))
    except Exception:
        run.fail(traceback.format_exc(limit=-4))
    finally:
        run.close()
    run.result.seconds = time.monotonic() - began
    if keep and not run.result.passed:
        run.note(f"kept in {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return run.result
