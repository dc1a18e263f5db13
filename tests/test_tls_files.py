"""TLS out of files: which settings go together, what is wrong with a file, and how a change is taken up or refused."""

import asyncio
import contextlib
import logging
import os
import shutil
import ssl
from collections import Counter
from pathlib import Path

import pytest
from certificates import FUTURE, PAST, SHORT, Certificates
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from logbale.config import Settings
from logbale.errors import ConfigError
from logbale.tls import failures, material
from logbale.tls.files import for_receiver, for_shipper
from logbale.tls.making import Authority
from logbale.tls.material import metrics_are_encrypted, page_is_encrypted
from logbale.tls.names import is_name, names_of, owns
from logbale.tls.server import Failures


@pytest.fixture
def files(tmp_path):
    return Certificates(tmp_path / "tls")


def refusal(load, **settings):
    with pytest.raises(ConfigError) as caught:
        load(Settings(**settings))
    return str(caught.value)


# Which settings go together


def test_tls_is_off_where_nothing_asks_for_it():
    """At both ends."""
    assert for_receiver(Settings()) is None
    assert for_shipper(Settings()) is None


@pytest.mark.parametrize(
    ("load", "settings", "why"),
    [
        (for_receiver, {"tls_key_file": "x"}, "TLS_KEY_FILE is set and TLS_CERT_FILE is not"),
        (for_receiver, {"tls_client_ca_file": "x"}, "TLS_CLIENT_CA_FILE is set and TLS_CERT_FILE is not"),
        (for_receiver, {"tls_bind_streams": True}, "TLS_BIND_STREAMS is set and TLS_CERT_FILE is not"),
        (for_receiver, {"tls_bind_streams": True, "tls_cert_file": "x"}, "TLS_BIND_STREAMS needs TLS_CLIENT_CA_FILE"),
        (for_receiver, {"dashboard_tls": "on"}, "DASHBOARD_TLS=on needs TLS_CERT_FILE"),
        (
            for_shipper,
            {"tls_cert_file": "x"},
            "TLS_CERT_FILE is set and TLS_CA_FILE is not: nothing would",
        ),
        (for_shipper, {"tls_key_file": "x", "tls_ca_file": "y"}, "TLS_KEY_FILE is set and TLS_CERT_FILE is not"),
        (for_shipper, {"dashboard_tls": "on"}, "DASHBOARD_TLS=on needs TLS_CERT_FILE"),
    ],
)
def test_what_only_looks_safe_does_not_start(load, settings, why):
    """Half of a configuration is refused, not taken for less."""
    assert why in refusal(load, **settings)


@pytest.mark.parametrize(
    ("settings", "encrypted"),
    [
        ({}, False),
        ({"dashboard_host": "0.0.0.0"}, True),
        ({"dashboard_host": "::1"}, False),
        ({"dashboard_host": "localhost"}, False),
        ({"dashboard_host": "logs.example.org"}, True),
        ({"dashboard_tls": "on"}, True),
        ({"dashboard_tls": "off", "dashboard_host": "0.0.0.0"}, False),
    ],
)
def test_the_page_is_encrypted_where_others_reach_it(settings, encrypted):
    """With a certificate, and on loopback only if it is told so; the metrics always only then: probes have to know."""
    settings = Settings(tls_cert_file="x", **settings)
    assert page_is_encrypted(settings) is encrypted
    assert metrics_are_encrypted(settings) is (settings.dashboard_tls == "on")


# What is wrong with a file


def test_each_fault_of_a_file_is_named(files, tmp_path):
    """The setting, the file, what was expected."""
    pair, other = files.receiver(), files.pair("other", "other")
    text = tmp_path / "text"
    text.write_text("no certificate")
    assert "TLS_CERT_FILE='/nowhere': cannot be read: No such file" in refusal(for_receiver, tls_cert_file="/nowhere")
    assert "expected certificate in PEM" in refusal(for_receiver, tls_cert_file=str(text))
    alone = pair["tls_cert_file"]
    assert "TLS_CERT_FILE without TLS_KEY_FILE" in refusal(for_receiver, tls_cert_file=alone)
    mixed = {**pair, "tls_key_file": other["tls_key_file"]}
    assert "is not the key of TLS_CERT_FILE=" in refusal(for_receiver, **mixed)
    assert "TLS_CLIENT_CA_FILE=" in refusal(for_receiver, **pair, tls_client_ca_file=str(text))
    assert "TLS_CA_FILE=" in refusal(for_shipper, tls_ca_file=str(text))
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "TLS_CA_FILE=" in refusal(for_shipper, tls_ca_file=str(broken))
    assert "TLS_CERT_FILE=" in refusal(for_receiver, **{**pair, "tls_cert_file": str(broken)})


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(files, tmp_path):
    """OpenSSL would ask on the terminal."""
    pair = files.receiver()
    key = serialization.load_pem_private_key(Path(pair["tls_key_file"]).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "has a passphrase" in refusal(for_receiver, **{**pair, "tls_key_file": str(locked)})


@pytest.mark.parametrize(("mode", "said"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_key_that_everybody_can_read_is_pointed_out(files, caplog, mode, said):
    """It is loaded all the same."""
    pair = files.receiver()
    os.chmod(pair["tls_key_file"], mode)
    for_receiver(Settings(**pair))
    assert ("can be read by every user of this machine" in caplog.text) is said


def test_a_certificate_for_the_other_end_is_refused_at_the_start(files, tmp_path):
    """Not first by each peer."""
    made = Authority(tmp_path / "made", 1)
    made.add_receiver(["localhost"])
    made.add_client("web1")
    made.write()
    cert = {"tls_cert_file": str(tmp_path / "made/web1.pem"), "tls_key_file": str(tmp_path / "made/web1.key")}
    assert "is no certificate for a receiver" in refusal(for_receiver, **cert)
    cert = {"tls_cert_file": str(tmp_path / "made/receiver.pem"), "tls_key_file": str(tmp_path / "made/receiver.key")}
    assert "is no certificate for a shipper" in refusal(for_shipper, **cert, **files.trust())


def test_a_certificate_and_its_key_may_share_a_file(files):
    """TLS_KEY_FILE is empty then."""
    pair = files.receiver()
    both = files.directory / "both.pem"
    both.write_bytes(b"".join(Path(path).read_bytes() for path in pair.values()))
    assert for_receiver(Settings(tls_cert_file=str(both))).current.certificate.names == ("localhost",)


def test_a_receiver_whose_certificate_has_expired_starts_and_says_so(files, caplog):
    """It stores what comes without TLS no less, tells its alarms, and takes the renewed one up by itself."""
    with caplog.at_level(logging.ERROR, "logbale"):
        loaded = for_receiver(Settings(**files.receiver(**PAST)))
    assert "it has expired on" in caplog.text
    assert loaded.current.certificate.ends == PAST["not_after"].timestamp() // 1


def test_the_systems_cas_can_be_trusted():
    """TLS_CA_FILE=system."""
    current = for_shipper(Settings(tls_ca_file="system")).current
    assert current.context.verify_mode is ssl.CERT_REQUIRED
    assert current.context.check_hostname


def test_nothing_older_than_tls_1_2_is_spoken(files):
    """At both ends, on all ports."""
    receiver = for_receiver(Settings(**files.receiver())).current
    shipper = for_shipper(Settings(**files.trust())).current
    for context in (receiver.shippers, receiver.web, shipper.context):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


# How a change is taken up


@contextlib.asynccontextmanager
async def watching(loading):
    """Looks at the files a hundred times a second."""
    task = asyncio.create_task(loading.watch(interval=0.01))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_renewed_files_are_taken_up_by_themselves(run, files, caplog):
    """Certificate and key, once both have changed and rest; a CA too."""
    caplog.set_level(logging.INFO, "logbale")

    async def scenario():
        loading = for_receiver(Settings(**files.receiver(), **files.client_trust()))
        old = loading.current
        async with watching(loading):
            files.receiver(**SHORT)
            await eventually(lambda: loading.current.certificate.ends == SHORT["not_after"].timestamp() // 1)
            assert loading.current.shippers is not old.shippers
            renewed = loading.current
            other = Certificates(files.directory.with_name("other"))
            shutil.copy(other.directory / "ca.pem", files.directory / "ca.pem")
            await eventually(lambda: loading.current is not renewed)
        assert loading.current.shippers.get_ca_certs() != old.shippers.get_ca_certs()
        assert loading.refused == 0

    run(scenario)
    assert "the TLS files are loaded anew: certificate of localhost" in caplog.text


def bad_certificate(files):
    text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (files.directory / "receiver.pem").write_text(text)


def other_key(files):
    shutil.copy(files.pair("other", "other")["tls_key_file"], files.directory / "receiver.key")


def bad_ca(files):
    (files.directory / "ca.pem").write_text("")


def expired(files):
    files.receiver(**PAST)


def not_yet_valid(files):
    files.receiver(**FUTURE)


def gone(files):
    (files.directory / "receiver.key").unlink()


def test_a_file_that_changes_while_it_is_loaded_is_refused_by_name(files, monkeypatch):
    """Whoever writes it is not done; the next look loads it."""
    pair, load, loaded = files.receiver(), material._load_pair, []

    def load_and_change(context, settings):
        load(context, settings)
        loaded.append(context)
        if len(loaded) == 2:  # both ends of the handshake that tries it, and then it is read once more
            Path(settings.tls_cert_file).write_text("half a")

    monkeypatch.setattr(material, "_load_pair", load_and_change)
    assert f"TLS_CERT_FILE={pair['tls_cert_file']!r} cannot be used" in refusal(for_receiver, **pair)


@pytest.mark.parametrize("spoil", [bad_certificate, other_key, bad_ca, expired, not_yet_valid, gone])
def test_bad_new_files_are_refused_once_and_the_old_ones_stay(run, files, caplog, spoil):
    """All of it or nothing; the reason is said, and good ones are taken up after that."""

    async def scenario():
        loading = for_receiver(Settings(**files.receiver(), **files.client_trust()))
        old = loading.current
        async with watching(loading):
            spoil(files)
            await eventually(lambda: loading.refused)
            assert loading.current is old
            await asyncio.sleep(0.1)
            assert loading.refused == 1
            with pytest.raises(ConfigError):
                loading.prepare(Settings())
            assert (loading.refused, loading.current) == (2, old)
            files.ca.cert_pem.write_to_path(files.directory / "ca.pem")
            files.receiver(**SHORT)
            await eventually(lambda: loading.current is not old)

    with caplog.at_level(logging.ERROR, "logbale"):
        run(scenario)
    said = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(said) == 1
    assert "what was loaded before stays in use: TLS_" in said[0]


def test_files_behind_a_link_are_followed(run, files):
    """As Kubernetes mounts them: a link to a directory that is swapped."""

    async def scenario():
        files.receiver()
        first, second = files.directory / "1", files.directory / "2"
        for number, place in enumerate((first, second)):
            place.mkdir()
            pair = files.receiver(**({} if number == 0 else SHORT))
            for path in pair.values():
                shutil.move(path, place)
        link = files.directory / "data"
        link.symlink_to(first)
        named = {"tls_cert_file": str(link / "receiver.pem"), "tls_key_file": str(link / "receiver.key")}
        loading = for_receiver(Settings(**named))
        async with watching(loading):
            swapped = files.directory / "data.new"
            swapped.symlink_to(second)
            swapped.rename(link)
            await eventually(lambda: loading.current.certificate.ends == SHORT["not_after"].timestamp() // 1)

    run(scenario)


def test_what_rests_is_not_loaded_again(run, files):
    """A look costs a stat of each file."""

    async def scenario():
        loading = for_shipper(Settings(**files.trust(), **files.pair("web1", "web1")))
        old = loading.current
        async with watching(loading):
            await asyncio.sleep(0.1)
            os.chmod(files.directory / "web1.key", 0o600)
            await asyncio.sleep(0.1)
            assert loading.current is old

    run(scenario)


# Names, and words for failures


def test_a_certificates_names_are_its_dns_names_or_its_common_name():
    """And only those that a stream's name can begin with."""
    dns = [("DNS", "web1"), ("DNS", "*.example.org"), ("IP Address", "127.0.0.1"), ("DNS", "a:b")]
    common = [[("organizationName", "x")], [("commonName", "web2")]]
    assert names_of({"subjectAltName": dns, "subject": common}) == ["web1"]
    assert names_of({"subject": common}) == ["web2"]
    assert names_of({"subject": [[("commonName", "x" * 91)]]}) == names_of({}) == []


NAME = st.from_regex(r"[A-Za-z0-9._@-]{1,90}", fullmatch=True)


@given(NAME, NAME, st.text(alphabet="abc:.-", max_size=20))
def test_no_two_names_own_one_stream(one, another, rest):
    """Whatever the names: one may be the beginning of the other, as web is of web.example.org."""
    assert is_name(one)
    for stream in (one, f"{one}:{rest}"):
        assert owns([one], stream)
        assert owns([another], stream) == (one == another)
    assert not owns([], one)
    assert not owns([one], f"{one}.{rest}:x") or rest == ""


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "demands a client certificate"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "demands a client certificate"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "TLS_CERT_FILE has expired"),
        ("TLSV1_ALERT_UNKNOWN_CA", "does not know the CA of TLS_CERT_FILE"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "refuses TLS_CERT_FILE: it says bad certificate"),
        ("WRONG_VERSION_NUMBER", "speaks no TLS"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "no TLS version from 1.2 on"),
        ("SOMETHING_NEW", "failed (SOMETHING_NEW)"),
    ],
)
def test_openssls_reasons_become_sentences(reason, words):
    """What was wrong and what to do, at the shipper."""
    error = ssl.SSLError(1, "text")
    error.reason = reason
    assert words in str(failures.at_shipper(error, "logs.example.org", "ca.pem"))


def test_a_flood_of_failures_is_counted_whole_and_said_by_doubling(caplog):
    """By address, of which there may be many; after an hour each is news again."""
    errors, now = Counter(), [0.0]
    counted = Failures(errors, clock=lambda: now[0])
    with caplog.at_level(logging.WARNING, "logbale.receiver"):
        for _ in range(100):
            counted.add("192.0.2.1", failures.plaintext())
        assert len(caplog.records) == 7
        for number in range(3000):
            counted.add(f"2001:db8::{number:x}", failures.too_slow(5))
        assert len(caplog.records) == 7 + 999 + 11
        now[0] = 3600.0
        counted.add("192.0.2.1", failures.plaintext())
        assert "(1 within an hour)" in caplog.records[-1].getMessage()
    assert errors == {"tls_plaintext": 101, "tls_timeout": 3000}
