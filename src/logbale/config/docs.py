""".env.example and docs/settings.md, made from the declarations; `python -m logbale.config` writes them anew."""

from __future__ import annotations

from itertools import groupby

from logbale.config.fields import SETTINGS, Setting
from logbale.config.settings import KiB, MiB

_ENV_HEAD = """\
# Every setting with its default. docker-compose reads a copy of this file named .env; for a shell:
#
#     cp .env.example .env, edit it, then: set -a; . ./.env; set +a
#
# An empty value counts as unset. Made from the settings by `python -m logbale.config`: change them there.
"""

_DOCS_HEAD = """\
# Settings

Each setting is an environment variable, a flag, and a key of the TOML file that `--config FILE` (or LOGBALE_CONFIG)
names. A flag beats the environment, which beats the file, which beats the default. In the file the names are in lower
case:

    server_port = 5001
    compression_algorithm = "zstd"

An environment variable that is empty counts as unset. Switches take true, false, 1, 0, yes, no, on and off. A wrong
value, and a name in the file that is no setting, end the program with exit code 78 and a line that says what was
expected and where the value came from. `logbale config show` prints the values in effect and their origins,
`logbale config check` only whether they are sound, and `logbale config check receive` (or `ship`) whether that command
would start with them.

A flag that would do nothing beside the others, such as `--archive` with `--sink kafka://…` or `--level` with
`--adaptive`, is wrong usage (exit code 2). A variable or a line of the file that another choice excludes is warned of
at the start; what only waits for a switch, or is for the other end, is not.

SIGHUP reads the file again; flags and environment stay as they were at the start. The new settings are loaded and
checked as a whole: where anything is wrong, nothing changes and an ERROR says what. Otherwise those that the tables
call *at once* hold from then on, those of *new connections* for what connects after it, and a WARNING names the others,
which need a restart.

`server_main.py` and `client_main.py` take environment variables alone; `server_main.py` has SINK=archive,console as its
default.

<!-- The tables are made from the settings by `python -m logbale.config`: change them there. -->
"""


def env_example() -> str:
    """The text of .env.example."""
    lines = [_ENV_HEAD]
    for group, settings in groupby(SETTINGS.values(), key=lambda setting: setting.group):
        lines.append(f"\n# ---- {group} ----\n")
        for setting in settings:
            lines.append(f"\n# {setting.description} ({setting.allowed})\n")
            if setting.derived is not None:
                lines.append(f"# Unset, it is {setting.derived.default} with {setting.derived.condition}.\n")
            lines.append(f"#{setting.variable}={setting.default_text}\n")
    return "".join(lines)


def settings_page() -> str:
    """The text of docs/settings.md."""
    lines = [_DOCS_HEAD]
    for group, settings in groupby(SETTINGS.values(), key=lambda setting: setting.group):
        lines.append(
            f"\n## {group}\n\n| variable | flag | default | values | SIGHUP | meaning |\n"
            "| --- | --- | --- | --- | --- | --- |\n"
        )
        for setting in settings:
            cells = (
                f"`{setting.variable}`",
                _flags(setting),
                _default(setting),
                setting.allowed,
                setting.live or "restart",
                setting.description,
            )
            lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def _flags(setting: Setting) -> str:
    if setting.is_address:
        commands = {"--listen": "receive", "--to": "ship"}
        return ", ".join(f"`{commands[flag]} {flag}`" for flag in setting.flags)
    return ", ".join(f"`{flag}`" for flag in reversed(setting.flags)) or "none"


def _default(setting: Setting) -> str:
    """With binary units where they are rounder than the digits."""
    if setting.metavar == "BYTES" and setting.default:
        for unit, name in ((MiB, "MiB"), (KiB, "KiB")):
            if setting.default % unit == 0:
                return f"{setting.default} ({setting.default // unit} {name})"
    return setting.default_words
