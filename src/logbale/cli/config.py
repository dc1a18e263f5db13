"""logbale config: the settings in effect, and whether they are sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from logbale.cli.group import Group
from logbale.cli.options import Command, config_option, load_settings, point_out_idle
from logbale.cli.output import complain, write
from logbale.config import SETTINGS, Settings
from logbale.config.credentials import dashboard_password, receiver_tokens, shipper_token
from logbale.config.exposure import refuse_unsafe_receiver, refuse_unsafe_shipper, warn_of_open_receiver
from logbale.config.fields import as_text
from logbale.errors import ConfigError
from logbale.relay.upstream import relay_sink, upstream_settings
from logbale.tls.files import for_receiver, for_shipper
from logbale.tls.material import receiver_files, shipper_files


def _as_receiver(settings: Settings) -> None:
    """Raises ConfigError where a receiver would not start."""
    refuse_unsafe_receiver(settings)
    for_receiver(settings)
    receiver_tokens(settings)
    if settings.dashboard_enabled:
        dashboard_password(settings)
    if relay_sink(settings) is not None:
        for_shipper(upstream_settings(settings))
    warn_of_open_receiver(settings)


def _as_shipper(settings: Settings) -> None:
    """Raises ConfigError where a shipper would not start."""
    refuse_unsafe_shipper(settings)
    for_shipper(settings)
    shipper_token(settings)
    if settings.server_port == 0:
        raise ConfigError("SERVER_PORT=0: expected the port of a receiver, 1 to 65535")


_ENDS = {"receive": _as_receiver, "ship": _as_shipper}
_COMBINATIONS: dict[str, Callable[[Settings], object]] = {"receive": receiver_files, "ship": shipper_files}
"""What each end's TLS settings amount to, without a look into files."""


def _refusal(look: Callable[[Settings], object], settings: Settings) -> str | None:
    try:
        look(settings)
    except ConfigError as error:
        return str(error)
    return None


@click.group(cls=Group, short_help="Show or check the settings")
def config() -> None:
    """Shows or checks the settings, from the environment and a TOML file."""


@config.command(
    cls=Command,
    examples="""
    logbale config show
    BATCH_SIZE=500 logbale config show --config logbale.toml
    """,
    params=[config_option()],
)
def show(config: Path | None) -> int:
    """Prints each setting's value in effect, and where it came from."""
    from logbale.spool import spool_root

    loaded = load_settings({}, config)
    values, origins = msgspec.structs.asdict(loaded.settings), dict(loaded.origins)
    if not values["spool_dir"]:
        values["spool_dir"] = spool_root()
        origins["spool_dir"] += ": where programs of this user keep their state"
    lines = [(f"{name.upper()}={as_text(value)}", origins[name]) for name, value in values.items()]
    width = max(len(assignment) for assignment, _ in lines)
    write("".join(f"{assignment:<{width}}  # {origin}\n" for assignment, origin in lines).encode())
    return 0


@config.command(
    cls=Command,
    examples="""
    logbale config check receive --config /etc/logbale.toml && systemctl restart logbale-receiver
    logbale config check                           the settings alone, whichever end they are for
    """,
    params=[click.Argument(["end"], required=False, type=click.Choice(list(_ENDS))), config_option()],
)
def check(config: Path | None, end: str | None) -> int:
    """Ends with 0 where all settings are sound, with 78 and a line for each that is not otherwise.

    With receive or ship they are judged as that command does when it starts, the files of TLS, tokens and the password
    included. Without, they must be sound for one of the two, and what the other would not start with is said.
    """
    loaded = load_settings({}, config)
    settings = loaded.settings
    if end is not None:
        _ENDS[end](settings)
        point_out_idle(loaded, end)
    else:
        refuse_unsafe_receiver(settings)
        if relay_sink(settings) is not None:
            upstream_settings(settings)
        else:
            refuse_unsafe_shipper(settings)
        refusals = [(other, why) for other, look in _COMBINATIONS.items() if (why := _refusal(look, settings))]
        if len(refusals) == len(_COMBINATIONS):
            raise ConfigError("\n".join(dict.fromkeys(why for _, why in refusals)))
        for other, why in refusals:
            complain(f"`logbale {other}` would not start with them: {why}")
    complain(f"the settings are sound; {len(loaded.given)} of {len(SETTINGS)} are set, the others have their defaults")
    return 0
