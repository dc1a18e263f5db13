"""The Makefile, the scripts behind it, the lock files and the container files: what they promise without an engine."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from packaging.requirements import Requirement

from logbale.config import Settings

ROOT = Path(__file__).parent.parent
SETTINGS = {field.name.upper() for field in msgspec.structs.fields(Settings)}

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def run(*command, cwd=ROOT, **environment):
    """The finished process, its output as text; settings and make's own variables of the test run do not reach it."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS and "MAKE" not in name}
    clean.pop("RUNTIME", None)
    return subprocess.run(
        command, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=120, check=False
    )


# make


@needs_make
def test_make_alone_lists_every_target():
    """`make` prints each target that the Makefile declares, with what it is for."""
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    listed = dict(re.findall(r"^  make ([\w-]+) +(.+)$", run("make").stdout, re.MULTILINE))
    assert set(listed) == set(phony)
    assert {"build", "run", "client", "logs", "stop", "test", "benchmark", "clean", "demo", "check"} <= set(phony)


def test_ci_runs_every_test():
    """What `make test` leaves for `make test-long` runs there, too; the two are each other's opposite."""
    targets = re.findall("^once_more make (.*)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert {"check test", "test-long"} <= set(targets)
    script = (ROOT / "scripts/runtime.sh").read_text()
    runs = re.findall(r"^  (test\S*)\) export ARGS=.* -m (.*)'\}", script, re.MULTILINE)
    assert runs == [("test", '"not long"'), ("test-long", "long")]


@needs_make
def test_an_unknown_runtime_is_refused_by_name():
    """RUNTIME takes two words; another one is named, with what was expected."""
    result = run("make", "logs", RUNTIME="podman")
    assert result.returncode != 0
    assert "RUNTIME='podman': expected docker or native" in result.stderr


# setup.sh


def fake_python(directory, body):
    path = directory / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_python_without_venv_is_answered_with_the_command_that_installs_it(tmp_path):
    """Debian's python3 comes without python3-venv; one line says what to install."""
    python = fake_python(tmp_path, 'case "$2" in *ensurepip*) exit 1;; esac')
    result = run(ROOT / "scripts/setup.sh", "requirements.txt", "stamp", cwd=tmp_path, PYTHON=python)
    assert result.returncode == 1
    assert result.stderr == f"{python} has no venv module: sudo apt-get install python3-venv\n"


def test_a_python_that_is_too_old_or_broken_is_answered_with_the_command_that_installs_one(tmp_path):
    """A shim for a Python that is not there fails like one that is too old; one line says what is needed."""
    python = fake_python(tmp_path, "exit 127")
    result = run(ROOT / "scripts/setup.sh", "requirements.txt", "stamp", cwd=tmp_path, PYTHON=python)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "Python 3.11" in result.stderr
    assert "sudo apt-get install python3 python3-venv" in result.stderr


# native.py


FAKE_RECEIVER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("stored what came")))
print("logbale: listening on [::1]:4321", file=sys.stderr)
print("an entry", flush=True)
time.sleep(60)
"""


@pytest.fixture
def tree(tmp_path):
    """A tree with native.py and a receiver that only says that it listens."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/native.py", tmp_path / "scripts")
    (tmp_path / "server_main.py").write_text(FAKE_RECEIVER)
    (tmp_path / "client_main.py").write_text(
        "import os; print(os.environ['SERVER_HOST'], os.environ['SERVER_PORT'], os.environ.get('BATCH_SIZE'))"
    )
    yield tmp_path
    native(tmp_path, "stop")


def native(tree, target, **environment):
    return run(sys.executable, "scripts/native.py", target, cwd=tree, PYTHONUNBUFFERED="1", **environment)


def test_run_starts_one_receiver_and_stop_ends_it(tree):
    """A second run finds the first; logs show it; stop waits for its end; a second stop is fine."""
    first, second = native(tree, "run"), native(tree, "run")
    assert "listening on ::1:4321" in first.stdout
    assert second.stdout.startswith("already running, pid ")
    assert native(tree, "stop").stdout == "stopped\n"
    logs = native(tree, "logs").stdout
    assert "an entry" in logs
    assert "stored what came" in logs
    again = native(tree, "stop")
    assert (again.returncode, again.stdout) == (0, "no receiver runs\n")


def test_the_client_finds_the_receiver_that_runs(tree):
    """Address and port come from the receiver unless they are set; other settings pass through."""
    native(tree, "run")
    assert native(tree, "client", BATCH_SIZE="7").stdout == "::1 4321 7\n"
    assert native(tree, "client", SERVER_PORT="5").stdout == "::1 5 None\n"


@pytest.mark.parametrize(
    ("given", "port"),
    [({}, "5000"), ({"SERVER_PORT": "5999"}, "5999"), ({"SERVER_HOST": "localhost"}, "5000"),
     ({"SERVER_HOST": "logs.example.org"}, None), ({"RECEIVERS": "logs.example.org"}, None)],
)  # fmt: skip
def test_a_client_without_a_receiver_says_what_starts_one(tree, given, port):
    """Before it waits, and for how long that will be; not where it is sent to another host."""
    (tree / "client_main.py").write_text("")
    said = native(tree, "client", **given).stdout
    if port is None:
        assert said == ""
    else:
        assert "make run starts one" in said
        assert f"port {port}, and gives up 10 s after" in said


def test_a_pid_file_left_by_a_crash_signals_nobody(tree):
    """The pid may be another program's by now: only who holds the file's lock is a receiver."""
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tree / ".run").mkdir()
        (tree / ".run/server.pid").write_text(str(stranger.pid))
        assert native(tree, "stop").stdout == "no receiver runs\n"
        assert native(tree, "run").stdout.startswith("running, pid ")
        assert native(tree, "stop").stdout == "stopped\n"
        assert stranger.poll() is None
        stranger.kill()


def test_a_receiver_that_cannot_start_is_quoted(tree):
    """What it said is shown, and its exit code is ours."""
    (tree / "server_main.py").write_text("import sys; print('SERVER_PORT is taken', file=sys.stderr); sys.exit(69)")
    result = native(tree, "run")
    assert result.returncode == 69
    assert "SERVER_PORT is taken" in result.stderr


# lock files


def pins(name):
    """Each requirement of a lock file with its hashes."""
    text = re.sub(r"\\\n", " ", (ROOT / name).read_text())
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return [(Requirement(line.split("--hash")[0]), line.count("--hash=sha256:")) for line in lines]


@pytest.mark.parametrize(
    ("name", "extras"), [("requirements.txt", []), ("requirements-dev.txt", ["dev", "chart"])], ids=["run", "dev"]
)
def test_a_lock_file_pins_what_pyproject_asks_for(name, extras):
    """Every dependency has a pin that satisfies it; where not: make lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    locked = {}
    for pin, _ in pins(name):
        locked.setdefault(pin.name.replace("_", "-"), []).append(str(pin.specifier).removeprefix("=="))
    for requirement in map(Requirement, wanted):
        if requirement.name == project["name"]:
            continue
        versions = locked.get(requirement.name.replace(".", "-").replace("_", "-"), [])
        assert versions, f"{requirement} is not in {name}: run make lock"
        assert all(map(requirement.specifier.contains, versions)), f"{requirement}, but {versions}: run make lock"


def test_the_lock_files_are_exact_and_agree():
    """Each line is one exact version with hashes, and what runs is the same in both files."""
    runs, works = pins("requirements.txt"), pins("requirements-dev.txt")
    assert all(str(pin.specifier).startswith("==") and hashes for pin, hashes in runs + works)
    assert {(pin.name, str(pin.specifier)) for pin, _ in runs} <= {(pin.name, str(pin.specifier)) for pin, _ in works}


# containers


def test_docker_hands_every_setting_on():
    """The list that docker.sh reads from .env.example is the list of settings."""
    script = (ROOT / "scripts/docker.sh").read_text()
    pattern = re.search(r"sed -nE 's/(.+?)/\\1/p'", script)[1]
    names = re.findall(pattern, (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert set(names) == SETTINGS


def test_the_compose_file_hands_every_setting_on():
    """Each setting is named for one end or the other, but those of no end here, and the places that are fixed."""
    text = (ROOT / "docker-compose.yml").read_text()
    named = set(re.findall(r"^      ([A-Z_]+):", text, re.MULTILINE))
    of_the_archiver = {"ARCHIVE_TOPIC", "ARCHIVE_TO", "ARCHIVE_GROUP"}
    assert named == SETTINGS - of_the_archiver - {"ARCHIVE_DIR", "METRICS_PORT", "SPOOL_DIR"}


def test_the_images_share_their_first_stage():
    """Server and client are built from the same lines, so that their layers are the same."""

    def first_stage(name):
        return (ROOT / name).read_text().split("\nFROM ")[1]

    assert first_stage("Dockerfile") == first_stage("Dockerfile.client")


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.client", "Dockerfile.test"])
def test_no_image_runs_as_root(name):
    """The last user is a plain one, and dependencies come with hashes."""
    text = (ROOT / name).read_text()
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == "10001:10001"
    assert "--require-hashes" in text


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_understands_the_file():
    """docker-compose reads it and finds both services."""
    result = run("docker-compose", "config", "--services")
    assert sorted(result.stdout.split()) == ["client", "server"], result.stderr
