"""The containers: nothing to gain in them, nothing open but what must be, and whether they work is asked all the time.

What needs an engine runs with CONTAINERS=1: building the images takes minutes and a network.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.client"])
def test_an_image_knows_how_to_ask_whether_it_works(name):
    """By a health check that asks the process itself, not whether a port is open."""
    assert re.search(r"^HEALTHCHECK .*\n.*/(readyz|healthz)", (ROOT / name).read_text(), re.MULTILINE)


def test_both_services_have_nothing_that_they_do_not_need():
    """A root that cannot be written to, no capabilities, and no way to more privileges."""
    hardened = re.search(r"^x-hardened: &hardened\n((?:  .*\n)+)", COMPOSE, re.MULTILINE)[1]
    for line in ("read_only: true", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]'):
        assert f"  {line}\n" in hardened
    services = COMPOSE.split("\nservices:\n")[1].split("\nvolumes:\n")[0]
    assert len(re.findall(r"^  \w+:$", services, re.MULTILINE)) == services.count("<<: *hardened") == 2
    assert not re.search(r"privileged:|cap_add:|network_mode:|pid:|docker\.sock", COMPOSE)


def test_nothing_but_the_receivers_port_is_published_beyond_this_host():
    """The page and whatever comes later: on 127.0.0.1 only."""
    published = re.findall(r'^      - "(.*)"$', COMPOSE, re.MULTILINE)
    assert len(published) == 2
    assert [one for one in published if not one.startswith("127.0.0.1:")] == ["${SERVER_PORT:-5000}:5000"]


KAFKA = (ROOT / "docker-compose.kafka.yml").read_text()


def test_a_fleet_publishes_nothing_but_its_balancer_and_its_own_services_have_no_rights():
    """Brokers, receivers and archivers are for each other; what is ours runs as hardened as it does alone."""
    assert re.findall(r"^    ports:\n((?:      - .*\n)+)", KAFKA, re.MULTILINE) == [
        '      - "${SERVER_PORT:-5000}:5000"\n'
    ]
    hardened = re.search(r"^x-hardened: &hardened\n((?:  .*\n)+)", KAFKA, re.MULTILINE)[1]
    for line in ("read_only: true", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]'):
        assert f"  {line}\n" in hardened
    assert re.search(r"^x-logbale: &logbale\n  <<: \*hardened\n", KAFKA, re.MULTILINE)
    services = KAFKA.split("\nservices:\n")[1].split("\nnetworks:\n")[0]
    for name in ("receiver-1: *receiver", "receiver-2: *receiver", "archiver-1: *archiver", "archiver-2: *archiver"):
        assert f"  {name}\n" in services
    assert not re.search(r"privileged:|cap_add:|network_mode:|pid:|docker\.sock", KAFKA)


def test_the_topic_of_a_fleet_can_lose_a_broker():
    """Three copies of which two must have a batch, and no broker that lags behind may lead."""
    for setting in ("--replication-factor=3", "min.insync.replicas=2", "unclean.leader.election.enable=false"):
        assert setting in KAFKA
    assert KAFKA.count("KAFKA_NODE_ID:") == 3


def test_compose_understands_both_files():
    """As far as that can be seen without an engine."""
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose: apt-get install docker-compose")
    for file in ("docker-compose.yml", "docker-compose.kafka.yml"):
        done = subprocess.run(
            ["docker-compose", "-f", ROOT / file, "config", "--quiet"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr


def test_the_balancers_configuration_is_sound(tmp_path):
    """HAProxy itself says so; the receivers' names mean nothing here."""
    if shutil.which("haproxy") is None:
        pytest.skip("no haproxy: apt-get install haproxy")
    done = subprocess.run(
        ["haproxy", "-c", "-f", ROOT / "deploy/haproxy.cfg"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


# With an engine


def compose(project, *arguments, check=True, code=0, **environ):
    """What docker-compose printed; images of their own, so that nobody else's are replaced."""
    files = ("-f", ROOT / "docker-compose.yml", "-f", project / "images.yml")
    done = subprocess.run(
        ["docker-compose", "-p", project.name, *map(str, files), "--project-directory", ROOT, *arguments],
        env=os.environ | {"SERVER_PORT": "0", "DASHBOARD_PORT": "0", "DASHBOARD_ENABLED": "true"} | environ,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == code or not check, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Both services, begun as the compose file says; the client ships 300 entries."""
    if not os.environ.get("CONTAINERS"):
        pytest.skip("CONTAINERS=1 builds and runs the containers")
    if shutil.which("docker-compose") is None or subprocess.run(["docker", "version"], capture_output=True).returncode:
        pytest.skip("no container engine answers, or no docker-compose")
    directory = tmp_path_factory.mktemp("logbaletest")
    images = "".join(f"  {name}: {{image: logbale-{name}-tested}}\n" for name in ("server", "client"))
    (directory / "images.yml").write_text(f"services:\n{images}")
    try:
        compose(directory, "up", "--build", "--detach", RUN_TIME="3", LOG_RATE="100")
        yield directory
    finally:
        compose(directory, "down", "--volumes", check=False)


def container(project, service):
    """What the engine knows of it."""
    [name] = compose(project, "ps", "--quiet", service).split()
    inspected = subprocess.run(["docker", "inspect", name], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(inspected.stdout)[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_the_client_ships_is_in_the_archive(project):
    """All of it, once, and the client's exit code says so."""
    deadline = time.monotonic() + 60
    while (state := container(project, "client")["State"])["Running"]:
        assert time.monotonic() < deadline, compose(project, "logs")
        time.sleep(0.2)
    assert state["ExitCode"] == 0, compose(project, "logs")
    stored = compose(project, "exec", "-T", "server", "logbale", "cat", "/archive")
    assert stored.count("\n") == 300


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_container_has_no_rights_at_all(project):
    """A plain user, no capability, no way to any, and no place to write but the archive and /tmp."""
    status = compose(project, "exec", "-T", "server", "cat", "/proc/1/status")
    assert re.search(r"^Uid:\s+10001\s", status, re.MULTILINE)
    assert set(re.findall(r"^Cap(?:Prm|Eff|Bnd|Amb):\s+(\w+)$", status, re.MULTILINE)) == {"0" * 16}
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    for directory in ("/", "/opt/logbale", "/home", "/var/tmp"):
        tried = compose(project, "exec", "-T", "server", "sh", "-c", f"touch {directory}/x 2>&1; true")
        assert "Read-only file system" in tried or "Permission denied" in tried
    assert container(project, "server")["HostConfig"]["ReadonlyRootfs"] is True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_is_there_for_this_host_alone(project):
    """Through the port that is published on loopback; the health check is content, after a reload too."""
    address = compose(project, "port", "server", "8080").strip()
    assert address.startswith("127.0.0.1:")
    with urllib.request.urlopen(f"http://{address}/api/stats", timeout=10) as answer:
        assert json.loads(answer.read())["state"]
    compose(project, "kill", "-s", "HUP", "server")
    deadline = time.monotonic() + 60
    while "SIGHUP: no setting is changed" not in compose(project, "logs", "server"):
        assert time.monotonic() < deadline
    while container(project, "server")["State"]["Health"]["Status"] != "healthy":
        assert time.monotonic() < deadline
        time.sleep(0.5)


SECRET = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def guarded(project, tmp_path_factory):
    """Both again, with TLS and a token: certificates of a CA that was made for it, mounted read-only into each."""
    directory = tmp_path_factory.mktemp("logbaleguarded")
    certs = directory / "certs"
    subprocess.run([sys.executable, "-m", "logbale", "certs", certs, "--host", "server"], check=True, timeout=120)
    for file in (certs, *certs.iterdir()):
        os.chown(file, 10001, 10001)
    services = "".join(
        f"  {name}:\n    image: logbale-{name}-tested\n    volumes: ['{certs}:/certs:ro']\n"
        for name in ("server", "client")
    )
    (directory / "images.yml").write_text(f"services:\n{services}")
    tls = {
        "TLS_CERT_FILE": "/certs/receiver.pem",
        "TLS_KEY_FILE": "/certs/receiver.key",
        "TLS_CA_FILE": "/certs/ca.pem",
    }
    environ = tls | {"TOKENS": SECRET, "TOKEN": SECRET, "RUN_TIME": "3", "LOG_RATE": "100", "DRAIN_TIMEOUT": "2"}
    try:
        compose(directory, "up", "--detach", **environ)
        yield directory, environ
    finally:
        compose(directory, "down", "--volumes", check=False, **environ)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the certificates to the containers' user")
def test_a_token_and_tls_let_the_client_in_and_nobody_else(guarded):
    """What the client ships with its token is stored; with another, or in plain, it reports that nothing was."""
    directory, environ = guarded
    deadline = time.monotonic() + 120
    while (state := container(directory, "client")["State"])["Running"]:
        assert time.monotonic() < deadline, compose(directory, "logs", **environ)
        time.sleep(0.2)
    logs = compose(directory, "logs", **environ)
    assert state["ExitCode"] == 0, logs
    assert "with TLS" in logs
    for refused in ({"TOKEN": SECRET[::-1]}, {"TLS_CA_FILE": "", "TOKEN": ""}):
        given = [part for name, value in {"SPOOL_DIR": "off", **refused}.items() for part in ("-e", f"{name}={value}")]
        compose(directory, "run", "--rm", "-T", "--no-deps", *given, "client", code=69, **environ | refused)
    stored = compose(directory, "exec", "-T", "server", "logbale", "cat", "/archive", **environ)
    assert stored.count("\n") == 300
    assert SECRET not in compose(directory, "logs", **environ)
