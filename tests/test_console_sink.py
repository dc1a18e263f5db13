"""What the view sinks promise: they show what was stored, and never make, or break, the storing."""

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import threading

import pytest
from waiting import wait_until

from logbale.errors import StorageError
from logbale.sinks import ReceivedBatch, Rejected, Stored, console
from logbale.sinks.console import ConsoleSink
from logbale.sinks.fanout import FanoutSink
from logbale.sinks.null import NullSink
from logbale.terminal import format_entry


def batch(*messages, **fields):
    lines = [
        json.dumps({"timestamp": "2026-11-24T08:30:00.000000Z", "message": message, **fields}, ensure_ascii=False)
        for message in messages
    ]
    return ReceivedBatch("".join(f"{line}\n" for line in lines).encode(), len(lines), "", "")


def shown(*batches, **options):
    """What a console view writes for these batches."""

    async def show():
        view = ConsoleSink(out, **options)
        view.show(list(batches))
        await view.close()
        assert view.not_shown == 0

    out = io.StringIO()
    asyncio.run(show())
    return out.getvalue()


class Gate(io.StringIO):
    """An output that takes nothing until it is opened."""

    def __init__(self):
        super().__init__()
        self.reached = threading.Event()
        self.opened = threading.Event()

    def write(self, text):
        self.reached.set()
        self.opened.wait()
        return super().write(text)


def test_every_entry_is_one_readable_line_in_order():
    """All entries of all batches, as format_entry shows them."""
    first, second = batch("one", "two", level="INFO"), batch("three")
    lines = [*first.ndjson.splitlines(), *second.ndjson.splitlines()]
    assert shown(first, second).splitlines() == [format_entry(line) for line in lines]
    assert shown(first, color=True).splitlines() == [format_entry(line, color=True) for line in lines[:2]]


def test_json_comes_as_it_is():
    """The bytes that were stored, entry by entry."""
    first, second = batch("one", 'tw"o', n=1.50), batch("drei: ä€😀")
    assert shown(first, second, format="json").encode() == first.ndjson + second.ndjson


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("hostile", ["\x7f", "\x9b31m", "\u202e", "\u2028", "\u200b", "\x85"])
def test_nothing_that_an_entry_holds_reaches_a_terminal_as_an_order(format, hostile):
    """Escaped in both formats; the JSON still means the same."""
    text = shown(batch(f"a{hostile}b"), format=format)
    assert hostile[0] not in text
    assert text.count("\n") == 1
    if format == "json":
        assert json.loads(text)["message"] == f"a{hostile}b"


def test_an_escape_sequence_is_shown_and_not_obeyed():
    """The JSON escape of ESC does not become ESC."""
    assert "\\x1b[2J" in shown(batch("\x1b[2J"))


def test_more_lines_than_one_write_takes_all_come():
    """A batch of any size is shown whole."""
    many = batch(*map(str, range(2 * console.LINES_AT_ONCE + 1)))
    assert [json.loads(line)["message"] for line in shown(many, format="json").splitlines()] == [
        str(number) for number in range(many.count)
    ]


def test_a_stuck_output_costs_nothing_but_the_view(monkeypatch, caplog):
    """show() returns, memory stays bounded, what is skipped is said where it is missing, and the numbers add up."""
    monkeypatch.setattr(console, "MAX_WAITING_BYTES", 1000)

    async def run():
        view = ConsoleSink(out)
        view.show([batch("first")])
        out.reached.wait()
        for number in range(2000):
            view.show([batch(f"flood {number}", "too")])
        assert view.shown == 0
        assert view.not_shown == 4001
        out.opened.set()
        wait_until(lambda: "not shown" in out.getvalue())
        view.show([batch("last")])
        await view.close()
        return view

    out = Gate()
    view = asyncio.run(run())
    lines = out.getvalue().splitlines()
    said = [line for line in lines if "not shown" in line]
    assert len(said) == 1
    assert lines.index(said[0]) == len(lines) - 2
    assert lines[-1].endswith("last")
    assert said[0] == f"… {view.not_shown:,} entries not shown"
    assert view.shown + view.not_shown == 4002
    assert view.shown == len(lines) - 1
    assert view.shown < 50
    assert f"not shown on the console: {view.not_shown:,} entries" in caplog.text


def test_json_stays_json_when_entries_are_skipped(monkeypatch, caplog):
    """The notice goes to the log, once."""
    monkeypatch.setattr(console, "MAX_WAITING_BYTES", 100)

    async def run():
        view = ConsoleSink(out, format="json")
        for _ in range(2):
            out.opened.clear()
            out.reached.clear()
            view.show([batch("first")])
            out.reached.wait()
            view.show([batch(str(number)) for number in range(100)])
            out.opened.set()
            wait_until(lambda: "does not keep up" in caplog.text)
        await view.close()
        assert view.shown < 50

    out = Gate()
    asyncio.run(run())
    assert all(json.loads(line) for line in out.getvalue().splitlines())
    assert caplog.text.count("does not keep up") == 1


def test_closing_does_not_wait_for_an_output_that_takes_nothing(monkeypatch, caplog):
    """close() gives up in time and says how many entries that cost."""
    monkeypatch.setattr(console, "CLOSE_TIMEOUT", 0.05)

    async def run():
        view = ConsoleSink(out)
        view.show([batch("one", "two")])
        await view.close()

    out = Gate()
    asyncio.run(run())
    assert "not shown on the console: 2 entries" in caplog.text
    out.opened.set()


def test_an_output_that_is_closed_ends_the_view_only(caplog):
    """Nobody reads any more: said once; from then on entries are counted and nothing else happens."""

    async def run():
        view = ConsoleSink(out)
        view.show([batch("one")])
        wait_until(lambda: "the console view has ended" in caplog.text)
        for _ in range(100):
            view.show([batch("two")])
        await view.close()
        assert view.shown == 0
        assert view.not_shown == 101

    reading, writing = os.pipe()
    with open(writing, "w") as out:
        os.close(reading)
        asyncio.run(run())
    assert caplog.text.count("the console view has ended") == 1
    assert "Broken pipe" in caplog.text


def test_an_output_in_non_blocking_mode_loses_nothing():
    """Someone who shares the terminal may have set O_NONBLOCK; a full pipe is waited for."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    received = []

    async def run():
        view = ConsoleSink(out, format="json")
        view.show([large])
        reader.start()
        await view.close()
        return view.not_shown

    def read():
        with open(reading, "rb") as pipe:
            received.append(pipe.read())

    large = batch("x" * 300_000)
    reader = threading.Thread(target=read)
    with open(writing, "w") as out:
        assert asyncio.run(run()) == 0
    reader.join()
    assert received == [large.ndjson]


def test_a_stream_closed_by_someone_else_harms_no_other_file(tmp_path):
    """The view keeps a descriptor of its own: the number of a closed one may belong to the archive by now."""

    async def run():
        with (tmp_path / "out").open("w") as out:
            view = ConsoleSink(out, format="json")
        with (tmp_path / "archive").open("w"):
            view.show([batch("one")])
            await view.close()

    asyncio.run(run())
    assert (tmp_path / "archive").read_bytes() == b""
    assert (tmp_path / "out").read_bytes() == batch("one").ndjson


STUCK = """
import asyncio, sys
from logbale.sinks import ReceivedBatch
from logbale.sinks import console

async def main():
    console.CLOSE_TIMEOUT = 0.1
    view = console.ConsoleSink(sys.stdout)
    view.show([ReceivedBatch(b'{"message": "' + b"x" * 300_000 + b'"}\\n', 1, "", "")])
    await view.close()

asyncio.run(main())
"""


def test_a_process_whose_output_is_stuck_still_ends_well():
    """A full pipe at exit: status 0, no abort, nothing on stderr but the number not shown."""
    # With PYTHONUNBUFFERED there would be no buffer whose lock a stuck thread can hold.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    try:
        assert process.wait(60) == 0
        assert process.stderr.read() == b"not shown on the console: 1 entry\n"
    finally:
        process.kill()
        process.communicate()


# The fan-out and the null sink


class Durable:
    """A sink that does as it is told."""

    def __init__(self, *outcomes, error=None):
        self.outcomes = list(outcomes)
        self.error = error
        self.closed = False

    async def commit(self, batches):
        if self.error:
            raise self.error
        return self.outcomes

    async def close(self):
        self.closed = True
        if self.error:
            raise self.error


class Recorder:
    """A view that keeps what it was shown, or fails."""

    def __init__(self, error=None):
        self.seen = []
        self.error = error
        self.closed = False

    def show(self, batches):
        if self.error:
            raise self.error
        self.seen += batches

    async def close(self):
        self.closed = True
        if self.error:
            raise self.error


def test_views_see_what_was_stored_and_nothing_else():
    """The durable sink's outcomes are the outcomes; a rejected batch is shown to nobody."""
    one, two, three = batch("one"), batch("two"), batch("three")
    outcomes = [Stored(), Rejected("no"), Stored()]
    views = Recorder(), Recorder()
    sink = FanoutSink(Durable(*outcomes), views)
    assert asyncio.run(sink.commit([one, two, three])) == outcomes
    assert [view.seen for view in views] == [[one, three]] * 2


def test_what_could_not_be_stored_is_not_shown():
    """A StorageError passes through, before any view."""
    view = Recorder()
    with pytest.raises(StorageError, match="full"):
        asyncio.run(FanoutSink(Durable(error=StorageError("full")), [view]).commit([batch("one")]))
    assert view.seen == []


def test_a_view_that_fails_costs_nobody_anything(caplog):
    """It is logged once and counted each time; the outcome and the other views are as without it."""
    bad, good = Recorder(RuntimeError("broken view")), Recorder()

    async def run():
        sink = FanoutSink(Durable(Stored()), [bad, good])
        for _ in range(3):
            assert await sink.commit([batch("one")]) == [Stored()]
        assert sink.view_failures == 3
        await sink.close()
        assert sink.view_failures == 4

    asyncio.run(run())
    assert len(good.seen) == 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "broken view" in caplog.text


def test_all_are_closed_whatever_fails():
    """An error of the durable sink is raised, after the views are closed too."""
    durable, bad, good = Durable(error=StorageError("disk gone")), Recorder(RuntimeError()), Recorder()
    with pytest.raises(StorageError, match="disk gone"):
        asyncio.run(FanoutSink(durable, [bad, good]).close())
    assert durable.closed
    assert bad.closed
    assert good.closed


def test_the_null_sink_counts_and_keeps_nothing():
    """Every batch is stored, as far as anyone can tell."""
    one, two = batch("one"), batch("two", "three")
    sink = NullSink()
    assert asyncio.run(sink.commit([one, two])) == [Stored(), Stored()]
    assert (sink.batches, sink.entries, sink.raw_bytes) == (2, 3, len(one.ndjson) + len(two.ndjson))
