"""A relay in one process: what it tells the origins, what upstream gets from it, and what happens in between."""

import asyncio
import errno
import itertools
import logging
import os
import random
import socket
import threading

import msgspec
import pytest
from relay_items import STREAM, base_batch, batch, reject, relay, settings_of, skip, upstream
from test_delivery import KeepingSink, Numbers, shipper
from waiting import eventually

from logbale import committer, failover, receivers
from logbale.durable import DirectoryLock
from logbale.errors import LockedError, StorageError
from logbale.log_shipper import LogShipper
from logbale.metrics import ReceiverMetrics
from logbale.relay import forwarding, origin, spools
from logbale.relay.spool import directory_name
from logbale.sinks import NotNow, ReceivedBatch, Rejected, SkippedRange, Stored
from logbale.sinks import relay as relay_sink
from logbale.spool import MemoryStore
from logbale.spool.dead_letters import letters
from logbale.spool.format import MAX_NUMBER
from logbale.tcp_server import TCPLogReceiver


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Reconnects do not wait."""
    monkeypatch.setattr(failover, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(failover, "LONGEST_DELAY", 0.01)
    monkeypatch.setattr(forwarding, "LOOK_INTERVAL", 0.01)


class Upstream(KeepingSink):
    """What a relay forwards to; it may refuse batches."""

    def __init__(self, refuses=lambda item: False):
        super().__init__()
        self.refuses = refuses

    async def commit(self, items):
        await super().commit(items)
        return [Rejected("no such thing here") if self.refuses(item) else Stored() for item in items]

    def came(self, stream=STREAM):
        return [
            (item.first, item.last, item.entries, item.reason) if isinstance(item, SkippedRange) else item.sequence
            for item in self.items
            if item.stream == stream
        ]


def balanced(sink):
    """Whether a relay's sum is right."""
    told = sink.snapshot()
    settled = told.forwarded_entries + told.rejected_entries + sum(told.dropped.values())
    return told.taken_entries == settled + told.waiting_entries


async def forwarded(sink):
    await eventually(lambda: not sink.snapshot().waiting_batches)
    assert balanced(sink)


def test_upstream_gets_the_origins_streams_and_numbers(tmp_path, run):
    """Of two streams each batch in its order; what came without a stream is one of the relay's own."""

    async def scenario():
        async with upstream(Upstream()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            items = [batch(7, "a:1"), base_batch(0), batch(1, "b:1"), batch(8, "a:1"), base_batch(1)]
            assert await sink.commit(items) == [Stored()] * 5
            await forwarded(sink)
            assert server.sink.came("a:1") == [7, 8]
            assert server.sink.came("b:1") == [1]
            (own,) = {item.stream for item in server.sink.items} - {"a:1", "b:1"}
            assert server.sink.came(own) == [1, 2]
            assert (tmp_path / "relay" / "+base" / "stream").read_text() == f"{own}\n"
            told = sink.snapshot()
            assert (told.taken_entries, told.forwarded_entries, told.streams) == (5, 5, 2)
            assert told.sessions == 3

    run(scenario)


def test_the_origin_is_told_the_same_after_all_is_forwarded_and_after_a_restart(tmp_path, run):
    """Sequence, CRC and the rejects that it may not have heard of come from the relay's own disk."""

    async def scenario():
        async with upstream(Upstream()) as server:
            port = server.address[1]
            async with relay(tmp_path / "relay", port) as sink:
                await sink.commit([batch(1), reject(2), batch(3)])
                before = sink.mark(STREAM)
                assert (before.sequence, before.crc) == (3, batch(3).crc)
                assert [one.sequence for one in before.rejects] == [2]
                await forwarded(sink)
                assert sink.mark(STREAM) == before
            async with relay(tmp_path / "relay", port) as sink:
                assert sink.mark(STREAM) == before
                assert sink.can_admit(STREAM)
                sink.forget_rejects(STREAM, before=3)
                await sink.commit([batch(4)])
                await forwarded(sink)
            async with relay(tmp_path / "relay", port) as sink:
                assert (sink.mark(STREAM).sequence, sink.mark(STREAM).rejects) == (4, [])
            assert [one for one in server.sink.came() if isinstance(one, int)] == [1, 3, 4]

    run(scenario)


def test_skips_and_rejects_take_their_place_upstream(tmp_path, run):
    """Both are sequences that never come; the entries of a skip are counted there as here."""

    async def scenario():
        async with upstream(Upstream()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            await sink.commit([batch(1), skip(2, 4, 30), reject(5), batch(6), batch(9)])
            await forwarded(sink)
            assert server.sink.came() == [
                1,
                (2, 4, 30, "drop_oldest"),
                (5, 5, 0, "rejected at the relay"),
                6,
                (7, 8, 0, "never came to the relay"),
                9,
            ]
            assert server.metrics.skipped_entries == 30
            assert sink.snapshot().dropped == {"dropped_drop_oldest": 30}

    run(scenario)


def test_what_upstream_refuses_is_a_dead_letter_here(tmp_path, run, caplog):
    """Counted and said, and the others go on; the origin, which has its acknowledgement, hears nothing of it."""

    async def scenario():
        async with (
            upstream(Upstream(lambda item: item.sequence == 2)) as server,
            relay(tmp_path / "relay", server.address[1]) as sink,
        ):
            await sink.commit([batch(1), batch(2, entries=5), batch(3)])
            await forwarded(sink)
            told = sink.snapshot()
            assert (told.forwarded_entries, told.rejected_entries) == (2, 5)
            assert sink.mark(STREAM).rejects == []

    run(scenario)
    ((_, letter),) = letters(tmp_path / "relay" / STREAM)
    assert (letter.stream, letter.sequence, letter.count) == (STREAM, 2, 5)
    assert f"stream {STREAM}: upstream rejects what was acknowledged here" in caplog.text


def test_a_spool_that_cannot_be_written_holds_no_other_up(tmp_path, run, fail):
    """Its own items are to be given again; the others are stored, also what came without a number."""

    async def scenario():
        async with upstream(Upstream()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            items = [base_batch(0), batch(1, "a:1"), batch(1, "b:1"), reject(2, "b:1"), batch(3, "b:1")]

            def of_b(descriptor, *_):
                return "/b:1/" in os.readlink(f"/proc/self/fd/{descriptor}")

            fail("fdatasync", errno.EIO, when=of_b)
            outcomes = await sink.commit(items)
            assert outcomes[:2] == [Stored()] * 2
            assert [(type(one), "/b:1" in one.reason) for one in outcomes[2:]] == [(NotNow, True)] * 3
            assert sink.mark("b:1").sequence == 0
            fail()
            assert await sink.commit(items[2:]) == [Stored()] * 3
            assert [one.sequence for one in sink.mark("b:1").rejects] == [2]
            await forwarded(sink)
            assert server.sink.came("a:1") == [1]
            assert [one for one in server.sink.came("b:1") if isinstance(one, int)] == [1, 3]
            assert sink.snapshot().forwarded_entries == 4

    run(scenario)


def test_what_no_spool_can_number_is_not_rejected_before_the_batches_that_wait_ahead_of_it(tmp_path, run, fail):
    """Its answer would be an acknowledgement of those too, none of which is stored."""

    async def scenario():
        async with relay(tmp_path / "relay", 1) as sink:
            fail("fdatasync", errno.EIO)
            items = [batch(1), skip(2, MAX_NUMBER)]
            assert [type(one) for one in await sink.commit(items)] == [NotNow, NotNow]
            fail()
            assert [type(one) for one in await sink.commit(items)] == [Stored, Rejected]

    run(scenario)


@pytest.mark.parametrize("works", range(1, 8))
def test_batches_without_a_stream_are_stored_all_or_none(tmp_path, run, fail, works):
    """They have no number by which those that are here already could be passed over when all come again."""

    async def scenario():
        async with relay(tmp_path / "relay", 1) as sink:
            await sink.commit([base_batch(0)])
            syncs = itertools.count()
            fail("fdatasync", errno.EIO, when=lambda *_: not 1 <= next(syncs) < works)
            items = [base_batch(number) for number in range(1, 5)]
            outcomes = await sink.commit(items)
            fail()
            again = [item for item, outcome in zip(items, outcomes, strict=True) if isinstance(outcome, NotNow)]
            await sink.commit(again)
            assert sink.snapshot().waiting_entries == 5

    run(scenario)


def test_the_spools_of_a_commit_are_written_at_the_same_time(tmp_path, run, monkeypatch):
    """Eight streams' syncs all wait for each other, and none of them is given up."""
    together = threading.Barrier(8, timeout=60)
    real = os.fdatasync

    def fdatasync(descriptor):
        if ".spool.new" in os.readlink(f"/proc/self/fd/{descriptor}"):
            together.wait()
        real(descriptor)

    async def scenario():
        async with upstream(Upstream()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            monkeypatch.setattr(os, "fdatasync", fdatasync)
            await sink.commit([batch(1, f"s{number}:1") for number in range(8)])
            monkeypatch.setattr(os, "fdatasync", real)
            await forwarded(sink)

    run(scenario)


def test_a_full_relay_stores_nothing_more_until_upstream_has_taken_some(tmp_path, run):
    """SPOOL_MAX_BYTES bounds all streams together; an empty relay takes a batch of any size."""

    async def scenario():
        sink_there = Upstream()
        sink_there.open.clear()
        async with (
            upstream(sink_there) as server,
            relay(tmp_path / "relay", server.address[1], max_bytes=1 << 16) as sink,
        ):
            await sink.commit([batch(1, "a:1", padding=1 << 17)])
            with pytest.raises(StorageError, match=r"full, .* wait for 127.0.0.1.*SPOOL_MAX_BYTES is 65536"):
                await sink.commit([batch(1, "b:1", padding=1 << 17)])
            assert sink.mark("b:1").sequence == 0
            sink_there.open.set()
            await forwarded(sink)
            await sink.commit([batch(1, "b:1", padding=1 << 17)])
            await forwarded(sink)
            sink.limit(max_bytes=1 << 30, max_memory=0, max_streams=1000, marks_days=30)
            await sink.commit([batch(number, "b:1", padding=1 << 17) for number in (2, 3)])
            await forwarded(sink)
            assert sink.snapshot().max_spool_bytes == 1 << 30

    run(scenario)


def test_a_relay_is_full_when_its_spools_are_and_not_when_what_comes_is_large_before_it_is_compressed(tmp_path, run):
    """Of a group that might not fit the first are stored; what they take is known then, and the next may fit too."""
    limit = 1 << 17

    async def scenario():
        there = Upstream()
        there.open.clear()
        async with (
            upstream(there) as server,
            relay(tmp_path / "relay", server.address[1], max_bytes=limit) as sink,
        ):
            items = [batch(number, padding=4000) for number in range(1, 4000)]
            took = []

            async def fill():
                while rest := items[sum(took) :]:
                    took.append(len(await sink.commit(rest)))

            with pytest.raises(StorageError, match=r"full, .* the next batch may take up to"):
                await fill()
            assert len(took) > 2
            spooled = sink.snapshot().spool_bytes
            assert limit - 5000 < spooled <= limit
            there.open.set()
            await forwarded(sink)

    run(scenario)


def test_more_streams_than_places_take_turns(tmp_path, run, monkeypatch):
    """Two sessions for twenty streams, of which one always has more: each gets its turn, and no third is opened."""
    monkeypatch.setattr(forwarding, "TURN", 0.05)
    most = 0

    class Counting(Upstream):
        async def commit(self, items):
            nonlocal most
            most = max(most, server.metrics.sessions)
            return await super().commit(items)

    async def scenario():
        nonlocal server
        async with upstream(Counting()) as server, relay(tmp_path / "relay", server.address[1], connections=2) as sink:
            is_over = False

            async def endless():
                sequence = 1
                while not is_over:
                    await sink.commit([batch(sequence, "busy:1")])
                    sequence += 1
                    await asyncio.sleep(0.001)

            busy = asyncio.create_task(endless())
            others = [f"s{number}:1" for number in range(20)]
            await sink.commit([batch(sequence, stream) for sequence in (1, 2) for stream in others])
            await eventually(lambda: all(server.sink.came(stream) == [1, 2] for stream in others))
            is_over = True
            await busy
            await forwarded(sink)
            came = server.sink.came("busy:1")
            assert came == list(range(1, len(came) + 1))
            assert most == 2

    server = None
    run(scenario)


def test_an_idle_session_ends_and_the_next_batch_opens_another(tmp_path, run, monkeypatch):
    """LINK_IDLE after the last; upstream is told that it was done, and misses nobody."""
    monkeypatch.setattr(forwarding, "LINK_IDLE", 0.05)

    async def scenario():
        async with upstream(Upstream()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            for sequence in (1, 2):
                await sink.commit([batch(sequence)])
                await forwarded(sink)
                await eventually(lambda: not sink.snapshot().sessions and not server.metrics.sessions)
                (client,) = server.clients
                assert client.report.ended
                assert client.report.adds_up
            assert server.sink.came() == [1, 2]

    run(scenario)


def test_while_upstream_is_away_one_stream_tries_for_all(tmp_path, run, caplog, monkeypatch):
    """An outage of a hundred streams is one line a try; when it is over, all of them go on."""
    monkeypatch.setattr(failover, "FIRST_DELAY", 0.2)
    monkeypatch.setattr(failover, "LONGEST_DELAY", 0.2)

    async def scenario():
        async with upstream(Upstream()) as server:
            port = server.address[1]
        async with relay(tmp_path / "relay", port) as sink:
            streams = [f"s{number}:1" for number in range(100)]
            await sink.commit([batch(1, stream) for stream in streams])
            await eventually(lambda: sink.forwarding.is_unreachable)
            first = caplog.text.count("no session with")
            assert first <= 64
            await eventually(lambda: caplog.text.count("no session with") >= first + 5)
            told = sink.snapshot()
            assert (told.sessions, told.waiting_streams, told.waiting_entries) == (0, 100, 100)
            assert told.last_error
            lines = [one for one in caplog.messages if "no session with" in one]
            assert len(lines) < first + 15
            async with upstream(Upstream(), port) as server:
                await forwarded(sink)
                assert all(server.sink.came(stream) == [1] for stream in streams)
                assert sink.snapshot().last_error == ""

    caplog.set_level(logging.WARNING)
    run(scenario)


def test_looking_for_a_better_way_upstream_is_no_word_that_it_is_away(tmp_path, run, monkeypatch):
    """Where a name stands for several receivers each session looks now and then; a stop still forwards what waits."""

    async def resolve(host, port):
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.1x")]

    monkeypatch.setattr(receivers, "resolve", resolve)
    monkeypatch.setattr(receivers, "preference", lambda stream, names: sorted(names))

    async def scenario():
        async with (
            upstream(Upstream()) as server,
            relay(tmp_path / "relay", server.address[1], host="logs.test") as sink,
        ):
            seen = set()
            await sink.commit([batch(1)])
            while sink.snapshot().waiting_batches:
                seen.add(sink.forwarding.is_unreachable)
                await asyncio.sleep(0)
            assert seen == {False}

    run(scenario)


def test_a_stream_that_upstream_refuses_holds_no_other_up(tmp_path, run, monkeypatch, caplog):
    """One that is one too many there waits, with its reason; with one place for all, too."""
    monkeypatch.setattr(forwarding, "TURN", 0.05)

    class Few(Upstream):
        def can_admit(self, stream):
            return stream != "no:1"

    async def scenario():
        async with upstream(Few()) as server, relay(tmp_path / "relay", server.address[1], connections=1) as sink:
            await sink.commit([batch(1, "no:1"), *(batch(1, f"s{number}:1") for number in range(5))])
            await eventually(lambda: sink.snapshot().forwarded_entries == 5)
            await eventually(lambda: sink.snapshot().errors.get("limit"))
            assert sink.snapshot().waiting_entries == 1

    run(scenario)
    assert "stream no:1 is new" in caplog.text


def test_few_spools_stay_open_however_many_streams_there_are(tmp_path, run, monkeypatch):
    """Descriptors are bounded while upstream is away for long, and what is parked is forwarded all the same."""
    monkeypatch.setattr(spools, "RELAY_SPOOLS", 4)

    async def scenario():
        async with upstream(Upstream()) as server:
            port = server.address[1]
        async with relay(tmp_path / "relay", port, connections=2) as sink:
            streams = [f"s{number}:1" for number in range(60)]
            for sequence in (1, 2, 3):
                before = len(os.listdir("/proc/self/fd"))
                await sink.commit([batch(sequence, stream) for stream in streams])
                assert len(os.listdir("/proc/self/fd")) - before < 40
                assert balanced(sink)
            assert sink.snapshot().waiting_entries == 180
            async with upstream(Upstream(), port) as server:
                await forwarded(sink)
                assert all(server.sink.came(stream) == [1, 2, 3] for stream in streams)

    run(scenario)


def test_what_is_in_memory_is_bounded_over_all_streams_and_given_back(tmp_path, run, monkeypatch):
    """BUFFER_MAX_BYTES for all together; a spool that is closed, and a batch that is forwarded, hold nothing."""

    async def scenario():
        sink_there = Upstream()
        sink_there.open.clear()
        async with (
            upstream(sink_there) as server,
            relay(tmp_path / "relay", server.address[1], max_memory=5000, connections=1) as sink,
        ):
            room = sink.spools.shared.room
            await sink.commit([batch(number, f"s{number}:1", padding=1000) for number in range(1, 11)])
            assert 4000 < room.taken <= 5000
            monkeypatch.setattr(spools, "PARK_AFTER", 0.0)
            await sink.tick()
            assert room.taken <= 1100  # the one that has a session
            sink_there.open.set()
            await forwarded(sink)
            assert room.taken == 0
            sink.limit(max_bytes=1 << 30, max_memory=0, max_streams=1000, marks_days=30)
            await sink.commit([batch(2, "s2:1"), batch(3, "s2:1")])
            assert room.taken == 0
            await forwarded(sink)

    run(scenario)


def test_silent_streams_are_forgotten(tmp_path, run):
    """After MARKS_DAYS, with their directories; not while anything waits, nor where there is a dead letter."""
    day = 86_400
    now = 1000 * day

    async def scenario():
        nonlocal now
        async with (
            upstream(Upstream(lambda item: item.stream == "letter:1")) as server,
            relay(tmp_path / "relay", server.address[1], now=lambda: now) as sink,
        ):
            await sink.commit([batch(1, "old:1"), batch(1, "letter:1")])
            await forwarded(sink)
            await sink.forwarding.end()
            await sink.commit([batch(1, "waits:1")])
            for _ in range(40):
                now += day
                await sink.tick()
                await sink.expire()
            for origin in list(sink.spools.shared.open.values()):
                await origin.park()
            await sink.expire()
            assert not (tmp_path / "relay" / "old:1").exists()
            assert sink.mark("old:1").sequence == 0
            assert sink.mark("waits:1").sequence == sink.mark("letter:1").sequence == 1
            assert (tmp_path / "relay" / "letter:1").exists()
            assert balanced(sink)

    run(scenario)


def test_a_stream_that_comes_back_while_it_is_forgotten_begins_anew(tmp_path, run, monkeypatch):
    """Its directory is deleted on a thread; what comes meanwhile is stored, and what comes after that with it."""
    deleting, may_go = threading.Event(), threading.Event()

    def delete(directory):
        deleting.set()
        may_go.wait(60)
        return real(directory)

    real = origin._delete
    monkeypatch.setattr(origin, "_delete", delete)
    now = 1000 * 86_400

    async def scenario():
        nonlocal now
        async with (
            upstream(Upstream()) as server,
            relay(tmp_path / "relay", server.address[1], now=lambda: now) as sink,
        ):
            await sink.commit([batch(1)])
            await forwarded(sink)
            await sink.forwarding.end()
            await sink.spools.origins[STREAM].park()
            for _ in range(30):
                now += 86_400
                await sink.expire()
            now += 86_400
            expiring = asyncio.create_task(sink.expire())
            await eventually(deleting.is_set)
            coming = asyncio.create_task(sink.commit([batch(2)]))
            await asyncio.sleep(0)
            may_go.set()
            await expiring
            await coming
            await sink.commit([batch(3)])
            told = sink.snapshot()
            assert (told.streams, told.waiting_batches) == (1, 2)
            await sink.spools.origins[STREAM].park()
            assert sink.snapshot().spool_bytes == sink.spools.origins[STREAM].disk_bytes

    run(scenario)


def test_where_upstream_knows_another_history_the_rest_goes_on_under_a_new_name(tmp_path, run, caplog):
    """A relay that was restored from a copy loses nothing: what waits may be stored twice there, and it says so."""

    async def scenario():
        async with upstream(Upstream()) as server:
            await server.sink.commit([batch(number) for number in range(1, 100)])
            async with relay(tmp_path / "relay", server.address[1]) as sink:
                await sink.commit([batch(1), batch(2)])
                await forwarded(sink)
                (other,) = {item.stream for item in server.sink.items} - {STREAM}
                assert other.startswith("edge:")
                assert server.sink.came(other) == [1, 2]
                await sink.commit([batch(3)])
                await forwarded(sink)
                assert server.sink.came(other) == [1, 2, 3]
                assert sink.mark(STREAM).sequence == 3

    run(scenario)
    assert "another history of stream edge:1" in caplog.text


@pytest.mark.parametrize(
    ("here", "elsewhere", "later", "renamed"),
    [
        ([1, 2], [3], [], [1, 2]),
        ([1, 2], [3], [4], [1, 2, 4]),
        ([1, 2, 3, 4, 5], [3], [], [1, 2, 3, 4, 5]),
        ([], [1, 2], [3, 4], []),
    ],
    ids=["changed over", "and came back", "sent to both", "nothing waits here"],
)
def test_a_shipper_that_went_another_way_meanwhile_loses_nothing(tmp_path, run, here, elsewhere, later, renamed):
    """What upstream would take for duplicates though it never had it goes on under another name."""

    async def scenario():
        async with upstream(Upstream()) as server:
            port = server.address[1]
        async with relay(tmp_path / "first", 1) as sink:
            await sink.commit([batch(number) for number in here])
        async with upstream(Upstream(), port) as server, relay(tmp_path / "second", port) as sink:
            await sink.commit([batch(number) for number in elsewhere])
            await forwarded(sink)
        async with relay(tmp_path / "first", 1) as sink:
            await sink.commit([batch(number) for number in later])
        async with upstream(server.sink, port), relay(tmp_path / "first", port) as sink:
            await forwarded(sink)
        batches = [item for item in server.sink.items if isinstance(item, ReceivedBatch)]
        other = [item for item in batches if item.stream != STREAM]
        assert sorted({line for item in batches for line in item.lines().splitlines()}) == sorted(
            {line for number in [*here, *elsewhere, *later] for line in batch(number).lines().splitlines()}
        )
        assert [item.lines() for item in other] == [batch(number).lines() for number in renamed]

    run(scenario)


def test_a_disk_with_little_room_takes_what_fits_and_gives_back_what_is_forwarded(tmp_path, run, fail):
    """A group that is too large for it goes in parts; a file of which all is forwarded makes room for the next."""
    room = 100_000

    def used():
        """By pages, as file systems do."""
        sizes = [path.stat().st_size for path in (tmp_path / "relay").rglob("*") if path.is_file()]
        return sum(-(-size // 4096) * 4096 for size in sizes)

    async def scenario():
        async with upstream(Upstream()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            fail("pwrite", errno.ENOSPC, when=lambda fd, data, offset: used() + len(data) > room)
            items = [
                msgspec.structs.replace(batch(number), ndjson=b'{"n":"%s"}\n' % os.urandom(2500).hex().encode())
                for number in range(1, 41)
            ]
            refused = 0
            async with asyncio.timeout(60):
                while True:
                    try:
                        await sink.commit(items)
                        break
                    except StorageError:
                        refused += 1
                        await asyncio.sleep(0.01)
            await forwarded(sink)
            assert refused
            assert server.sink.came() == list(range(1, 41))

    run(scenario)


def test_shippers_and_a_relay_and_a_receiver(tmp_path, run):
    """Sessions at both sides: everything is upstream once and in order, though the relay's clients have gone."""

    async def scenario():
        async with upstream(KeepingSink()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            near = TCPLogReceiver(settings_of(0), sink, ReceiverMetrics(now=0.0))
            await near.start()
            reports = await asyncio.gather(*(shipper(near.address[1], Numbers(500)).run() for _ in range(3)))
            assert all(report.delivered for report in reports)
            await near.stop(deadline=0.0)
            await forwarded(sink)
            streams = {item.stream for item in server.sink.items}
            assert len(streams) == 3
            for stream in streams:
                batches = [item for item in server.sink.items if item.stream == stream]
                assert [item.sequence for item in batches] == list(range(1, len(batches) + 1))
            assert sorted(server.sink.numbers) == sorted(list(range(500)) * 3)
            assert not any(item.stream == "" for item in server.sink.items if isinstance(item, ReceivedBatch))

    run(scenario)


def test_while_one_shippers_spool_fails_it_waits_and_the_others_are_stored(tmp_path, run, fail, caplog, monkeypatch):
    """It is told why, it is not read on, and once its spool can be written nothing of it is missing or twice."""
    monkeypatch.setattr(committer, "STORAGE_RETRY", 0.05)

    async def scenario():
        async with upstream(KeepingSink()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            near = TCPLogReceiver(
                msgspec.structs.replace(server.settings, server_port=0), sink, ReceiverMetrics(now=0.0)
            )
            await near.start()
            bad = LogShipper(settings_of(near.address[1]), Numbers(20_000), store=MemoryStore("bad:1"))

            def of_bad(descriptor, *_):
                return "/bad:1/" in os.readlink(f"/proc/self/fd/{descriptor}")

            fail("fdatasync", errno.EIO, when=of_bad)
            waiting = asyncio.create_task(bad.run())
            await eventually(lambda: "stream bad:1 cannot be stored now" in caplog.text)
            good = await shipper(near.address[1], Numbers(500)).run()
            assert good.delivered
            assert near.committer.storage_error is None
            await eventually(lambda: "the receiver cannot store now, everything waits" in caplog.text)
            assert not waiting.done()
            fail()
            assert (await waiting).delivered
            assert caplog.text.count("cannot be stored now") == 1
            assert "stream bad:1 is stored again" in caplog.text
            await near.stop(deadline=0.0)
            await forwarded(sink)
            assert sorted(server.sink.numbers) == sorted([*range(500), *range(20_000)])

    run(scenario)


def test_what_is_given_up_of_a_stream_whose_disk_fails_now_and_then_comes_again_and_is_stored_once(
    tmp_path, run, fail, monkeypatch
):
    """Whatever of it was stored before: the session after it goes on from the mark, or from behind it."""
    chance = random.Random(7)

    async def scenario():
        async with upstream(KeepingSink()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            near = TCPLogReceiver(settings_of(0, max_in_flight_bytes=200_000), sink, ReceiverMetrics(now=0.0))
            await near.start()
            bad = LogShipper(settings_of(near.address[1]), Numbers(30_000), store=MemoryStore("bad:1"))

            def of_bad(descriptor, *_):
                return "/bad:1/" in os.readlink(f"/proc/self/fd/{descriptor}") and chance.random() < 0.9

            fail("fdatasync", errno.EIO, when=of_bad)
            for module, name in (failover, "FIRST_DELAY"), (failover, "LONGEST_DELAY"), (committer, "STORAGE_RETRY"):
                monkeypatch.setattr(module, name, 0.01)  # what was set before, fail() has undone
            waiting = asyncio.create_task(bad.run())
            await eventually(lambda: near.metrics.connections > 20)
            assert not waiting.done()
            fail()
            assert (await waiting).delivered
            await near.stop(deadline=0.0)
            await forwarded(sink)
            assert server.sink.numbers == [*range(30_000)]

    run(scenario)


def test_a_spool_that_cannot_be_opened_at_the_start_is_its_streams_trouble(tmp_path, run, caplog, monkeypatch):
    """The relay starts without it; the stream goes on, with what waited there, once it can be opened."""
    monkeypatch.setattr(relay_sink, "SETTLE_INTERVAL", 0.0)

    async def scenario():
        async with relay(tmp_path / "relay", 1) as sink:
            await sink.commit([batch(1, "a:1"), batch(1, "b:1")])
        lock = DirectoryLock(tmp_path / "relay" / "a:1", setting="")
        async with (
            upstream(Upstream()) as server,
            relay(tmp_path / "relay", server.address[1], max_streams=1) as sink,
        ):
            assert "stream a:1 waits: its spool cannot be opened: " in caplog.text
            assert (sink.mark("a:1"), sink.mark("b:1").sequence) == (None, 1)
            assert sink.can_admit("a:1")
            assert [type(one) for one in await sink.commit([batch(2, "a:1"), batch(2, "b:1")])] == [NotNow, Stored]
            await eventually(lambda: server.sink.came("b:1") == [1, 2])
            await sink.tick()
            assert sink.mark("a:1") is None
            lock.release()
            await sink.tick()
            assert sink.mark("a:1").sequence == 1
            await eventually(lambda: server.sink.came("a:1") == [1])
            assert await sink.commit([batch(2, "a:1")]) == [Stored()]
            await forwarded(sink)
            assert server.sink.came("a:1") == [1, 2]
            assert sink.snapshot().taken_entries == 4

    run(scenario)


def test_a_spool_that_cannot_be_opened_to_forward_is_said_once(tmp_path, run, caplog, monkeypatch):
    """However often it is tried; and again only once it was forwarded in between."""
    monkeypatch.setattr(forwarding, "RETRY", 0.01)
    tries = 0
    take = forwarding.Link

    def counted(*arguments):
        nonlocal tries
        tries += 1
        return take(*arguments)

    monkeypatch.setattr(forwarding, "Link", counted)

    async def scenario():
        async with relay(tmp_path / "relay", 1) as sink:
            await sink.commit([batch(1, "a:1")])
        async with upstream(Upstream()) as server:
            port = server.address[1]
            async with relay(tmp_path / "relay", port) as sink:
                lock = DirectoryLock(tmp_path / "relay" / "a:1", setting="")
                await eventually(lambda: tries > 5)
                assert caplog.text.count("stream a:1 cannot be forwarded now") == 1
                lock.release()
                await forwarded(sink)

    run(scenario)


def test_a_full_disk_is_everybodys(tmp_path, run, fail):
    """Where it takes nothing of anybody, all wait and are told so, as with any sink."""

    async def scenario():
        async with upstream(Upstream()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            fail("pwrite", errno.ENOSPC)
            with pytest.raises(StorageError, match="No space left"):
                await sink.commit([batch(1, "a:1"), batch(1, "b:1")])
            fail()
            await sink.commit([batch(1, "a:1"), batch(1, "b:1")])
            await forwarded(sink)

    run(scenario)


def test_its_directory_is_its_own(tmp_path, run):
    """A second relay is refused, and told which setting gives it another one."""

    async def scenario():
        async with upstream(Upstream()) as server, relay(tmp_path / "relay", server.address[1]):
            with pytest.raises(LockedError, match="RELAY_DIR"):
                async with relay(tmp_path / "relay", server.address[1]):
                    pass

    run(scenario)


def test_a_directory_of_the_file_systems_is_left_alone(tmp_path, run):
    """RELAY_DIR may be a volume's top, where `lost+found` is, which only root may read."""
    places = [tmp_path / "relay" / name for name in ("lost+found", ".snapshot", "%x")]

    async def scenario():
        async with upstream(Upstream()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            await sink.commit([batch(1)])
            await forwarded(sink)

    for place in places:
        place.mkdir(parents=True)
    run(scenario)
    run(scenario)
    assert all(list(place.iterdir()) == [] for place in places)


def test_a_stream_called_like_something_else_stays_in_the_directory(tmp_path, run):
    """`..` and `lock` are streams like others."""

    async def scenario():
        async with upstream(Upstream()) as server, relay(tmp_path / "relay", server.address[1]) as sink:
            await sink.commit([batch(1, stream) for stream in ("..", "lock", ".")])
            await forwarded(sink)
            assert {path.name for path in (tmp_path / "relay").iterdir()} == {"lock", "+reserve", "%..", "%lock", "%."}
            assert directory_name("..") == "%.."
            assert server.sink.came("..") == [1]

    run(scenario)
    assert {path.name for path in tmp_path.iterdir()} == {"relay"}
