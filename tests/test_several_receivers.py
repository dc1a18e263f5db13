"""Several receivers, as processes: one is killed, stopped or away, its shippers go to the next and come back."""

import contextlib
import json
import signal
import threading
import time

import pytest
from cli_process import LOGBALE, Process, logbale_run

from chaos.processes import free_port

BATCHES = ("--batch-size", "20", "--batch-interval", "0.05", "--batch-linger", "0.01", "--return-interval", "0.5")


class Fleet:
    """Three receivers with an archive each, and shippers that follow files in which somebody writes."""

    def __init__(self, directory):
        self.directory = directory
        self.archives = [directory / f"archive-{n}" for n in range(3)]
        self.ports = [free_port() for _ in range(3)]
        self.receivers = [self.receiver(n) for n in range(3)]
        for one in self.receivers:
            one.says("listening on")
        self.names = [f"127.0.0.1:{port}" for port in self.ports]
        self.shippers, self.files, self.written = [], [], []
        self.ended = threading.Event()
        self.writer = threading.Thread(target=self.write)

    def receiver(self, number):
        listen = f"127.0.0.1:{self.ports[number]}"
        return Process(self.directory, *LOGBALE, "receive", "--listen", listen, "--archive", self.archives[number])

    def start_again(self, number):
        self.receivers[number] = self.receiver(number)
        self.receivers[number].says("listening on")

    def kill(self, number):
        kill(self.receivers[number])

    def ship(self, shippers, *options):
        """So many shippers, each with a file of its own."""
        for n in range(shippers):
            file = self.directory / f"{n}.log"
            file.touch()
            self.files.append(file)
            self.written.append(0)
            spools = str(self.directory / "spools")
            command = ("ship", file, "--from-start", "--to", ",".join(self.names), *BATCHES, *options)
            self.shippers.append(Process(self.directory, *LOGBALE, *command, SPOOL_DIR=spools))
        for shipper in self.shippers:
            shipper.says("in session with")
        self.writer.start()

    def write(self):
        """A few hundred lines a second in each file, until it has ended."""
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(file.open("a")) for file in self.files]
            while not self.ended.wait(0.02):
                for n, file in enumerate(opened):
                    for _ in range(8):
                        file.write(json.dumps({"file": n, "n": self.written[n]}) + "\n")
                        self.written[n] += 1
                    file.flush()

    def at(self, shipper):
        """With which receiver it is, as it says."""
        found = self.shippers[shipper].messages.read_text().rpartition("in session with ")[2]
        return self.names.index(found.split(",")[0])

    def deliver(self):
        """Nothing more is written; every shipper ends, and ends with 0."""
        self.ended.set()
        self.writer.join()
        deadline = time.monotonic() + 60
        while len(self.stored()) < sum(self.written):  # they follow files: none of them says that it has read its own
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for shipper in self.shippers:
            assert shipper.end() == 0, shipper.messages.read_text()

    def stored(self):
        """The lines of all archives."""
        shown = logbale_run("cat", *self.archives)
        assert (shown.returncode, shown.stderr) == (0, "")
        return shown.stdout.splitlines()

    def check(self):
        """Once the receivers have ended: all of the archives together are what was written, each file in its order."""
        for receiver in self.receivers:
            assert receiver.end() == 0
        found = [[] for _ in self.files]
        for line in self.stored():
            entry = json.loads(line)
            found[entry["file"]].append(entry["n"])
        assert found == [list(range(written)) for written in self.written]
        checked = logbale_run("verify", *self.archives)
        assert checked.returncode == 0, checked.stdout

    def stop(self):
        self.ended.set()
        if self.writer.ident:
            self.writer.join()
        for process in [*self.receivers, *self.shippers]:
            process.process.send_signal(signal.SIGCONT)
            kill(process)


def kill(process):
    process.process.kill()
    process.process.communicate()


@pytest.fixture
def fleet(tmp_path):
    made = Fleet(tmp_path)
    yield made
    made.stop()


def test_a_killed_receivers_shippers_go_to_the_next_and_come_back(fleet):
    """kill -9 under load: nothing is lost, and what may be in two archives is shown once."""
    fleet.ship(4)
    first = [fleet.at(n) for n in range(4)]
    time.sleep(0.5)  # under load
    fleet.kill(first[0])
    moved = [n for n in range(4) if first[n] == first[0]]
    for n in moved:
        fleet.shippers[n].says(rf"no session with {fleet.names[first[0]]} .*; .* is next")
        fleet.shippers[n].says(rf"is next[^$]*in session with (?!{fleet.names[first[0]]})")
    time.sleep(0.5)  # under load, elsewhere
    fleet.start_again(first[0])
    for n in moved:
        fleet.shippers[n].says(rf"{fleet.names[first[0]]} is back: going there[^$]*in session with ")
    assert [fleet.at(n) for n in range(4)] == first
    fleet.deliver()
    fleet.check()


@pytest.mark.long  # silence takes 25 s to be noticed
def test_a_silent_receiver_is_left_and_its_copies_are_shown_once(fleet):
    """SIGSTOP: its kernel still takes what comes. When it goes on, it may store what others have stored meanwhile."""
    fleet.ship(2)
    silent = fleet.at(0)
    fleet.receivers[silent].process.send_signal(signal.SIGSTOP)
    fleet.shippers[0].says(rf"no session with {fleet.names[silent]} \(nothing heard for 2\d s\); .* is next")
    fleet.shippers[0].says(r"is next[^$]*in session with ")
    fleet.receivers[silent].process.send_signal(signal.SIGCONT)
    fleet.shippers[0].says(r"is back: going there[^$]*in session with ")
    assert fleet.at(0) == silent
    fleet.deliver()
    fleet.check()


def test_where_all_are_away_they_are_tried_until_one_is_back(fleet):
    """One message for all of them each time, as for one alone; what is written meanwhile waits in the spool."""
    fleet.ship(2)
    for n in range(3):
        fleet.kill(n)
    away = ", ".join(r"127\.0\.0\.1:\d+ \([^)]+\)" for _ in range(3))
    for shipper in fleet.shippers:
        shipper.says(rf"no session with {away}; next try in 1\.\d s")
    fleet.start_again(1)
    for shipper in fleet.shippers:
        shipper.says(rf"next try in[^$]*in session with {fleet.names[1]}")
    for n in (0, 2):
        fleet.start_again(n)
    fleet.deliver()
    fleet.check()


def test_a_shipper_that_is_killed_too_knows_whom_it_sent_to(fleet):
    """Its spool says so, so what the next process sends again to another receiver is marked."""
    fleet.ship(1)
    at = fleet.at(0)
    time.sleep(0.3)  # under load
    fleet.receivers[at].process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)  # something is sent that is not acknowledged
    kill(fleet.shippers[0])
    spools = str(fleet.directory / "spools")
    command = ("ship", fleet.files[0], "--from-start", "--to", ",".join(fleet.names), *BATCHES)
    fleet.shippers[0] = Process(fleet.directory, *LOGBALE, *command, SPOOL_DIR=spools)
    fleet.shippers[0].says("in session with")
    assert fleet.at(0) != at
    fleet.receivers[at].process.send_signal(signal.SIGCONT)
    fleet.deliver()
    fleet.check()
