"""docs/python.md: its programs run as they stand, against a receiver, and what they log is stored once."""

import re
import subprocess
import sys
from pathlib import Path

import cli_process

import logbale
from logbale.config import Settings, load

PAGE = (Path(__file__).parent.parent / "docs/python.md").read_text()
IN_A_LOOP, IN_A_THREAD = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(program, tmp_path, address, **environ):
    """What it prints and what it says on standard error; it ends well."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=cli_process.PATIENCE,
        env=cli_process.CLEAN | {"RECEIVERS": address, "SPOOL_DIR": str(tmp_path / "spool")} | environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def stored(tmp_path):
    return cli_process.entries(cli_process.logbale_run("cat", tmp_path / "archive").stdout)


def test_the_program_with_a_loop_ships_what_it_puts(tmp_path):
    """All of it, in order, under its name."""
    with cli_process.receiver(tmp_path) as receiver:
        assert run(IN_A_LOOP, tmp_path, receiver.address) == ("delivered: True, left: 0, dropped: {}\n", "")
        receiver.says(r"ships stream \S+ from 1 on \(orders, ")
    assert [entry["number"] for entry in stored(tmp_path)] == list(range(1000))


def test_the_program_with_a_thread_ships_what_it_logs_once(tmp_path):
    """What it had not read at its end is shipped by the next command."""
    with cli_process.receiver(tmp_path) as receiver:
        assert run(IN_A_THREAD, tmp_path, receiver.address) == ("", "")
        receiver.says(r"ships stream \S+ from 1 on \(orders, ")
        rest = re.search(r"`logbale (ship --once\s--name orders orders\.jsonl)`", PAGE)[1].split()
        done = cli_process.logbale_run(
            *rest, cwd=tmp_path, RECEIVERS=receiver.address, SPOOL_DIR=str(tmp_path / "spool")
        )
        assert done.returncode == 0, done.stderr
    *orders, last = stored(tmp_path)
    assert [entry["message"] for entry in orders] == [f"order {number}" for number in range(1000)]
    assert {(entry["level"], entry["service"]) for entry in orders} == {("INFO", "orders")}
    assert (last["level"], last["message"]) == ("ERROR", "order 1000")
    assert last["exception"].endswith("ValueError: no such order")


def test_the_program_with_a_thread_does_not_wait_for_a_receiver(tmp_path):
    """It writes its lines, ends within DRAIN_TIMEOUT, and a later run delivers them all once."""
    printed, said = run(IN_A_THREAD, tmp_path, "127.0.0.1:1", DRAIN_TIMEOUT="0.2")
    assert printed == ""
    assert said.startswith("no session with 127.0.0.1:1 (")
    assert len((tmp_path / "orders.jsonl").read_text().splitlines()) == 1001
    with cli_process.receiver(tmp_path) as receiver:
        done = cli_process.logbale_run(
            "ship", "--once", "--name", "orders", "orders.jsonl",
            cwd=tmp_path, RECEIVERS=receiver.address, SPOOL_DIR=str(tmp_path / "spool"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert [entry["message"] for entry in stored(tmp_path)] == [f"order {number}" for number in range(1001)]


def test_settings_are_loaded_not_made():
    """As the page says: load() has the defaults of the command line, Settings() the plain ones."""
    assert load({}, {}).settings.compression_algorithm == "zstd"
    assert load({"session_mode": "off"}, {}).settings.compression_algorithm == "gzip"
    assert Settings().compression_algorithm == "gzip"


def test_the_page_has_every_public_name():
    """And explains no other as one."""
    table = PAGE.split("## The public names")[1]
    assert set(re.findall(r"`(\w+)`", table)) == set(logbale.__all__) - {"__version__"}
