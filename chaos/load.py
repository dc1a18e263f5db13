"""Numbered lines in files: written at once, or growing while something else goes wrong."""

import random
import threading
import time
from pathlib import Path

from chaos.oracle import line

TICK = 0.01
"""Seconds between two writes of a growing file."""


def padding(chance: random.Random) -> str:
    """Letters and digits, a few or many, so that batches have all sizes and compress like logs, not like noise."""
    return f"{chance.choice(('GET', 'POST', 'took', 'failed'))}/{chance.randrange(10**6)}" * chance.randrange(1, 6)


def write(path: Path, stream: str, count: int, *, start: int = 0, seed: int = 0) -> None:
    """Appends lines `start` to `start + count - 1` of a stream."""
    chance = random.Random(seed)
    with path.open("a") as file:
        file.writelines(line(stream, number, padding(chance)) + "\n" for number in range(start, start + count))


class Load:
    """A file that grows by about `rate` lines a second until stop(); `count` lines are in it."""

    def __init__(self, path: Path, stream: str = "load", *, rate: int = 4000) -> None:
        self.path = path
        self.stream = stream
        self.count = 0
        self._rate = rate
        self._stopped = threading.Event()
        self._path_changes = threading.Lock()
        path.touch()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Ends the growth; how many lines there are."""
        self._stopped.set()
        self._thread.join()
        return self.count

    def rotate(self, name: str) -> None:
        """Renames the file between two lines, as logrotate does; the next ones go to a new file of the old name."""
        with self._path_changes:
            self.path.rename(self.path.with_name(name))

    def _run(self) -> None:
        chance = random.Random(self.stream)
        began = time.monotonic()
        while not self._stopped.wait(TICK):
            due = int((time.monotonic() - began) * self._rate) - self.count
            # A process that was frozen does not catch up with one huge write.
            due = min(due, self._rate)
            lines = [line(self.stream, self.count + i, padding(chance)) + "\n" for i in range(due)]
            with self._path_changes, self.path.open("a") as file:
                file.write("".join(lines))
            self.count += due
