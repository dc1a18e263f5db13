"""What `logbale spool` and `logbale dead-letters` promise to whoever looks after a shipper."""

import json

import pytest
from click.testing import CliRunner
from spool_batches import batch, crashed, left, raw, spool_of

from logbale.cli import app
from logbale.errors import ConfigError
from logbale.spool import DiskSpool, spool_name, spool_root


@pytest.fixture
def root(tmp_path):
    """Two spools: `web` with two batches that wait and a dead letter, `idle` with nothing."""
    spool = spool_of(tmp_path / "web")
    spool.append([batch(n) for n in range(4)])
    spool.acknowledge(1)
    spool.reject(2, "too \x1bstrange")
    spool.close()
    spool_of(tmp_path / "idle").close()
    return tmp_path


def call(root, *arguments):
    return CliRunner().invoke(app, [*arguments, "--spool-dir", str(root)])


def test_ls_shows_what_waits_in_each(root):
    """Also as JSON, and for a place where nothing is."""
    result = call(root, "spool", "ls")
    assert result.exit_code == 0
    rows = [line.split()[:3] for line in result.stdout.splitlines()[1:]]
    assert rows == [["idle", "0", "–"], ["web", "2", "3–4"]]
    web = json.loads(call(root, "spool", "ls", "--json").stdout)[1]
    assert (web["entries"], web["dead_letters"], web["first"]) == (2, 1, 3)
    assert "no spools in" in call(root / "none", "spool", "ls").stderr


def test_looking_changes_nothing_and_needs_no_lock(root):
    """ls, verify and export work beside the shipper; a torn tail is left to it."""
    spool = spool_of(root / "web")
    spool.append([batch(9)])
    with open(root / "web" / "00000002.spool", "ab") as file:
        file.write(b"half a rec")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert call(root, "spool", "ls").exit_code == 0
    assert call(root, "spool", "verify", "web").exit_code == 0
    assert call(root, "spool", "export", "web").stdout_bytes == b"".join(raw(n)[1:-1] + b"\n" for n in (2, 3, 9))
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    spool.close()


def test_verify_names_the_damage_and_export_passes_over_it(root):
    """The exit code is 1; what is sound is printed."""
    path = root / "web" / "00000001.spool"
    data = bytearray(path.read_bytes())
    at = data.index(b'"f":3')
    data[at + 1] = 0
    path.write_bytes(data)
    result = call(root, "spool", "verify", "web")
    assert result.exit_code == 1
    assert f"{path}: damaged at byte" in result.stdout
    result = call(root, "spool", "export", "web")
    assert result.exit_code == 1
    assert result.stdout_bytes == raw(2)[1:-1] + b"\n"
    assert "batch 4 cannot be read" in result.stderr


def test_without_a_name_what_only_looks_looks_at_all_of_them(root):
    """Damage in any is the exit code's; where there is none at all, none is sound."""
    spool = spool_of(root / "other")
    spool.append([batch(7)])
    spool.reject(1, "strange")
    spool.close()
    result = call(root, "spool", "verify")
    assert result.exit_code == 0
    assert result.stdout.count(": 0 places damaged or missing") == 3
    listed = call(root, "dead-letters", "ls").stdout.splitlines()
    assert [line.split("dead-letters")[0].rsplit("/", 2)[1] for line in listed] == ["other", "web"]
    data = bytearray((root / "web" / "00000001.spool").read_bytes())
    data[data.index(b'"f":3') + 1] = 0
    (root / "web" / "00000001.spool").write_bytes(data)
    assert call(root, "spool", "verify").exit_code == 1
    assert call(root / "none", "spool", "verify").exit_code == 74
    assert "no spools in" in call(root / "none", "dead-letters", "ls").stderr
    assert f"no dead letters in {root / 'idle'}" in call(root, "dead-letters", "ls", "idle").stderr


@pytest.mark.parametrize("command", ["spool export", "dead-letters retry"])
def test_without_a_name_there_must_be_one_spool(root, command):
    """Where it would mix them, or change them. The error lists them."""
    result = call(root, *command.split())
    assert result.exit_code == 78
    assert "idle, web" in result.stderr


@pytest.mark.parametrize("command", ["spool verify", "spool export", "dead-letters ls", "dead-letters retry"])
def test_a_spool_that_is_not_there_is_an_error(root, command):
    """Nothing to show would look like nothing lost; and nothing is made there."""
    result = call(root, *command.split(), "nosuch")
    assert result.exit_code == 74
    assert f"{root / 'nosuch'}: there is no spool here; `logbale spool ls` lists them" in result.stderr
    assert not (root / "nosuch").exists()
    assert call(root, *command.split(), "x" * 300).exit_code == 74


def test_a_dead_letter_is_listed_and_sent_again_once(root):
    """It becomes a new batch behind the others; the letter goes; entries that are read again are counted so."""
    listed = call(root, "dead-letters", "ls", "web").stdout
    assert "batch 2  1 entries  too \\x1bstrange" in listed or "too" in listed
    assert "\x1b" not in listed
    assert call(root, "dead-letters", "retry", "web", "--sequence", "7").exit_code == 1
    result = call(root, "dead-letters", "retry", "web")
    assert result.exit_code == 0
    assert result.stdout.endswith("waits again as batch 5\n")
    assert call(root, "dead-letters", "ls", "web").stdout == ""
    spool = spool_of(root / "web")
    assert left(spool) == {3: raw(2), 4: raw(3), 5: raw(1)}
    assert spool.counts == {"read": 5, "spooled": 3, "acknowledged": 1, "rejected": 1}
    assert call(root, "dead-letters", "retry", "web").exit_code == 0
    spool.close()


def test_retry_keeps_out_of_a_running_shippers_way(root):
    """The exit code is 78, and the letter stays."""
    spool = spool_of(root / "web")
    result = call(root, "dead-letters", "retry", "web")
    assert result.exit_code == 78
    assert "in use by process" in result.stderr
    assert "batch 2" in call(root, "dead-letters", "ls", "web").stdout
    spool.close()


@pytest.mark.parametrize("appended", [False, True])
def test_a_crash_in_a_retry_neither_loses_nor_doubles_the_letter(root, monkeypatch, appended):
    """A restart ends it as far as it went."""
    from logbale.spool.dead_letters import begin_retry, letters

    spool = spool_of(root / "web")
    ((path, letter),) = letters(root / "web")
    begin_retry(path, 5)
    if appended:
        spool.append([(bytes(letter.batch), letter.count, {})])
    copy = crashed(root / "web", root / "copy")
    spool.close()
    again = DiskSpool(copy, max_bytes=1 << 30)
    again.open()
    assert len(list(letters(copy))) == (not appended)
    assert (5 in left(again)) is appended
    again.close()


def test_names_come_from_the_sources_and_are_never_paths(monkeypatch, tmp_path):
    """Two shippers on a host don't meet; a name that could be a path is refused."""
    assert spool_name(None, ["/var/log/app/*.log"]) != spool_name(None, ["/var/log/web/*.log"])
    assert spool_name(None, ["/var/log/My App.log"]).startswith("my-app-log-")
    assert spool_name("web", []) == "web"
    for name in ("", "../x", "a/b", ".", "..", ".x", "x" * 65, "a\0"):
        with pytest.raises(ConfigError, match="--name="):
            spool_name(name, [])
    assert spool_root("/data") == type(tmp_path)("/data")
    assert str(spool_root("", {"XDG_STATE_HOME": "/x"}, is_root=False)) == "/x/logbale/spool"
    assert str(spool_root("", {"XDG_STATE_HOME": "x", "HOME": "/h"}, is_root=False)).endswith(
        "/.local/state/logbale/spool"
    )
    assert str(spool_root("", {}, is_root=True)) == "/var/lib/logbale/spool"
