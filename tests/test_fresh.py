"""What is in memory of what waits on disk: the newest, and what is sent next."""

from spool_batches import batch, spool_of

from logbale.spool.ahead import AHEAD_BATCHES, read_ahead
from logbale.spool.batches import Record
from logbale.spool.fresh import FreshBatches, FreshRoom

RAW = b"x" * 100


def record(sequence):
    return Record(sequence, 1, len(RAW), 0, len(RAW))


def fresh_of(*sequences, room):
    fresh = FreshBatches(FreshRoom(room))
    for sequence in sequences:
        fresh.keep(record(sequence), RAW, None)
    return fresh


def held(fresh, up_to=20):
    return [sequence for sequence in range(up_to) if fresh.get(sequence) is not None]


def test_what_is_sent_next_takes_the_place_of_what_is_sent_last():
    """Within the room, and each batch once: what is forgotten gives back what it took."""
    fresh = fresh_of(6, 8, 9, room=400)
    assert fresh.room_for_next == 400
    fresh.keep_next([(record(n), RAW) for n in (4, 5, 6, 7)], fresh.forgotten)
    assert held(fresh) == [4, 5, 6, 7]
    assert fresh.room.taken == 400
    fresh.keep_next([(record(8), RAW)], fresh.forgotten)
    assert held(fresh) == [4, 5, 6, 7]
    fresh.forget_above(0)
    assert fresh.room.taken == 0


def test_others_in_the_same_room_make_no_place():
    """Each stream of a relay has what is its own to give."""
    other = fresh_of(1, 2, 3, room=400)
    fresh = FreshBatches(other.room)
    assert fresh.room_for_next == 100
    fresh.keep_next([(record(n), RAW) for n in (4, 5)], fresh.forgotten)
    assert held(fresh) == [4]
    assert held(other) == [1, 2, 3]


def test_what_was_read_before_some_were_forgotten_is_not_kept():
    """It may be what the store has dropped meanwhile."""
    fresh = fresh_of(room=400)
    forgotten = fresh.forgotten
    fresh.forget_above(3)
    fresh.keep_next([(record(4), RAW)], forgotten)
    assert held(fresh) == []


def test_what_is_read_at_a_time_is_bounded_in_bytes_and_batches(tmp_path):
    """And ends before what is no sound batch, which whoever asks for it hears of."""
    spool = spool_of(tmp_path / "spool")
    spool.append([batch(n, padding=100) for n in range(1, 300)])
    size = spool.item(1).raw_bytes
    for max_bytes, expected in [(0, 0), (size - 1, 0), (5 * size, 5), (1 << 30, AHEAD_BATCHES)]:
        item, batches = read_ahead(spool, 1, max_bytes)
        assert item == spool.item(1)
        assert len(batches) in range(expected, expected + 2)
        assert sum(len(raw) for _, raw in batches) <= max_bytes
        assert all(raw == spool.read(one.sequence) for one, raw in batches)
    spool.reject(250, "not entries")
    _, batches = read_ahead(spool, 245, 1 << 30)
    assert [one.sequence for one, _ in batches] == [245, 246, 247, 248, 249]
    item, batches = read_ahead(spool, 250, 1 << 30)
    assert (item.first, batches) == (250, [])
    spool.close()
