"""A relay's settings as the shipper that it is to its receiver."""

from __future__ import annotations

import msgspec

from logbale.config import Settings, relay_address, sink_names
from logbale.config.exposure import refuse_unsafe_shipper
from logbale.config.settings import RELAY
from logbale.errors import ConfigError


def relay_sink(settings: Settings) -> str | None:
    """The name of the sink that is another receiver, where there is one."""
    return next((name for name in sink_names(settings.sink) if name.startswith(RELAY)), None)


def upstream_settings(settings: Settings) -> Settings:
    """Of the relay's settings those of a shipper, to the receiver that SINK names.

    TLS_CERT_FILE is the relay's own, as a receiver; what it shows upstream is RELAY_CERT_FILE. Raises ConfigError where
    they would not be safe, or ask for what no relay does.
    """
    name = relay_sink(settings)
    assert name is not None, "asked for a relay only"
    host, port = relay_address(name)
    if settings.spool_policy != "block":
        raise ConfigError(
            f"SPOOL_POLICY={settings.spool_policy!r} with SINK={settings.sink!r}: a relay drops nothing that it has "
            "acknowledged; leave it at block: the origins' own spools wait while this one is full"
        )
    if (settings.relay_cert_file or settings.relay_key_file) and not settings.tls_ca_file:
        raise ConfigError(
            f"RELAY_CERT_FILE={settings.relay_cert_file!r} without TLS_CA_FILE: a certificate is shown in TLS alone; "
            "set TLS_CA_FILE to the CAs of the receiver upstream, or to system"
        )
    upstream = msgspec.structs.replace(
        settings,
        server_host=host,
        server_port=port,
        receivers="",
        session_mode="on",
        tls_cert_file=settings.relay_cert_file,
        tls_key_file=settings.relay_key_file,
        dashboard_enabled=False,
        dashboard_tls="off",
        metrics_port=0,
    )
    refuse_unsafe_shipper(upstream)
    return upstream
