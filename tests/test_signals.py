"""SIGTERM and SIGINT at both ends, real processes: the second one ends them whatever their loop and threads do.

What cannot be waited for is a system call that is replaced by one that takes a minute.
"""

import re
import signal
import sys
import time

import pytest
from cli_process import Process, logbale_run, running

from chaos.processes import free_port

STUCK = 60
"""Seconds that what is stuck would take."""

AT_ONCE = 30.0
"""Seconds, on a machine that has a lot of other work: half of what anything here would take."""

PROGRAM = f"""
import os, signal, sys, threading, time
call, where, loop = sys.argv[1:4]
del sys.argv[1:4]
if loop == "asyncio":
    sys.modules["uvloop"] = None
whole = getattr(os, call)
def stuck(*arguments):
    if os.path.exists(where) and (call != "pread" or threading.current_thread() is threading.main_thread()):
        os.write(2, b"stuck in %s\\n" % call.encode())  # print would write its parts one by one
        ends, handler = time.monotonic() + {STUCK}, signal.getsignal(signal.SIGTERM)
        while time.monotonic() < ends:
            time.sleep(0.01)
            if signal.getsignal(signal.SIGTERM) is not handler:
                handler = signal.getsignal(signal.SIGTERM)
                os.write(2, b"heard a signal\\n")
    return whole(*arguments)
setattr(os, call, stuck)
from logbale.cli import main
sys.exit(main())
"""


class Stuck(Process):
    """The command line, whose calls of `call` take a minute once get_stuck() was called."""

    def __init__(self, directory, call, loop, *arguments, **environ):
        self.switch = directory / f"stuck-{call}"
        super().__init__(directory, sys.executable, "-c", PROGRAM, call, self.switch, loop, *arguments, **environ)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def get_stuck(self):
        self.switch.touch()

    def end_at_once(self, *signals):
        """Sends the signals one after the other; the exit code, which must come at once after the last."""
        for number in signals[:-1]:
            self.process.send_signal(number)
            self.says(f"{signal.Signals(number).name}: stopping")
        began = time.monotonic()
        self.process.send_signal(signals[-1])
        code = self.process.wait(STUCK)
        assert time.monotonic() - began < AT_ONCE, self.messages.read_text()
        return code


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request):
    """The event loop's kind."""
    return request.param


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_receiver_whose_disk_is_stuck_ends_at_the_second_signal(tmp_path, loop, second):
    """Its commit, its sealing and its threads are not waited for; what it could not store is said by number."""
    (tmp_path / "app.log").write_text("one\ntwo\n")
    listen = ("receive", "--listen", "127.0.0.1:0", "--archive", tmp_path / "archive")
    with Stuck(tmp_path, "fdatasync", loop, *listen) as receiving:
        address = receiving.says(r"listening on (\S+)")[1]
        receiving.get_stuck()
        with running(tmp_path, "ship", tmp_path / "app.log", "--from-start", "--to", address):
            receiving.says("stuck in fdatasync")
        assert receiving.end_at_once(signal.SIGTERM, second) == 74
        assert "2 entries were received and not stored\n" in receiving.messages.read_text()


def test_a_receiver_that_seals_ends_at_the_second_signal(tmp_path, loop):
    """Everything is stored, so the exit code is 0; the next start seals."""
    (tmp_path / "app.log").write_text("one\n")
    listen = ("receive", "--listen", "127.0.0.1:0", "--archive", tmp_path / "archive")
    with Stuck(tmp_path, "rename", loop, *listen) as receiving:
        address = receiving.says(r"listening on (\S+)")[1]
        assert logbale_run("ship", "--once", "--to", address, tmp_path / "app.log").returncode == 0
        receiving.get_stuck()
        receiving.process.send_signal(signal.SIGTERM)
        receiving.says("stuck in rename")
        assert receiving.end_at_once(signal.SIGTERM) == 0
    assert logbale_run("cat", tmp_path / "archive").stdout.count("\n") == 1


def test_a_shipper_whose_disk_is_stuck_ends_at_the_second_signal(tmp_path, loop):
    """It says what is left; nothing of it is lost, as the file is read on from where the spool says."""
    log = tmp_path / "app.log"
    log.write_text("one\n")
    ship = ("ship", log, "--from-start", "--to", f":{free_port()}", "--batch-interval", 0.1)
    with Stuck(tmp_path, "fdatasync", loop, *ship) as shipping:
        shipping.says("no session")
        shipping.get_stuck()
        with log.open("a") as growing:
            growing.write("two\n")
        shipping.says("stuck in fdatasync")
        assert shipping.end_at_once(signal.SIGTERM, signal.SIGTERM) == 69
        assert re.search(r"entr(y|ies) in \d batch(es)? w(as|ere) not delivered", shipping.messages.read_text())


def test_a_process_whose_loop_is_stuck_ends_at_the_second_signal(tmp_path, loop):
    """It has no time for a word, not even for the first signal; its exit code is a shell's for the second one."""
    log = tmp_path / "app.log"
    log.write_text("one\n")
    with Stuck(tmp_path, "pread", loop, "ship", log, "--from-start", "--to", f":{free_port()}") as shipping:
        shipping.says("no session")
        shipping.get_stuck()
        with log.open("a") as growing:
            growing.write("two\n")
        shipping.says("stuck in pread")
        shipping.process.send_signal(signal.SIGTERM)
        shipping.says("heard a signal")  # two of a kind that wait are one
        assert shipping.end_at_once(signal.SIGTERM) == 128 + signal.SIGTERM


def test_a_thread_that_is_stuck_does_not_keep_a_stopped_process(tmp_path, loop):
    """One signal is enough: what standard input gives when the read is over is nobody's any more."""
    (tmp_path / "stuck-read").touch()
    ship = ("ship", "-", "--to", f":{free_port()}", "--drain-timeout", 0.1)
    with Stuck(tmp_path, "read", loop, *ship) as shipping:
        shipping.says("stuck in read")
        shipping.says("no session")
        assert shipping.end_at_once(signal.SIGTERM) == 69
