"""A receiver that its settings make a relay: what it refuses to start with, and how it stops."""

import asyncio
import io
import logging
from time import monotonic

import pytest
from cli_process import logbale_run
from relay_items import batch, upstream
from test_relay import Upstream

from logbale import failover
from logbale.config import Settings
from logbale.errors import ConfigError
from logbale.log_receiver import LogReceiver
from logbale.relay import forwarding
from logbale.relay.upstream import relay_sink, upstream_settings


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Reconnects do not wait."""
    monkeypatch.setattr(failover, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(forwarding, "LOOK_INTERVAL", 0.01)


def test_upstream_it_is_a_shipper_with_a_certificate_of_its_own():
    """What it has as a receiver is not what it shows there; its ports are its own, too."""
    settings = Settings(
        sink="console,logbale://[::1]:5001",
        server_host="10.1.0.5",
        tls_cert_file="receiver.pem",
        tls_key_file="receiver.key",
        tls_ca_file="far-ca.pem",
        relay_cert_file="relay.pem",
        relay_key_file="relay.key",
        metrics_port=9000,
        dashboard_enabled=True,
    )
    assert relay_sink(settings) == "logbale://[::1]:5001"
    there = upstream_settings(settings)
    assert (there.server_host, there.server_port) == ("::1", 5001)
    assert (there.tls_cert_file, there.tls_key_file, there.tls_ca_file) == ("relay.pem", "relay.key", "far-ca.pem")
    assert (there.metrics_port, there.dashboard_enabled, there.session_mode) == (0, False, "on")
    assert upstream_settings(Settings(sink="logbale://far")).server_port == 5000
    assert relay_sink(Settings()) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"spool_policy": "drop_oldest"}, r"SPOOL_POLICY='drop_oldest' with SINK=.*a relay drops nothing"),
        ({"relay_cert_file": "relay.pem"}, r"RELAY_CERT_FILE='relay.pem' without TLS_CA_FILE"),
        ({"token_file": "token"}, r"TOKEN_FILE with SERVER_HOST='far.example.org' and no TLS"),
        ({"tls_ca_file": "no-such-file"}, r"TLS_CA_FILE='no-such-file': cannot be read"),
    ],
)
def test_what_is_not_safe_or_makes_no_sense_is_refused_at_the_start(run, tmp_path, given, said):
    """Before it listens, and before it has made a directory."""
    settings = Settings(
        server_host="127.0.0.1",
        server_port=0,
        sink="logbale://far.example.org:5000",
        relay_dir=str(tmp_path / "relay"),
        **given,
    )

    async def scenario():
        with pytest.raises(ConfigError, match=said):
            await LogReceiver(settings, out=io.StringIO()).start()

    run(scenario)
    assert not (tmp_path / "relay").exists()


def test_config_check_knows_a_relay():
    """What it would refuse to start with is said there, too; what is sound passes."""
    sound = logbale_run("config", "check", SINK="logbale://far.example.org:5000")
    assert sound.returncode == 0, sound.stderr
    refused = logbale_run("config", "check", SINK="logbale://far.example.org:5000", SPOOL_POLICY="drop_oldest")
    assert refused.returncode == 78
    assert "a relay drops nothing" in refused.stderr


def end(tmp_path, port, **settings):
    given = {"server_host": "127.0.0.1", "server_port": 0, "relay_dir": str(tmp_path / "relay")}
    return LogReceiver(Settings(sink=f"logbale://127.0.0.1:{port}", **(given | settings)), out=io.StringIO())


@pytest.mark.parametrize("how", ["away", "stuck", "asked twice"])
def test_a_stop_is_bounded_and_says_what_is_left(run, tmp_path, caplog, how):
    """Where upstream is away, at once; where it takes nothing, after DRAIN_TIMEOUT or a second stop."""

    async def scenario():
        there = Upstream()
        there.open.clear()
        async with upstream(there) as server:
            port = 1 if how == "away" else server.address[1]
            relay = end(tmp_path, port, drain_timeout=0.5 if how == "stuck" else 60)
            await relay.start()
            await relay._relay.sink.commit([batch(number) for number in (1, 2, 3)])
            running = asyncio.create_task(relay.run())
            await asyncio.sleep(0.2)
            began = monotonic()
            relay.stop()
            if how == "asked twice":
                relay.stop()
            assert await running == 0
            assert monotonic() - began < 30
            there.open.set()

    with caplog.at_level(logging.INFO):
        run(scenario)
    assert f"3 entries of 1 stream wait in {tmp_path / 'relay'} for 127.0.0.1:" in caplog.text
    assert "the next start forwards them" in caplog.text


def test_a_stop_forwards_what_there_is_time_for(run, tmp_path, caplog):
    """And then there is nothing to say."""

    async def scenario():
        async with upstream(Upstream()) as server:
            relay = end(tmp_path, server.address[1])
            await relay.start()
            running = asyncio.create_task(relay.run())
            await relay._relay.sink.commit([batch(number, f"s{k}:1") for k in range(100) for number in (1, 2)])
            relay.stop()
            assert await running == 0
            assert all(server.sink.came(f"s{k}:1") == [1, 2] for k in range(100))
            assert relay.snapshot().relay.waiting_entries == 0

    run(scenario)
    assert "the next start" not in caplog.text
