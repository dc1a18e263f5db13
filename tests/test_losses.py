"""What a receiver promises that is behind its shippers: what it acknowledged and has not is said and counted."""

import logging
import shutil
from dataclasses import dataclass

import msgspec
import pytest
from archive_batches import START, batch, writer_of
from test_delivery import KeepingSink, Numbers
from test_receivers import in_order, started
from waiting import eventually

from logbale.archive import reader
from logbale.archive.verify import verify
from logbale.cli import main
from logbale.config import Settings
from logbale.log_shipper import LogShipper
from logbale.losses import Losses
from logbale.messages import Hello
from logbale.metrics import ReceiverMetrics
from logbale.monitor import Monitor
from logbale.sent_to import Noted, SentTo
from logbale.sinks import Mark, RejectedSequence, SkippedRange
from logbale.sinks.archive import ArchiveSink
from logbale.spool import MemoryStore

STREAM = "s"


@dataclass
class Case:
    """A hello to a receiver that has the stream up to `mark`."""

    mark: int
    next: int
    sent: int | None
    settled_below: int
    lost: int
    level: str = ""


@pytest.mark.parametrize(
    "case",
    [
        Case(mark=60, next=61, sent=0, settled_below=61, lost=0),
        Case(mark=60, next=41, sent=0, settled_below=41, lost=0),  # acknowledgements that were lost, or an older spool
        Case(mark=60, next=81, sent=0, settled_below=61, lost=20, level="ERROR"),
        Case(mark=60, next=81, sent=70, settled_below=71, lost=10, level="ERROR"),
        Case(mark=60, next=81, sent=80, settled_below=81, lost=0),  # all of it came to another receiver
        Case(mark=60, next=81, sent=95, settled_below=81, lost=0),
        Case(mark=60, next=81, sent=40, settled_below=61, lost=20, level="ERROR"),
        Case(mark=60, next=81, sent=None, settled_below=81, lost=0, level="WARNING"),  # an older shipper, or a relay
        Case(mark=0, next=81, sent=0, settled_below=81, lost=0),  # unknown here: a new receiver, or MARKS_DAYS
    ],
    ids=str,
)
def test_what_no_other_receiver_can_have_was_acknowledged_here(case, caplog):
    """Only what is beyond both the mark and `sent`; where the shipper does not say, that is said."""
    caplog.set_level(logging.WARNING)
    metrics = ReceiverMetrics(now=0.0)
    losses = Losses(metrics)
    hello = Hello(2, STREAM, case.next, sent=case.sent)
    for _ in range(3):  # a shipper that comes again before anything new is stored is no news
        assert losses.settled_below(hello, Mark(case.mark)) == case.settled_below
    assert metrics.lost_batches == case.lost
    assert [record.levelname for record in caplog.records] == [case.level] * bool(case.level)
    assert all(STREAM in record.message for record in caplog.records)


def test_what_is_lost_later_is_counted_too():
    """Another old copy of the archive, put back under a receiver that runs on."""
    metrics = ReceiverMetrics(now=0.0)
    losses = Losses(metrics)
    for hello_next in (81, 91):
        losses.settled_below(Hello(2, STREAM, hello_next, sent=0), Mark(60))
    assert metrics.lost_batches == 30


def test_a_note_from_before_consumed_batches_counted_blames_nobody():
    """Whoever had what is consumed, it says nothing of it, and so may have been anybody."""
    old = msgspec.json.decode(b'["s","a",0]', type=Noted)
    assert SentTo(up_to=80, noted=old.counting_consumed(81)).elsewhere("a") == 80
    assert SentTo(up_to=80, noted=Noted("s", "a", 0, True).counting_consumed(81)).elsewhere("a") == 0


class Fleet:
    """A receiver with an archive, and a shipper whose spool lives on."""

    def __init__(self, path):
        self.path = path
        self.store = MemoryStore(STREAM)
        self.server = None

    async def start(self, **options):
        self.sink = ArchiveSink(writer_of(self.path, **options))
        self.server = await started(sink=self.sink, host="127.0.0.1", port=getattr(self, "port", None))
        self.port = self.server.address[1]

    async def stop(self):
        await self.server.stop(deadline=0.0)
        await self.sink.close()

    async def ship(self, entries):
        settings = Settings(receivers=f"127.0.0.1:{self.port}", batch_size=5, drain_timeout=60.0)
        await LogShipper(settings, Numbers(entries), store=self.store).run()


def test_an_older_copy_of_the_archive_is_a_loss(tmp_path, run, caplog, capfd):
    """It is said at ERROR, counted, an alarm and a state; `verify` reports the gap, sealed or not, and ends with 1."""

    async def scenario():
        fleet = Fleet(tmp_path / "archive")
        await fleet.start()
        await fleet.ship(50)
        await fleet.stop()
        shutil.copytree(fleet.path, tmp_path / "backup")
        await fleet.start()
        await fleet.ship(50)
        await fleet.stop()
        before = fleet.store.first
        shutil.rmtree(fleet.path)
        shutil.copytree(tmp_path / "backup", fleet.path)
        await fleet.start()
        had = fleet.sink.mark(STREAM).sequence
        await fleet.ship(10)
        lost = before - 1 - had
        assert lost > 0
        assert fleet.server.metrics.lost_batches == lost
        monitor = Monitor(fleet.server, fleet.sink.writer)
        monitor.tick(fleet.server.metrics.snapshot(1.0))
        assert [alarm.id for alarm in monitor.overview().alarms] == ["loss"]
        assert not monitor.state()[0]
        assert monitor.ready()[0], "it can store, and does"
        [said] = [record for record in caplog.records if record.levelname == "ERROR"]
        assert f"stream s: {lost} batches ({had + 1} to {before - 1}) acknowledged at this address" in said.message
        for _ in ("open", "sealed"):
            reasons = [damage.reason for segment in verify(fleet.path) for damage in segment.damage]
            assert reasons == [f"stream s: sequences {had + 1} to {before - 1} missing, neither rejected nor skipped"]
            assert not any(segment.absent for segment in verify(fleet.path))
            if fleet.server is not None:
                await fleet.stop()
                fleet.server = None

    run(scenario)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "archive")])
    assert ended.value.code == 1
    assert "missing, neither rejected nor skipped" in capfd.readouterr().out


def test_a_receiver_that_was_asked_and_sent_nothing_has_nothing_of_what_is_lost(tmp_path, run):
    """It refused the shipper before the one that lost something was asked; it cannot be the one that has it."""

    async def scenario():
        first, second = [await started(sink=KeepingSink()) for _ in range(2)]
        stream = next(name for name in map(str, range(99)) if in_order(first, second, stream=name)[0] is second)
        second.access.refusal = lambda *_: "no_token"
        store = MemoryStore(stream)

        async def ship(entries):
            settings = Settings(receivers=f"{first.name},{second.name}", batch_size=5, drain_timeout=60.0)
            assert (await LogShipper(settings, Numbers(entries), store=store).run()).delivered

        try:
            await ship(50)
            first.sink._marks.known[stream] = Mark(4)  # an older copy was put back
            lost = store.first - 1 - 4
            await ship(5)
            assert (first.metrics.lost_batches, lost > 0) == (lost, True)
        finally:
            await first.stop(deadline=0.0)
            await second.stop(deadline=0.0)

    run(scenario)


def test_what_was_deleted_by_age_is_no_loss(tmp_path, run):
    """The marks outlive the segments."""

    async def scenario():
        now = [START]
        fleet = Fleet(tmp_path / "archive")
        await fleet.start(now=lambda: now[0], retention_seconds=60.0)
        await fleet.ship(50)
        await fleet.stop()
        now[0] += 7200.0
        await fleet.start(now=lambda: now[0], retention_seconds=60.0)
        await fleet.ship(5)
        await fleet.sink.tick()
        await fleet.stop()
        now[0] += 7200.0
        await fleet.start(now=lambda: now[0], retention_seconds=60.0)
        await fleet.sink.tick()
        await fleet.ship(5)
        assert fleet.server.metrics.lost_batches == 0
        await fleet.stop()

    run(scenario)


def test_a_sink_that_knows_no_marks_says_nothing(run, caplog):
    """As Kafka: another receiver may have had all that this one has not."""

    class Markless(KeepingSink):
        def mark(self, stream):
            return None

    async def scenario():
        first, second = await started(sink=Markless()), None
        store = MemoryStore(STREAM)
        settings = Settings(receivers=first.name, batch_size=5, drain_timeout=60.0)
        await LogShipper(settings, Numbers(20), store=store).run()
        await first.stop(deadline=0.0)
        second = await started(sink=Markless(), port=int(first.name.rpartition(":")[2]))
        await LogShipper(settings, Numbers(20), store=store).run()
        await eventually(lambda: second.sink.items)
        assert second.metrics.lost_batches == 0
        await second.stop(deadline=0.0)

    run(scenario)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def moved(number, *, base):
    return msgspec.structs.replace(batch(number, stream=STREAM), base=base)


@pytest.mark.parametrize(
    ("base", "absent", "missing"),
    [
        (8, ["stream s: sequences 3 to 7"], []),
        (6, ["stream s: sequences 3 to 5"], ["stream s: sequences 6 to 7 missing, neither rejected nor skipped"]),
        (3, [], ["stream s: sequences 3 to 7 missing, neither rejected nor skipped"]),
    ],
    ids=["elsewhere", "in part", "lost"],
)
def test_verify_tells_what_is_elsewhere_from_what_is_lost(tmp_path, base, absent, missing):
    """In small blocks, which sealing merges, but not over a gap."""
    writer = writer_of(tmp_path)
    for item in (moved(1, base=1), moved(2, base=1), moved(8, base=base), moved(9, base=8)):
        writer.commit([item])
    for _ in ("open", "sealed"):
        [checked] = verify(tmp_path)
        assert (checked.absent, [damage.reason for damage in checked.damage]) == (absent, missing)
        writer.close()
    assert [block.header.parts()[STREAM] for block in reader.blocks(tmp_path)] == [[(1, 2)], [(8, 9)]]


def test_rejected_and_skipped_sequences_are_no_loss(tmp_path):
    """Their place in the order is taken: the mark is behind them."""
    writer = writer_of(tmp_path)
    writer.commit([moved(1, base=1), RejectedSequence(STREAM, 2, "not_entries", base=2)])
    writer.commit([SkippedRange(STREAM, 3, 9, 70, "drop_oldest", base=3)])
    metrics = ReceiverMetrics(now=0.0)
    assert Losses(metrics).settled_below(Hello(2, STREAM, 10, sent=0), writer.marks.get(STREAM)) == 10
    writer.close()
    assert metrics.lost_batches == 0
    assert [damage for segment in verify(tmp_path) for damage in segment.damage] == []
