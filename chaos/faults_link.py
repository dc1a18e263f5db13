"""A bad link: a slow one that loses packets, between network namespaces, against what plain TCP makes of it."""

import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from chaos import load
from chaos.processes import Failed
from chaos.suite import HOW_TO_GET, Run, Skipped, fault

LOSSES = (1, 5, 10)
"""Packets of a hundred, each way."""
RATE = "1mbit"
LINES = 60_000
"""Half a megabyte and more on the wire: five seconds where nothing is lost."""
PART = 0.8
PATIENCE = 300.0


@fault("F16", "packets lost on a link of 1 Mbit/s", full=3, smoke=0, tools=("ip", "tc", "iptables", "nsenter"))
def lossy(run: Run) -> None:
    """`times` are rounds for each loss; over them, as many wire bytes a second as 0.8 of plain TCP's on that link."""
    link = BadLink(run)
    for loss in LOSSES:
        link.lose(loss)
        ours = plain = wire = 0.0
        for turn in range(run.times):
            place = run.place()
            receiver = run.receiver(place, host=link.far)
            receiver.start(under=link.inside)
            growing = place / "some.log"
            growing.touch()
            stream = f"loss-{loss}-{turn}"
            shipper = run.shipper(place, receiver.port, growing, host=link.far)
            shipper.spawn()
            _until(lambda shipper=shipper: shipper.metric("logbale_shipper_connected") == 1)
            # Written beside it and appended at once: the link, and not the writing, is what takes time.
            load.write(place / "whole", stream, LINES, seed=run.seed + turn)
            began = time.monotonic()
            with growing.open("ab") as file:
                file.write((place / "whole").read_bytes())
            _until(lambda shipper=shipper: shipper.delivered >= LINES)
            ours += time.monotonic() - began
            sent = int(shipper.metric("logbale_shipper_sent_wire_bytes"))
            plain += link.plain(sent)
            wire += sent
            shipper.process.stop()
            receiver.process.stop()
            run.judge(receiver.archive, {stream: LINES})
        lost = link.lost
        run.bite(lost > 0)
        run.expect(plain >= PART * ours, f"{loss} %: {wire / ours:,.0f} B/s, plain TCP {wire / plain:,.0f} B/s")
        run.note(
            f"{loss} % lost ({lost} packets): {wire / ours:,.0f} B/s on the wire, plain TCP {wire / plain:,.0f} B/s: "
            f"{plain / ours:.0%}"
        )


class BadLink:
    """A network namespace with one link to this one, slow both ways. Nothing of this machine's own is changed."""

    def __init__(self, run: Run) -> None:
        """Raises Skipped where this machine makes none."""
        # By a process that holds it, and not by `ip netns`, which mounts something: see _unshare_mounts().
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        run.finally_do(self._holder.wait)
        run.finally_do(self._holder.kill)
        self.inside: Sequence[str] = ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--")
        number = os.getpid() % 250
        self.near, self.far = f"10.213.{number}.1", f"10.213.{number}.2"
        here, there = f"lb{os.getpid()}a", f"lb{os.getpid()}b"
        _until(lambda: os.readlink(f"/proc/{self._holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        _command("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", str(self._holder.pid))
        run.finally_do(lambda: subprocess.run(["ip", "link", "del", here], capture_output=True, check=False))
        _command(*self.inside, "ip", "link", "set", "lo", "up")
        for prefix, name, address in (((), here, self.near), (self.inside, there, self.far)):
            _command(*prefix, "ip", "address", "add", f"{address}/30", "dev", name)
            # Packets as a wire has them: a loss takes one, not what the system would cut up later.
            _command(*prefix, "ip", "link", "set", name, "up", "gso_max_segs", "1")
            slow = ("root", "tbf", "rate", RATE, "burst", "5k", "latency", "200ms")
            _command(*prefix, "tc", "qdisc", "add", "dev", name, *slow)

    def lose(self, percent: int) -> None:
        """So many packets of a hundred are lost each way from now on. Both ways in the far end: no rule here."""
        _command(*self.inside, "iptables", "-F")
        for chain in ("INPUT", "OUTPUT"):
            elsewhere = ("!", "-s" if chain == "INPUT" else "-d", "127.0.0.0/8")
            chance = ("-m", "statistic", "--mode", "random", "--probability", str(percent / 100))
            _command(*self.inside, "iptables", "-A", chain, *elsewhere, *chance, "-j", "DROP")

    @property
    def lost(self) -> int:
        """Packets since the last lose()."""
        listed = _command(*self.inside, "iptables", "-nvxL")
        return sum(int(line.split()[0]) for line in listed.splitlines() if " DROP " in line and "statistic" in line)

    def plain(self, count: int) -> float:
        """Seconds that so many bytes take, from the first to the other end's word that it has them all."""
        listener = self._listener()
        done = threading.Thread(target=_take, args=(listener, count), daemon=True)
        done.start()
        with socket.create_connection((self.far, listener.getsockname()[1]), timeout=PATIENCE) as connection:
            began = time.monotonic()
            connection.sendall(os.urandom(count))
            if connection.recv(1) != b".":
                raise Failed("plain TCP did not arrive")
            seconds = time.monotonic() - began
        done.join(10)
        listener.close()
        return seconds

    def _listener(self) -> socket.socket:
        """A socket of the far end's. A thread enters that namespace to make it, and ends there."""
        made: list[socket.socket] = []

        def make() -> None:
            with open(f"/proc/{self._holder.pid}/ns/net", "rb") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0x40000000):
                    return
            made.append(socket.create_server((self.far, 0)))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if not made:
            raise Skipped(f"cannot enter a network namespace: {HOW_TO_GET['mount']}")
        return made[0]


def _take(listener: socket.socket, count: int) -> None:
    with suppress(OSError):
        connection, _ = listener.accept()
        with connection:
            while count > 0:
                count -= len(connection.recv(1 << 16))
            connection.sendall(b".")


def _command(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"{' '.join(command)}: {done.stderr.strip()}; run as root with CAP_NET_ADMIN")
    return done.stdout


def _until(condition: Callable[[], bool], timeout: float = PATIENCE) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"not within {timeout:g} s")
        time.sleep(0.01)
