"""Shippers, a receiver, the network between them and their disks, all in one thread and by one random number generator.

Real are the spool, the shipper's session, and all of the receiver behind its socket: connections, streams, committer,
archive. The network is two queues of bytes a connection; disks are model_disk.Disk. A world is driven by step() and
judged by settle(): it reads the archive with zstd and json alone. What is wrong is a Violation.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from random import Random
from unittest.mock import patch
from uuid import UUID

from archive_batches import START, PowerOff
from model_disk import Disk, attached

from logbale import messages
from logbale.archive.format import zstd
from logbale.archive.writer import ArchiveWriter
from logbale.compressing import context_flags
from logbale.config import Settings
from logbale.connection import Connection
from logbale.context import ContextCompressor
from logbale.errors import ProtocolError, StorageError
from logbale.messages import MAX_CONTROL_BYTES, Ack, Error, Reject, encode_message
from logbale.metrics import ReceiverMetrics
from logbale.protocol import Algorithm, FrameDecoder
from logbale.session import ShipperSession, Welcomed, encode_batch
from logbale.spool import DamagedError, DiskSpool, Record, Skip
from logbale.tcp_server import TCPLogReceiver

SETTINGS = Settings()


class Violation(AssertionError):
    """A promise is broken."""


def demand(promise: object, *facts: object) -> None:
    """Raises Violation with the facts, unless the promise is kept."""
    if not promise:
        raise Violation(*facts)


class LazyExecutor:
    """Sealing, as slow as it likes: what is submitted runs when somebody asks whether it is done."""

    random = Random()

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, function, *arguments, **options):
        executor = self

        class Lazy(Future):
            def done(self):
                return Future.done(self) or (executor.random.random() < 0.5 and self.run())

            def run(self):
                try:
                    self.set_result(function(*arguments, **options))
                except PowerOff:
                    raise
                except Exception as error:
                    self.set_exception(error)
                return True

            def exception(self, timeout=None):
                if not Future.done(self):
                    self.run()
                return Future.exception(self)

        return Lazy()

    def shutdown(self, *_: object, **__: object) -> None:
        pass


class Link(asyncio.Transport):
    """One TCP connection: bytes that are on their way, and the receiver's end of it."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self.world = world
        self.up, self.down = bytearray(), bytearray()
        self.client_is_there = True
        self.server_is_there = True
        self.paused = False
        self.connection: Connection | None = None

    def get_extra_info(self, name, default=None):
        return {"peername": ("model", 1), "socket": self}.get(name, default)

    def setsockopt(self, *_):
        pass

    def write(self, data):
        self.world.answered(self, data)
        self.down += data

    def get_write_buffer_size(self):
        return len(self.down)

    def is_closing(self):
        return not self.server_is_there

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False

    def abort(self):
        self.down.clear()
        self.close()

    def close(self):
        if self.server_is_there:
            self.server_is_there = False
            self.up.clear()
            self.world.loop.call_soon(self.connection.connection_lost, None)


class Receiver:
    """The receiver's process: its real parts, and a sink that commits when the world says so."""

    def __init__(self, world: "World") -> None:
        self.writer = ArchiveWriter(
            world.archive,
            segment_bytes=world.segment_bytes,
            segment_seconds=60,
            now=lambda: START + world.now,
        )
        self.writer.open()
        self.waiting: tuple[list, asyncio.Future] | None = None
        self.metrics = ReceiverMetrics(now=world.now)
        self.server = TCPLogReceiver(SETTINGS, self, self.metrics)
        self.committing = world.loop.create_task(self.server.committer.run())
        self.links: list[Link] = []

    async def commit(self, items):
        self.waiting = items, asyncio.get_running_loop().create_future()
        return await self.waiting[1]

    def mark(self, stream):
        return self.writer.marks.get(stream)

    def can_admit(self, stream):
        return self.writer.can_admit(stream)

    def forget_rejects(self, stream, *, before):
        self.writer.marks.forget_rejects(stream, before)


class Shipper:
    """A shipper's process and its machine: a source of numbers, the real spool, and OpenSession's rules."""

    def __init__(self, world: "World", number: int, deaf_to: str) -> None:
        self.world = world
        self.number = number
        self.disk = Disk(world.root / f"shipper-{number}", world.random, deaf_to=deaf_to)
        self.spool: DiskSpool | None = None
        self.link: Link | None = None
        self.read_up_to = 0
        """What the source reads next."""
        self.durable_up_to = 0
        """How far append() or note_dropped() has said that it is safe."""
        self.noted = 0
        """A cursor that moves without an entry, as far as it is safe."""
        self.dropped: set[int] = set()
        self.maybe_dropped: set[int] = set()
        self.dead: set[int] = set()
        """Of dead letters that somebody restored away."""
        self.backup: dict | None = None
        self.was_restored = False
        self.announced = 0
        """How often it said that entries may be doubled."""
        self.sent_up_to = 0
        self.alone = False

    # Its process.

    def start(self) -> None:
        spool = DiskSpool(
            self.disk.root / "spool",
            max_bytes=self.world.spool_bytes,
            segment_bytes=700,
            now=lambda: START + self.world.now,
        )
        spool.open()
        self.spool, self.sent_up_to, self.alone = spool, spool.sent_up_to, False
        self.read_up_to = spool.cursors.get("f", 0)
        demand(not spool.damaged, "the spool finds damage that no disk made", spool.damaged)
        demand(balanced(spool.counts), "the shipper's sum", spool.counts)
        demand(self.read_up_to >= self.durable_up_to, "the spool lost", self.durable_up_to, self.read_up_to)
        demand(spool.cursors.get("g", 0) >= self.noted, "the spool forgot a note", spool.cursors, self.noted)

    def kill(self) -> None:
        """What the process had in memory is gone; the page cache is not."""
        self.hang_up()
        self.spool = None
        self.disk.kill()

    def read(self, batches: int) -> None:
        """Takes entries from the source into the spool, by the policy where that is full."""
        random, spool = self.world.random, self.spool
        group, after = [], self.read_up_to
        for _ in range(batches):
            numbers = range(after, after + random.randint(1, 3))
            after = numbers.stop
            group.append((self.raw(numbers), len(numbers), {"f": after}))
        if spool.is_full and self.world.policy == "drop_newest":
            self.maybe_dropped |= set(range(self.read_up_to, after))
            spool.note_dropped(after - self.read_up_to, "drop_newest", {"f": after})
            self.dropped |= set(range(self.read_up_to, after))
        elif spool.is_full and not (self.world.policy == "drop_oldest" and self.drop_oldest()):
            return
        else:
            spool.append(group)
        self.read_up_to = self.durable_up_to = after

    def note(self) -> None:
        """A source moves on without an entry."""
        cursor = self.noted + 1
        self.spool.note_cursors({"g": cursor})
        self.noted = cursor

    def raw(self, numbers: range) -> bytes:
        """A batch; one with a number that is poison can never be stored."""
        entries: list = [{"s": self.number, "n": n} for n in numbers]
        return json.dumps(entries + [17] * any(map(is_poison, numbers))).encode()

    def drop_oldest(self) -> bool:
        spool = self.spool
        unsent = range(max(spool.first, self.sent_up_to + 1), spool.next_sequence)
        batches = {n: spool.read(n) for n in unsent if isinstance(spool.item(n), Record)}
        self.maybe_dropped |= {n for raw in batches.values() for n in numbers_in(raw)}
        skip = spool.drop_oldest(300, self.sent_up_to)
        for sequence, raw in batches.items() if skip else ():
            if skip.first <= sequence <= skip.last:
                self.dropped |= set(numbers_in(raw))
        return skip is not None

    # Its connection, as OpenSession has it.

    def connect(self) -> None:
        spool = self.spool
        self.session = ShipperSession(
            stream=spool.stream,
            first=spool.first,
            assigned=spool.next_sequence - 1,
            window_bytes=self.world.window_bytes,
            now=self.world.now,
            last_crc=spool.known_crcs(),
        )
        self.decoder = FrameDecoder(MAX_CONTROL_BYTES, session=True)
        self.context: ContextCompressor | None = None
        self.next = 0
        self.link = self.world.dial()
        self.link.up += self.session.hello(agent="model", host=f"shipper-{self.number}")

    def hang_up(self) -> None:
        if self.link is not None:
            self.link.client_is_there = False
            self.link.down.clear()
            self.link = None
            self.spool.end_sending()

    def send(self) -> bool:
        """Sends the next batch or skip; False where there is none, or no room in the window."""
        spool = self.spool
        if self.link is None or not self.next or self.next >= spool.next_sequence:
            return False
        item = spool.item(self.next)
        try:
            frame, last = self.batch(item) if isinstance(item, Record) else self.skip(item)
        except DamagedError as error:
            raise Violation("a batch is damaged that no disk damaged") from error
        if not self.session.has_room(len(frame)):
            self.context = None  # what this frame left in it is never sent
            return False
        self.session.sent(last, len(frame))
        demand(last <= max(spool.sent_up_to, spool.first - 1), "sent, and after a crash nobody would know", last)
        self.sent_up_to, self.next = max(self.sent_up_to, last), last + 1
        self.link.up += frame
        return True

    def batch(self, record: Record) -> tuple[bytes, int]:
        raw = self.spool.read(record.sequence)
        if self.alone or self.world.random.random() < 0.2:
            self.alone = False
            body, algorithm, flags = raw, Algorithm.NONE, None
        else:
            algorithm = Algorithm.ZSTD
            self.context = self.context or ContextCompressor(algorithm, 1, window_log=17)
            flags = context_flags(self.context)
            body = self.context.compress(raw)
        return encode_batch(record.sequence, len(raw), record.crc, body, algorithm, context=flags), record.sequence

    def skip(self, skip: Skip) -> tuple[bytes, int]:
        first = max(skip.first, self.next)
        return encode_message(messages.Skip(first, skip.last, skip.entries, skip.reason)), skip.last

    def hear(self, size: int) -> None:
        """So many bytes of the receiver's answers arrive."""
        link = self.link
        data = bytes(link.down[:size])
        del link.down[:size]
        try:
            self.decoder.feed(data)
            for frame in self.decoder.frames():
                event, answer = self.session.receive(frame, self.world.now)
                link.up += answer if link.server_is_there else b""
                if event is not None and not self.handle(event):
                    return
        except ProtocolError as error:
            raise Violation("the receiver broke the rules", error) from error
        if not link.down and not link.server_is_there:
            self.hang_up()

    def handle(self, event) -> bool:
        """False where the connection has ended."""
        spool = self.spool
        if isinstance(event, Ack):
            spool.acknowledge(event.last)
        elif isinstance(event, Reject):
            self.reject(event)
        elif isinstance(event, Error):
            demand(event.code == "superseded", "the receiver refuses", event)
            self.hang_up()
        elif isinstance(event, Welcomed):
            if event.other_history:
                self.announced += 1
                demand(self.was_restored, "its own history is taken for another's")
                spool.new_stream()
                self.sent_up_to = 0
                self.hang_up()
                return False
            for reject in event.welcome.rejects:
                self.reject(reject)
            spool.acknowledge(event.resume_at - 1)
            spool.begin_sending()
            self.next, self.sent_up_to = event.resume_at, event.resume_at - 1
        return self.link is not None

    def reject(self, reject: "Reject | messages.RejectedBatch") -> None:
        try:
            self.spool.reject(reject.sequence, reject.reason)
        except DamagedError as error:
            demand(self.was_restored, "rejected by the receiver, and dropped here as unsent", error)

    # What is left of it.

    def letters(self) -> set[int]:
        files = (self.disk.root / "spool" / "dead-letters").glob("*.json")
        return {n for file in files for n in numbers_in(json.dumps(json.loads(file.read_bytes())["batch"]))}


def is_poison(number: int) -> bool:
    return number % 13 == 7


def numbers_in(raw: bytes | str) -> list[int]:
    return [entry["n"] for entry in json.loads(raw) if isinstance(entry, dict)]


def balanced(counts: dict[str, int]) -> bool:
    """read = acknowledged + rejected + spooled + dropped, none of them negative."""
    rest = dict(counts)
    return rest.pop("read") == sum(rest.values()) and min(counts.values()) >= 0


class World:
    """Everything, from one seed."""

    def __init__(self, root: Path, seed: int, *, deaf_to: dict[str, str] | None = None, is_tight: bool = False) -> None:
        """`deaf_to` makes a mutant of the "shipper" or the "receiver": see Disk.

        `is_tight`: the spool is full most of the time, and drops the oldest.
        """
        deaf_to = deaf_to or {}
        self.root = root
        self.random = random = Random(seed)
        self.archive = root / "receiver" / "archive"
        self.now = 0.0
        self.segment_bytes = random.choice([600, 3000, 1 << 30])
        self.spool_bytes = random.choice([1000, 3000, 1 << 20])
        self.policy = random.choice(["block", "drop_oldest", "drop_newest"])
        if is_tight:
            self.spool_bytes, self.policy = 1000, "drop_oldest"
        self.window_bytes = random.choice([200, 1000, 1 << 20])
        self.receiver: Receiver | None = None
        self.acked: Counter[str] = Counter()
        self.errors: list[object] = []
        self.went_silent = 0
        """Connections that the receiver closed because nothing was heard: no broken rule."""
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.disk = Disk(root / "receiver", random, deaf_to=deaf_to.get("receiver", ""))
        self.shippers = [Shipper(self, n, deaf_to.get("shipper", "")) for n in range(random.choice([1, 1, 2]))]
        self._stack = ExitStack()
        self._stack.enter_context(attached(self.disk, *(shipper.disk for shipper in self.shippers)))
        self._stack.enter_context(patch("logbale.archive.sealer.ThreadPoolExecutor", LazyExecutor))
        self._stack.enter_context(patch("logbale.connection.monotonic", lambda: self.now))
        names = Random(seed)
        self._stack.enter_context(patch("logbale.spool.identity.uuid4", lambda: UUID(int=names.getrandbits(128))))
        LazyExecutor.random = random

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self._forget_tasks()
        self.loop.close()
        self._stack.close()

    # The loop and the network.

    def turn(self, call: Callable | None = None, *arguments: object) -> None:
        """Lets the receiver's loop run until it has nothing to do."""
        if call is not None:
            self.loop.call_soon(call, *arguments)
        for _ in range(5):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        demand(not self.errors, "the receiver's loop failed", self.errors)

    def _forget_tasks(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def dial(self) -> Link:
        link = Link(self)
        if self.receiver is None:
            link.server_is_there = False
            return link
        link.connection = Connection(self.receiver.server)
        self.receiver.links.append(link)
        self.turn(link.connection.connection_made, link)
        return link

    def answered(self, link: Link, data: bytes) -> None:
        """The receiver has said something: what it acknowledged, it must never lose."""
        message = json.loads(data[5:])
        if message["type"] == "ack":
            stream = link.connection.session.stream.name
            self.acked[stream] = max(self.acked[stream], message["last"])

    def deliver(self, link: Link, size: int) -> None:
        """So many bytes of a shipper arrive at the receiver; after the last of one that is gone, the end."""
        if not link.server_is_there:
            link.up.clear()
        elif link.up:
            if not link.paused:
                data = bytes(link.up[:size])
                del link.up[:size]
                self.turn(link.connection.data_received, data)
        elif not link.client_is_there:
            link.server_is_there = False
            self.turn(link.connection.connection_lost, None)

    # Ends and beginnings. An attempt may be cut short by a crash.

    def attempt(self, who: "Shipper | World", action: Callable, *arguments: object) -> None:
        """Runs an action; where the machine's process dies in it, so it does, at times with its machine."""
        try:
            action(*arguments)
        except PowerOff:
            self.crash(who, power=self.random.random() < 0.5)

    def crash(self, who: "Shipper | World", *, power: bool) -> None:
        who.kill()
        if power:
            who.disk.cut_power()

    def start(self) -> None:
        """Starts the receiver."""
        self.receiver = Receiver(self)
        self.turn()
        for stream, last in self.acked.items():
            demand(self.receiver.mark(stream).sequence >= last, "acknowledged, and lost", stream, last)
        demand(not self.receiver.writer.statistics.damaged_blocks, "the archive finds damage that no disk made")

    def kill(self) -> None:
        """The receiver's process is gone, and its connections."""
        # Held until its tasks have ended: the loop only has weak references to them, and a task that the garbage
        # collector finds first is an error of the loop, at a moment that depends on everything else in this process.
        receiver, self.receiver = self.receiver, None
        for link in receiver.links if receiver is not None else ():
            link.server_is_there = False
            link.up.clear()
            link.down.clear()
        self._forget_tasks()
        self.disk.kill()

    def commit(self) -> None:
        items, answer = self.receiver.waiting
        outcomes = self.receiver.writer.commit(items)
        self.receiver.waiting = None
        answer.set_result(outcomes)
        self.turn()

    # The rules: each does something that can happen now, or nothing.

    def step(self, rule: str) -> None:
        """One of RULES happens."""
        shipper = self.random.choice(self.shippers)
        getattr(self, f"do_{rule}")(shipper)
        self.check_rules_are_kept()

    def check_rules_are_kept(self) -> None:
        if self.receiver is not None:
            broken = self.receiver.metrics.errors["protocol"] - self.went_silent
            demand(broken <= 0, "a shipper broke the rules")

    def do_read(self, shipper: Shipper) -> None:
        if shipper.spool is not None:
            self.attempt(shipper, shipper.read, self.random.randint(1, 3))

    def do_note(self, shipper: Shipper) -> None:
        if shipper.spool is not None:
            self.attempt(shipper, shipper.note)

    def do_send(self, shipper: Shipper) -> None:
        for _ in range(self.random.randint(1, 5)):
            if shipper.spool is None or not shipper.send():
                return

    def do_deliver(self, shipper: Shipper) -> None:
        links = self.receiver.links if self.receiver else []
        if links := [link for link in links if link.up or not link.client_is_there]:
            link = self.random.choice(links)
            self.deliver(link, self.some(link.up))

    def do_answer(self, shipper: Shipper) -> None:
        if shipper.link is not None:
            self.attempt(shipper, shipper.hear, self.some(shipper.link.down))

    def some(self, data: bytearray) -> int:
        return len(data) if self.random.random() < 0.6 else self.random.randint(0, len(data))

    def do_commit(self, shipper: Shipper) -> None:
        if self.receiver is not None and self.receiver.waiting is not None:
            self.attempt(self, self.commit)

    def do_connect(self, shipper: Shipper) -> None:
        if shipper.spool is not None and shipper.link is None and self.receiver is not None:
            shipper.connect()

    def do_cut(self, shipper: Shipper) -> None:
        """The shipper's end is gone; what it sent is still on its way, or is not."""
        if shipper.link is not None:
            if self.random.random() < 0.5:
                del shipper.link.up[self.random.randint(0, len(shipper.link.up)) :]
            shipper.hang_up()

    def do_start(self, shipper: Shipper) -> None:
        if self.receiver is None:
            self.attempt(self, self.start)
        if shipper.spool is None:
            self.attempt(shipper, shipper.start)

    def do_fuse(self, shipper: Shipper) -> None:
        """Somebody will die in one of the next calls that change the disk."""
        self.random.choice([self, shipper]).disk.calls_left = self.random.randint(0, 12)

    def do_crash(self, shipper: Shipper) -> None:
        self.crash(self.random.choice([self, shipper]), power=self.random.random() < 0.5)

    def do_stop(self, shipper: Shipper) -> None:
        """One of them stops in good order."""
        who = self.random.choice([self, shipper])
        if who is self and self.receiver is not None:
            self.attempt(self, self.receiver.writer.close)
            self.kill()
        elif who is shipper and shipper.spool is not None:
            self.attempt(shipper, shipper.spool.close)
            shipper.kill()

    def do_tick(self, shipper: Shipper) -> None:
        """Time goes by: segments age, and silence is noticed."""
        self.now += self.random.choice([0.5, 5.0, 20.0, 100.0])
        if self.receiver is not None:
            self.attempt(self, self.receiver.writer.tick)
        if self.receiver is not None:
            for link in self.receiver.links:
                if link.server_is_there:
                    before = self.receiver.metrics.errors["protocol"]
                    self.turn(link.connection.check_liveness, self.now)
                    self.went_silent += self.receiver.metrics.errors["protocol"] - before
        if shipper.link is not None:
            try:
                if (ping := shipper.session.live.tick(self.now)) is not None and shipper.link.server_is_there:
                    shipper.link.up += encode_message(ping)
            except ProtocolError:
                shipper.hang_up()

    def do_flow(self, shipper: Shipper) -> None:
        """All goes well for a while."""
        for rule in ("start", "read", "connect", "deliver", "answer", "send", "deliver", "commit", "answer"):
            getattr(self, f"do_{rule}")(shipper)

    def do_backup(self, shipper: Shipper) -> None:
        tree = shipper.disk.copy()
        if "stream" in tree.get("spool", {}):  # without it, what is restored is no spool, and cannot know
            shipper.backup = tree

    def do_restore(self, shipper: Shipper) -> None:
        if shipper.backup is not None and self.random.random() < 0.3:
            shipper.kill()
            shipper.dead |= shipper.letters()
            shipper.disk.load(shipper.backup)
            shipper.was_restored, shipper.durable_up_to, shipper.noted = True, 0, 0

    # The end.

    def settle(self) -> None:
        """No fault any more: all that waits is shipped, and what the archive has is compared with what was read."""
        for one in (self, *self.shippers):
            one.disk.calls_left = None
        for _ in range(1000):
            self._settle_step()
            if all(one.spool.first == one.spool.next_sequence for one in self.shippers) and not self.receiver.waiting:
                break
        else:
            raise Violation("it does not drain", [(one.spool.first, one.spool.next_sequence) for one in self.shippers])
        demand(self.receiver.metrics.snapshot(self.now).waiting_entries == 0, "the receiver's sum")
        self.receiver.writer.close()
        found = self.archived()
        for shipper in self.shippers:
            self.judge(shipper, [n for s, n in found if s == shipper.number])

    def _settle_step(self) -> None:
        if self.receiver is None:
            self.start()
        for shipper in self.shippers:
            if shipper.spool is None:
                shipper.start()
            if shipper.link is None:
                shipper.connect()
            shipper.send()
        for link in self.receiver.links:
            self.deliver(link, len(link.up))
        if self.receiver.waiting is not None:
            self.commit()
        for shipper in self.shippers:
            if shipper.link is not None:
                shipper.hear(len(shipper.link.down))
        self.check_rules_are_kept()

    def archived(self) -> list[tuple[int, int]]:
        """Every entry, in the archive's order, as any program would read it."""
        files = sorted(self.archive.glob("*/*"), key=lambda file: file.name)
        demand(all(file.suffix == ".zst" for file in files), "not all is sealed", files)
        try:
            lines = [line for file in files for line in zstd.decompress(file.read_bytes()).splitlines()]
        except zstd.ZstdError as error:
            raise Violation("a plain reader stumbles over the archive") from error
        return [(entry["s"], entry["n"]) for entry in map(json.loads, lines)]

    def judge(self, shipper: Shipper, archived: list[int]) -> None:
        end = shipper.spool.cursors.get("f", 0)
        stored, dead = Counter(archived), shipper.letters()
        doubled = [n for n, times in stored.items() if times > 1]
        shipper.dead |= dead
        gone = shipper.dropped | shipper.maybe_dropped | shipper.dead
        lost = [n for n in range(end) if n not in stored and n not in gone]
        demand(not lost, "lost", lost, shipper)
        counts = shipper.spool.counts
        demand(balanced(counts), "the shipper's sum", counts)
        if shipper.was_restored:
            demand(not doubled or shipper.announced, "doubled, and nobody said so", doubled)
            return
        demand(not doubled, "doubled", doubled)
        demand(archived == sorted(archived), "out of order", archived)
        demand(not archived or archived[-1] < end, "archived and not read", archived, end)
        demand(not dead & stored.keys(), "dead and stored", dead & stored.keys())
        demand(end >= shipper.durable_up_to, "the cursor went back", end, shipper.durable_up_to)
        demand(counts["read"] == end, "read", counts, end)
        demand(not shipper.dropped & stored.keys(), "dropped and stored", shipper.dropped & stored.keys())
        demand(counts["acknowledged"] == len(stored), "acknowledged is not archived", counts, len(stored))
        demand(counts["rejected"] == len(dead), "rejected is not dead letters", counts, len(dead))


RULES = {
    "read": 20,
    "send": 20,
    "deliver": 24,
    "answer": 20,
    "commit": 14,
    "flow": 10,
    "connect": 14,
    "start": 14,
    "cut": 3,
    "fuse": 4,
    "crash": 4,
    "stop": 2,
    "tick": 2,
    "note": 2,
    "backup": 0.5,
    "restore": 0.5,
}
"""What can happen, and how often beside the others."""


def live(root: Path, seed: int, *, steps: int = 80, **options) -> None:
    """One world (`options`) from its beginning to its end. Raises Violation."""
    with World(root, seed, **options) as world:
        try:
            for rule in world.random.choices(list(RULES), list(RULES.values()), k=steps):
                world.step(rule)
            world.settle()
        except StorageError as error:
            raise Violation("a store cannot go on, on a sound disk", error) from error
