"""A change of settings at run time: all of it or none, and what waits for a restart is named."""

import msgspec
import pytest

from logbale.cli.options import loader
from logbale.config import SETTINGS, Settings
from logbale.errors import ConfigError, StorageError
from logbale.reloading import Reloading


class Part:
    """Something that follows its settings, and may be unable to."""

    def __init__(self, reloading, error=None):
        self.settings = reloading.settings
        self.prepared = 0
        self.error = error
        reloading.add(self.prepare)

    def prepare(self, settings):
        self.prepared += 1
        if self.error is not None:
            raise self.error

        def commit():
            self.settings = settings

        return commit


def changed(settings, **values):
    return msgspec.structs.replace(settings, **values)


def test_every_part_follows_a_change():
    """What can change at run time is in force at once, and is named."""
    reloading = Reloading(Settings())
    parts = [Part(reloading), Part(reloading)]
    changes = reloading.reload(changed(Settings(), batch_size=7, max_connections=8))
    assert (changes.changed, changes.waiting) == (["BATCH_SIZE", "MAX_CONNECTIONS"], [])
    for holder in (reloading, *parts):
        assert (holder.settings.batch_size, holder.settings.max_connections) == (7, 8)


def test_a_part_that_cannot_follow_keeps_all_of_them_as_they_were():
    """Also those that were asked before it; its error says why."""
    reloading = Reloading(Settings())
    before, unable = Part(reloading), Part(reloading, error=StorageError("no"))
    with pytest.raises(StorageError, match="no"):
        reloading.reload(changed(Settings(), batch_size=7))
    assert reloading.settings == before.settings == unable.settings == Settings()


def test_what_needs_a_restart_is_named_and_stays():
    """Again at each reload until it is restarted, and beside what does change."""
    reloading = Reloading(Settings())
    part = Part(reloading)
    for _ in range(2):
        changes = reloading.reload(changed(Settings(), server_port=7, batch_size=7))
        assert changes.waiting == ["SERVER_PORT"]
        assert part.settings == changed(Settings(), batch_size=7)
    assert changes.changed == []


def test_parts_are_asked_where_no_setting_has_changed():
    """A file that a setting names may be another one under the same name."""
    reloading = Reloading(Settings())
    part = Part(reloading)
    assert reloading.reload(Settings()).changed == []
    assert part.prepared == 1


def test_what_is_in_force_is_judged_together_with_what_waits(monkeypatch):
    """A pair that is sound after a restart may be unsound while one half of it waits."""
    monkeypatch.setitem(
        SETTINGS, "adaptive_max_level", msgspec.structs.replace(SETTINGS["adaptive_max_level"], live=None)
    )
    reloading = Reloading(Settings(adaptive_min_level=1, adaptive_max_level=3))
    with pytest.raises(ConfigError, match="ADAPTIVE_MIN_LEVEL=5: expected at most ADAPTIVE_MAX_LEVEL=3"):
        reloading.reload(Settings(adaptive_min_level=5, adaptive_max_level=9))
    assert reloading.settings.adaptive_min_level == 1


def test_settings_are_loaded_anew_and_what_is_mistyped_is_said_once(tmp_path, monkeypatch, caplog):
    """Of the file every time; the environment is that of the start."""
    file = tmp_path / "logbale.toml"
    file.write_text("batch_size = 7\n")
    monkeypatch.setenv("COMPRESION_LEVEL", "3")
    monkeypatch.setenv("WINDOW_BYTES", "1000")
    load = loader("ship", {"batch_linger": "0.5"}, file)
    assert load().settings.batch_size == 7
    file.write_text("batch_size = 8\nwindow_bytes = 5\nbatch_linger = 1\n")
    monkeypatch.delenv("WINDOW_BYTES")
    settings = load().settings
    assert (settings.batch_size, settings.window_bytes, settings.batch_linger) == (8, 1000, 0.5)
    assert len(caplog.messages) == 1
    assert "is COMPRESSION_LEVEL meant?" in caplog.messages[0]
