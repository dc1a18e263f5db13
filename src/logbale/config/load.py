"""Settings from flags, environment and TOML file. A wrong value is refused with its name, its value, what was expected
and where it came from; all of them at once, one line each, and nothing is corrected silently.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from logbale.config.fields import SETTINGS, Setting
from logbale.config.secret import HIDDEN
from logbale.config.settings import Derived, Settings
from logbale.errors import ConfigError

log = logging.getLogger("logbale")

CONFIG_VARIABLE = "LOGBALE_CONFIG"
"""The environment variable that names the TOML file."""

_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_SHOWN = 80
"""Characters of a wrong value that a message repeats."""


class Loaded(msgspec.Struct, frozen=True):
    """Sound settings, and where each value came from."""

    settings: Settings
    origins: dict[str, str]
    """By field name, as messages say it: `--level`, `the environment`, `logbale.toml`, `the default`, or `the default
    with SESSION_MODE=on: …` where that decides."""
    given: frozenset[str]
    """The names that a flag, a variable or the file sets."""


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    file: Path | None = None,
    *,
    defaults: Mapping[str, object] = {},
    origins: Mapping[str, str] = {},
) -> Loaded:
    """The settings that these amount to.

    `flags` and `defaults` go by field name; a flag of None was not given, and an empty variable counts as unset.
    `file` is read where it is given or LOGBALE_CONFIG names one; what is wrong there is refused, though a variable or
    a flag stands in for it today. `defaults` replace declared ones. `origins` are the flags given of those settings
    that have several. Raises ConfigError with a line for each thing that is wrong.
    """
    problems: list[str] = []
    given: dict[str, tuple[object, str]] = {}
    if file is None and environ.get(CONFIG_VARIABLE):
        file = Path(environ[CONFIG_VARIABLE])
    in_file = _from_file(file, problems) if file is not None else {}
    for name in [name for name in in_file if SETTINGS[name].is_secret]:
        _, origin = in_file.pop(name)
        expected = f"it in the environment, or {name.upper()}_FILE"
        problems.append(wrong(name.upper(), HIDDEN, expected, origin))
    given |= in_file
    for name, setting in SETTINGS.items():
        if environ.get(setting.variable):
            given[name] = environ[setting.variable], "the environment"
        if flags.get(name) is not None:
            given[name] = flags[name], origins.get(name, setting.origin)
    values: dict[str, Any] = {}
    stated = {name: (value, "the default") for name, value in defaults.items()} | given
    overridden = {name: stated_there for name, stated_there in in_file.items() if stated[name] != stated_there}
    for name, (value, origin) in [*overridden.items(), *stated.items()]:
        try:
            values[name] = _convert(SETTINGS[name], value)
        except ValueError as error:
            problems.append(wrong(SETTINGS[name].variable, value, str(error), origin))
    settings = Settings(**values)
    came_from = {name: stated[name][1] if name in stated else "the default" for name in SETTINGS}
    for name, derived in _derived(settings, stated).items():
        settings = msgspec.structs.replace(settings, **{name: derived.default})
        came_from[name] = f"the default with {derived.condition}: {derived.why(settings)}"
    problems += _together(settings, came_from)
    if problems:
        raise ConfigError("\n".join(problems))
    for name, setting_name in mistyped(environ):
        log.warning("the environment has %s, which is no setting; is %s meant?", name, setting_name)
    return Loaded(settings, came_from, frozenset(given))


def check_together(settings: Settings) -> None:
    """Raises ConfigError where each value is sound and all of them together are not."""
    if problems := _together(settings, dict.fromkeys(SETTINGS, "what is in force until a restart")):
        raise ConfigError("\n".join(problems))


def _together(settings: Settings, origins: Mapping[str, str]) -> list[str]:
    """A line for each combination that is refused."""
    problems = []
    if settings.adaptive_min_level > settings.adaptive_max_level:
        expected = f"at most ADAPTIVE_MAX_LEVEL={settings.adaptive_max_level}"
        both = f"{origins['adaptive_min_level']}; ADAPTIVE_MAX_LEVEL from {origins['adaptive_max_level']}"
        problems.append(wrong("ADAPTIVE_MIN_LEVEL", settings.adaptive_min_level, expected, both))
    return problems


def _derived(settings: Settings, stated: Container[str]) -> dict[str, Derived]:
    """The defaults that these settings make others of, by the name of the setting that nothing states."""
    return {
        name: setting.derived
        for name, setting in SETTINGS.items()
        if setting.derived is not None
        and name not in stated
        and getattr(settings, setting.derived.setting) == setting.derived.value
    }


_NAMES = {*(setting.variable for setting in SETTINGS.values()), CONFIG_VARIABLE}
_LIKENESS = 0.9
"""By difflib, from which on a name counts as mistyped: a letter too many, missing, doubled or in the wrong place.

CI_SERVER_PORT (0.88) and SERVICE_PORT (0.87), which are others' and common, are below it.
"""


def mistyped(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Variables that look like one of ours and are none, each with the one that it looks like.

    A guess: names without an underscore are left alone, and so is what looks like a variable that is set too.
    """
    found = []
    for name in sorted(environ.keys() - _NAMES):
        if "_" in name and (candidates := [one for one in _NAMES if _may_be_like(name, one)]):
            import difflib  # not above: hardly any start needs it

            near = difflib.get_close_matches(name, candidates, n=1, cutoff=_LIKENESS)
            found += [(name, one) for one in near if one not in environ]
    return found


def _may_be_like(name: str, other: str) -> bool:
    """False only where the likeness is below _LIKENESS: that is the part of all letters that pair off."""
    unpaired = (1 - _LIKENESS) * (len(name) + len(other)) + 1e-6
    return abs(len(name) - len(other)) <= unpaired and len(set(name) ^ set(other)) <= unpaired


def only_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Of the environment what load() looks at."""
    return {name: value for name, value in environ.items() if name in _NAMES}


def wrong(name: str, value: object, expected: str, origin: str) -> str:
    """The line that refuses a value: `COMPRESSION_LEVEL='12': expected 1 to 9 (from the environment)`."""
    return f"{name}={_shown(value)}: expected {expected} (from {origin})"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _from_file(file: Path, problems: list[str]) -> dict[str, tuple[object, str]]:
    import tomllib  # not above: most starts read no file

    try:
        with file.open("rb") as opened:
            content = tomllib.load(opened)
    except OSError as error:
        raise ConfigError(f"{file}: cannot read the settings: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not a TOML file: {error}") from None
    for key in content:
        if key not in SETTINGS:
            import difflib

            near = difflib.get_close_matches(key.lower(), SETTINGS, n=1, cutoff=0.7)
            hint = f"did you mean {near[0]}?" if near else "`logbale config show` lists them, in capitals"
            if isinstance(content[key], dict):
                hint = "settings stand outside of [tables]"
            problems.append(f"{_shown(key)}: there is no such setting; {hint} (from {file})")
    return {key: (value, str(file)) for key, value in content.items() if key in SETTINGS}


def _convert(setting: Setting, value: object) -> Any:
    """The value as its type. Raises ValueError, saying what was expected."""
    if isinstance(value, str):
        value = _from_text(setting, value)
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(setting.allowed)
    try:
        converted = msgspec.convert(value, setting.annotation)
    except msgspec.ValidationError:
        raise ValueError(setting.allowed) from None
    return setting.check(converted) if setting.check else converted


def _from_text(setting: Setting, text: str) -> object:
    """What a flag or a variable says, in the setting's type but for the limits."""
    match setting.type:
        case inspect.BoolType():
            if (switch := _SWITCH.get(text.strip().lower())) is None:
                raise ValueError(setting.allowed)
            return switch
        case inspect.IntType():
            if not _INTEGER.fullmatch(text.strip()):
                raise ValueError(f"a whole number in digits, {setting.allowed}")
            return int(text)
        case inspect.FloatType():
            if not _NUMBER.fullmatch(text.strip()):
                raise ValueError(f"a number, {setting.allowed}")
            return float(text)
    return text
