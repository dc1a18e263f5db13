"""CPU readings: the machine's or the quota's, whichever is the harder limit."""

from pathlib import Path

import pytest

from logbale.cpu import CpuMeter, MachineMeter


class Machine:
    """A file system with proc/ and sys/, a clock and a CPU load, all set by hand."""

    def __init__(self, root: Path, cgroup: str) -> None:
        self.root = root
        self.now = 1000.0
        self.percents = [0.0]
        self.write("proc/self/cgroup", cgroup)
        self.meter = CpuMeter(machine=lambda: self.percents, clock=lambda: self.now, root=root)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def after(self, seconds: float, *percents: float) -> float | None:
        self.now += seconds
        self.percents = list(percents)
        return self.meter.read()


def test_the_first_reading_is_discarded(tmp_path):
    """The first value is always 0 and means nothing; there is no reading before the second call."""
    machine = Machine(tmp_path, "0::/\n")
    assert machine.after(0, 0.0) is None
    assert machine.after(5, 40.0) == 40.0


def test_the_machine_counts_as_a_whole(tmp_path):
    """Without a quota the reading is the mean over the CPUs that the process may use."""
    machine = Machine(tmp_path, "0::/system.slice/logbale.service\n")
    machine.write("sys/fs/cgroup/system.slice/logbale.service/cpu.max", "max 100000\n")
    machine.write("sys/fs/cgroup/system.slice/logbale.service/cpu.stat", "usage_usec 1000000\n")
    machine.after(0, 0.0, 0.0)
    assert machine.after(5, 100.0, 20.0) == 60.0


def v2(machine: Machine, folder: str, quota: str, usage_seconds: float) -> None:
    machine.write(f"sys/fs/cgroup/{folder}/cpu.max", f"{quota}\n")
    machine.write(f"sys/fs/cgroup/{folder}/cpu.stat", f"usage_usec {usage_seconds * 1e6:.0f}\nuser_usec 7\n")


def v1(machine: Machine, folder: str, quota: str, usage_seconds: float) -> None:
    limit, period = quota.split()
    machine.write(f"sys/fs/cgroup/cpu/{folder}/cpu.cfs_quota_us", f"{'-1' if limit == 'max' else limit}\n")
    machine.write(f"sys/fs/cgroup/cpu/{folder}/cpu.cfs_period_us", f"{period}\n")
    machine.write(f"sys/fs/cgroup/cpuacct/{folder}/cpuacct.usage", f"{usage_seconds * 1e9:.0f}\n")


VERSIONS = pytest.mark.parametrize(
    ("put", "cgroup"),
    [
        (v2, "0::/pod/box\n"),
        (v1, "3:cpuset:/pod/box\n2:cpu,cpuacct:/pod/box\n0::/\n"),
        (v1, "3:cpuacct:/pod/box\n2:cpu:/pod/box\n"),
    ],
    ids=["v2", "v1", "v1-apart"],
)


@VERSIONS
def test_a_used_up_quota_is_a_busy_cpu(tmp_path, put, cgroup):
    """Half a CPU allowed and 2.4 s used in 5 s is 96 %, however idle the machine."""
    machine = Machine(tmp_path, cgroup)
    put(machine, "pod/box", "50000 100000", 10.0)
    machine.after(0, 0.0)
    put(machine, "pod/box", "50000 100000", 12.4)
    assert machine.after(5, 3.0) == pytest.approx(96.0)


@VERSIONS
def test_a_quota_further_up_counts_too(tmp_path, put, cgroup):
    """The pod's quota, which the neighbours use up, limits the box that has none of its own."""
    machine = Machine(tmp_path, cgroup)
    put(machine, "pod", "200000 100000", 10.0)
    put(machine, "pod/box", "max 100000", 1.0)
    machine.after(0, 0.0)
    put(machine, "pod", "200000 100000", 19.0)
    assert machine.after(5, 3.0) == pytest.approx(90.0)


@VERSIONS
def test_a_container_that_sees_only_itself_finds_its_quota_at_the_root(tmp_path, put, cgroup):
    """Where the path in /proc is the host's and does not exist here, the mount's root is the container's cgroup."""
    machine = Machine(tmp_path, cgroup)
    put(machine, ".", "100000 100000", 10.0)
    machine.after(0, 0.0)
    put(machine, ".", "100000 100000", 14.0)
    assert machine.after(5, 3.0) == pytest.approx(80.0)


@VERSIONS
def test_a_busy_machine_outweighs_a_quota_that_is_hardly_used(tmp_path, put, cgroup):
    """The higher of both is the reading."""
    machine = Machine(tmp_path, cgroup)
    put(machine, "pod/box", "100000 100000", 10.0)
    machine.after(0, 0.0)
    put(machine, "pod/box", "100000 100000", 10.5)
    assert machine.after(5, 90.0, 94.0) == pytest.approx(92.0)


def test_a_burst_beyond_the_quota_reads_as_100(tmp_path):
    """A reading is a percentage: accounting that runs ahead of the quota does not exceed it."""
    machine = Machine(tmp_path, "0::/\n")
    v2(machine, ".", "50000 100000", 10.0)
    machine.after(0, 0.0)
    v2(machine, ".", "50000 100000", 15.0)
    assert machine.after(5, 3.0) == 100.0


def test_a_quota_that_appears_later_is_seen_from_its_second_reading(tmp_path):
    """A quota set while the shipper runs needs no restart."""
    machine = Machine(tmp_path, "0::/\n")
    machine.after(0, 0.0)
    v2(machine, ".", "100000 100000", 10.0)
    assert machine.after(5, 3.0) == 3.0
    v2(machine, ".", "100000 100000", 14.0)
    assert machine.after(5, 3.0) == pytest.approx(80.0)


@pytest.mark.parametrize("quota", ["", "nonsense", "100000", "100000 0"])
def test_a_file_that_makes_no_sense_limits_nothing(tmp_path, quota):
    """An unreadable quota is no quota: the machine's load remains."""
    machine = Machine(tmp_path, "0::/\n")
    v2(machine, ".", quota, 10.0)
    machine.after(0, 0.0)
    assert machine.after(5, 3.0) == 3.0


def test_without_cgroups_the_machine_alone_is_read(tmp_path):
    """No /proc/self/cgroup (macOS, BSD) is no error."""
    machine = Machine(tmp_path, "")
    (tmp_path / "proc/self/cgroup").unlink()
    machine.after(0, 0.0)
    assert machine.after(5, 12.0) == 12.0


def test_this_machine_can_be_read():
    """With nothing injected the second reading is a percentage."""
    meter = CpuMeter()
    assert meter.read() is None
    sum(range(100_000))
    reading = meter.read()
    assert reading is not None
    assert 0 <= reading <= 100


def test_a_cpu_is_busy_while_it_is_neither_idle_nor_waiting(tmp_path, monkeypatch):
    """What its guests took is in its own time, and CPUs that the process may not use do not count."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 2})
    (tmp_path / "proc").mkdir()

    def put(*lines):
        (tmp_path / "proc/stat").write_text("\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 5", "ctxt 7"]))

    meter = MachineMeter(tmp_path)
    put("cpu0 10 10 10 10 10 10 10 10 10 10", "cpu1 0 0 0 0 0 0 0 0 0 0", "cpu2 5 0 0 5 0 0 0 0 0 0")
    assert meter() == [0, 0]
    put("cpu0 13 11 11 11 11 11 11 11 13 11", "cpu1 99 0 0 0 0 0 0 0 0 0", "cpu2 5 0 0 5 0 0 0 0 0 0")
    assert meter() == [80, 0]
    put("cpu0 13 11 11 11 10 11 11 11 13 11", "cpu2 6 0 0 5 0 0 0 0 0 0")
    assert meter() == [0, 100]


def test_nothing_is_said_of_a_machine_that_cannot_be_read(tmp_path):
    """No /proc is no error."""
    assert MachineMeter(tmp_path)() == []
