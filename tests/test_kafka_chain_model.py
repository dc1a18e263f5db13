"""Sinks that fail amid a batch, archivers that crash, sleep and race: the chain has what was acknowledged exactly once.

One partition. Hypothesis decides who does what next; nothing here waits. A log takes messages, sinks have theirs in
flight and lose some, shippers resend what is not acknowledged to whichever sink they reach, and several archivers
believe that the partition is theirs.
"""

import json
from collections import Counter, deque
from random import Random

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from test_kafka_message import batch_of, compress

from logbale.archive.format import BlockEncoder, Footer, measure, parse
from logbale.kafka.chain import PART_PATIENCE, Place
from logbale.kafka.message import decode, encode
from logbale.kafka.partition import Limits, PartitionArchive, look_up, put
from logbale.segment_store import StoredSegment
from logbale.sinks import RejectedSequence, SkippedRange

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STREAMS = ("s", "t")
SINKS = 3
ARCHIVERS = 3
LIMITS = Limits(segment_bytes=1, segment_seconds=1)
OUTCOMES = st.lists(st.sampled_from(["landed", "landed", "landed", "lost", "unheard"]), min_size=1, max_size=6)
LONG = [Random(number).randbytes(5000).hex() for number in range(3)]
"""Texts that take several messages of 4096 bytes."""


class Shelf:
    """A store that is a dict, and may lose its answers."""

    def __init__(self):
        self.segments = {}

    def last(self, folder):
        names = [name for name in self.segments if name.startswith(f"{folder}/")]
        return StoredSegment(max(names), len(self.segments[max(names)])) if names else None

    def read(self, name, start, length):
        return self.segments[name][start : start + length]

    def put(self, name, body):
        if name in self.segments:
            return False
        self.segments[name] = body.read()
        return True


class Shipper:
    """A stream's source: its items by sequence, how far it is acknowledged, and where it ships to."""

    def __init__(self, stream):
        self.stream = stream
        self.items = []
        self.acknowledged = 0
        self.session = None

    @property
    def next(self):
        return sum(item.last_sequence - first_of(item) + 1 for item in self.items) + 1


def first_of(item):
    return item.first if isinstance(item, SkippedRange) else item.sequence


class Session:
    """A stream on one sink, from a hello on."""

    def __init__(self, shipper, sink):
        self.shipper = shipper
        self.base = self.durable = shipper.acknowledged
        sink.waiting += [(self, item) for item in shipper.items if item.last_sequence > self.base]

    def settled(self, last):
        self.durable = last
        if self.shipper.session is self:
            self.shipper.acknowledged = max(self.shipper.acknowledged, last)


class Sink:
    """A receiver with a producer. What it commits is in flight first; then it is reported, or all of it comes again."""

    def __init__(self, number):
        self.id = f"sink{number}"
        self.waiting = deque()
        self.group = []
        self.flight = deque()
        self.failed = False


class World(RuleBasedStateMachine):
    """Everybody."""

    sharp = True
    """Whether a message's base moves with what the sink was told is delivered, or stays that of the hello."""

    def __init__(self):
        super().__init__()
        self.log = []
        self.shelf = Shelf()
        self.counts = Counter()
        self.shippers = {stream: Shipper(stream) for stream in STREAMS}
        self.sinks = [Sink(number) for number in range(SINKS)]
        self.archivers = [None] * ARCHIVERS
        self.held = [None] * ARCHIVERS
        self.base_messages = 0
        self.now = 0.0

    # the shippers

    @rule(stream=st.sampled_from(STREAMS), kind=st.sampled_from(["batch", "batch", "long", "long", "reject", "skip"]))
    def make(self, stream, kind):
        shipper = self.shippers[stream]
        if shipper.session is None:
            self.connect(stream, STREAMS.index(stream))
        number = shipper.next
        if kind == "reject":
            item = RejectedSequence(stream, number, "no entries", number, 1)
        elif kind == "skip":
            item = SkippedRange(stream, number, number + 1, 3, "damaged", 1)
        else:
            text = f"{stream} {number} {LONG[number % len(LONG)] if kind == 'long' else ''}"
            item = batch_of([text], stream=stream, sequence=number, crc=number)
        shipper.items.append(item)
        self.sinks[shipper.session_sink].waiting.append((shipper.session, item))

    @rule(stream=st.sampled_from(STREAMS), sink=st.integers(0, SINKS - 1))
    def connect(self, stream, sink):
        """The old sink keeps what it has of the stream, and may produce it at any time later."""
        shipper = self.shippers[stream]
        shipper.session_sink = sink
        shipper.session = Session(shipper, self.sinks[sink])

    @rule(sink=st.integers(0, SINKS - 1))
    def base_client(self, sink):
        """A batch without a number: each message that carries it is one."""
        self.base_messages += 1
        self.sinks[sink].waiting.append((None, batch_of([f"base {self.base_messages}"])))

    # the sinks

    @rule(sink=st.integers(0, SINKS - 1), most=st.integers(1, 4))
    def commit(self, sink, most):
        """Produces a group, or what of the last one was not reported, all of it."""
        sink = self.sinks[sink]
        if sink.flight:
            return
        if sink.failed:
            sink.failed = False
        else:
            self.report(sink)
            sink.group = [sink.waiting.popleft() for _ in range(min(most, len(sink.waiting)))]
        for session, item in sink.group:
            if session is not None:
                item = replace_base(item, session.durable + 1 if self.sharp else session.base + 1)
            sink.flight += encode(item, limit=4096, session=sink.id, compress=compress)

    @rule(stream=st.sampled_from(STREAMS), sink=st.integers(0, SINKS - 1), first=OUTCOMES, second=OUTCOMES)
    def time_out(self, stream, sink, first, second):
        """Of several batches some time out; all are produced again, and what reaches the log is what it is."""
        sender = self.sinks[sink]
        if sender.flight or sender.failed:
            return
        self.connect(stream, sink)
        for _ in range(3):
            self.make(stream, "batch")
        for outcomes in (first, second):
            self.commit(sink, len(sender.waiting))
            self.deliver(sink, (outcomes * len(sender.flight))[: len(sender.flight)])

    @rule(sink=st.integers(0, SINKS - 1), outcomes=OUTCOMES)
    def deliver(self, sink, outcomes):
        """The next messages in flight reach the log, or do not, or do and nobody hears of it; always in their order."""
        sink = self.sinks[sink]
        for outcome in outcomes:
            if not sink.flight:
                break
            message = sink.flight.popleft()
            if outcome != "lost":
                self.log.append(message)
            sink.failed |= outcome != "landed"
        self.report(sink)

    def report(self, sink):
        """Acknowledges a group once all of it was reported, and not before."""
        if sink.group and not sink.flight and not sink.failed:
            for session, item in sink.group:
                if session is not None:
                    session.settled(item.last_sequence)
            sink.group = []

    # the archivers

    @rule(who=st.integers(0, ARCHIVERS - 1))
    def acquire(self, who):
        """Becomes an owner, whoever else believes to be one; or one that crashed comes back."""
        if self.archivers[who] is not None:
            self.archivers[who].discard()
        self.archivers[who] = PartitionArchive(
            "logs", 0, look_up(self.shelf, "logs", 0) or Place(), ENCODER, self.counts
        )

    @rule(who=st.integers(0, ARCHIVERS - 1), most=st.integers(1, 12))
    def read(self, who, most):
        if (archive := self.archivers[who]) is not None:
            for offset in range(archive.position, min(archive.position + most, len(self.log))):
                message = self.log[offset]
                archive.add(offset, message.headers, message.value, now=self.now)

    @rule(who=st.integers(0, ARCHIVERS - 1), is_heard=st.booleans(), now=st.booleans())
    def cut(self, who, is_heard, now):
        """Ends a segment and puts it, now or when the archiver wakes up."""
        archive = self.archivers[who]
        if archive is not None and self.held[who] is None and archive.can_cut():
            self.held[who] = archive.cut(LIMITS), archive
            if now:
                self.wake(who, is_heard)

    @rule(who=st.integers(0, ARCHIVERS - 1), is_heard=st.booleans())
    def wake(self, who, is_heard):
        """A put that was on its way for any time; without an answer it is tried again. Who loses looks again."""
        if self.held[who] is None:
            return
        finished, archive = self.held[who]
        self.held[who] = None
        if not is_heard:
            put(self.shelf, finished)
        won = put(self.shelf, finished)
        finished.body.close()
        if not won and self.archivers[who] is archive:
            self.acquire(who)

    @rule(who=st.integers(0, ARCHIVERS - 1))
    def keep_up(self, who):
        """Reads all there is and puts it, as an archiver with a short ARCHIVE_SEGMENT_SECONDS does."""
        if self.archivers[who] is None:
            self.acquire(who)
        self.read(who, len(self.log))
        self.cut(who, is_heard=True, now=True)

    @rule(stream=st.sampled_from(STREAMS), sink=st.integers(0, SINKS - 1), who=st.integers(0, ARCHIVERS - 1))
    def keep_up_amid_a_batch(self, stream, sink, who):
        """A segment ends while the last part of a batch is still in flight, and a base client's batch is behind it."""
        sender, other = self.sinks[sink], self.sinks[(sink + 1) % SINKS]
        if sender.flight or sender.failed or other.flight or other.failed:
            return
        self.connect(stream, sink)
        self.make(stream, "long")
        self.commit(sink, len(sender.waiting))
        self.deliver(sink, ["landed"] * (len(sender.flight) - 1))
        self.base_client((sink + 1) % SINKS)
        self.commit((sink + 1) % SINKS, len(other.waiting))
        self.deliver((sink + 1) % SINKS, ["landed"] * len(other.flight))
        self.keep_up(who)

    @rule()
    def hours_pass(self):
        """What is in flight by then has timed out, long before parts of batches are given up."""
        self.now += PART_PATIENCE / 2
        for sink in self.sinks:
            sink.failed |= bool(sink.flight)
            sink.flight.clear()

    # the promise

    @invariant()
    def the_chain_is_linear(self):
        """Each segment starts where the one before ended, and names say so."""
        end = 0
        for name in sorted(self.shelf.segments):
            footer = footer_of(self.shelf.segments[name])
            assert footer.chain.start == end == int(name.split("/")[-1].split(".")[0])
            assert footer.chain.next > end
            end = footer.chain.next

    def teardown(self):
        """Whatever happened: who reads to the end has archived what is acknowledged, each once and in order."""
        for who, held in enumerate(self.held):  # whoever sleeps now sleeps for ever
            if held is not None:
                held[0].body.close()
            self.held[who] = None
        self.acquire(0)
        self.read(0, len(self.log))
        for _ in range(2 * PART_PATIENCE):  # parts whose rest never came hold nothing back any more
            self.now += 1
            self.archivers[0].keep_reading(self.now)
        if self.archivers[0].can_cut():
            self.cut(0, is_heard=True, now=True)
        found = list(archived(self.shelf))
        for stream, shipper in self.shippers.items():
            texts = [text for text in found if text.startswith(f"{stream} ")]
            batches = [item for item in shipper.items if not isinstance(item, RejectedSequence | SkippedRange)]
            expected = [json.loads(item.ndjson)["m"] for item in batches]
            acknowledged = sum(item.sequence <= shipper.acknowledged for item in batches)
            assert texts == expected[: len(texts)], "in order, without a gap, none twice"
            assert len(texts) >= acknowledged, "what is acknowledged is there"
        base = Counter(text for text in found if text.startswith("base "))
        in_log = Counter(
            json.loads(decompressed(message))["m"]
            for message in self.log
            if message.key is None and decompressed(message)
        )
        assert base == in_log
        for archive in self.archivers:
            if archive is not None:
                archive.discard()


ENCODER = BlockEncoder(1)


def replace_base(item, base):
    return msgspec.structs.replace(item, base=base)


def decompressed(message):
    return decode(message.headers, message.value).item.lines()


def frames(data):
    rest = data
    while rest:
        need = measure(rest[:12])
        length = measure(rest[:need])
        yield parse(rest[:length])
        rest = rest[length:]


def footer_of(data):
    *_, footer = frames(data)
    assert isinstance(footer, Footer)
    return footer


def archived(shelf):
    for name in sorted(shelf.segments):
        for frame in frames(shelf.segments[name]):
            if not isinstance(frame, Footer):
                for line in frame.ndjson().splitlines():
                    yield json.loads(line)["m"]


class BluntWorld(World):
    """Sinks that tell only what the hello said."""

    sharp = False


TestSharpBase = World.TestCase
TestHelloBase = BluntWorld.TestCase
TestSharpBase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestHelloBase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
