"""Flags and settings that would do nothing beside others: said, not passed over in silence."""

import pytest
from click.testing import CliRunner

from logbale.cli import app
from logbale.cli.options import loader
from logbale.config import SETTINGS, load
from logbale.config.idle import idle

KAFKA = "kafka://broker/topic"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (f"receive --sink {KAFKA} --archive x", f"--archive does nothing with SINK={KAFKA}, where no archive is kept"),
        ("receive --sink null --archive x --archive-retention-bytes 5", "--archive and --archive-retention-bytes do"),
        ("receive --sink console --archive-segment-seconds 5", "where no archive is kept"),
        (f"receive --sink {KAFKA} --marks-days 3", "which remembers no streams"),
        ("receive --format ndjson", "--format does nothing with SINK=archive: that is for kafka://"),
        ("receive --kafka-config x", "--kafka-config does nothing"),
        (
            "receive --relay-dir x --token-file y",
            "--relay-dir and --token-file do nothing with SINK=archive",
        ),
        ("receive --tls-ca-file x", "for a relay, whose SINK is logbale://HOST:PORT"),
        ("receive --dashboard-port 1", "--dashboard-port does nothing without --dashboard (DASHBOARD_ENABLED=true)"),
        (
            "receive --dashboard-host ::1 --latency-target 1",
            "(DASHBOARD_ENABLED=true) or --metrics-port",
        ),
        ("receive --lockout-failures 3", "there is nothing to guess"),
        ("ship x --dashboard-host ::1", "--dashboard-host does nothing without --metrics-port (METRICS_PORT)"),
        ("archive kafka://b/t --to file:///x --dashboard-host ::1", "without --metrics-port"),
        ("ship x --session-mode off --batch-linger 1", "--batch-linger does nothing with SESSION_MODE=off"),
        ("ship x --session-mode off --compression-context batch", "with SESSION_MODE=off, which has no session"),
        ("ship x --spool-dir off --spool-max-bytes 2000000", "with SPOOL_DIR=off: batches are kept in memory"),
        ("ship x --adaptive --level 3", "--level does nothing with ADAPTIVE_ENABLED=true, which chooses it between"),
        ("ship x --adaptive-min-level 3", "--adaptive-min-level does nothing without --adaptive"),
        (
            "ship x --no-compression --level 3 --adaptive",
            "--level and --adaptive do nothing with COMPRESSION_",
        ),
        ("ship x --no-compression --algorithm gzip", "--algorithm does nothing with COMPRESSION_ENABLED=false"),
        (
            "ship x --algorithm none --bypass-threshold 3",
            "does nothing with COMPRESSION_ALGORITHM=none",
        ),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(arguments, said, monkeypatch):
    """As wrong usage, with what it stands against or needs, before anything is opened."""
    monkeypatch.setattr("os.environ", {})
    ended = CliRunner().invoke(app, arguments.split())
    assert ended.exit_code == 2
    assert said in " ".join(ended.output.split())


def test_what_excludes_a_variable_or_a_line_of_the_file_is_warned_of_once(tmp_path, caplog, monkeypatch):
    """With where it is from; again and again would be a reload's noise."""
    file = tmp_path / "logbale.toml"
    file.write_text("archive_retention_bytes = 5\n")
    monkeypatch.setenv("ARCHIVE_DIR", "/srv/archive")
    monkeypatch.setenv("SINK", KAFKA)
    load_again = loader("receive", config=file)
    for _ in range(3):
        load_again()
    where = f"with SINK={KAFKA}, where no archive is kept (from {file}, the environment)"
    assert caplog.messages == [f"ARCHIVE_DIR and ARCHIVE_RETENTION_BYTES do nothing {where}"]


def test_what_waits_for_a_switch_is_no_news(caplog, monkeypatch):
    """A file may have what a page or a relay will need, what the other end needs, and a default."""
    monkeypatch.setenv("ADAPTIVE_ENABLED", "true")
    monkeypatch.setenv("COMPRESSION_LEVEL", "6")
    for name, value in {"DASHBOARD_PORT": "1", "RELAY_DIR": "x", "BATCH_SIZE": "2", "TOKEN_FILE": "x"}.items():
        monkeypatch.setenv(name, value)
    loader("receive")()
    loader("ship")()
    assert caplog.messages == []


@pytest.mark.parametrize("command", ["receive", "ship", "archive"])
def test_the_defaults_do_something_or_are_not_asked(command):
    """No default is pointed out, and neither is what is switched off by name."""
    assert idle(load({}, {}), command) == []
    off = {name: "false" for name, setting in SETTINGS.items() if setting.default is False}
    assert idle(load(off, {}), command) == []
