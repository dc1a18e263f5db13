"""What several test files share."""

import asyncio
import errno
import os
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import failures
import pytest
from hypothesis import HealthCheck, settings

MEMORY = "/dev/shm"
MEMORY_BYTES = 1 << 30
"""Free there at least, or the tests' files stay on the disk: a container has 64 MiB by default."""

# A sync of a busy disk takes tens of milliseconds, and the tests make some ten thousand of them. What a disk forgets is
# model_disk's business and that of the fault suite, not of chance here.
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
    tempfile.tempdir = os.environ["TMPDIR"] = MEMORY

# Who runs the tests in the background of a script lets them ignore SIGINT, and every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A time limit for each example fails whatever a busy machine makes slow, and so does one for making them; a whole run
# has one of its own.
settings.register_profile("logbale", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("logbale")

try:
    from uvloop import new_event_loop
except ImportError:  # where there is none, logbale runs on asyncio's own
    LOOPS = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": new_event_loop}


pytest_configure = failures.pytest_configure


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """What a test logged of a file's name may be no UTF-8, and a worker's report of it has to be."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


SCENARIO_TIMEOUT = 240
"""Seconds. Less than pytest-timeout's, which ends the whole run: uvloop swallows what its signal handler raises."""


@pytest.fixture(params=LOOPS)
def run(request):
    """Runs a scenario (a coroutine function) on each event loop that a user's process may have."""

    async def in_time(scenario):
        async with asyncio.timeout(SCENARIO_TIMEOUT):
            await scenario()

    def run_scenario(scenario):
        runner = asyncio.Runner(loop_factory=LOOPS[request.param])
        try:
            runner.run(in_time(scenario))
        except BaseException:
            close(runner)
            raise
        assert not close(runner), "a scenario closes what it opens"

    return run_scenario


def close(runner):
    """What was still open. uvloop warns of it amid close(), and where warnings are errors it then waits for ever."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        runner.close()
    return [str(warning.message) for warning in caught]


@pytest.fixture
def fail(monkeypatch):
    """fail(name, error, when=…) lets a system call raise OSError from now on; fail() ends that."""

    def set_failure(name=None, error=errno.EIO, when=lambda *_: True):
        monkeypatch.undo()
        if name is not None:
            real = getattr(os, name)

            def failing(*arguments, **options):
                if when(*arguments):
                    raise OSError(error, os.strerror(error))
                return real(*arguments, **options)

            monkeypatch.setattr(os, name, failing)

    return set_failure


@pytest.fixture(scope="session")
def kafka_cluster(tmp_path_factory):
    """Three brokers (scripts/kafka_cluster.py). A test that ends one starts it again; each makes topics of its own."""
    pytest.importorskip("confluent_kafka", reason="logbale[kafka] is not installed")
    sys.path.append(str(Path(__file__).parent.parent / "scripts"))
    from kafka_cluster import Cluster, Unavailable

    try:
        cluster = Cluster.start(tmp_path_factory.mktemp("kafka"))
    except Unavailable as unavailable:
        pytest.skip(f"no Kafka cluster: {unavailable}")
    yield cluster
    cluster.stop()
