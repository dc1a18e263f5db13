"""Streams that move between receivers with an archive each: read together, every batch is there once, in its order."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from archive_batches import batch, lines_of, writer_of
from cli_process import logbale_run
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from logbale.archive import reader, together
from logbale.archive.format import BlockHeader
from logbale.archive.verify import verify
from logbale.losses import Losses
from logbale.messages import Hello
from logbale.metrics import ReceiverMetrics
from logbale.sent_to import Noted, SentTo
from logbale.sinks import ReceivedBatch, RejectedSequence, SkippedRange

ARCHIVES = 3
STREAMS = "ST"


class World:
    """Shippers and receivers as protocol.md has them, without the wire; time passes with every step."""

    def __init__(self, directory: Path):
        self.paths = [directory / str(n) for n in range(ARCHIVES)]
        self.writers = [writer_of(path) for path in self.paths]
        self.arrived = [[] for _ in self.paths]
        """What a receiver has and has not stored yet."""
        self.shippers = {stream: Shipper(self, stream) for stream in STREAMS}
        self.clock = 0
        self.losses = Losses(ReceiverMetrics(now=0.0))

    def store(self, number, *, is_acked=True):
        """A commit, and the acks of it, which may get lost."""
        self.writers[number].commit(self.arrived[number])
        self.arrived[number] = []
        for shipper in self.shippers.values():
            if shipper.at == number and is_acked:
                shipper.acked(self.writers[number].marks.get(shipper.stream).sequence)

    def kill(self, number):
        """What it had not stored is gone."""
        self.arrived[number] = []
        self.restart(number)
        for shipper in self.shippers.values():
            if shipper.at == number:
                shipper.at = None

    def restart(self, number):
        """Everything is sealed, and open again."""
        self.writers[number].close()
        self.writers[number] = writer_of(self.paths[number])


class Shipper:
    """One stream; batches are numbered from 1 and made when they are sent."""

    def __init__(self, world, stream):
        self.world, self.stream, self.at = world, stream, None
        self.first, self.next, self.made = 1, 1, 1
        self.sent_to, self.noted = SentTo(up_to=0), None
        self.times = {}

    def connect(self, number):
        """A session with a receiver, which first stores what it has of this stream."""
        self.disconnect()
        self.world.store(number)
        sent, known = self.sent_to.elsewhere(number), self.world.writers[number].marks.get(self.stream)
        base = self.world.losses.settled_below(Hello(2, self.stream, self.first, sent=sent), known)
        assert base == self.first, "nothing is lost here, wherever it is"
        self.at, self.session = number, (base, sent)
        self.noted = Noted(self.stream, number, sent, counts_consumed=True)
        self.next = max(base, self.world.writers[number].marks.get(self.stream).sequence + 1)
        self.acked(self.next - 1)

    def disconnect(self):
        if self.at is not None:
            self.sent_to.add(self.at, self.next - 1)
        self.at = None

    def restart(self):
        """A new process, which knows what the spool does."""
        self.disconnect()
        self.sent_to = SentTo(up_to=self.made - 1, noted=self.noted)

    def acked(self, last):
        self.first = max(self.first, last + 1)

    def read(self):
        """One batch more, which waits."""
        self.world.clock += 1
        self.times[self.made] = f"2026-11-24T20:00:00.{self.world.clock:06}Z"
        self.made += 1

    def send(self):
        """The next one, be it from the spool or read only now."""
        if self.at is None:
            return
        sequence, (base, sent) = self.next, self.session
        if sequence == self.made:
            self.read()
        self.next, time = sequence + 1, self.times[sequence]
        line = b'{"timestamp":"%s","stream":"%s","n":%d}\n' % (time.encode(), self.stream.encode(), sequence)
        item = ReceivedBatch(line, 1, time, time, "", self.stream, sequence, sequence, base=base)
        self.world.arrived[self.at].append(replace(item, elsewhere=sequence <= sent))
        self.sent_to.add(self.at, sequence)


STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(STREAMS), st.integers(1, 4)),
    st.tuples(st.just("read"), st.sampled_from(STREAMS), st.integers(1, 4)),
    st.tuples(st.just("connect"), st.sampled_from(STREAMS), st.integers(0, ARCHIVES - 1)),
    st.tuples(st.just("store"), st.booleans(), st.integers(0, ARCHIVES - 1)),
    st.tuples(st.just("kill"), st.none(), st.integers(0, ARCHIVES - 1)),
    st.tuples(st.just("seal"), st.none(), st.integers(0, ARCHIVES - 1)),
    st.tuples(st.just("restart"), st.sampled_from(STREAMS), st.none()),
)


def play(world, steps, *, late):
    """Takes the steps, and lets everything that was made be delivered at last; `late`: receivers may store late.

    That is what one does which was stopped, or which could not write, and goes on when its shippers are elsewhere.
    """
    for name, what, number in steps:
        if name == "send":
            for _ in range(number):
                world.shippers[what].send()
        elif name == "read":
            for _ in range(number):
                world.shippers[what].read()
        elif name == "connect":
            shipper = world.shippers[what]
            if not late and shipper.at is not None and shipper.at != number:
                world.store(shipper.at, is_acked=False)
            shipper.connect(number)
        elif name == "store":
            world.store(number, is_acked=what)
        elif name == "kill":
            world.kill(number)
        elif name == "seal":
            world.restart(number) if not world.arrived[number] else None
        else:
            world.shippers[what].restart()
    for shipper in world.shippers.values():
        made = shipper.made
        shipper.connect(0)
        while shipper.next < made:
            shipper.send()
    for number in range(ARCHIVES):
        world.store(number)


def shown(world):
    """What `logbale cat` of all archives has, by stream."""
    found = {stream: [] for stream in STREAMS}
    for line in together.lines(world.paths):
        entry = json.loads(line)
        found[entry["stream"]].append(entry["n"])
    return found


@pytest.mark.parametrize("late", [False, True], ids=["in order", "late"])
@settings(deadline=None, max_examples=300)
@given(steps=st.lists(STEPS, max_size=40))
def test_every_batch_is_shown_once_wherever_it_was_stored(late, steps):
    """Any receiver may take any batch, be killed, seal or lose an ack at any time, and any shipper may restart.

    Each stream is in its order too, unless a receiver stored what it had taken long after its shippers had left it.
    """
    directory = Path(tempfile.mkdtemp(prefix="logbale-archives-"))
    try:
        world = World(directory)
        play(world, steps, late=late)
        found = shown(world)
        for stream, shipper in world.shippers.items():
            expected = list(range(1, shipper.made))
            assert (sorted(found[stream]) if late else found[stream]) == expected
        for writer in world.writers:
            writer.close()
        assert shown(world) == found, "sealing changes nothing"
        assert [check.damage for path in world.paths for check in verify(path) if check.damage] == []
    finally:
        for writer in world.writers:
            writer.close()
        shutil.rmtree(directory)


def moved(*numbers, base, elsewhere=False):
    return replace(batch(*numbers, stream="s"), base=base, elsewhere=elsewhere)


def archives(directory, *contents):
    """An archive for each list of commits."""
    paths = []
    for name, commits in zip("abc", contents, strict=False):
        paths.append(directory / name)
        writer = writer_of(paths[-1])
        for items in commits:
            writer.commit(items)
        writer.close()
    return paths


def numbers(lines):
    return [json.loads(line)["n"] for line in lines]


def test_marked_batches_are_blocks_of_their_own_and_sealing_leaves_them_so(tmp_path):
    """Or nobody could tell which lines of a block are those that another archive has too."""
    items = [moved(1, base=1), moved(2, base=1, elsewhere=True), moved(3, base=1, elsewhere=True), moved(4, base=1)]
    [path] = archives(tmp_path, [items, [moved(5, base=1)]])
    headers = [block.header for block in reader.blocks(path)]
    assert [(header.count, bool(header.elsewhere)) for header in headers] == [
        (1, False), (1, True), (1, True), (2, False)
    ]  # fmt: skip
    assert numbers(reader.lines(path)) == [1, 2, 3, 4, 5], "one archive alone shows all that it has"


def test_a_stream_that_comes_from_elsewhere_begins_a_block_and_a_range(tmp_path):
    """The header says so: what is missing before it is no damage, and nothing is merged over the gap."""
    [path] = archives(tmp_path, [[batch(9), moved(1, 2, base=1)], [batch(9), moved(7, base=7)], [moved(8, base=7)]])
    headers = [block.header for block in reader.blocks(path)]
    assert [header.parts().get("s") for header in headers] == [[(1, 1)], [(7, 8)]]
    assert [header.arrivals or {} for header in headers] == [{}, {"s": 7}]
    [checked] = verify(path)
    assert (checked.damage, checked.absent) == ([], ["stream s: sequences 2 to 6"])


def test_of_two_copies_the_one_that_no_other_was_told_of_is_shown(tmp_path):
    """Whichever archive is named first; what only marked copies have comes from the first."""
    first = [[moved(n, base=1) for n in (1, 2, 3)]]
    second = [[moved(n, base=2, elsewhere=n < 6) for n in (2, 3, 4, 5, 6)]]
    third = [[moved(n, base=4, elsewhere=True) for n in (4, 5)]]
    paths = archives(tmp_path, first, second, third)
    for order in (paths, paths[::-1]):
        assert numbers(together.lines(order)) == [1, 2, 3, 4, 5, 6]


def test_a_copy_is_shown_where_the_other_archive_only_refused_or_skipped_the_batch(tmp_path):
    """That a range of sequences is accounted for does not mean that all of it was stored."""
    refused = [RejectedSequence("s", 2, "no", 20, 1), SkippedRange("s", 4, 5, 0, "dropped", 1)]
    first = [[moved(1, base=1), refused[0], moved(3, base=1), refused[1], moved(6, base=1)]]
    second = [[moved(n, base=2, elsewhere=True) for n in (2, 3, 4, 5, 6)]]
    paths = archives(tmp_path, first, second)
    assert sorted(numbers(together.lines(paths))) == [1, 2, 3, 4, 5, 6]


def test_a_copy_is_shown_where_the_other_archives_block_is_damaged(tmp_path):
    """What cannot be read is not there."""
    paths = archives(tmp_path, [[moved(1, base=1)]], [[moved(1, base=1, elsewhere=True)]])
    [segment] = reader.segments(paths[0])
    data = bytearray(segment.path.read_bytes())
    data[data.index(b'"streams"')] ^= 1
    segment.path.write_bytes(data)
    damage = []
    assert numbers(together.lines(paths, on_damage=damage.append)) == [1]
    assert len(damage) == 1


def test_blocks_of_streams_that_have_nothing_in_common_come_by_time(tmp_path):
    """And --since and --until mean what they mean for one archive."""
    paths = tmp_path / "a", tmp_path / "b"
    for path, *seconds in (paths[0], (1,), (30,), (40,)), (paths[1], (10, 11), (20,)):
        for numbers_of_one in seconds:
            with contextlib.closing(writer_of(path)) as writer:
                writer.commit([batch(*numbers_of_one)])
    assert numbers(together.lines(paths)) == [1, 10, 11, 20, 30, 40]
    assert numbers(together.lines(paths, since=lines_time(11), until=lines_time(40))) == [11, 20, 30]


def of(stream, sequence, *numbers, base):
    return replace(batch(*numbers, stream=stream), sequence=sequence, base=base)


def test_a_stream_keeps_its_order_whatever_else_is_in_its_blocks(tmp_path):
    """An old entry of another shipper makes a block look old; it still waits for what its streams had before."""
    first = [[of("s", 1, 20, base=1)]]
    second = [[of("s", 2, 21, base=2), of("t", 1, 3, base=1)]]
    assert numbers(together.lines(archives(tmp_path, first, second))) == [20, 21, 3]


def test_streams_that_pass_each_other_on_their_ways_keep_their_orders(tmp_path):
    """Each arrival begins a block that sealing leaves so; else two merged blocks would each have to be the first."""
    first = [[of("t", 1, 12, base=1)], [of("s", 2, 13, base=2)]]
    second = [[of("s", 1, 11, base=1)], [of("t", 2, 14, base=2)]]
    assert numbers(together.lines(archives(tmp_path / "commits", first, second))) == [11, 12, 13, 14]
    first, second = [[item for items in commits for item in items] for commits in (first, second)]
    assert numbers(together.lines(archives(tmp_path / "one", [first], [second]))) == [11, 12, 13, 14]


def lines_time(number):
    return json.loads(lines_of([number])[0])["timestamp"]


def test_cat_reads_several_archives_and_verify_is_content_with_each(tmp_path):
    """On the command line; to follow is for one archive."""
    paths = archives(tmp_path, [[moved(1, base=1), moved(2, base=1)]], [[moved(2, base=2, elsewhere=True)]])
    shown = logbale_run("cat", *paths)
    assert (shown.returncode, numbers(shown.stdout.splitlines())) == (0, [1, 2])
    assert logbale_run("verify", *paths).returncode == 0
    refused = logbale_run("cat", "-f", *paths)
    assert (refused.returncode, "--follow is for one archive" in refused.stderr) == (2, True)


def test_headers_of_archives_from_before_are_as_they_were(tmp_path):
    """What says nothing new takes no bytes, and what an older version wrote is read."""
    [path] = archives(tmp_path, [[moved(1, base=1)]])
    [segment] = reader.segments(path)
    assert b"elsewhere" not in segment.path.read_bytes()
    assert b"arrivals" not in segment.path.read_bytes()
    assert not BlockHeader(size=0, count=0, raw=0, first="", last="").elsewhere
