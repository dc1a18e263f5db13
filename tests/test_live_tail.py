"""What the live tail promises: whoever looks sees entries go by or hears how many they missed, and nobody waits."""

import asyncio
import itertools
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.allowance import Allowance
from logbale.compression import zstd
from logbale.entry_filter import EntryFilter, level_names
from logbale.sinks import ReceivedBatch, live_tail, looking, viewer
from logbale.sinks.live_tail import RING_BYTES, LiveTail, NoPlace
from logbale.sinks.looking import MAX_ENTRY_BYTES

ALL = EntryFilter()


class Entries:
    """Numbered entries, in batches as a receiver stores them."""

    def __init__(self):
        self._numbers = itertools.count()

    def batch(self, count, *, frame=False, **fields):
        lines = [json.dumps({"n": next(self._numbers), **fields}).encode() + b"\n" for _ in range(count)]
        ndjson = b"".join(lines)
        if not frame:
            return ReceivedBatch(ndjson, count, "", "")
        return ReceivedBatch(b"", count, "", "", frame=zstd.compress(ndjson), frame_raw_bytes=len(ndjson))


class Seen:
    """What a viewer has taken so far."""

    def __init__(self, looking):
        self.viewer = looking
        self.numbers = []
        self.skipped = 0
        self.last = None
        self.notes = []

    async def take(self):
        shown = await self.viewer.take()
        if shown is not None:
            if shown.skipped or shown.restarted:
                self.notes.append((shown.skipped, shown.restarted))
            self.skipped += shown.skipped
            self.numbers += [json.loads(text)["n"] for text in json.loads(shown.data or "[]")]
            self.last = shown.last
        return shown

    async def until(self, count):
        """Takes until so many entries were seen or skipped."""
        while len(self.numbers) + self.skipped < count:
            await self.take()
        return self


async def joined(live, *arguments, **options):
    return Seen(await live.join(*arguments, **options))


def test_entries_are_shown_as_they_are_stored(run):
    """All of them, in order, small batches and large frames alike."""

    async def scenario():
        live, entries = LiveTail(), Entries()
        seen = await joined(live, ALL)
        live.show([entries.batch(3), entries.batch(1)])
        await seen.until(4)
        live.show([entries.batch(2000, frame=True)])
        await seen.until(2004)
        await live.close()
        assert (seen.numbers, seen.skipped) == (list(range(2004)), 0)

    run(scenario)


def test_each_viewer_has_a_filter_of_their_own(run):
    """Text, level, service; none of what fits is lost to another's filter."""

    async def scenario():
        live, entries = LiveTail(), Entries()
        everything = await joined(live, ALL)
        errors = await joined(live, EntryFilter(levels=level_names(["error"])))
        fives = await joined(live, EntryFilter("5}"))
        live.show([entries.batch(20), entries.batch(2, level="err"), entries.batch(4)])
        await everything.until(26)
        await errors.until(2)
        await fives.until(3)
        await live.close()
        assert (errors.numbers, fives.numbers) == ([20, 21], [5, 15, 25])

    run(scenario)


def test_without_viewers_no_entry_is_looked_at():
    """A frame that nobody could decompress is no trouble, and what is remembered is bounded."""

    async def scenario():
        live = LiveTail()
        for _ in range(100):
            live.show([ReceivedBatch(b"", 10, "", "", frame=b"no frame", frame_raw_bytes=RING_BYTES // 10)])
        assert live.remembered_bytes <= RING_BYTES
        await live.close()

    asyncio.run(scenario())


def test_a_viewer_who_comes_back_goes_on_where_they_were(run):
    """Nothing twice, nothing missing, while others look on."""

    async def scenario():
        live, entries = LiveTail(), Entries()
        first = await joined(live, ALL)
        live.show([entries.batch(5)])
        await first.until(5)
        live.leave(first.viewer)
        live.show([entries.batch(3)])
        other = await joined(live, ALL)
        live.show([entries.batch(3, frame=True)])
        await other.until(3)
        again = await joined(live, ALL, after=first.last)
        live.show([entries.batch(2)])
        await again.until(8)
        await live.close()
        assert first.numbers + again.numbers == list(range(13))
        assert again.skipped == 0

    run(scenario)


def test_a_viewer_may_leave_in_the_middle_of_a_batch(run):
    """What they had of it does not come again."""

    async def scenario():
        live, entries = LiveTail(), Entries()
        first = await joined(live, ALL)
        live.show([entries.batch(3000, frame=True, text="x" * 40)])
        await first.take()
        live.leave(first.viewer)
        again = await (await joined(live, ALL, after=first.last)).until(3000 - len(first.numbers))
        await live.close()
        assert 0 < len(first.numbers) < 3000
        assert first.numbers + again.numbers == list(range(3000))

    run(scenario)


def test_what_others_are_shown_while_a_viewer_comes_back_is_not_missed(run, monkeypatch):
    """However long it takes to look up what they missed."""

    async def scenario():
        live, entries, loop = LiveTail(), Entries(), asyncio.get_running_loop()
        other = await joined(live, ALL)
        live.show([entries.batch(1)])
        await other.until(1)

        async def meanwhile():
            live.show([entries.batch(1)])
            await other.until(len(other.numbers) + 1)

        def slow_replay(*arguments):
            if len(other.numbers) < 4:
                asyncio.run_coroutine_threadsafe(meanwhile(), loop).result(60)
            return looking.replay(*arguments)

        monkeypatch.setattr(live_tail, "replay", slow_replay)
        again = await (await joined(live, ALL, after=live.base - 1)).until(4)
        await live.close()
        assert (again.numbers, again.skipped) == ([0, 1, 2, 3], 0)

    run(scenario)


def test_what_waits_to_be_looked_at_is_bounded_too(run):
    """A batch that is forgotten is held by nobody."""

    async def scenario():
        live, entries = LiveTail(), Entries()
        await live.join(ALL)
        batches = [entries.batch(100, text="x" * 1000) for _ in range(100)]
        before = sys.getrefcount(batches[0])
        live.show(batches)
        first, last = sys.getrefcount(batches[0]), sys.getrefcount(batches[-1])
        assert live.remembered_bytes <= RING_BYTES
        assert first == before < last
        await live.close()

    run(scenario)


def test_who_comes_back_too_late_hears_how_many_they_missed(run):
    """What the ring has forgotten is skipped, what it has is shown."""

    async def scenario():
        live, entries = LiveTail(), Entries()
        first = await joined(live, ALL)
        live.show([entries.batch(1)])
        await first.until(1)
        live.leave(first.viewer)
        for _ in range(50):
            live.show([entries.batch(50, text="x" * 3000)])
        again = await (await joined(live, ALL, after=first.last)).until(2500)
        await live.close()
        assert again.skipped + len(again.numbers) == 2500
        assert again.numbers == list(range(1 + again.skipped, 2501))
        assert 0 < again.skipped < 2500

    run(scenario)


@pytest.mark.parametrize("after", [0, 17, 2**62])
def test_a_number_of_an_earlier_run_gets_what_is_remembered_and_a_word_about_it(run, after):
    """How much is missing nobody knows then."""

    async def scenario():
        live, entries = LiveTail(), Entries()
        live.show([entries.batch(4)])
        seen = await (await joined(live, ALL, after=after)).until(4)
        await live.close()
        assert (seen.numbers, seen.notes) == ([0, 1, 2, 3], [(0, True)])

    run(scenario)


def test_a_viewer_may_begin_with_the_last_entries(run):
    """Those that fit, out of what is remembered, and no word of what was before."""

    async def scenario():
        live, entries = LiveTail(), Entries()
        live.show([entries.batch(30, level="INFO"), entries.batch(2, level="ERROR"), entries.batch(5, level="INFO")])
        newest = await joined(live, ALL, last=3)
        errors = await joined(live, EntryFilter(levels=level_names(["error"])), last=10)
        live.show([entries.batch(1, level="ERROR")])
        await newest.until(4)
        await errors.until(3)
        await live.close()
        assert (newest.numbers, newest.skipped) == ([34, 35, 36, 37], 0)
        assert (errors.numbers, errors.skipped) == ([30, 31, 37], 0)

    run(scenario)


def test_a_viewer_who_takes_nothing_costs_bounded_memory_and_only_their_own_entries(run, monkeypatch):
    """They hear the number of what did not fit; another one misses nothing by it."""
    monkeypatch.setattr(viewer, "MAX_QUEUED_BYTES", 20_000)

    async def scenario():
        live, entries = LiveTail(), Entries()
        slow, fast = await joined(live, ALL), await joined(live, ALL)
        for number in range(1, 101):
            live.show([entries.batch(10, text="x" * 100)])
            await fast.until(10 * number)
            assert slow.viewer.queued_bytes <= 20_000
        assert fast.numbers == list(range(1000))
        await slow.until(1000)
        await live.close()
        assert 0 < slow.skipped < 1000
        assert len(slow.numbers) == len(set(slow.numbers))

    run(scenario)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.booleans(), st.integers(0, 3)), min_size=1, max_size=8),
    st.integers(0, 4),
)
def test_whatever_happens_nothing_is_missed_in_silence(flow, takes):
    """Shown and skipped are all that was stored since the viewer came, whatever it takes, and however it comes back."""

    async def scenario():
        live, entries, total = LiveTail(), Entries(), 0
        seen = await joined(live, ALL)
        for count, frame, turns in flow:
            live.show([entries.batch(count, frame=frame, text="x" * 40)])
            total += count
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(takes):
            if len(seen.numbers) + seen.skipped < total:
                await seen.take()
        live.leave(seen.viewer)
        live.show([entries.batch(2)])
        after = seen.last if seen.last is not None else live.base - 1
        again = await (await joined(live, ALL, after=after)).until(total + 2 - len(seen.numbers) - seen.skipped)
        await live.close()
        assert len(seen.numbers) + seen.skipped + len(again.numbers) + again.skipped == total + 2
        both = seen.numbers + again.numbers
        assert both == sorted(set(both))

    asyncio.run(scenario())


def test_a_flood_is_sampled_and_what_is_shown_is_new(run, monkeypatch):
    """With next to no CPU allowed, a viewer sees some of it, the rest is counted, and it is over when the flood is."""
    monkeypatch.setattr(live_tail, "CPU_SAVED", 0.001)
    monkeypatch.setattr(live_tail, "CPU_SHARE", 0.001)

    async def scenario():
        live, entries = LiveTail(), Entries()
        seen = await joined(live, ALL)
        for _ in range(300):
            live.show([entries.batch(100, text="x" * 200)])
            await asyncio.sleep(0)
        taking = asyncio.create_task(seen.until(30_000))
        await taking
        await live.close()
        assert len(seen.numbers) < 20_000
        assert seen.numbers[-1] == 29_999

    run(scenario)


def test_what_is_too_long_to_look_at_is_skipped_and_counted(run):
    """An entry of a megabyte is for reading in the archive; a batch larger than all that is remembered as well."""

    async def scenario():
        live, entries = LiveTail(), Entries()
        seen = await joined(live, ALL)
        live.show([entries.batch(1), entries.batch(1, text="x" * MAX_ENTRY_BYTES), entries.batch(2)])
        await seen.until(4)
        live.show([entries.batch(2, text="x" * RING_BYTES)])
        await seen.until(6)
        replayed = await (await joined(live, ALL, after=live.base - 1)).until(6)
        await live.close()
        assert (seen.numbers, seen.skipped) == ([0, 2, 3], 3)
        assert (replayed.numbers, replayed.skipped) == ([0, 2, 3], 3)

    run(scenario)


def test_no_more_than_so_many_may_look_at_once(run):
    """DASHBOARD_MAX_VIEWERS; a place is free again when one leaves."""

    async def scenario():
        live = LiveTail(max_viewers=4)
        viewers = [await live.join(ALL) for _ in range(4)]
        with pytest.raises(NoPlace):
            await live.join(ALL)
        live.leave(viewers[3])
        await live.join(ALL)
        await live.close()

    run(scenario)


def test_the_end_reaches_every_viewer_and_lets_nobody_in(run):
    """After what they had not taken yet."""

    async def scenario():
        live, entries = LiveTail(), Entries()
        seen = await joined(live, ALL)
        live.show([entries.batch(2)])
        await seen.until(1)
        live.end()
        assert await seen.take() is None
        with pytest.raises(NoPlace):
            await live.join(ALL)
        await live.close()

    run(scenario)


def test_an_error_in_the_tail_ends_the_tail_and_nothing_else(run, caplog):
    """A batch that is not what it says it is costs the viewers their view; storing never notices."""

    async def scenario():
        live, entries = LiveTail(), Entries()
        seen = await joined(live, ALL)
        live.show([ReceivedBatch(b"", 10, "", "", frame=b"no frame at all", frame_raw_bytes=100)])
        assert await seen.take() is None
        live.show([entries.batch(1)])
        await live.close()

    run(scenario)
    assert "the live tail has ended; storing goes on without it" in caplog.text


def test_an_allowance_is_saved_up_to_its_limit_and_never_beyond():
    """Debts are waited for at the rate at which it comes in."""
    allowance = Allowance(0.01, 0.1, now=0.0)
    assert allowance.wait(1000.0) == 0
    allowance.spend(0.12, 1000.0)
    assert allowance.wait(1000.0) == pytest.approx(2.0)
    assert allowance.wait(1001.5) == pytest.approx(0.5)
    assert allowance.wait(1002.1) == 0
