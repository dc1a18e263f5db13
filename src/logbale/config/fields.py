"""The declarations of settings.py as data: what flags, documents and messages need to know of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec
from msgspec import inspect

from logbale.config.settings import Derived, Settings


class Setting(msgspec.Struct, frozen=True):
    """One declaration, as flags, documents and messages need it."""

    name: str
    """The field's name, which is also its key in the TOML file."""
    type: inspect.Type
    """Without the metadata that the other fields hold."""
    annotation: Any
    default: Any
    description: str
    group: str
    commands: tuple[str, ...]
    """The commands that have a flag for it."""
    flags: tuple[str, ...]
    """Its flags, the shortest last; a switch's as click wants them, `--adaptive/--no-adaptive`."""
    allowed: str
    """The values that it takes, in words."""
    is_address: bool
    """Whether host and port share one flag."""
    metavar: str | None
    """What stands for its value in help; None where the allowed values say it."""
    check: Callable[[str], str] | None
    """What a text must pass beside its type; see settings.py."""
    is_secret: bool
    """From the environment alone, and never shown."""
    derived: Derived | None
    """The default that takes the place of `default` under a condition."""
    live: str | None
    """For what SIGHUP changes it: `at once`, `new connections`; None where it needs a restart."""

    @property
    def is_live(self) -> bool:
        """Whether it changes at run time."""
        return self.live is not None

    @property
    def variable(self) -> str:
        """The environment variable."""
        return self.name.upper()

    @property
    def default_text(self) -> str:
        """The default as an environment variable would say it."""
        return as_text(self.default)

    @property
    def default_words(self) -> str:
        """The default for people, what holds without any setting first: `zstd; gzip without SESSION_MODE=on`."""
        if self.derived is None:
            return self.default_text
        derived, condition = as_text(self.derived.default), self.derived.condition
        if SETTINGS[self.derived.setting].default == self.derived.value:
            return f"{derived}; {self.default_text} without {condition}"
        return f"{self.default_text}; {derived} with {condition}"

    @property
    def origin(self) -> str:
        """A flag's name in messages."""
        return " or ".join(self.flags) if self.is_address else self.flags[-1]


def as_text(value: object) -> str:
    """A setting's value as an environment variable would say it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _setting(field: inspect.Field, annotation: Any) -> Setting:
    assert isinstance(field.type, inspect.Metadata)
    extra: dict[str, Any] = field.type.extra or {}
    stem = field.name.removesuffix("_enabled").replace("_", "-")
    if extra.get("secret"):
        flags: tuple[str, ...] = ()
    elif extra.get("address"):
        flags = extra.get("flags", ("--listen", "--to"))
    elif isinstance(field.type.type, inspect.BoolType):
        flags = (f"--{stem}/--no-{stem}",)
    else:
        flags = (f"--{stem}", *extra.get("flags", ()))
    return Setting(
        name=field.name,
        type=field.type.type,
        annotation=annotation,
        default=field.default,
        description=(field.type.extra_json_schema or {})["description"],
        group=extra["group"],
        commands=() if extra.get("secret") else extra["commands"],
        flags=flags,
        allowed=extra.get("allowed") or _allowed(field.type.type),
        is_address=extra.get("address", False),
        metavar=extra.get("metavar"),
        check=extra.get("check"),
        is_secret=extra.get("secret", False),
        derived=extra.get("derived"),
        live=extra.get("live"),
    )


def _allowed(kind: inspect.Type) -> str:
    match kind:
        case inspect.LiteralType(values=values):
            *most, last = values
            return f"{', '.join(map(str, most))} or {last}"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType() | inspect.FloatType():
            least = f"over {kind.gt:g}" if kind.gt is not None else f"{kind.ge} or more"
            if kind.le is None:
                return least
            return f"{kind.ge} to {kind.le}" if kind.gt is None else f"{least}, at most {kind.le}"
    raise TypeError(f"{kind}: no words for this type")


_annotations = get_type_hints(Settings, include_extras=True)

SETTINGS: dict[str, Setting] = {
    field.name: _setting(field, _annotations[field.name])
    for field in inspect.type_info(Settings).fields  # type: ignore[attr-defined]  # of a struct, a StructType
}
"""Every declaration by name, in order."""
