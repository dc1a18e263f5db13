"""Who may ship: tokens, the streams they are bound to, and what becomes of everybody else."""

import asyncio
import json
import os
import re
from collections import Counter
from pathlib import Path
from urllib.request import urlopen

import msgspec
import pytest
from certificates import Certificates
from cli_process import LOGBALE, Process, logbale_run, running
from test_delivery import Numbers, at_once, next_message, receiver, shipper
from test_tcp_server import exchange, in_thread
from waiting import eventually

from chaos.processes import free_port
from logbale.access import Access
from logbale.config import Settings, load
from logbale.config.credentials import receiver_tokens, shipper_token
from logbale.config.exposure import refuse_unsafe_receiver, refuse_unsafe_shipper
from logbale.config.secret import Secret, reveal
from logbale.errors import ConfigError
from logbale.lockout import MAX_ADDRESSES, Lockout, address_key
from logbale.messages import Hello, Skip, encode_message
from logbale.protocol import Algorithm, encode_frame
from logbale.tokens import Tokens

_ = at_once  # a fixture that the tests here use too

OURS = "our-token-0123456789"
OLD = "old-token-0123456789"
WEB = "web-token-0123456789"
WRONG = "not-a-token-of-yours"

TOKENS = f"""\
# the next one is on its way out
{OLD}

{OURS}
{WEB} web?:* www
"""


@pytest.fixture
def file(tmp_path):
    """Writes a file that only we can read."""

    def write(text, name="tokens"):
        path = tmp_path / name
        path.touch(0o600)
        path.write_text(text)
        return str(path)

    return write


# What a token opens


@pytest.mark.parametrize(
    ("token", "stream", "refusal"),
    [
        (OURS, "anything", None),
        (OLD, "anything", None),
        (WEB, "web1:0badc0de", None),
        (WEB, "www", None),
        (WEB, "web1", "stream"),
        (WEB, "WEB1:0badc0de", "stream"),
        (WEB, "db1:0badc0de", "stream"),
        (WEB, "www:0badc0de", "stream"),
        (WRONG, "anything", "wrong_token"),
        (OURS[:-1], "anything", "wrong_token"),
        ("", "anything", "wrong_token"),
        ("\ud800", "anything", "wrong_token"),
        (None, "anything", "no_token"),
    ],
)
def test_a_token_opens_the_streams_that_it_is_bound_to(file, token, stream, refusal):
    """Several at once; one without patterns opens every stream; patterns are whole and their case matters."""
    tokens = Tokens(receiver_tokens(Settings(tokens_file=file(TOKENS))))
    assert tokens.refusal(token, stream) == refusal
    assert (len(tokens), tokens.unbound) == (3, 2)


def test_every_token_is_compared_whichever_it_is(monkeypatch):
    """The first, the last and a wrong one take as many comparisons, each in constant time."""
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((len(a), len(b))) or a == b)
    tokens = Tokens([(OURS, []), (OLD, []), (WEB, [])])
    for token in (OURS, WEB, WRONG, "x"):
        tokens.refusal(token, "web")
    assert compared == [(32, 32)] * 12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no token in it"),
        ("# a comment\n\n", "no token in it"),
        ("short\n", "16 to 512 printable"),
        (
            f"# ours\n\n{OURS}\nspäter-und-länger web-*\n",
            "tokens', line 4: expected 16 to 512 .* this has 17 characters",
        ),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_token_file_that_makes_no_sense_is_refused(tmp_path, text, says):
    """Configured to authenticate, but did not: an empty or unreadable file stops the receiver and lets nobody in."""
    path = tmp_path / "tokens"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=says) as refused:
        Access(Settings(tokens_file=str(path)), Counter())
    assert "short" not in str(refused.value)
    with pytest.raises(ConfigError, match="No such file"):
        Access(Settings(tokens_file=str(tmp_path / "none")), Counter())


def test_tokens_come_from_the_environment_too(file):
    """TOKENS has the same lines, cut at semicolons, and adds to the file's; TOKEN or TOKEN_FILE is the shipper's."""
    settings = load({}, {"TOKENS": f"{WEB} web?:* www; {OURS}", "TOKENS_FILE": file(OLD)}).settings
    assert receiver_tokens(settings) == [(OLD, []), (WEB, ["web?:*", "www"]), (OURS, [])]
    assert shipper_token(load({}, {"TOKEN": OURS}).settings) == OURS
    assert shipper_token(load({}, {"TOKEN_FILE": file(f"# mine\n{OURS}\n", "mine")}).settings) == OURS
    assert shipper_token(Settings()) is None
    with pytest.raises(ConfigError, match="leave out one"):
        shipper_token(Settings(token=Secret(OURS), token_file="x"))
    with pytest.raises(ConfigError, match="2 lines, expected one token"):
        shipper_token(Settings(token_file=file(f"{OURS}\n{OLD}\n", "two")))
    with pytest.raises(ConfigError, match="mine', line 2: expected 16"):
        shipper_token(Settings(token_file=file("\nshort", "mine")))
    with pytest.raises(ConfigError, match="TOKENS, token 2: expected 16"):
        receiver_tokens(load({}, {"TOKENS": f"{WEB};short"}).settings)


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_token_file_that_everybody_can_read_is_warned_about(file, caplog, mode, warns):
    """A group may have it, a service's say; the warning says what to do and shows no token."""
    path = file(TOKENS)
    os.chmod(path, mode)
    Access(Settings(tokens_file=path), Counter())
    assert ("chmod 600" in caplog.text) == warns
    caplog.clear()
    os.chmod(ours := file(OURS, "mine"), mode)
    access = Access(Settings(tokens_file=path), Counter())  # a reload is no news
    os.utime(path, (1, 1))
    access.refresh()
    for _ in range(3):  # as a shipper does that connects again and again
        shipper_token(Settings(token_file=ours))
    assert caplog.text.count("chmod 600") == warns
    assert "0123456789" not in caplog.text


# At the receiver


async def answer_to(server, hello):
    """What a receiver says to a hello, and whether it then closes."""
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(encode_message(hello))
    try:
        answer = await next_message(reader)
        return {name: value for name, value in answer.items() if name != "crc"}
    finally:
        writer.close()


def test_identity_client_a_cannot_send_stream_b(run, file, caplog):
    """A bound token opens its own streams only, supersedes nobody with others, and the refused one learns no more."""

    async def scenario():
        async with receiver(tokens_file=file(TOKENS)) as server:
            _, owner = await asyncio.open_connection(*server.address)
            owner.write(encode_message(Hello(2, "db1", 1, token=OURS)))
            await eventually(lambda: server.metrics.sessions == 1)
            for token, reason in [(WEB, "stream"), (WRONG, "wrong_token"), (None, "no_token")]:
                refused = await answer_to(server, Hello(2, "db1", 1, token=token))
                assert refused == {"type": "error", "code": "unauthorized"}
                assert server.metrics.errors[f"unauthorized_{reason}"] == 1
            assert (await answer_to(server, Hello(2, "web1:1", 1, token=WEB)))["type"] == "welcome"
            await eventually(lambda: server.metrics.clients == 1)
            assert not owner.is_closing()
            assert server.metrics.sessions == 1
            owner.close()

    run(scenario)
    assert "bound to other streams" in caplog.text
    assert "0123456789" not in caplog.text
    assert WRONG not in caplog.text


def test_with_tokens_a_base_client_is_closed_before_its_payload(run, file):
    """A first frame other than hello is the end of the connection, by a reset, at its header; nothing is stored."""

    async def scenario():
        async with receiver(tokens_file=file(TOKENS)) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(encode_frame(b"[{}]", Algorithm.NONE)[:5])
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 60)
            writer.close()
            assert server.metrics.errors["unauthorized_base_client"] == 1
            assert server.metrics.in_flight_bytes == 0

    run(scenario)


@pytest.mark.parametrize(
    ("settings", "stored"),
    [({"base_clients": "allow", "tokens_file": True}, 1), ({"base_clients": "refuse"}, 0), ({}, 1)],
    ids=["allowed", "refused", "no tokens"],
)
def test_base_clients_may_be_allowed_or_refused(run, file, settings, stored):
    """BASE_CLIENTS decides, with tokens and without."""
    if settings.get("tokens_file"):
        settings = settings | {"tokens_file": file(TOKENS)}

    async def scenario():
        async with receiver(**settings) as server:
            await in_thread(exchange, server.address, encode_frame(b'[{"n":1}]', Algorithm.NONE))
            assert len(server.sink.items) == stored

    run(scenario)


def test_nothing_but_a_hello_comes_before_the_token(run, file):
    """A session's other messages do not get around it."""

    async def scenario():
        async with receiver(tokens_file=file(TOKENS)) as server:
            assert (await answer_to(server, Skip(1, 2, 0, "")))["code"] == "protocol"
            assert not server.sink.items

    run(scenario)


def test_tokens_are_taken_anew_when_their_file_changes(file, caplog):
    """A rotation needs no restart; a file that makes no sense changes nothing, and is said so and counted."""
    errors = Counter()
    path = file(OLD)
    access = Access(Settings(tokens_file=path), errors)
    file(f"{OLD}\n{OURS}\n")
    access.refresh()
    assert access.refusal(OURS, "web", "192.0.2.1") is None
    file("oops")
    access.refresh()
    access.refresh()
    assert access.refusal(OURS, "web", "192.0.2.1") is None
    assert errors["tokens_file"] == 1
    assert "those from before stay in use" in caplog.text
    os.remove(path)
    access.refresh()
    assert access.refusal(OURS, "web", "192.0.2.1") is None
    file(OURS)
    access.refresh()
    assert access.refusal(OLD, "web", "192.0.2.1") == "wrong_token"


def test_a_reload_takes_the_tokens_anew_or_nothing(file):
    """SIGHUP does not wait for a change to be seen, and a bad file fails the whole reload."""
    settings = Settings(tokens_file=file(OLD))
    access = Access(settings, Counter())
    file("oops")
    with pytest.raises(ConfigError, match="TOKENS_FILE"):
        access.prepare(settings)
    assert access.refusal(OLD, "web", "192.0.2.1") is None
    file(OURS)
    commit = access.prepare(settings)
    assert access.refusal(OURS, "web", "192.0.2.1") == "wrong_token"
    commit()
    assert access.refusal(OURS, "web", "192.0.2.1") is None
    Access(Settings(), Counter()).prepare(Settings())()


# Lockout


def test_an_address_that_guesses_is_locked_out_for_a_while():
    """At the limit, not before; by failures within a minute; only that address; then it may try again."""
    lockout = Lockout(3, 100.0)
    assert [lockout.failed("192.0.2.1", now) for now in (0.0, 50.0, 70.0, 71.0)] == [False] * 4
    assert not lockout.is_locked_out("192.0.2.1", 71.0)
    assert lockout.failed("192.0.2.1", 72.0)
    assert lockout.is_locked_out("192.0.2.1", 171.9)
    assert not lockout.is_locked_out("192.0.2.2", 80.0)
    assert not lockout.is_locked_out("192.0.2.1", 172.0)
    assert not lockout.failed("192.0.2.1", 173.0)


def test_failures_while_it_is_locked_out_change_nothing():
    """Those of connections that came before neither end the lockout nor make it longer."""
    lockout = Lockout(2, 100.0)
    assert [lockout.failed("192.0.2.1", now) for now in (0.0, 59.0, 61.0, 62.0, 150.0)] == [False, True] + [False] * 3
    assert lockout.is_locked_out("192.0.2.1", 158.9)
    assert not lockout.is_locked_out("192.0.2.1", 159.0)


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("127.0.0.1", None),
        ("127.8.8.8", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("?", "?"),
    ],
)
def test_what_counts_as_one_address(host, key):
    """Loopback is exempt, a mapped address is the IPv4 one, and of IPv6 a network is one."""
    assert address_key(host) == key


def test_the_lockout_remembers_so_many_addresses_and_no_more():
    """Its memory has a bound, whoever comes."""
    lockout = Lockout(2, 100.0)
    for number in range(MAX_ADDRESSES + 10):
        lockout.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(lockout._known) == MAX_ADDRESSES


def test_zero_failures_is_no_lockout():
    """Whoever wants none has none."""
    lockout = Lockout(0, 100.0)
    assert not any(lockout.failed("192.0.2.1", 0.0) for _ in range(100))
    assert not lockout.is_locked_out("192.0.2.1", 0.0)


def test_connections_of_a_locked_out_address_are_closed_at_once(run, file, monkeypatch, caplog):
    """Also one with the right token; it is counted, and said once."""
    monkeypatch.setattr("logbale.lockout.address_key", lambda host: host)  # loopback as if it were none

    async def scenario():
        async with receiver(tokens_file=file(TOKENS), lockout_failures=2) as server:
            for _ in range(2):
                await answer_to(server, Hello(2, "web", 1, token=WRONG))
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError, AssertionError, EOFError)):
                await answer_to(server, Hello(2, "web", 1, token=OURS))
            assert server.metrics.errors["locked_out"] == 1

    run(scenario)
    assert caplog.text.count("is locked out for 60 s: 2 wrong tokens") == 1


def test_connections_that_were_opened_before_are_no_further_guesses(run, file, monkeypatch):
    """What shows a token after the lockout began is not looked at, right or wrong."""
    monkeypatch.setattr("logbale.lockout.address_key", lambda host: host)

    async def scenario():
        async with receiver(tokens_file=file(TOKENS), lockout_failures=2) as server:
            opened = [await asyncio.open_connection(*server.address) for _ in range(4)]
            for (reader, writer), token in zip(opened, (WRONG, WRONG, WRONG, OURS), strict=True):
                writer.write(encode_message(Hello(2, "web", 1, token=token)))
                assert (await next_message(reader))["code"] == "unauthorized"
                writer.close()
            assert server.metrics.errors["unauthorized_wrong_token"] == 2
            assert server.metrics.errors["locked_out"] == 2

    run(scenario)


# At the shipper


def test_a_shipper_with_the_right_token_delivers(run, file):
    """From its file."""

    async def scenario():
        async with receiver(tokens_file=file(TOKENS)) as server:
            report = await shipper(server.address[1], Numbers(20), token_file=file(OURS, "mine")).run()
            assert report.delivered
            assert server.sink.numbers == list(range(20))

    run(scenario)


def test_a_shipper_takes_up_a_new_token_by_itself(run, file):
    """A wrong one is no end: what it read waits, and the right one in the file delivers it."""

    async def scenario():
        async with receiver(tokens_file=file(TOKENS)) as server:
            running = shipper(server.address[1], Numbers(20), token_file=file(WRONG, "mine"))
            run = asyncio.create_task(running.run())
            await eventually(lambda: running.snapshot().errors.get("unauthorized", 0) > 2)
            assert running.snapshot().waiting_entries
            assert running.snapshot().reconnects == 0  # it never was in
            file(OURS, "mine")
            report = await run
            assert (report.delivered, report.snapshot.reconnects) == (True, 0)
            assert server.sink.numbers == list(range(20))

    run(scenario)


# Settings


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "logs.example.org"])
def test_tokens_in_plain_off_loopback_refuse_to_start(host):
    """Configured to authenticate, but everybody on the way reads how; with TLS or on loopback they are safe."""
    for settings, refuse, way in [
        (Settings(server_host=host, tokens_file="x"), refuse_unsafe_receiver, "TLS_CERT_FILE"),
        (Settings(server_host=host, tokens=Secret(OURS)), refuse_unsafe_receiver, "TLS_CERT_FILE"),
        (Settings(server_host=host, token_file="x"), refuse_unsafe_shipper, "TLS_CA_FILE"),
        (Settings(server_host=host, token=Secret(OURS)), refuse_unsafe_shipper, "TLS_CA_FILE"),
    ]:
        if host in ("0.0.0.0", "::") and refuse is refuse_unsafe_shipper:  # to a shipper this means loopback
            refuse(settings)
            continue
        with pytest.raises(ConfigError, match=way):
            refuse(settings)
        refuse(msgspec.structs.replace(settings, tls_cert_file="x", tls_ca_file="system"))


def test_no_tokens_are_as_safe_as_they_look():
    """Nothing changes for those that use none."""
    refuse_unsafe_receiver(Settings())
    refuse_unsafe_shipper(Settings(server_host="logs.example.org"))


def test_a_token_without_a_session_refuses_to_start():
    """The base protocol has no place for it, so it would not be shown."""
    with pytest.raises(ConfigError, match="SESSION_MODE=on"):
        refuse_unsafe_shipper(Settings(session_mode="off", token_file="x"))


# Secrets


def test_secrets_do_not_show_themselves():
    """However a secret setting is printed; only reveal() gives it."""
    settings = load({}, {"TOKEN": OURS, "TOKENS": f"{OLD} web:*"}).settings
    for text in (repr(settings), str(settings.token), f"{settings.token:>40}", f"{settings.token!r}"):
        assert "0123456789" not in text
    assert reveal(settings.token) == OURS


def test_a_settings_file_is_no_place_for_secrets(tmp_path):
    """It is passed around; the message does not show what is in it."""
    path = tmp_path / "logbale.toml"
    path.write_text(f'token = "{OURS}"\n')
    with pytest.raises(ConfigError, match=r"TOKEN=.*TOKEN_FILE") as refused:
        load({}, {}, path)
    assert OURS not in str(refused.value)


def test_secrets_never_in_logs_arguments_tracebacks_metrics_or_the_configuration(tmp_path, file):
    """A session with a token, a refused one and a crash, in real processes: all that they say is searched."""
    secrets = {"TOKENS": f"{OURS}; {WEB} web:*", "TOKENS_FILE": file(OLD)}
    lines = tmp_path / "app.log"
    lines.write_text("one\ntwo\n")
    texts = []
    for environ in (secrets, {"TOKEN": OURS}):
        shown = logbale_run("config", "show", **environ)
        assert shown.stdout.count("(hidden)") == 1
        texts.append(shown.stdout + shown.stderr + logbale_run("config", "check", **environ).stderr)
    texts.append(logbale_run("receive", "--help").stdout + logbale_run("ship", "--help").stdout)
    options = ["receive", "--listen", "127.0.0.1:0", "--archive", tmp_path / "archive", "-v", "--dashboard"]
    metrics = free_port()
    options += ["--dashboard-port", "0", "--metrics-port", metrics]
    end = Process(tmp_path, *LOGBALE, *options, **secrets)
    try:
        port = end.says(r"listening on 127\.0\.0\.1:(\d+)")[1]
        page = end.says(r"dashboard on http://(\S+)/")[1]
        arguments = ["ship", "--once", "--to", f"127.0.0.1:{port}", lines, "-v", "--drain-timeout", "1"]
        arguments += ["--spool-dir", tmp_path / "spools"]
        delivered = logbale_run(*arguments, "--name", "right", TOKEN=OURS)
        assert delivered.returncode == 0, delivered.stderr
        refused = logbale_run(*arguments, "--name", "wrong", TOKEN=WRONG)
        assert refused.returncode == 69
        texts += [delivered.stdout + delivered.stderr, refused.stdout + refused.stderr]
        asked = [f"{page}/api/stats", f"{page}/api/clients", f"127.0.0.1:{metrics}/metrics"]
        texts += [urlopen(f"http://{url}", timeout=60).read().decode() for url in asked]
        assert 'reason="unauthorized_wrong_token"' in texts[-1]
        texts.append(Path(f"/proc/{end.process.pid}/cmdline").read_text())
    finally:
        end.end()
        end.process.communicate()
    texts.append(end.messages.read_text())
    crash = "from logbale.config import load; import os; s = load({}, os.environ).settings; raise RuntimeError(s)"
    texts.append(logbale_run(command=(LOGBALE[0], "-c", crash), **secrets).stderr)
    assert "RuntimeError: Settings(" in texts[-1]
    kept = [path for place in ("archive", "spools") for path in (tmp_path / place).rglob("*") if path.is_file()]
    assert len(kept) > 2
    texts += [path.read_bytes().decode("latin-1") for path in kept]
    assert not [text for text in texts if re.search(r"0123456789|not-a-token", text)]


# As users meet it


def test_a_shipper_with_a_wrong_token_says_so_and_keeps_its_spool(tmp_path, file):
    """Not sent, by number; why, and what to do; the same command with the right token delivers it."""
    lines = tmp_path / "app.log"
    lines.write_text("one\ntwo\n")
    options = ("receive", "--listen", "127.0.0.1:0", "--archive", tmp_path / "archive", "--tokens-file", file(TOKENS))
    with running(tmp_path, *options) as end:
        port = end.says(r"listening on 127\.0\.0\.1:(\d+)")[1]
        arguments = ["ship", "--once", "--to", f"127.0.0.1:{port}", lines, "--drain-timeout", "1"]
        spools = {"SPOOL_DIR": str(tmp_path / "spools")}
        for token in ({"TOKEN_FILE": file(WRONG, "mine")}, {}):
            refused = logbale_run(*arguments, **spools, **token)
            assert refused.returncode == 69
            assert "2 entries in 1 batch were not delivered" in refused.stderr
            assert "unauthorized" in refused.stderr
            assert "TOKEN_FILE" in refused.stderr
        end.says("unauthorized: it has none of this receiver's tokens")
        delivered = logbale_run(*arguments, **spools, TOKEN_FILE=file(OURS, "mine"))
        assert delivered.returncode == 0, delivered.stderr
        assert end.end() == 0
    assert [json.loads(line)["message"] for line in logbale_run("cat", tmp_path / "archive").stdout.splitlines()] == [
        "one",
        "two",
    ]


def test_tokens_off_loopback_travel_inside_tls(tmp_path, file):
    """With a certificate the same receiver starts; a right token delivers, a wrong one is told so, inside TLS too."""
    files = Certificates(tmp_path / "tls")
    lines = tmp_path / "app.log"
    lines.write_text("one\ntwo\n")
    pair = files.receiver()
    options = ["receive", "--listen", "0.0.0.0:0", "--archive", tmp_path / "archive", "--tokens-file", file(TOKENS)]
    options += ["--tls-cert-file", pair["tls_cert_file"], "--tls-key-file", pair["tls_key_file"]]
    with running(tmp_path, *options) as end:
        port = end.says(r"listening on 0\.0\.0\.0:(\d+) with TLS")[1]
        arguments = ["ship", "--once", "--to", f"localhost:{port}", lines, "--drain-timeout", "1"]
        arguments += ["--tls-ca-file", files.trust()["tls_ca_file"], "--spool-dir", tmp_path / "spools"]
        refused = logbale_run(*arguments, TOKEN=WRONG)
        assert refused.returncode == 69
        assert "does not take the token in TOKEN" in refused.stderr
        delivered = logbale_run(*arguments, TOKEN=OURS)
        assert delivered.returncode == 0, delivered.stderr
        assert end.end() == 0


@pytest.mark.parametrize("arguments", [("receive",), ("config", "check")])
def test_a_receiver_with_tokens_in_plain_refuses_to_start(tmp_path, file, arguments):
    """Exit code 78, and the message has the way out."""
    refused = logbale_run(*arguments, cwd=tmp_path, TOKENS_FILE=file(TOKENS))
    assert refused.returncode == 78
    assert "SERVER_HOST='0.0.0.0' and no TLS" in refused.stderr
    assert "TLS_CERT_FILE" in refused.stderr
    assert not (tmp_path / "archive").exists()
