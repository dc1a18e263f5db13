"""logbale config: the settings in effect, and whether they are sound."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from logbale.cli.options import Command, config_option, load_settings
from logbale.cli.output import complain, write
from logbale.config import SETTINGS
from logbale.config.exposure import refuse_unsafe_receiver, refuse_unsafe_shipper
from logbale.config.fields import as_text
from logbale.relay.upstream import relay_sink, upstream_settings


@click.group(short_help="Show or check the settings")
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
    logbale config check --config /etc/logbale.toml && systemctl restart logbale
    """,
    params=[config_option()],
)
def check(config: Path | None) -> int:
    """Ends with 0 where all settings are sound, with 78 and a line for each that is not otherwise."""
    loaded = load_settings({}, config)
    refuse_unsafe_receiver(loaded.settings)
    if relay_sink(loaded.settings) is not None:
        upstream_settings(loaded.settings)
    else:
        refuse_unsafe_shipper(loaded.settings)
    complain(f"the settings are sound; {len(loaded.given)} of {len(SETTINGS)} are set, the others have their defaults")
    return 0
