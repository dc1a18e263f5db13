"""More than it can take: floods within a memory limit, a thousand connections that come and go, resets without end."""

import contextlib
import itertools
import os
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

from chaos import load
from chaos.faults_crash import finish
from chaos.processes import Failed, Receiver
from chaos.suite import Run, fault

MiB = 1 << 20
IN_FLIGHT = 128 * MiB
ADDRESS_SPACE = 1024 * MiB
"""Of which code, libraries and the threads' stacks take about a third before anything is received."""
FLOODERS = 8
OVER = 1.1
"""How far memory may go over its limit, which is IN_FLIGHT and what the process took before anybody sent anything."""

WARM_UP = 10
"""Rounds of churn until what is kept of those who have gone is at its bound: memory rose until the eighth."""


@fault("F28", "ten times what it can store, within 1 GiB of address space", full=300, smoke=10, tools=["prlimit"])
def overload(run: Run) -> None:
    """`times` are seconds. Who floods is refused or waits; who asks for acknowledgements loses nothing."""
    place = run.place()
    receiver = run.receiver(
        place, MAX_IN_FLIGHT_BYTES=str(IN_FLIGHT), CONTEXT_MEMORY=str(32 * MiB), ARCHIVE_SEGMENT_BYTES=str(64 * MiB)
    )
    receiver.start(under=("prlimit", f"--as={ADDRESS_SPACE}", "--"))
    limit = receiver.process.resident_bytes + IN_FLIGHT
    growing = load.Load(place / "load.log", rate=1000)
    run.finally_do(growing.stop)
    shipper = run.shipper(place, receiver.port, growing.path)
    shipper.spawn()
    shipper.first_ack(above=0)
    over = threading.Event()
    run.finally_do(over.set)
    sent = itertools.count()
    # What a kilobyte becomes: three mebibytes of lines that repeat.
    flood = _frame(b"[" + b",".join([b'{"message":"%s"}' % (b"flood " * 50)] * 9000) + b"]")
    threads = [threading.Thread(target=_flood, args=(receiver.port, flood, over, sent)) for _ in range(FLOODERS)]
    for thread in threads:
        thread.start()
    before = shipper.delivered
    curve = _curve(receiver, run.times)
    over.set()
    for thread in threads:
        thread.join()
    run.bite(run.times if next(sent) > FLOODERS else 0)
    run.expect(shipper.delivered > before, "an honest shipper was acknowledged nothing while others flooded")
    most = max(curve)
    run.expect(
        most <= OVER * limit, f"{most / MiB:.0f} MiB resident, expected {limit / MiB:.0f} and a tenth more at most"
    )
    run.expect("unforeseen" not in receiver.process.text, "an error that nobody foresaw")
    run.note(
        f"{run.times} s, {next(sent)} frames of 3 MiB sent, at most {most / MiB:.0f} MiB resident of a limit of "
        f"{limit / MiB:.0f} MiB; the most of each tenth of that time: {_tenths(curve)} MiB"
    )
    _settle(receiver)
    # The flood's lines carry no numbers, so the oracle cannot judge this archive: the acknowledgements are counted.
    count = growing.stop()
    deadline = time.monotonic() + 60
    while shipper.delivered < count and time.monotonic() < deadline:
        time.sleep(0.1)
    run.expect(shipper.delivered >= count, f"{shipper.delivered:.0f} of {count} entries acknowledged a minute after")
    run.result.stored += int(shipper.delivered)
    shipper.process.stop()
    receiver.process.stop()


def _curve(receiver: Receiver, seconds: float) -> list[int]:
    """What is resident, ten times a second. Raises Failed where the receiver ends."""
    curve, ends = [], time.monotonic() + seconds
    while time.monotonic() < ends:
        if receiver.process.ended:
            raise Failed(f"the receiver ended with {receiver.process.wait()}: {receiver.process.text[-1500:]}")
        curve.append(receiver.process.resident_bytes)
        time.sleep(0.1)
    return curve


def _tenths(curve: list[int]) -> str:
    length = -(-len(curve) // 10)
    return " ".join(f"{max(curve[at : at + length]) / MiB:.0f}" for at in range(0, len(curve), length))


def _frame(raw: bytes) -> bytes:
    payload = zlib.compress(raw)
    return struct.pack("!IB", len(payload), 5) + payload


def _flood(port: int, frame: bytes, over: threading.Event, sent: "itertools.count[int]") -> None:
    while not over.is_set():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            # At the end what the system still holds goes too: the receiver is given what it has read, and no more.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            left = memoryview(frame)
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    left = left[connection.send(left) :]
                if not left:
                    next(sent)
                    left = memoryview(frame)


def _settle(receiver: Receiver) -> None:
    """Waits until nothing is in flight."""
    deadline = time.monotonic() + 60
    while receiver.metric("logbale_receiver_in_flight_bytes") and time.monotonic() < deadline:
        time.sleep(0.1)


@fault("F29", "a thousand connections that come and go", full=20, smoke=3)
def churn(run: Run) -> None:
    """Descriptors return to what they were, memory to within 5 % of what it was after WARM_UP rounds."""
    place = run.place()
    receiver = run.receiver(place).start()

    def round_of(number: int) -> tuple[int, int]:
        connections = []
        for client in range(1000):
            connection = socket.create_connection(("127.0.0.1", receiver.port), timeout=10)
            text = b'{"type":"hello","version":1,"stream":"churn-%d","next":1}' % (client % 200)
            connection.sendall(struct.pack("!IB", len(text), 0x80) + text if client % 2 else b"\0\0\0\2\0[]")
            connections.append(connection)
        run.bite()
        for connection in connections:
            connection.close()
        deadline = time.monotonic() + 30
        while receiver.metric("logbale_receiver_clients") and time.monotonic() < deadline:
            time.sleep(0.05)
        run.expect(not receiver.metric("logbale_receiver_clients"), f"round {number}: connections are left")
        time.sleep(1)  # the scrape's own connection is closed meanwhile
        return len(os.listdir(f"/proc/{receiver.process.pid}/fd")), receiver.process.resident_bytes

    for number in range(WARM_UP):
        files, resident = round_of(number)
    for number in range(WARM_UP, WARM_UP + run.times):
        files_now, resident_now = round_of(number)
        run.expect(files_now <= files + 1, f"round {number}: {files_now} descriptors, {files} at first")
    run.expect(
        resident_now < resident * 1.05, f"{resident_now / MiB:.1f} MiB, {resident / MiB:.1f} after {WARM_UP} rounds"
    )
    run.note(
        f"{resident / MiB:.1f} MiB after {WARM_UP} rounds, {resident_now / MiB:.1f} at the end; {files_now} descriptors"
    )
    path = place / "load.log"
    load.write(path, "load", 500)
    shipper = run.shipper(place, receiver.port, path, once=True)
    run.expect(shipper.spawn().wait() == 0, "a shipper after it was not served")
    receiver.process.stop()
    run.judge(receiver.archive, {"load": 500})


@fault("F14", "every connection reset as it comes", full=30, smoke=6)
def reset_storm(run: Run) -> None:
    """`times` are seconds. At most one attempt a second; when it is over, all arrives."""
    place = run.place()
    receiver = run.receiver(place)
    attempts: list[float] = []
    listener = socket.create_server(("127.0.0.1", receiver.port))

    def reset() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                attempts.append(time.monotonic())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

    threading.Thread(target=reset, daemon=True).start()
    growing = load.Load(Path(place) / "load.log", rate=1000)
    run.finally_do(growing.stop)
    shipper = run.shipper(place, receiver.port, growing.path)
    shipper.spawn()
    time.sleep(run.times)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    run.bite(len(attempts))
    run.expect(
        len(attempts) <= run.times + 2, f"{len(attempts)} attempts in {run.times} s, expected one a second at most"
    )
    run.note(f"{len(attempts)} attempts in {run.times} s")
    receiver.start()
    began = time.monotonic()
    shipper.first_ack(above=0)
    run.recovered(time.monotonic() - began)
    finish(run, receiver, shipper, growing)
