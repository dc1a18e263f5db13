"""A change of settings while an end runs: all of it or none. It decides nothing and reads no file.

A part of an end that follows its settings says how in two steps, so that whatever can fail fails before anything has
changed: it prepares, and what it returns puts that into force.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from logbale.config import SETTINGS, Settings, check_together

Prepare = Callable[[Settings], Callable[[], None]]
"""Makes ready for settings, changing nothing; what it returns puts that into force and cannot fail.

Raises LogbaleError where the settings cannot be followed. It is called at each reload, also where no setting differs:
a file that one names may.
"""


class Changes(msgspec.Struct, frozen=True):
    """What a reload came to, by the settings' variables."""

    changed: list[str]
    """In force from now on."""
    waiting: list[str]
    """Those that differ from what is in force and need a restart."""


class Reloading:
    """The settings in force at one end, and the parts of it that follow them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._parts: list[Prepare] = []

    def add(self, prepare: Prepare) -> None:
        """Another part that follows; they are called in the order in which they came."""
        self._parts.append(prepare)

    def reload(self, wanted: Settings) -> Changes:
        """Puts into force what can change at run time. Raises LogbaleError: then nothing has changed."""
        differing = [name for name in SETTINGS if getattr(wanted, name) != getattr(self.settings, name)]
        live = {name: getattr(wanted, name) for name in differing if SETTINGS[name].is_live}
        settings = msgspec.structs.replace(self.settings, **live)
        # What is sound together after a restart need not be so beside what stays as it is until then.
        check_together(settings)
        commits = [prepare(settings) for prepare in self._parts]
        for commit in commits:
            commit()
        self.settings = settings
        return Changes(
            [SETTINGS[name].variable for name in live],
            [SETTINGS[name].variable for name in differing if name not in live],
        )
