"""Settings that do nothing because of what others say: nobody should learn that from what did not happen.

A flag is refused. What the environment or a file says is warned of once, where another choice excludes it; where merely
a switch is off, it may wait there for that to be turned on, and where it is for the other end too, it is used there.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from logbale.config.fields import SETTINGS
from logbale.config.load import Loaded
from logbale.config.settings import RELAY, Settings, sink_names
from logbale.kafka.address import SCHEME


class Idle(msgspec.Struct, frozen=True):
    """Settings, and when a command that has flags for them does nothing with them."""

    names: tuple[str, ...]
    when: Callable[[Settings], bool]
    why: Callable[[Settings], str]
    """`with …` or `without …`."""
    is_excluded: bool = False
    """By a choice that was made, which is worth a warning; else only flags are looked at."""
    commands: tuple[str, ...] = ("receive", "ship", "archive")


def _stores(settings: Settings, *beginnings: str) -> bool:
    return any(name.startswith(beginnings) for name in sink_names(settings.sink))


def _is_off(settings: Settings) -> bool:
    return not settings.compression_enabled or settings.compression_algorithm == "none"


def _without_compression(settings: Settings) -> str:
    return f"with {'COMPRESSION_ALGORITHM=none' if settings.compression_enabled else 'COMPRESSION_ENABLED=false'}"


_ADAPTIVE = ("adaptive_policy", "adaptive_min_level", "adaptive_max_level", "adaptive_check_interval")
_RELAY = ("relay_dir", "relay_connections", "relay_cert_file", "relay_key_file")
_UPSTREAM = ("spool_max_bytes", "token_file", "tls_ca_file")
_PAGE = ("dashboard_port", "dashboard_max_viewers", "dashboard_password_file", "dashboard_open")

_IDLE = (
    Idle(
        ("archive_dir", "archive_retention_seconds", "archive_retention_bytes"),
        lambda s: not _stores(s, "archive"),
        lambda s: f"with SINK={s.sink}, where no archive is kept",
        is_excluded=True,
        commands=("receive",),
    ),
    Idle(
        ("archive_segment_bytes", "archive_segment_seconds"),
        lambda s: not _stores(s, "archive"),
        lambda s: f"with SINK={s.sink}, where no archive is kept",
        commands=("receive",),
    ),
    Idle(
        ("marks_days",),
        lambda s: not _stores(s, "archive", RELAY),
        lambda s: f"with SINK={s.sink}, which remembers no streams from one start to the next",
        commands=("receive",),
    ),
    Idle(
        ("kafka_format", "kafka_config_file"),
        lambda s: not _stores(s, SCHEME),
        lambda s: f"with SINK={s.sink}: that is for kafka://BROKER[:PORT],…/TOPIC",
        commands=("receive",),
    ),
    Idle(
        (*_RELAY, *_UPSTREAM),
        lambda s: not _stores(s, RELAY),
        lambda s: f"with SINK={s.sink}: that is for a relay, whose SINK is logbale://HOST:PORT",
        commands=("receive",),
    ),
    Idle(
        _PAGE,
        lambda s: not s.dashboard_enabled,
        lambda s: "without --dashboard (DASHBOARD_ENABLED=true)",
        commands=("receive",),
    ),
    Idle(
        ("latency_target", "dashboard_host", "dashboard_max_connections", "dashboard_tls"),
        lambda s: not s.is_observed,
        lambda s: "without --dashboard (DASHBOARD_ENABLED=true) or --metrics-port (METRICS_PORT)",
        commands=("receive",),
    ),
    Idle(
        ("dashboard_host", "dashboard_max_connections", "dashboard_tls"),
        lambda s: not s.metrics_port,
        lambda s: "without --metrics-port (METRICS_PORT)",
        commands=("ship", "archive"),
    ),
    Idle(
        ("lockout_failures", "lockout_seconds"),
        lambda s: not (s.has_tokens or (s.dashboard_enabled and s.dashboard_password_file)),
        lambda s: "without TOKENS_FILE and without a dashboard that has a password: there is nothing to guess",
        commands=("receive",),
    ),
    Idle(
        ("batch_linger", "window_bytes", "return_interval", "compression_context"),
        lambda s: s.session_mode == "off",
        lambda s: "with SESSION_MODE=off, which has no session",
        is_excluded=True,
        commands=("ship",),
    ),
    Idle(
        ("spool_max_bytes",),
        lambda s: s.spool_dir == "off",
        lambda s: "with SPOOL_DIR=off: batches are kept in memory, BUFFER_MAX_BYTES of them",
        is_excluded=True,
        commands=("ship",),
    ),
    Idle(
        ("compression_level",),
        lambda s: s.adaptive_enabled and s.adaptive_policy == "balanced" and not _is_off(s),
        lambda s: "with ADAPTIVE_ENABLED=true, which chooses it between ADAPTIVE_MIN_LEVEL and ADAPTIVE_MAX_LEVEL",
        is_excluded=True,
        commands=("ship",),
    ),
    Idle(
        _ADAPTIVE,
        lambda s: not s.adaptive_enabled and not _is_off(s),
        lambda s: "without --adaptive (ADAPTIVE_ENABLED=true)",
        commands=("ship",),
    ),
    Idle(
        ("compression_level", "compression_context", "bypass_threshold", "adaptive_enabled", *_ADAPTIVE),
        _is_off,
        _without_compression,
        is_excluded=True,
        commands=("ship",),
    ),
    Idle(
        ("compression_algorithm",),
        lambda s: not s.compression_enabled and s.compression_algorithm != "none",
        _without_compression,
        is_excluded=True,
        commands=("ship",),
    ),
)


class Found(msgspec.Struct, frozen=True):
    """Settings that were given and do nothing."""

    names: list[str]
    why: str
    is_excluded: bool


def idle(loaded: Loaded, command: str) -> list[Found]:
    """What of the settings that something sets does nothing for this command; a switch that is off is none of them."""
    found = []
    for rule in _IDLE:
        if command in rule.commands and rule.when(loaded.settings):
            given = [
                name
                for name in rule.names
                if name in loaded.given
                and command in SETTINGS[name].commands
                and getattr(loaded.settings, name) is not False
            ]
            if given:
                found.append(Found(given, rule.why(loaded.settings), rule.is_excluded))
    return found
