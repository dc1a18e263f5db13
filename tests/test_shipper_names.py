"""What a shipper is called, from its flag to the receiver's list: for people, short, plain, and believed by nobody."""

import asyncio
import json
import unicodedata
import urllib.request

import cli_process
import pytest
from test_delivery import next_message
from test_session import frames, shipper
from test_tcp_server import receiver

from logbale.exposition import Exposition
from logbale.messages import MAX_SHIPPER_NAME, Hello, decode_from_client, encode_message
from logbale.protocol import Flag, Frame
from logbale.session import ReceiverSession

HOSTILE = [
    "<script>alert(1)</script>",
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m",
    "a\nb ships stream c\r\n",
    "invoice\u202egnp.exe",
    "zero\u200bwidth\ufeff",
    "line\u2028end",
    "n" * 1024,
    '"} 1\nlogbale_forged{name="',
]


def test_a_hello_has_the_name_only_where_there_is_one():
    """An older receiver is told what it knows; a name is cut before it would be refused."""
    assert b'"name"' not in shipper().hello(agent="a", host="h")
    [frame] = frames(shipper().hello(agent="a", host="h", name="n" * 5000))
    assert decode_from_client(frame.payload).name == "n" * MAX_SHIPPER_NAME


def test_a_receiver_takes_a_hello_that_says_more_or_less_than_it_knows():
    """As an older one takes the name that it has never heard of."""
    for more, name in (({}, ""), ({"name": "app"}, "app"), ({"nickname": ["app", 7]}, "")):
        payload = json.dumps({"type": "hello", "version": 1, "stream": "web-1", "next": 1} | more).encode()
        frame = Frame(Flag.CONTROL, payload)
        hello = ReceiverSession(max_raw=1000).receive(frame)
        assert (hello.stream, hello.plain_name) == ("web-1", name)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_name_is_short_and_plain_wherever_it_is_shown(run, caplog, name):
    """In the list and the log nothing of it steers a terminal, ends a line or turns the text; no metric has it."""
    caplog.set_level("INFO")
    found = []

    async def scenario():
        async with receiver() as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(encode_message(Hello(2, "web-1", 1, host="vm", name=name)))
            assert (await next_message(reader))["type"] == "welcome"
            [row] = server.clients.rows(0.0, 0.0)
            writer.close()
            found.extend((row.name, Exposition(lambda: server.metrics.snapshot(1.0)).text().decode()))

    run(scenario)
    shown, metrics = found
    assert 0 < len(shown) <= MAX_SHIPPER_NAME
    assert not [char for char in shown if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    [said] = [message for message in caplog.messages if "ships stream web-1" in message]
    assert said.endswith(f"ships stream web-1 from 1 on ({shown}, vm)")
    assert shown not in metrics
    assert "forged" not in metrics


@pytest.mark.parametrize(("flags", "name"), [(["--name", "orders"], r"orders"), ([], r"app-log-[0-9a-f]{8}")])
def test_a_shipper_is_called_as_its_spool_is(tmp_path, flags, name):
    """By --name, or after what it reads: in the receiver's log and in /api/clients."""
    (tmp_path / "app.log").write_text("hello\n")
    with cli_process.receiver(tmp_path, "--dashboard", "--dashboard-port", "0") as process:
        page = process.says(r"dashboard on (http://\S+)")[1]
        shipped = cli_process.logbale_run(
            "ship",
            "--once",
            *flags,
            "--to",
            process.address,
            "app.log",
            cwd=tmp_path,
            SPOOL_DIR=str(tmp_path / "spool"),
        )
        assert shipped.returncode == 0, shipped.stderr
        said = process.says(rf"ships stream \S+ from 1 on \(({name}), ")[1]
        with urllib.request.urlopen(f"{page.rstrip('/')}/api/clients", timeout=60) as answer:
            [row] = json.load(answer)["clients"]
        assert row["name"] == said


def test_generated_entries_come_from_one_that_is_called_demo(tmp_path):
    """It has no spool."""
    with cli_process.receiver(tmp_path) as process:
        cli_process.logbale_run("ship", "--demo", "--rate", "10", "--run-time", "0.2", "--to", process.address)
        process.says(r"ships stream \S+ from 1 on \(demo, ")
