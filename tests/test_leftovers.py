"""What a shipper's end says of what it could not deliver: what the spool has, what is read again, what is lost."""

import asyncio
import contextlib
import errno
import os
import re
import subprocess
import threading
from random import Random
from typing import ClassVar

import pytest
from chunks import batch_of, chunk_of
from cli_process import CLEAN, LOGBALE, logbale_run, receiver, running
from spool_batches import spool_of
from waiting import eventually

from chaos.processes import free_port
from logbale.batch_buffer import BatchBuffer
from logbale.cli.ending import failure
from logbale.config import Settings
from logbale.errors import StorageError
from logbale.leftovers import reread_and_lost
from logbale.log_shipper import LogShipper
from logbale.metrics import ReceiverMetrics, ShipperMetrics
from logbale.models import Batch
from logbale.ship_report import ShipReport
from logbale.sinks.null import NullSink
from logbale.sources.generator import LogGenerator
from logbale.sources.tail import TailSource
from logbale.spool import list_spools
from logbale.spool_queue import SpoolQueue
from logbale.status import rows
from logbale.tcp_server import TCPLogReceiver

MIB = 1 << 20


def lines(count):
    """Lines that hardly compress."""
    random = Random(1)
    return [f"{number} {random.randbytes(60).hex()}" for number in range(count)]


@pytest.mark.parametrize(
    ("there_up_to", "expected"),
    [({"a": 9, "b": 9}, (9, 1)), ({"a": 9}, (4, 6)), ({"a": 5, "b": 9}, (7, 3)), ({}, (0, 10))],
)
def test_what_is_read_again_and_what_is_lost(there_up_to, expected):
    """By source, up to the cursor that is still there; an entry without a source is nobody's to give again."""
    batches = [
        Batch(b"", 6, {"a": 5, "b": 4}, sources={"a": 2, "b": 3}),
        Batch(b"", 4, {"a": 9, "b": 9}, sources={"a": 2, "b": 2}),
    ]
    assert reread_and_lost(batches, lambda name, cursor: cursor <= there_up_to.get(name, 0)) == expected


def test_what_was_read_before_a_truncation_does_not_come_again_with_what_was_read_after_it():
    """The same name where the file begins as before: its later, lower cursor is there, the earlier one is not."""
    batches = [Batch(b"", 3, {"a": 900}, sources={"a": 3}), Batch(b"", 2, {"a": 50}, sources={"a": 2})]
    assert reread_and_lost(batches, lambda name, cursor: cursor <= 60) == (2, 3)


def test_a_batch_knows_how_many_entries_are_of_which_source():
    """Those of a chunk that two batches share are in both; those without a cursor in neither."""
    buffer = BatchBuffer(size=4, interval=60, max_bytes=MIB)
    full = buffer.add(chunk_of([{}] * 3, source="a"), 0.0)
    full += buffer.add(chunk_of([{}] * 3, source="b"), 0.0)
    full += buffer.add(chunk_of([{}]), 0.0)
    assert [batch.sources for batch in full] == [{"a": 3, "b": 1}]
    assert (buffer.look().count, buffer.look().sources) == (3, {"b": 2})
    assert buffer.flush().count == 3


def test_a_full_spool_is_not_read_far_ahead_of(run, tmp_path):
    """What is in a pipe is lost with nobody; what was read from it and has no place would be."""

    async def scenario():
        queue = SpoolQueue(spool_of(tmp_path / "s", max_bytes=MIB), max_memory=64 * MIB)
        running = asyncio.create_task(queue.run())
        batch, taken = batch_of([{"n": os.urandom(2000).hex()}]), 0
        while not queue.why_unstored:
            await asyncio.wait([asyncio.create_task(queue.wait_for_room())], timeout=0.01)
            if queue._storing._room.is_set():
                queue.append(batch)
                taken += 1
        assert 0 < len(queue.unstored) <= 3
        assert queue.spooled_batches + len(queue.unstored) == taken == queue.waiting_batches
        assert "SPOOL_MAX_BYTES is 1,048,576" in queue.why_unstored
        running.cancel()
        await queue.close()

    run(scenario)


def test_what_is_being_stored_when_the_end_comes_counts_as_stored(run, tmp_path):
    """Its write goes on, whoever waits for it or not; it is counted once, and as what it is."""

    async def scenario():
        store = spool_of(tmp_path / "s")
        append, begun, may_end = store.append, threading.Event(), threading.Event()

        def slow(*arguments):
            begun.set()
            may_end.wait()
            return append(*arguments)

        store.append = slow
        queue = SpoolQueue(store, max_memory=MIB)
        running = asyncio.create_task(queue.run())
        queue.append(batch_of([{}] * 3))
        await asyncio.get_running_loop().run_in_executor(None, begun.wait)
        queue.append(batch_of([{}]))
        assert [batch.count for batch in queue.unstored] == [3, 1]
        running.cancel()
        may_end.set()
        await queue.close()
        assert [batch.count for batch in queue.unstored] == [1]
        assert (queue.counts["read"], queue.counts["spooled"], queue.spooled_batches) == (4, 4, 1)
        assert store.counts["spooled"] == 3

    run(scenario)


def follow(path, spool, **options):
    """A follower of it from its start."""
    given = {"follow": True, "from_start": True, "fields": {}, "host": "h"}
    return TailSource([str(path)], resume=spool.cursors if spool is not None else None, **(given | options))


async def ended(source, spool, *, meanwhile, **settings):
    """The report of a run without a receiver, which was stopped once nothing more could be stored."""
    settings = Settings(server_host="127.0.0.1", server_port=free_port(), drain_timeout=0.1, **settings)
    shipper = LogShipper(settings, source, store=spool)
    task = asyncio.create_task(shipper.run())
    await eventually(lambda: shipper._queue.why_unstored)
    meanwhile()
    shipper.stop()
    return settings, await task


@pytest.mark.parametrize("is_deleted", [False, True])
@pytest.mark.parametrize("kind", ["full", "broken"])
def test_a_followed_file_that_is_there_is_read_again_and_one_that_is_not_is_lost(
    run, tmp_path, fail, caplog, monkeypatch, is_deleted, kind
):
    """With a full spool as with a disk that is full; the numbers are those of the spool, and add up in the table."""
    monkeypatch.setattr("logbale.storing.STORAGE_RETRY", 0.01)
    log = tmp_path / "app.log"
    log.write_text("".join(f"{line}\n" for line in lines(30_000)))

    found = []

    async def scenario():
        spool = spool_of(tmp_path / "spools" / "s", max_bytes=MIB)
        if kind == "broken":
            fail("pwrite", errno.ENOSPC, lambda fd, data, offset: spool.next_sequence > 20)
        source = follow(log, spool)
        settings, report = await ended(source, spool, meanwhile=log.unlink if is_deleted else lambda: None)
        fail()
        found.extend((report, failure(settings, report, spool, source, once=False, waited=True)))

    run(scenario)
    report, said = found
    (info,) = list_spools(tmp_path / "spools")
    homeless = report.left_entries - info.entries
    assert homeless > 0
    assert info.entries > 0
    expected = (0, homeless) if is_deleted else (homeless, 0)
    assert (report.reread_entries, report.lost_entries) == expected
    table = dict(rows(report.snapshot, reread=report.reread_entries))
    assert table["entries waiting"] == f"{info.entries:,}"
    assert table["entries lost" if is_deleted else "entries to be read again"] == f"{homeless:,}"
    snapshot = report.snapshot
    assert snapshot.read_entries == snapshot.waiting_entries + sum(snapshot.dropped.values()) == report.left_entries
    there = f"{info.entries:,} wait in {tmp_path}/spools/s, and the same command sends what waits; {homeless:,} are "
    assert there in said
    why = "SPOOL_MAX_BYTES is 1,048,576" if kind == "full" else "No space left"
    assert f"not in the spool yet ({report.why_unstored})" in said
    assert why in report.why_unstored
    assert ("lost for good" in said, "read again from" in said) == (is_deleted, not is_deleted)
    told = [record.message for record in caplog.records if "entries are lost" in record.message]
    assert bool(told) == is_deleted


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda log: None, True),
        (lambda log: log.rename(log.with_suffix(".log.1")), True),
        (lambda log: log.unlink(), False),
        (lambda log: os.truncate(log, 1500), False),
        (lambda log: log.write_text("other\n" * 1000), False),
    ],
)
def test_a_file_comes_again_where_it_is_found_again_with_what_was_read_of_it(tmp_path, change, expected):
    """Renamed, but neither deleted, nor truncated, nor written anew."""
    log = tmp_path / "app.log"
    log.write_text("".join(f"{line}\n" for line in lines(30)))

    async def cursor():
        source = follow(log, None, follow=False)
        (chunk,) = [chunk async for chunk in source.chunks() if chunk.entries]
        return source, chunk.source, chunk.end

    source, name, end = asyncio.run(cursor())
    assert end == log.stat().st_size
    change(log)
    assert source.comes_again(name, end) == expected


def test_nothing_of_what_is_read_again_is_missing_in_the_next_run(run, tmp_path):
    """The spool's cursor is before it: what the next run reads there follows what the spool has."""
    log = tmp_path / "app.log"
    log.write_text("".join(f"{line}\n" for line in lines(30_000)))

    async def scenario():
        spool = spool_of(tmp_path / "s", max_bytes=MIB)
        _, report = await ended(follow(log, spool), spool, meanwhile=lambda: None)
        spool = spool_of(tmp_path / "s", max_bytes=MIB)
        first = spool.counts["spooled"]
        assert report.reread_entries == report.left_entries - first
        async for chunk in follow(log, spool).chunks():
            if chunk.entries:
                assert f'"message":"{first} '.encode() in chunk.entries[0]
                break
        spool.close()

    run(scenario)


@pytest.mark.parametrize("is_begun", [False, True])
def test_who_could_not_note_where_the_files_begin_begins_at_their_ends_again(
    run, tmp_path, fail, monkeypatch, is_begun
):
    """So what came in between is lost, and said to be; it is read again where a disk that failed later has the note."""
    monkeypatch.setattr("logbale.storing.STORAGE_RETRY", 0.01)
    monkeypatch.setattr("logbale.reading.NOTE_INTERVAL", 0.01)
    log = tmp_path / "app.log"
    log.write_text("".join(f"{line}\n" for line in lines(5)))

    def grow():
        with log.open("a") as file:
            file.writelines(f"{line}\n" for line in lines(7))

    async def scenario():
        spool = spool_of(tmp_path / "s", max_bytes=MIB)
        if not is_begun:
            fail("pwrite", errno.ENOSPC, lambda fd, data, offset: True)
        source = follow(log, spool, from_start=False)
        settings = Settings(server_host="127.0.0.1", server_port=free_port(), drain_timeout=0.1)
        shipper = LogShipper(settings, source, store=spool)
        task = asyncio.create_task(shipper.run())
        await eventually(lambda: spool.has_cursors if is_begun else spool.cursors)
        fail("pwrite", errno.ENOSPC, lambda fd, data, offset: True)
        grow()
        await eventually(lambda: shipper._queue.why_unstored)
        shipper.stop()
        report = await task
        fail()
        assert (report.reread_entries, report.lost_entries) == ((7, 0) if is_begun else (0, 7))
        spool = spool_of(tmp_path / "s", max_bytes=MIB)
        assert follow(log, spool, from_start=False).unread_bytes == (log.stat().st_size // 12 * 7 if is_begun else 0)
        spool.close()

    run(scenario)


class Own:
    """A program's own source."""

    async def chunks(self):
        yield chunk_of([{}] * 5, source="mine")

    def counts(self):
        return {}


class OwnResumable(Own):
    begun: ClassVar = {"mine": 7}
    begins_anew = True
    needs_cursors = False
    unread_bytes = 0

    def comes_again(self, name, cursor):
        return True


@pytest.mark.parametrize(("source", "expected"), [(Own(), (0, 5)), (OwnResumable(), (5, 0))])
def test_a_source_of_ones_own_is_lost_unless_it_says_that_it_comes_again(run, source, expected):
    """`chunks()` and `counts()` are enough to be shipped."""

    async def scenario():
        settings = Settings(server_host="127.0.0.1", server_port=free_port(), drain_timeout=0.0)
        report = await LogShipper(settings, source).run()
        assert (report.reread_entries, report.lost_entries) == expected

    run(scenario)


@pytest.mark.parametrize(("source", "expected"), [(Own(), {}), (OwnResumable(), {"mine": 7})])
def test_where_a_first_run_begins_is_noted_though_it_is_stopped_before_it_reads(run, tmp_path, source, expected):
    """Or the next one would begin somewhere else, and what came in between would be nobody's."""

    async def scenario():
        spool = spool_of(tmp_path / "s")
        settings = Settings(server_host="127.0.0.1", server_port=free_port(), drain_timeout=0.0)
        shipper = LogShipper(settings, source, store=spool)
        shipper.stop()
        await shipper.run()
        spool = spool_of(tmp_path / "s")
        assert spool.cursors == expected
        spool.close()

    run(scenario)


@pytest.mark.parametrize(("once", "expected"), [(True, (5, 0)), (False, (0, 5))])
def test_without_a_spool_what_is_not_delivered_is_gone_unless_the_start_comes_again(run, tmp_path, once, expected):
    """Who follows from the end begins at another end the next time."""
    log = tmp_path / "app.log"
    log.write_text("".join(f"{line}\n" for line in lines(5 if once else 0)))
    found = []

    async def scenario():
        source = follow(log, None, follow=not once, from_start=once)
        settings = Settings(server_host="127.0.0.1", server_port=free_port(), drain_timeout=0.1)
        shipper = LogShipper(settings, source)
        task = asyncio.create_task(shipper.run())
        if not once:
            await shipper.started.wait()
            log.write_text("".join(f"{line}\n" for line in lines(5)))
            await eventually(lambda: shipper.snapshot().read_entries == 5)
            shipper.stop()
        report = await task
        found.extend((report, failure(settings, report, None, source, once=once, waited=True)))

    run(scenario)
    report, said = found
    assert (report.reread_entries, report.lost_entries) == expected
    assert ("the same command begins at the start again" if once else "5 are lost for good") in said


def test_what_was_read_from_a_pipe_and_has_no_place_is_said_to_be_lost(tmp_path):
    """A live pipe, a full spool, a stop, real processes: the spool has what is said to wait, the rest is an ERROR."""
    spools = tmp_path / "spools"
    where = ("--spool-dir", str(spools), "--spool-max-bytes", str(MIB), "--drain-timeout", "0.2")
    command = [*LOGBALE, "ship", "-", "--name", "std", "--to", f"127.0.0.1:{free_port()}", *where]
    out, into = os.pipe()
    with subprocess.Popen(command, env=CLEAN, stdin=out, stderr=subprocess.PIPE, text=True) as ship:
        os.close(out)
        feeding = threading.Thread(target=feed, args=(into,), daemon=True)
        feeding.start()
        said = ""
        while "the spool is full" not in said:
            said += ship.stderr.readline()
        ship.terminate()
        said += ship.stderr.read()
        assert ship.wait(60) == 69, said
    feeding.join(60)
    (info,) = list_spools(spools)
    found = re.search(r"([\d,]+) entries in [\d,]+ batches .* ([\d,]+) wait in .*; ([\d,]+) are lost for good", said)
    left, waiting, lost = (int(number.replace(",", "")) for number in found.groups())
    assert waiting == info.entries == left - lost
    assert re.search(rf"ERROR .* {lost:,} entries are lost", said), said
    assert re.search(rf"entries lost +{lost:,}\n", said), said


def feed(pipe):
    """Writes until nobody reads."""
    with contextlib.suppress(BrokenPipeError), os.fdopen(pipe, "w") as file:
        for line in lines(100_000):
            file.write(f"{line}\n")


def test_what_the_spool_has_room_for_is_stored_though_nothing_is_waited_for(run, tmp_path):
    """With DRAIN_TIMEOUT=0 too: what was read from a pipe a moment ago is on its way to the spool."""

    async def scenario():
        spool = spool_of(tmp_path / "s")
        settings = Settings(server_host="127.0.0.1", server_port=free_port(), drain_timeout=0.0)
        report = await LogShipper(settings, LogGenerator(100_000, 0.2), store=spool).run()
        assert (report.lost_entries, report.reread_entries) == (0, 0)
        assert report.left_entries == report.snapshot.waiting_entries == 20_000 == spool.counts["spooled"]

    run(scenario)


def test_generated_entries_that_are_not_delivered_are_lost(tmp_path):
    """--demo has no spool, and says so."""
    nowhere = f"127.0.0.1:{free_port()}"
    ended = logbale_run("ship", "--demo", "--rate", 100, "--run-time", 0.1, "--to", nowhere, "--drain-timeout", 0.1)
    assert ended.returncode == 69
    assert re.search(r"(\d+) entries in .* \1 are lost for good, as there is no spool", ended.stderr), ended.stderr


def test_a_second_signal_tells_them_apart_too(tmp_path):
    """Though nothing is waited for."""
    spools, log = tmp_path / "spools", tmp_path / "app.log"
    log.write_text("".join(f"{line}\n" for line in lines(30_000)))
    where = ("--spool-dir", spools, "--spool-max-bytes", MIB, "--drain-timeout", 600)
    with running(tmp_path, "ship", "--from-start", log, "--to", f"127.0.0.1:{free_port()}", *where) as shipping:
        shipping.says("the spool is full")
        log.unlink()
        shipping.process.terminate()
        shipping.says("SIGTERM: stopping")
        assert shipping.end() == 69
        said = shipping.messages.read_text()
    (info,) = list_spools(spools)
    assert re.search(rf"\. {info.entries:,} wait in {spools}/\S+, .*; [\d,]+ are lost for good", said), said


def test_a_rejected_batch_is_no_success_and_the_next_run_speaks_of_it(tmp_path):
    """Real processes: 69, how many, why, where they are, and the command that has them sent again."""
    log, spools = tmp_path / "app.log", tmp_path / "spools"
    log.write_text("1\n2\n3\n")
    with receiver(tmp_path, "--max-batch-entries", 2) as receiving:
        command = ("ship", "--once", "--name", "mine", "--to", receiving.address, "--spool-dir", spools, log)
        ended = logbale_run(*command)
        assert ended.returncode == 69, ended.stderr
        assert re.search(
            rf"logbale: 3 entries were rejected by the receiver \(.+\): as dead letters in {spools}/mine/dead-letters, "
            rf"which `logbale dead-letters retry {spools}/mine` and then the same command send again\n",
            ended.stderr,
        ), ended.stderr
        again = logbale_run(*command)
        assert again.returncode == 0, again.stderr
        assert re.search(rf"WARNING .* {spools}/mine: 1 dead letter from earlier runs; `.*retry", again.stderr)
    with receiver(tmp_path) as receiving:
        assert logbale_run("dead-letters", "retry", spools / "mine").returncode == 0
        command = ("ship", "--once", "--name", "mine", "--to", receiving.address, "--spool-dir", spools, log)
        ended = logbale_run(*command)
        assert (ended.returncode, "dead letter" in ended.stderr) == (0, False), ended.stderr


@pytest.mark.parametrize(
    ("dropped", "expected"),
    [
        ({"dropped_drop_newest": 7}, "7 entries were dropped, as the spool was full (SPOOL_POLICY=drop_newest)"),
        ({"dropped_drop_oldest": 1}, "1 entry was dropped, as the spool was full (SPOOL_POLICY=drop_oldest)"),
        ({"dropped_damaged": 2}, "2 entries were dropped (damaged)"),
        (
            {"rejected": 2},
            "2 entries were rejected by the receiver, and lost: without a spool there are no dead letters",
        ),
        ({}, ""),
    ],
)
def test_what_was_dropped_is_no_success(dropped, expected):
    """Everything else is delivered."""
    metrics = ShipperMetrics(now=0.0)
    metrics.dropped = dropped
    report = ShipReport(True, True, 0, 0, "", metrics.snapshot(1.0))
    assert failure(Settings(), report, None, None, once=True, waited=False) == expected


@pytest.mark.parametrize(("mode", "answer"), [("on", "nothing"), ("on", "a connection"), ("off", "nothing")])
def test_a_receiver_that_does_not_answer_is_the_reason(run, monkeypatch, mode, answer):
    """Though no try is over yet: it was tried, and for how long."""
    if answer == "nothing":

        async def never(*_, **__):
            await asyncio.Event().wait()

        monkeypatch.setattr("logbale.connecting.open_connection", never)
        monkeypatch.setattr("logbale.tcp_client.open_connection", never)

    async def scenario():
        async def serve(reader, writer):
            while await reader.read(65536):
                pass
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            settings = Settings(server_host="127.0.0.1", server_port=port, drain_timeout=0.2, session_mode=mode)
            report = await LogShipper(settings, LogGenerator(100, 0.05)).run()
        assert re.fullmatch(r"no answer for [\d.]+ (ms|s)", report.why), report.why
        said = failure(settings, report, None, None, once=True, waited=True)
        assert f"not delivered to 127.0.0.1:{port} ({report.why}); DRAIN_TIMEOUT is 0.2 s" in said

    run(scenario)


@pytest.mark.parametrize("is_busy", [True, False])
def test_an_open_session_that_takes_nothing_is_the_reason(run, is_busy):
    """What the receiver said last, or for how long it has acknowledged nothing: not what was wrong before."""

    class Sink(NullSink):
        async def commit(self, batches):
            if is_busy:
                raise StorageError("the disk is full")
            await asyncio.Event().wait()

    async def scenario():
        server = TCPLogReceiver(Settings(server_host="127.0.0.1", server_port=0), Sink(), ReceiverMetrics(now=0.0))
        await server.start()
        settings = Settings(server_host="127.0.0.1", server_port=server.address[1], drain_timeout=0.1)
        shipper = LogShipper(settings, LogGenerator(100, 0.05))
        shipper._link._receivers.errors[f"127.0.0.1:{server.address[1]}"] = "Connection refused"
        task = asyncio.create_task(shipper.run())
        expected = (
            "the receiver says that it cannot store: .*the disk is full" if is_busy else "in session, without .* for"
        )
        await eventually(lambda: shipper._queue.is_closed and re.match(expected, shipper.report().why))
        shipper.stop()
        report = await task
        assert (report.delivered, bool(re.match(expected, report.why))) == (False, True), report.why
        await server.stop(deadline=0.0)

    run(scenario)


def test_where_all_is_delivered_there_is_no_reason(run):
    """Though the session has ended by then."""

    async def scenario():
        server = TCPLogReceiver(Settings(server_host="127.0.0.1", server_port=0), NullSink(), ReceiverMetrics(now=0.0))
        await server.start()
        settings = Settings(server_host="127.0.0.1", server_port=server.address[1])
        report = await LogShipper(settings, LogGenerator(100, 0.05)).run()
        assert (report.delivered, report.why) == (True, "")
        await server.stop(deadline=0.0)

    run(scenario)
