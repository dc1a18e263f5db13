"""Connections that break, freeze, slice, flip bits and lose acks; two ends that know different protocols."""

import shutil
import signal
import socket
import struct
import threading
import time
from typing import Any

from chaos import load, oracle
from chaos.faults_crash import finish, under_load
from chaos.network import Link
from chaos.processes import PATIENCE, Failed, Receiver
from chaos.suite import Run, fault

GROUP = 3
"""Connections of one transfer that are harmed, one after the other."""
WELCOME = 230
"""Bytes: about what a welcome takes; the acks come behind it."""
SMALL_BATCHES = {"BATCH_SIZE": "10", "WINDOW_BYTES": "4000"}
MiB = 1 << 20


@fault("F12", "the connection cut at any byte, both ways", full=300, smoke=12)
def cut(run: Run) -> None:
    transfers = Transfers(run, lines=300)

    def plan(total: dict[str, int]) -> dict[str, Any]:
        way = run.chance.choice(("up", "down"))
        return {"cut": (way, run.chance.randrange(1, total[way]))}

    transfers.harm(run.times, plan)
    transfers.judge()


@fault("F13", "acks swallowed, then a reset", full=50, smoke=4)
def acks_swallowed(run: Run) -> None:
    lines = 2000

    def once(turn: int) -> None:
        place = run.place()
        load.write(place / "some.log", "acks", lines)
        receiver = run.receiver(place).start()
        drop = {"drop": ("down", run.chance.randrange(WELCOME, WELCOME + 100), 0.7)}
        link = Link(run, receiver.port, [drop])
        shipper = run.shipper(place, link.port, place / "some.log", **SMALL_BATCHES)
        shipper.spawn()
        _wait(lambda: shipper.delivered >= lines, f"{lines} entries acknowledged")
        resent = shipper.metric("logbale_shipper_sent_entries") - lines
        doubled = receiver.metric("logbale_receiver_duplicate_entries")
        # Mostly none of either: the next welcome tells how far the receiver is, whatever became of its acks.
        run.expect(resent == doubled, f"{resent:.0f} entries sent again, {doubled:.0f} counted as duplicates")
        run.bite(link.proxy.bites)
        shipper.process.stop()
        receiver.process.stop()
        run.judge(receiver.archive, {"acks": lines})

    run.each(range(run.times), once)


@fault("F15", "a black hole for a while", full=2, smoke=1)
def black_hole(run: Run) -> None:
    outage = {1: 8.0, 2: 40.0}.get(run.times, 120.0)
    place = run.place()
    receiver = run.receiver(place).start()
    link = Link(run, receiver.port)
    growing = load.Load(place / "load.log", rate=1000)
    run.finally_do(growing.stop)
    shipper = run.shipper(place, link.port, growing.path)
    shipper.spawn()
    shipper.first_ack(above=0)
    link.silence(True)
    began = time.monotonic()
    time.sleep(0.5)
    before = oracle.count(receiver.archive)
    noticed = 0.0
    while time.monotonic() - began < outage:
        if not noticed and not shipper.metric("logbale_shipper_connected"):
            noticed = time.monotonic() - began
        time.sleep(0.2)
    run.bite(oracle.count(receiver.archive) == before)
    if outage > 30:
        run.expect(noticed, "the outage was not noticed")
        run.expect_within(noticed, 30, "the outage was noticed")
        run.note(f"outage of {outage:g} s, noticed after {noticed:.1f} s")
    acknowledged = shipper.delivered
    link.silence(False)
    ended = time.monotonic()
    shipper.first_ack(above=acknowledged, timeout=60)
    run.recovered(time.monotonic() - ended)
    due = growing.count
    _wait(lambda: shipper.delivered >= due, "the backlog", timeout=3 * outage + PATIENCE)
    run.expect_within(time.monotonic() - ended, 1.5 * outage, "the backlog was drained")
    run.note(f"{due} entries drained {time.monotonic() - ended:.1f} s after {outage:g} s of silence")
    finish(run, receiver, shipper, growing)


@fault("F17", "everything in slices of one byte", full=5, smoke=1)
def slices(run: Run) -> None:
    transfers = Transfers(run, lines=200)
    transfers.harm(run.times, lambda _: {"slices": True}, group=1)
    transfers.judge()


@fault("F18", "a flipped bit on the way to the receiver", full=1000, smoke=12)
def flipped(run: Run) -> None:
    _flip(run, "up", silent=0.03)


@fault("F18-acks", "a flipped bit on the way to the shipper", full=300, smoke=6)
def flipped_acks(run: Run) -> None:
    _flip(run, "down", silent=0.0)


def _flip(run: Run, way: str, *, silent: float) -> None:
    """One bit anywhere, hello and welcome included. `silent`: the part of them that may go unnoticed and harm nothing.

    That is for the bits of a compressed frame's header that say nothing, as the time in a gzip header.
    """
    transfers = Transfers(run, lines=300)
    transfers.harm(run.times, lambda total: {"flip": (way, run.chance.randrange(total[way]), run.chance.randrange(8))})
    transfers.judge()
    run.note(f"{transfers.noticed} of {run.result.times} flipped bits ended their connection")
    run.expect(
        transfers.noticed >= (1 - silent) * run.result.times, f"only {transfers.noticed} of {run.result.times} noticed"
    )


@fault("F19", "either end frozen for a while", full=4, smoke=2)
def frozen(run: Run) -> None:
    seconds = {4: 60.0}.get(run.times, 6.0)
    for turn in range(run.times):
        receiver, shipper, growing = under_load(run)
        victim, other = ((receiver, shipper), (shipper, receiver))[turn % 2]
        before = other.process.resident_bytes
        victim.process.signal(signal.SIGSTOP)
        time.sleep(seconds)
        run.bite()
        more = other.process.resident_bytes - before
        run.expect(more < 150 * MiB, f"{other.directory.name} grew by {more / MiB:.0f} MiB")
        run.note(f"{victim.directory.name} frozen for {seconds:g} s: {other.directory.name} {more / MiB:+.1f} MiB")
        acknowledged = shipper.delivered
        victim.process.signal(signal.SIGCONT)
        run.recovered(shipper.first_ack(above=acknowledged, timeout=60))
        run.expect(growing.count > 0, "no load")
        finish(run, receiver, shipper, growing)


@fault("F30", "a cloned spool: two shippers, one stream", full=10, smoke=2)
def cloned(run: Run) -> None:
    def once(turn: int) -> None:
        place = run.place()
        receiver = run.receiver(place).start()
        load.write(place / "first.log", "common", 300)
        first = run.shipper(place, receiver.port, place / "*.log", spool=place / "spool", **SMALL_BATCHES)
        first.spawn()
        _wait(lambda: first.delivered >= 300, "300 entries")
        first.process.stop()
        shutil.copytree(place / "spool", place / "clone")
        twin_place = run.place("twin")
        shutil.copytree(place, twin_place, dirs_exist_ok=True, ignore=lambda *_: ["spool", "clone", "archive"])
        twin = run.shipper(
            place, receiver.port, twin_place / "t*.log", name="twin", spool=place / "clone", **SMALL_BATCHES
        )
        for name, where in (("ours", place), ("theirs", twin_place)):
            load.write(where / f"{'t' if name == 'theirs' else 'o'}-{name}.log", name, 300)
        first.spawn()
        twin.spawn()
        run.wait_until_stored(receiver.archive, 900, timeout=60)
        said = first.process.text + twin.process.text
        run.bite("superseded" in said or "another history" in said)
        for end in (first, twin, receiver):
            end.process.stop()
        run.judge(receiver.archive, {"common": 300, "ours": 300, "theirs": 300})

    run.each(range(run.times), once)


@fault("F34", "a base client, and a base receiver", full=5, smoke=1)
def base_protocol(run: Run) -> None:
    place = run.place()
    receiver = run.receiver(place).start()
    for turn in range(run.times):
        load.write(place / f"base-{turn}.log", f"base-{turn}", 200)
        load.write(place / f"session-{turn}.log", f"session-{turn}", 200)
        base = run.shipper(place, receiver.port, place / f"base-{turn}.log", once=True, name="base", SESSION_MODE="off")
        session = run.shipper(place, receiver.port, place / f"session-{turn}.log", once=True, name="session")
        base.spawn()
        session.spawn()
        if base.process.wait() or session.process.wait():
            raise Failed(f"{base.process.text[-500:]} {session.process.text[-500:]}")
        run.bite()
    _every_flags_byte(run, receiver)
    run.wait_until_stored(receiver.archive, 400 * run.times)
    receiver.process.stop()
    run.judge(receiver.archive, {f"{kind}-{turn}": 200 for kind in ("base", "session") for turn in range(run.times)})
    _base_receiver(run)


def _every_flags_byte(run: Run, receiver: Receiver) -> None:
    """Each closes the connection or is skipped, and the receiver goes on."""
    for flags in range(256):
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=PATIENCE) as connection:
            connection.sendall(struct.pack("!IB", 3, flags) + b"\x00\xff{")
            try:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            except TimeoutError:
                run.fail(f"flags {flags:#04x}: the receiver did not close")
            except OSError:  # reset, perhaps before this end was done
                continue
    run.expect(not receiver.process.ended, "the receiver ended")


def _base_receiver(run: Run) -> None:
    """A session shipper never falls back before a receiver that knows only base frames; told so, it delivers."""
    place = run.place()
    load.write(place / "some.log", "x", 50)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    heard: list[tuple[int, int]] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                while len(header := stream.read(5)) == 5:
                    length, flags = struct.unpack("!IB", header)
                    heard.append((flags, len(stream.read(length))))
                    if flags & 0x80:
                        break

    threading.Thread(target=serve, daemon=True).start()
    run.finally_do(listener.close)
    session = run.shipper(place, port, place / "some.log", once=True, DRAIN_TIMEOUT="3")
    code = session.spawn().wait()
    run.expect(code == 69, f"before a base receiver a session shipper ended with {code}, expected 69")
    run.expect({flags for flags, _ in heard} == {0x80}, f"it sent frames with the flags {heard}")
    heard.clear()
    base = run.shipper(place, port, place / "some.log", once=True, name="base", SESSION_MODE="off")
    code = base.spawn().wait()
    run.expect(code == 0 and heard and not any(f & 0xF8 for f, _ in heard), f"base to base: {code}, {heard}")


class Transfers:
    """Files shipped through harmed connections to one receiver, each a stream of its own, judged together."""

    def __init__(self, run: Run, *, lines: int) -> None:
        self._run = run
        self._lines = lines
        self._place = run.place()
        self._receiver = run.receiver(self._place).start()
        self._expected: dict[str, int] = {}
        self.noticed = 0
        """Harmed connections that another one had to follow."""

    def harm(self, times: int, plan: Any, *, group: int = GROUP) -> None:
        """`times` connections, each by a plan made from the bytes that pass each way when nothing is harmed."""
        total = self._ship("whole", []).proxy.passed

        def one(item: tuple[str, list[dict[str, Any]]]) -> None:
            number, plans = item
            link = self._ship(f"harmed-{number}", plans)
            self._run.bite(link.proxy.bites or plans == [{"slices": True}])
            self.noticed += min(link.proxy.bites, link.proxy.connections - 1)
            link.close()

        # A place that is never reached harms nothing: another try is made for it.
        for attempt in range(5):
            missing = -(-(times - self._run.result.times) // group)
            if missing <= 0:
                break
            groups = [(f"{attempt}-{i}", [plan(total) for _ in range(group)]) for i in range(missing)]
            self._run.each(groups, one, at_a_time=6)

    def judge(self) -> None:
        """The oracle's word on all of them."""
        self._receiver.process.stop()
        self._run.judge(self._receiver.archive, self._expected)

    def _ship(self, stream: str, plans: list[dict[str, Any]]) -> Link:
        path = self._place / f"{stream}.log"
        load.write(path, stream, self._lines)
        self._expected[stream] = self._lines
        link = Link(self._run, self._receiver.port, plans)
        shipper = self._run.shipper(self._place, link.port, path, once=True, name=stream, **SMALL_BATCHES)
        if code := shipper.spawn().wait(240):
            raise Failed(f"the shipper ended with {code}: {shipper.process.text[-1500:]}")
        return link


def _wait(condition: Any, what: str, *, timeout: float = PATIENCE) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {timeout:g} s")
        time.sleep(0.02)
