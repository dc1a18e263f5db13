"""`logbale certs`: what it makes works when typed, keys stay with their owner, and no file is ever written over."""

import re
import stat
import sys
from pathlib import Path

import pytest
from cli_process import LOGBALE, Process, entries, logbale_run, receiver
from cryptography import x509

ROOT = Path(__file__).parent.parent


def made(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_commands_of_the_page_work_when_typed(tmp_path):
    """certs, receive, ship, in docs/operating.md; but for the port, which may be taken, and the file to ship."""
    section = (ROOT / "docs/operating.md").read_text().split("## TLS")[1]
    certs, receive, ship = (line.split() for line in re.findall(r"^    logbale (.*)$", section, re.MULTILINE)[:3])
    log = tmp_path / "app.log"
    log.write_text("one\ntwo\n")
    assert logbale_run(*certs, cwd=tmp_path).returncode == 0
    receive[receive.index("127.0.0.1:5000")] = "127.0.0.1:0"
    server = Process(tmp_path, *LOGBALE, *receive, cwd=tmp_path)
    try:
        ship[ship.index("127.0.0.1:5000")] = server.says(r"listening on (\S+) with TLS")[1]
        ship[ship.index("/var/log/dpkg.log")] = str(log)
        shipped = logbale_run(*ship, cwd=tmp_path)
        assert shipped.returncode == 0, shipped.stderr
        assert server.end() == 0
    finally:
        server.process.kill()
        server.process.communicate()
    assert len(entries(logbale_run("cat", tmp_path / "archive").stdout)) == 2


def test_what_it_makes_serves_both_ends(tmp_path):
    """A shipper with a pair delivers; one without is refused, and says what it lacks."""
    certs = tmp_path / "certs"
    assert logbale_run("certs", certs, "--client", "web1").returncode == 0
    log = tmp_path / "app.log"
    log.write_text("one\ntwo\n")
    own = ("--tls-cert-file", certs / "receiver.pem", "--tls-key-file", certs / "receiver.key")
    with receiver(tmp_path, *own, "--tls-client-ca-file", certs / "ca.pem", "--tls-bind-streams") as server:
        mine = ("--tls-cert-file", certs / "web1.pem", "--tls-key-file", certs / "web1.key")
        shipped = logbale_run("ship", "--once", "--to", server.address, "--tls-ca-file", certs / "ca.pem", *mine, log)
        assert shipped.returncode == 0, shipped.stderr
        without = logbale_run(
            "ship", "--once", "--to", server.address, "--tls-ca-file", certs / "ca.pem", "--drain-timeout", 0.1, log
        )
        assert without.returncode == 69
        assert "2 entries in 1 batch were not delivered" in without.stderr
        assert without.stderr.count("the receiver demands a client certificate") == 2
    stored = entries(logbale_run("cat", tmp_path / "archive").stdout)
    assert [entry["message"] for entry in stored] == ["one", "two"]


def test_keys_are_their_owners(tmp_path):
    """0600, in a directory of 0700."""
    logbale_run("certs", tmp_path / "certs", "--client", "web1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "certs").iterdir()}
    assert {name: mode for name, mode in modes.items() if name.endswith(".key")} == {
        "ca.key": 0o600,
        "receiver.key": 0o600,
        "web1.key": 0o600,
    }
    assert stat.S_IMODE((tmp_path / "certs").stat().st_mode) == 0o700


def test_a_directory_grows_and_nothing_in_it_is_written_over(tmp_path):
    """Another client comes of the same CA; what exists is refused by name, and then nothing is written at all."""
    certs = tmp_path / "certs"
    logbale_run("certs", certs, "--client", "web1")
    before = made(certs)
    again = logbale_run("certs", certs, "--client", "web2", "--client", "web1")
    assert again.returncode == 78
    assert "web1.key exists, and nothing is written over" in again.stderr
    assert made(certs) == before
    assert logbale_run("certs", certs, "--client", "web2").returncode == 0
    after = made(certs)
    assert after.keys() - before.keys() == {"web2.pem", "web2.key"}
    assert {name: after[name] for name in before} == before
    ca, web2 = (x509.load_pem_x509_certificate(after[name]) for name in ("ca.pem", "web2.pem"))
    web2.verify_directly_issued_by(ca)
    assert logbale_run("certs", certs, "--host", "localhost").returncode == 78
    assert logbale_run("certs", certs).returncode == 0
    assert made(certs) == after


@pytest.mark.parametrize("name", ["", "../x", "a/b", "ca", "receiver", "a:b", "x" * 91, ".x", "a\nb"])
def test_a_client_is_called_as_a_stream_can_be(tmp_path, name):
    """So no name leads out of the directory either."""
    assert logbale_run("certs", tmp_path / "certs", "--client", name).returncode == 78
    assert not (tmp_path / "certs").exists()


def test_half_of_a_ca_is_no_ca(tmp_path):
    """It is not replaced: what it signed may be in use."""
    certs = tmp_path / "certs"
    logbale_run("certs", certs)
    (certs / "ca.key").unlink()
    again = logbale_run("certs", certs, "--client", "web1")
    assert again.returncode == 78
    assert "no CA to go on with" in again.stderr


def test_without_the_cryptography_package_it_says_what_to_install(tmp_path):
    """TLS itself does without."""
    hidden = "import sys; sys.modules['cryptography'] = None; from logbale.cli import main; main()"
    run = logbale_run("certs", tmp_path / "certs", command=(sys.executable, "-c", hidden))
    assert run.returncode == 1
    assert "pip install cryptography" in run.stderr
