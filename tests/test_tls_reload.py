"""Certificates renewed under load, real processes: no entry is lost, no session ends, and what is bad is refused."""

import contextlib
import re
import shutil
import signal
import socket
import time

import pytest
from certificates import Certificates
from cli_process import entries, logbale_run, receiver, running

ROUNDS = 30
SHIPPERS = 3
SETTINGS = {"tls_cert_file": "--tls-cert-file", "tls_key_file": "--tls-key-file", "tls_ca_file": "--tls-ca-file"}


def flags(settings):
    return [word for name, value in settings.items() for word in (SETTINGS[name], value)]


def served_serial(files, address):
    """The serial number of the certificate that a new connection gets."""
    host, port = address.rsplit(":", 1)
    context = files.client_context(files.pair("probe", "probe"))
    raw = socket.create_connection((host, int(port)), timeout=60)
    with context.wrap_socket(raw, server_hostname=host) as connection:
        return int(connection.getpeercert()["serialNumber"], 16)


def enough(process):
    """Whether it has taken up five new certificates, and refused what was none five times."""
    said = process.messages.read_text()
    return said.count("loaded anew") >= 5 and said.count("SIGHUP: nothing is changed: TLS_") >= 5


@pytest.mark.slow
def test_certificates_are_renewed_under_load(tmp_path):
    """SIGHUP ten times a second at both ends, with certificates that are new, or do not fit their key, or are no file:
    what was written is in the archive, once, in order, and came over the sessions from before.
    """
    files = Certificates(tmp_path / "tls")
    own = files.receiver()
    demands = ("--tls-client-ca-file", files.directory / "ca.pem", "--tls-bind-streams")
    logs = [tmp_path / f"app{number}.log" for number in range(SHIPPERS)]
    written = [0] * SHIPPERS
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(receiver(tmp_path, *flags(own), *demands))
        shippers = []
        for number, log in enumerate(logs):
            log.touch()
            client = files.trust() | files.pair(f"web{number}", f"web{number}")
            ship = ("ship", log, "--from-start", "--to", server.address, "--batch-linger", 0.01, *flags(client))
            shippers.append(stack.enter_context(running(tmp_path, *ship)))
        for process in shippers:
            process.says("in session with")
        rounds, ends = 0, time.monotonic() + 60
        with contextlib.ExitStack() as growing:
            open_logs = [growing.enter_context(log.open("a")) for log in logs]
            while rounds < ROUNDS or not enough(server):
                assert time.monotonic() < ends, server.messages.read_text()
                for number, log in enumerate(open_logs):
                    log.writelines(f"line {written[number] + more}\n" for more in range(200))
                    log.flush()
                    written[number] += 200
                renew(files, rounds)
                for process in (server, *shippers):
                    process.process.send_signal(signal.SIGHUP)
                rounds += 1
                time.sleep(0.1)
        files.receiver()
        server.process.send_signal(signal.SIGHUP)
        serial = files.read("receiver").serial_number
        deadline = time.monotonic() + 60
        while served_serial(files, server.address) != serial:
            assert time.monotonic() < deadline, "the last certificate is never served"
            time.sleep(0.1)
        for process in shippers:
            assert process.end() == 0, process.messages.read_text()
            said = process.messages.read_text()
            assert said.count("in session with") == 1
            assert "loaded anew" in said
        assert server.end() == 0
        said = server.messages.read_text()
    assert enough(server), said
    assert not re.search("Traceback|ERROR(?!.*SIGHUP: nothing is changed: TLS_)", said), said
    stored = entries(logbale_run("cat", tmp_path / "archive").stdout)
    for number, log in enumerate(logs):
        messages = [entry["message"] for entry in stored if entry["file"] == str(log)]
        assert messages == [f"line {n}" for n in range(written[number])]
    assert sum(written) == len(stored) > 5000


def renew(files, number):
    """Another certificate, or something that is none."""
    match number % 4:
        case 0 | 2:
            files.receiver()
        case 1:
            shutil.copy(files.pair("other", "other")["tls_key_file"], files.directory / "receiver.key")
        case 3:
            (files.directory / "receiver.pem").write_text("not a certificate\n")
