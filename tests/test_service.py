"""What a service manager is told, by real processes: ready, alive, reloading, stopping."""

import contextlib
import signal
import socket

import pytest
from cli_process import LOGBALE, Process
from test_signals import Stuck

from chaos.processes import free_port
from logbale.cli.service import ServiceManager


class Manager:
    """What listens where NOTIFY_SOCKET says."""

    def __init__(self, address):
        self.address = str(address)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{self.address[1:]}" if self.address.startswith("@") else self.address)
        self.socket.settimeout(60)

    def hears(self):
        """The assignments of the next datagram."""
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())

    def waits_for(self, name):
        """The first datagram that has it."""
        while name not in (said := self.hears()):
            pass
        return said


@pytest.fixture
def manager(tmp_path):
    """A manager on a socket in a file."""
    manager = Manager(tmp_path / "notify")
    with manager.socket:
        yield manager


@contextlib.contextmanager
def service(directory, manager, *arguments, **environ):
    """The command as its service."""
    process = Process(directory, *LOGBALE, *arguments, NOTIFY_SOCKET=manager.address, **environ)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.communicate()


def test_a_receiver_is_ready_once_it_listens(tmp_path, manager):
    """Who connects on that word is served; a reload and the end are told as they begin."""
    archive, port = tmp_path / "archive", free_port()
    with service(tmp_path, manager, "receive", "--listen", f"127.0.0.1:{port}", "--archive", archive) as process:
        assert manager.hears() == {"READY": "1", "STATUS": f"listening on 127.0.0.1:{port}"}
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        process.process.send_signal(signal.SIGHUP)
        said = manager.hears()
        assert said.pop("RELOADING") == "1"
        assert int(said.pop("MONOTONIC_USEC")) > 0
        assert manager.hears() == {"READY": "1", "STATUS": "last reload: no setting is changed"}
        process.process.send_signal(signal.SIGTERM)
        assert manager.hears()["STOPPING"] == "1"
        assert process.process.wait(60) == 0


def test_a_shipper_is_ready_once_its_spool_and_its_files_are_open(tmp_path, manager):
    """Whether or not a receiver is there; nothing is told before, and nothing at all where a file cannot be had."""
    log, spools, to = tmp_path / "app.log", tmp_path / "spools", f":{free_port()}"
    ship = ("ship", log, "--to", to, "--spool-dir", spools, "--drain-timeout", 0)
    with service(tmp_path, manager, *ship, "--once") as process:
        assert process.process.wait(60) == 74, "there is no such file"
    log.write_text("one\n")
    with service(tmp_path, manager, *ship) as process:
        assert manager.hears() == {"READY": "1", "STATUS": "reading"}
        assert list(spools.glob("*/lock"))
        assert "reading" in process.messages.read_text()
        process.process.send_signal(signal.SIGTERM)
        assert manager.hears()["STOPPING"] == "1"


def test_it_says_that_it_is_alive_twice_in_the_time_it_has(tmp_path, manager):
    """After it is ready, as long as its event loop turns; a service whose loop is stuck falls silent."""
    ship = ("ship", tmp_path / "app.log", "--from-start", "--to", f":{free_port()}")
    (tmp_path / "app.log").write_text("one\n")
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    with Stuck(tmp_path, "pread", "uvloop", *ship, **environ) as process:
        assert "READY" in manager.hears()
        assert [manager.hears() for _ in range(4)] == [{"WATCHDOG": "1"}] * 4
        process.get_stuck()
        with (tmp_path / "app.log").open("a") as growing:
            growing.write("two\n")
        process.says("stuck in pread")
        manager.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            manager.waits_for("READY")


def test_a_socket_without_a_file_is_told_as_well():
    """An @ at the beginning of the name stands for the abstract namespace."""
    manager = Manager("@logbale-test-notify")
    with manager.socket:
        ServiceManager({"NOTIFY_SOCKET": manager.address}).ready("reading")
        assert manager.hears() == {"READY": "1", "STATUS": "reading"}


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}],
)
def test_who_is_not_watched_says_nothing(run, tmp_path, manager, environ):
    """The watchdog may be another process's, or none."""

    async def scenario():
        await ServiceManager({"NOTIFY_SOCKET": manager.address} | environ).keep_alive()

    run(scenario)
    manager.socket.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.hears()


def test_a_manager_that_has_gone_is_no_reason_to_end(tmp_path, caplog):
    """It is said, and the work goes on."""
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("reading")
    assert caplog.messages == ["NOTIFY_SOCKET: cannot tell READY=1: [Errno 2] No such file or directory"]
    ServiceManager({}).stopping()
    assert len(caplog.messages) == 1
