"""Session, spool and archive together against everything that may happen to them: model_world has the promises.

A seed is a whole world. MODEL_SEEDS says how many the slow test lives through (`make test`: 1,000, about 20 s). A seed
that fails goes into FAILED, and what it found gets a test of its own below: a seed means something else once RULES has
changed.
"""

import asyncio
import gc
import logging
import os
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from model_disk import Disk, Random, attached
from model_world import RULES, PowerOff, Violation, World, live
from spool_batches import balanced, batch, spool_of

from logbale.archive.segment import OpenSegment
from logbale.durable import make_directory
from logbale.spool import DiskSpool
from logbale.spool_queue import SpoolQueue

SEEDS = int(os.environ.get("MODEL_SEEDS", "1000"))
PARTS = 8
FAILED = [895, 1650, 1771, 1974, 2961, 3160, 3823]
"""Seeds that broke a promise once: names of a directory and of a dead letter, sums over drops, rejects of drops."""


@pytest.fixture(autouse=True)
def _quiet():
    """A crash a second has a lot to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def live_through(root, seeds, **options):
    """Worlds one after another; what breaks one bears its seed."""
    for seed in seeds:
        try:
            live(root, seed, **options)
        except BaseException as error:
            error.add_note(f"in the world of seed {seed}")
            raise


@pytest.mark.parametrize("seed", FAILED)
def test_what_failed_once(tmp_path, seed):
    """It does not again."""
    live(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_doubled_or_out_of_order(tmp_path, part):
    """Whatever crashes, is cut, delayed, superseded, restored, rejected or dropped, and whatever a disk forgets."""
    live_through(tmp_path, range(part, SEEDS, PARTS))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_nothing_is_lost_doubled_or_out_of_order_where_the_spool_is_always_full(tmp_path):
    """And what is dropped was never sent."""
    live_through(tmp_path, range(SEEDS // 2), is_tight=True)


class Machine(RuleBasedStateMachine):
    """The same rules, in an order that hypothesis chooses and shortens."""

    root = None

    def __init__(self):
        super().__init__()
        self.world = None

    @rule(name=st.sampled_from(list(RULES)), seed=st.integers(0, 1 << 16))
    def step(self, name, seed):
        if self.world is None:
            self.world = World(self.root, seed)
        self.world.random.seed(seed)
        self.world.step(name)

    def teardown(self):
        if self.world is not None:
            with self.world as world:
                world.settle()


def test_no_short_list_of_steps_breaks_a_promise(tmp_path):
    """Found by hypothesis, a failure is as short as it can be."""

    class Here(Machine):
        root = tmp_path

    profile = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Here, settings=profile)


@pytest.mark.parametrize("deaf_to", ["fdatasync", "directory"])
@pytest.mark.parametrize("end", ["shipper", "receiver"])
def test_an_end_that_does_not_sync_is_found_out(tmp_path, end, deaf_to):
    """Mutants: its calls of fdatasync, or of fsync for directories, do nothing."""
    with pytest.raises(Violation):
        live_through(tmp_path, range(100), deaf_to={end: deaf_to})


def test_an_ack_before_the_sync_is_found_out(tmp_path, monkeypatch):
    """A mutant: what a commit has written is synced by the next one."""
    sync, append = OpenSegment.sync, OpenSegment.append

    def sync_later(segment):
        segment.synced = segment.size

    def sync_and_append(segment, block):
        sync(segment)
        append(segment, block)

    monkeypatch.setattr(OpenSegment, "sync", sync_later)
    monkeypatch.setattr(OpenSegment, "append", sync_and_append)
    with pytest.raises(Violation):
        live_through(tmp_path, range(100))


def test_what_happens_in_a_world_does_not_depend_on_the_garbage_collector(tmp_path, monkeypatch):
    """Else a failure cannot be repeated: a killed receiver's tasks end before the collector finds them."""
    forget = World._forget_tasks

    def collect_and_forget(world):
        gc.collect()
        forget(world)
        gc.collect()

    monkeypatch.setattr(World, "_forget_tasks", collect_and_forget)
    with World(tmp_path, 1) as world:
        for _ in range(3):
            world.start()
            world.kill()
        world.turn()


def test_a_send_bound_that_is_not_durable_before_the_sending_is_found_out(tmp_path, monkeypatch):
    """A mutant: that waiting batches may be sent is only in memory, so a restart may drop what has arrived."""

    def begin_sending(spool):
        spool._state.is_sending = True
        spool._state.raise_bound()

    monkeypatch.setattr(DiskSpool, "begin_sending", begin_sending)
    with pytest.raises(Violation):
        live_through(tmp_path, range(300), is_tight=True)


# What it found, each on its own.


def test_a_directory_that_a_crash_left_unsynced_is_synced_at_the_next_start(tmp_path):
    """Killed between the two, then cut from power later: what was put into it since is still there."""
    for calls in range(6):
        disk = Disk(tmp_path / "disk", Random(0))
        with attached(disk):
            disk.calls_left = calls
            with suppress(PowerOff):
                make_directory(disk.root / "a" / "b")
            disk.kill()
            make_directory(disk.root / "a" / "b")
            disk.cut_power(keep=0.0)
            assert (disk.root / "a" / "b").is_dir()


def dropped(directory, *, sent: int):
    """A spool of 3 segments of batches, started again after some were sent, that dropped the first 2 of them."""
    spool = spool_of(directory, max_bytes=1 << 20, segment_bytes=1500)
    while len(list(directory.glob("*.spool"))) < 4:
        spool.append([batch(spool.next_sequence, padding=100)])
    spool.close()
    spool = spool_of(directory, max_bytes=1 << 20, segment_bytes=1500)
    return spool, [spool.drop_oldest(1, sent) for _ in range(2)]


def test_neighbouring_drops_are_not_taken_for_delivered(tmp_path):
    """An acknowledgement of the first one counts nothing of the second, though both their segments are gone."""
    spool, (first, second) = dropped(tmp_path / "s", sent=0)
    spool.acknowledge(first.last)
    assert spool.counts["acknowledged"] == 0
    assert spool.counts["dropped_drop_oldest"] == first.entries + second.entries
    assert balanced(spool)
    spool.close()


def test_a_drop_that_the_receiver_has_in_part_stays_a_drop(tmp_path):
    """How many entries the part had, no record tells any more: a loss must not look delivered."""
    spool, (first, second) = dropped(tmp_path / "s", sent=0)
    spool.acknowledge(first.first)
    assert spool.counts["acknowledged"] == 0
    assert spool.skips[0].entries == first.entries
    assert balanced(spool)
    spool.acknowledge(second.last)
    assert spool.counts["dropped_drop_oldest"] == first.entries + second.entries
    assert balanced(spool)
    spool.close()


def test_a_reject_of_a_batch_that_was_dropped_stops_nothing(tmp_path):
    """It was sent, the shipper was started again, dropped it, and only then hears of the reject: at every welcome."""
    spool, (first, _) = dropped(tmp_path / "s", sent=0)

    async def scenario():
        queue = SpoolQueue(spool, max_memory=1 << 20)
        await queue.reject(first.first, "not entries")
        await queue.acknowledge(first.last)
        assert queue.counts["rejected"] == 0
        assert balanced(spool)
        await queue.close()

    asyncio.run(scenario())


def test_a_rejected_batch_that_is_dropped_afterwards_counts_once(tmp_path):
    """It is a dead letter, and no drop as well: acknowledged never becomes less than nothing, whatever follows."""
    for end in ("drop", "part", "new stream", "restart"):
        directory = tmp_path / end
        spool = spool_of(directory, max_bytes=1 << 20, segment_bytes=1500)
        while len(list(directory.glob("*.spool"))) < 4:
            spool.append([batch(spool.next_sequence, padding=100)])
        spool.reject(2, "not entries")
        first = spool.drop_oldest(1, 0)
        assert first.first == 1
        assert first.entries == first.last - 1
        if end == "part":  # the receiver had the first batch before it was dropped; then the reject is the lowest
            spool.acknowledge(1)
            assert spool.first == 2
        elif end == "new stream":
            spool.new_stream()
        elif end == "restart":
            spool.close()
            spool = spool_of(directory, max_bytes=1 << 20, segment_bytes=1500)
        second = spool.drop_oldest(1, 0)
        assert balanced(spool)
        spool.acknowledge(spool.next_sequence - 1)
        counts = spool.counts
        assert counts["rejected"] == 1
        assert counts["dropped_drop_oldest"] == first.entries + second.entries
        assert counts["acknowledged"] == counts["read"] - 1 - first.entries - second.entries
        assert counts["spooled"] == 0
        spool.close()
