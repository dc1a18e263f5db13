"""When a batch leaves: by count, by bytes, by age, or on a flush; and that its cursors are where it ends."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from logbale.batch_buffer import BatchBuffer
from logbale.models import Chunk


def entry(size):
    """A line of so many bytes."""
    return b"x" * (size - 1) + b"\n"


def chunk(*sizes, start=0, source="log"):
    """Entries of these sizes, each of which took twice as much of its source."""
    taken = [2 * size for size in sizes]
    return Chunk(
        [entry(size) for size in sizes], source=source, start=start, end=start + sum(taken), measure=lambda: taken
    )


def buffer(size=50, interval=5.0, max_bytes=1000):
    return BatchBuffer(size=size, interval=interval, max_bytes=max_bytes)


def counts(batches):
    return [batch.count for batch in batches]


def test_a_batch_leaves_when_it_holds_the_count():
    """Not one entry earlier, and the rest waits for the next."""
    held = buffer(size=3)
    assert held.add(chunk(1, 1), now=0) == []
    assert counts(held.add(chunk(1, 1, 1, 1, 1), now=0)) == [3, 3]
    assert len(held) == 1


def test_a_batch_leaves_before_an_entry_would_take_it_over_its_bytes():
    """Raw bytes, newlines included."""
    held = buffer(max_bytes=100)
    assert counts(held.add(chunk(40, 40, 40, 40), now=0)) == [2]
    assert len(held) == 2


def test_an_entry_larger_than_a_batch_travels_alone():
    """It is not refused, and it takes nothing with it."""
    assert counts(buffer(max_bytes=100).add(chunk(10, 5000, 10), now=0)) == [1, 1]


def test_a_batch_leaves_at_the_age_of_its_first_entry():
    """Later entries do not make it younger, and an empty buffer has no deadline."""
    held = buffer(interval=5)
    assert held.deadline is None
    held.add(chunk(1), now=10.0)
    held.add(chunk(1), now=14.0)
    assert held.deadline == 15.0
    assert held.take_due(now=14.9) is None
    assert held.take_due(now=15.0).count == 2
    assert held.deadline is None
    assert held.take_due(now=99.0) is None


def test_the_age_starts_anew_with_each_batch():
    """What is left over from a full batch is as old as the chunk that it came with."""
    held = buffer(size=2, interval=5)
    held.add(chunk(1), now=0)
    held.add(chunk(1, 1), now=4)
    assert held.deadline == 9


def test_a_flush_takes_what_there_is():
    """However little; and nothing where there is nothing."""
    held = buffer()
    held.add(chunk(7), now=0)
    assert counts([held.flush()]) == [1]
    assert held.flush() is None


def test_cursors_are_where_the_batch_ends():
    """Each source's offset after its last entry in this batch; a source that did not move is not named."""
    held = buffer(size=3)
    (first,) = held.add(chunk(10, 20, start=100, source="a"), now=0) + held.add(chunk(5, 5, start=7, source="b"), now=0)
    assert first.cursors == {"a": 160, "b": 17}
    assert held.flush().cursors == {"b": 27}


def test_a_chunk_without_entries_moves_cursors_only():
    """Where a source begins and what is forgotten travels with the next batch, and is no reason for one."""
    held = buffer(size=3)
    assert held.add(Chunk([], source="new", start=70, forgotten=("old",)), now=0) == []
    assert (held.deadline, held.flush()) == (None, None)
    assert held.add(chunk(1, 1, 1, source="a"), now=0)[0].cursors == {"old": None, "new": 70, "a": 6}


def test_a_source_without_a_cursor_leaves_none():
    """Standard input cannot be resumed."""
    held = buffer(size=1)
    assert held.add(chunk(3, source=""), now=0)[0].cursors == {}


def test_under_backlog_a_batch_takes_more_than_its_count():
    """Whole chunks, until it has half of what it may have; without a backlog the count holds."""
    held = buffer(size=3)
    held.add(chunk(1, 1), now=0)
    assert held.add(chunk(*[1] * 30, start=4), now=0, grown_bytes=100) == []
    assert counts(held.add(chunk(*[1] * 30, start=64), now=0, grown_bytes=100)) == [62]
    assert counts(held.add(chunk(*[1] * 4, start=124), now=0)) == [3]


def test_a_grown_batch_keeps_to_its_bytes():
    """The limit is the link's, and never over that of every batch; the count holds where the limit is less."""
    assert counts(buffer(size=2).add(chunk(*[10] * 9), now=0, grown_bytes=45)) == [4, 4]
    assert counts(buffer(size=2, max_bytes=30).add(chunk(*[10] * 9), now=0, grown_bytes=45)) == [3, 3, 3]
    assert counts(buffer(size=4).add(chunk(*[10] * 9), now=0, grown_bytes=15)) == [4, 4]


chunks = st.lists(st.lists(st.integers(1, 400), max_size=30), max_size=10)


@given(chunks, st.integers(1, 20), st.integers(1, 1000), st.integers(0, 2000))
def test_entries_leave_once_in_order_and_within_the_limits(sizes_of_chunks, size, max_bytes, grown):
    """Whatever comes in: the same entries, in the same order, in batches that are full or as full as could be."""
    held = BatchBuffer(size=size, interval=5, max_bytes=max_bytes)
    batches, offset = [], 0
    for sizes in sizes_of_chunks:
        made = chunk(*sizes, start=offset)
        batches += held.add(made, now=0, grown_bytes=grown)
        offset += 2 * sum(sizes)
    last = held.flush()
    batches += [last] if last else []
    assert b"".join(batch.raw for batch in batches) == b"".join(
        entry(one) for sizes in sizes_of_chunks for one in sizes
    )
    for batch in batches:
        sizes = [len(line) for line in batch.raw.splitlines(keepends=True)]
        assert batch.count == len(sizes) >= 1
        assert len(sizes) <= size or sum(sizes) <= grown
        assert sum(sizes) <= max_bytes or len(sizes) == 1
    for full, following in pairwise(batches):
        assert full.count >= size or len(full.raw) + following.raw.index(b"\n") + 1 > max_bytes
    ends = [batch.cursors["log"] for batch in batches]
    assert ends == sorted(ends)
    assert not ends or ends[-1] == offset
    assert ends == [2 * len(b"".join(batch.raw for batch in batches[: count + 1])) for count in range(len(batches))]


limits = st.tuples(st.integers(1, 20), st.integers(1, 1000))


@given(st.lists(st.tuples(st.lists(st.integers(1, 400), max_size=30), limits), max_size=10))
def test_limits_may_change_at_any_time(steps):
    """No entry is lost or doubled by it, and each batch keeps to a limit that held while it was made."""
    held, sent, sizes_now = BatchBuffer(size=50, interval=5, max_bytes=1000), [], [(50, 1000)]
    for sizes, (size, max_bytes) in steps:
        held.size, held.max_bytes = size, max_bytes
        sizes_now.append((size, max_bytes))
        for batch in held.add(chunk(*sizes), now=0):
            sent.append(batch.raw)
            assert any(batch.count <= count for count, _ in sizes_now)
            assert any(len(batch.raw) <= most for _, most in sizes_now) or batch.count == 1
            sizes_now = sizes_now[-1:] if not len(held) else sizes_now
    last = held.flush()
    sent += [last.raw] if last else []
    assert b"".join(sent) == b"".join(entry(one) for sizes, _ in steps for one in sizes)


def test_cursors_that_move_without_an_entry_are_due_by_themselves():
    """A second after the first of them moved; where an entry follows, its batch takes them."""
    held = buffer()
    assert held.note_due(1.0) is None
    held.add(Chunk([], begun={"a": 10, "b": 20}), now=3.0)
    held.add(Chunk([], forgotten=("c",)), now=3.5)
    assert held.note_due(1.0) == 4.0
    assert held.take_cursors() == {"a": 10, "b": 20, "c": None}
    assert (held.note_due(1.0), held.take_cursors()) == (None, {})
    held.add(Chunk([], begun={"d": 7}), now=5.0)
    held.add(chunk(10, start=20, source="b"), now=5.5)
    assert (held.note_due(1.0), held.take_cursors()) == (None, {})
    assert held.flush().cursors == {"b": 40, "d": 7}
    assert held.note_due(1.0) is None
