"""Flags made from the settings, and help that keeps them in the settings' groups."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import inspect

from logbale.cli.output import start_log
from logbale.cli.running import exit_code
from logbale.config import (
    CONFIG_VARIABLE,
    SETTINGS,
    Loaded,
    Setting,
    connect_host,
    load,
    only_settings,
    split_address,
)
from logbale.config.credentials import dashboard_password
from logbale.errors import ConfigError

if TYPE_CHECKING:
    from logbale.dashboard_client import DashboardClient

log = logging.getLogger("logbale")


_GROUPS = {"receive": "The receiver", "archive": "The archiver"}
_OTHERS = {"receive": {"The shipper: batches"}, "archive": {"Both ends", "The receiver"}}
"""The groups of settings that are other ends' too: a command's help has them among its own."""
_RANGE = re.compile(r"\s+\[(?:([\d.]+)<=)?x(?:([<>]=)([\d.]+))?\]")


def _in_words(match: re.Match[str]) -> str:
    """` [0.2 to 3600]` for what click says as `[0.2<=x<=3600.0]`."""
    least, sign, other = match.groups()
    return f" [{least} to {float(other):g}]" if least else f" [{other} or {'more' if sign == '>=' else 'less'}]"


class Command(click.Command):
    """A command whose function returns its exit code; its help lists options by group, and examples as they are."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def invoke(self, ctx: click.Context) -> None:
        """Ends with the function's exit code, or that of the error it raised."""
        ctx.exit(exit_code(lambda: super(Command, self).invoke(ctx)))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = None if isinstance(parameter, click.Argument) else parameter.get_help_record(ctx)
            if record is not None:
                group = parameter.setting.group if isinstance(parameter, SettingOption | AddressOption) else "Options"
                if group in _OTHERS.get(self.name or "", ()):
                    group = _GROUPS[self.name or ""]
                groups.setdefault(group, []).append((record[0], _RANGE.sub(_in_words, record[1])))
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records, col_max=34)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, line by line."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")


class SettingOption(click.Option):
    """The flag of a setting. It takes any text: load() judges it, together with what came from elsewhere."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        # What an address or a list of names may be, its metavar does not say.
        values = f": {setting.allowed}" if setting.metavar in ("NAMES", "URL") else ""
        super().__init__(
            [*setting.flags, setting.name],
            default=None,
            metavar=_metavar(setting),
            help=f"{setting.description}{values} [{setting.variable}, default {setting.default_words or 'empty'}]",
        )


class AddressOption(click.Option):
    """The flag of host and port together, or, where `several` may be given, of several with commas."""

    setting = SETTINGS["server_host"]

    def __init__(self, flag: str, text: str, *, several: bool = False) -> None:
        self._several = several
        more = ", several with commas" if several else ""
        names = "SERVER_HOST, SERVER_PORT" + (", RECEIVERS" if several else "")
        super().__init__(
            [flag, "address"],
            metavar="HOST:PORT" + ("[,…]" if several else ""),
            help=f"{text}; HOST alone or :PORT will do, IPv6 in brackets: [::1]:5000{more} [{names}]",
        )

    def settings(self, text: str) -> dict[str, str | None]:
        """What it sets; one address is the only one, whatever a file or a variable says of several."""
        if not text:
            raise ValueError("HOST:PORT, HOST or :PORT")  # an empty variable's default would be somebody else's
        if self._several and "," in text:
            return {"receivers": text}
        host, port = split_address(text)
        return {"server_host": host or None, "server_port": port or None} | ({"receivers": ""} if self._several else {})


def _metavar(setting: Setting) -> str | None:
    match setting.type:
        case inspect.BoolType():
            return None
        case inspect.LiteralType(values=values):
            return "|".join(map(str, values))
    return setting.metavar or "N"


def setting_options(command: str) -> list[click.Option]:
    """The flags of a command's settings but for the address."""
    return [
        SettingOption(setting)
        for setting in SETTINGS.values()
        if command in setting.commands and not setting.is_address
    ]


def named_setting_options(*names: str) -> list[click.Option]:
    """The flags of these settings."""
    return [SettingOption(SETTINGS[name]) for name in names]


def config_option() -> click.Option:
    """--config FILE."""
    return click.Option(
        ["--config"],
        metavar="FILE",
        type=click.Path(path_type=Path),
        help=f"TOML file with settings, names in lower case [{CONFIG_VARIABLE}]",
    )


def log_options() -> list[click.Option]:
    """-v and -q, which set `message_level` as --log-level does."""
    return [
        click.Option(["-v", "--verbose"], is_flag=True, help="The same as --log-level debug"),
        click.Option(["-q", "--quiet"], is_flag=True, help="The same as --log-level warning, and no table at the end"),
    ]


def start(given: dict[str, Any], config: Path | None) -> Callable[[], Loaded]:
    """Starts the log of a command with log_options; what it returns loads its settings, again at each SIGHUP."""
    verbose, quiet = given.pop("verbose"), given.pop("quiet")
    if (given["message_level"] is not None) + verbose + quiet > 1:
        raise click.UsageError("--log-level, -v and -q say the same thing: give one of them.")
    if verbose or quiet:
        given["message_level"] = "debug" if verbose else "warning"
    start_log("info")
    return loader(click.get_current_context().command.name or "", given, config)


def loader(
    command: str,
    given: Mapping[str, Any] = {},
    config: Path | None = None,
    *,
    defaults: Mapping[str, object] = {},
) -> Callable[[], Loaded]:
    """Loads a command's settings again and again: the file is read anew, flags and environment stay.

    Raises ConfigError, and the first time UsageError for flags that do nothing.
    """
    environ: Mapping[str, str] = dict(os.environ)
    is_first = True

    def load_now() -> Loaded:
        nonlocal environ, is_first
        loaded = load_settings(given, config, environ=environ, defaults=defaults)
        environ = only_settings(environ)  # what may be mistyped is pointed out once
        if is_first:
            point_out_idle(loaded, command, given)
            is_first = False
        return loaded

    return load_now


def point_out_idle(loaded: Loaded, command: str, given: Mapping[str, Any] = {}) -> None:
    """Warns of settings that do nothing beside the others. Raises UsageError where they were `given` as flags."""
    from logbale.config.idle import idle

    refused = []
    for found in idle(loaded, command):
        if flags := [SETTINGS[name].flags[-1].split("/")[0] for name in found.names if given.get(name) is not None]:
            refused.append(f"{_do_nothing(flags)} {found.why}.")
        elif found.is_excluded and (names := [name for name in found.names if _is_set(loaded, name)]):
            origins = ", ".join(sorted({loaded.origins[name] for name in names}))
            log.warning("%s %s (from %s)", _do_nothing([name.upper() for name in names]), found.why, origins)
    if refused:
        raise click.UsageError(" ".join(refused))


def _is_set(loaded: Loaded, name: str) -> bool:
    """Whether it says anything: a file may list everything with its default."""
    return bool(getattr(loaded.settings, name) != SETTINGS[name].default)


def _do_nothing(names: list[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last} do nothing" if most else f"{last} does nothing"


def load_settings(
    given: Mapping[str, Any],
    config: Path | None,
    *,
    environ: Mapping[str, str] = os.environ,
    defaults: Mapping[str, object] = {},
) -> Loaded:
    """The settings with the flags that were given. Raises ConfigError."""
    flags = {name: given.get(name) for name in SETTINGS}
    origins: dict[str, str] = {}
    if given.get("address") is not None:
        parameters = click.get_current_context().command.params
        flag = next(option for option in parameters if isinstance(option, AddressOption))
        try:
            flags |= flag.settings(given["address"])
        except ValueError as error:
            raise ConfigError(f"{flag.opts[0]} {given['address']!r}: expected {error}") from None
        origins = dict.fromkeys(("server_host", "server_port", "receivers"), flag.opts[0])
    return load(flags, environ, config, defaults=defaults, origins=origins)


def dashboard_at(address: str | None, config: Path | None, **given: str | None) -> DashboardClient:
    """The dashboard of a receiver; where no address is given, the settings'. `given` are flags. Raises ConfigError."""
    from logbale.dashboard_client import DashboardClient
    from logbale.tls.material import page_is_encrypted, trusting

    settings = load_settings(given, config).settings
    is_encrypted = not address and page_is_encrypted(settings)
    client = DashboardClient(
        address or "",
        host=connect_host(settings.dashboard_host),
        port=settings.dashboard_port,
        scheme="https" if is_encrypted else "http",
        password=dashboard_password(settings),
        tls=lambda: trusting(settings.tls_ca_file),
    )
    if given.get("tls_ca_file") is not None and not client.is_encrypted:
        https = client.name.replace("http:", "https:", 1)
        raise click.UsageError(f"--tls-ca-file is for https: leave it out, or write {https}")
    return client
