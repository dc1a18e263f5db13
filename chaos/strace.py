"""Crashes and errors at an exact system call, by strace: the process itself is not changed."""

import itertools
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from chaos import load
from chaos.disks import PowerDisk
from chaos.processes import LOGBALE, End, Failed, Receiver, Shipper
from chaos.suite import Run

# -D: the traced process keeps the pid that we know and kill; the tracer hangs below it.
# No --seccomp-bpf, fast as it is: strace 6.1 then sends no signal at a second call or a later one.
_STRACE = ("strace", "-D", "-f", "-qq")

BATCHES = 3
BATCH_LINES = 20

ATTEMPTS = 3
"""Scenarios that may pass by a call before it counts as missed."""


def inject(call: str, what: str, *, log: Path | str = "/dev/null", trace: Iterable[str] = ()) -> tuple[str, ...]:
    """A prefix that does `what` (signal=SIGKILL:when=3, error=EIO:when=2) at a call; counted in each thread."""
    return (*_STRACE, "-o", str(log), "-e", f"trace={','.join({call, *trace})}", "-e", f"inject={call}:{what}")


def sweep(run: Run, end: str, calls: Sequence[str], *, power: bool = False) -> None:
    """Kills one end at every call of a scenario of three batches and a rotation, or at as many as run.times says.

    `end` is "receiver" or "shipper"; with `power` its disk loses its power at the same moment.
    """
    points = _points(run, end, calls)
    chosen = points if len(points) <= run.times else sorted(run.chance.sample(points, run.times))
    # A call may be missed, as group commits and log lines do not fall alike every time: then it is tried again.
    left = chosen
    for _ in range(ATTEMPTS):
        missed: list[tuple[str, int]] = []

        def once(point: tuple[str, int], missed: list[tuple[str, int]] = missed) -> None:
            if not _killed_at(run, end, *point, power=power):
                missed.append(point)

        run.each(left, once, at_a_time=4)
        left = sorted(missed)
    killed = len(chosen) - len(left)
    run.note(f"{len(points)} calls in the scenario, killed at {killed} of {len(chosen)} chosen ones")
    run.expect(killed >= 0.8 * len(chosen), f"only {killed} of {len(chosen)} kills happened: never at {left}")


def _points(run: Run, end: str, calls: Sequence[str]) -> list[tuple[str, int]]:
    """Every call of the undisturbed scenario, by name and by number in the thread that makes the most of them."""
    place = run.place("count")
    tracer = (
        "strace",
        "-D",
        "-ff",
        "--seccomp-bpf",
        "-qq",
        "-o",
        str(place / "trace"),
        "-e",
        f"trace={','.join(calls)}",
    )
    scenario = Scenario(run, place, end)
    scenario.play(under=tracer)
    time.sleep(0.2)
    counts = dict.fromkeys(calls, 0)
    for trace in place.glob("trace.*"):
        text = trace.read_text(errors="replace")
        for call in calls:
            counts[call] = max(counts[call], len(re.findall(rf"^{call}\(", text, re.M)))
    return [(call, n) for call in calls for n in range(1, counts[call] + 1)]


def _killed_at(run: Run, end: str, call: str, n: int, *, power: bool) -> bool:
    """Whether it was killed there; judged in any case."""
    place = run.place(f"{call}-{n}")
    scenario = Scenario(run, place, end, disk=PowerDisk(run, place, megabytes=16) if power else None)
    killed = scenario.play(under=inject(call, f"signal=SIGKILL:when={n}"))
    run.bite(killed)
    run.judge(scenario.receiver.archive, {scenario.stream: BATCHES * BATCH_LINES}, about=f"{call} {n}")
    done = subprocess.run([*LOGBALE, "verify", scenario.receiver.archive], capture_output=True, text=True, check=False)
    run.expect(done.returncode == 0, f"{call} {n}: logbale verify says {done.stdout.strip()}")
    return killed


class Scenario:
    """Three batches and a rotation or more, from start to orderly end; one end may die once on the way."""

    def __init__(self, run: Run, place: Path, end: str, *, disk: PowerDisk | None = None) -> None:
        self.stream = place.name
        self._disk = disk
        files = place / "three.log"
        load.write(files, self.stream, BATCHES * BATCH_LINES)
        home = disk.path if disk is not None else place
        on_disk = {"receiver": home if end == "receiver" else place, "shipper": home if end == "shipper" else place}
        self.receiver: Receiver = run.receiver(place, on_disk["receiver"] / "archive", ARCHIVE_SEGMENT_BYTES="1500")
        self.shipper: Shipper = run.shipper(
            place,
            self.receiver.port,
            files,
            once=True,
            spool=on_disk["shipper"] / "spool" if end == "shipper" else None,
            BATCH_SIZE=str(BATCH_LINES),
            WINDOW_BYTES="1",  # each batch a commit of its own: the same calls every time
        )
        self._victim: End = self.receiver if end == "receiver" else self.shipper

    def play(self, *, under: Sequence[str]) -> bool:
        """From start to end, the victim under a tracer; whether it was killed. Raises Failed."""
        killed = False
        if self._victim is self.receiver:
            self.receiver.spawn(under=under)
            self.receiver.process.says(r"listening on \S+")
            killed = self._revive()
            self.shipper.spawn()
        else:
            self.receiver.start()
            self.shipper.spawn(under=under)
        for _ in itertools.count():
            killed = self._revive() or killed
            if self.shipper.process.ended:
                break
            time.sleep(0.01)
        self._expect_end(self.shipper)
        self.receiver.process.signal(15)
        if self.receiver.process.wait() == -9 and self._victim is self.receiver:
            self._cut_power()
            self.receiver.start().process.signal(15)
            self.receiver.process.wait()
            killed = True
        self._expect_end(self.receiver)
        return killed

    def _revive(self) -> bool:
        """Starts the victim again where it was killed."""
        if not self._victim.process.ended or self._victim.process.wait() != -9:
            return False
        self._cut_power()
        self._victim.spawn()
        if self._victim is self.receiver and self.receiver.process.says(r"listening on \S+") is None:
            raise Failed(f"the receiver does not start again: {self.receiver.process.text[-1500:]}")
        return True

    def _cut_power(self) -> None:
        if self._disk is not None:
            self._disk.cut_power()
            self._disk.restore()

    def _expect_end(self, end: End) -> None:
        if code := end.process.wait():
            raise Failed(f"{end.directory.name} ended with {code}: {end.process.text[-1500:]}")
