"""Asks a receiver again and again, and keeps the screen: redrawn for news, for a key and for another size of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from time import monotonic
from types import FrameType

from msgspec.structs import replace
from rich.console import Console
from rich.live import Live

from logbale.dashboard_client import DashboardClient
from logbale.errors import UnavailableError
from logbale.terminal import duration
from logbale.top.answers import ORDERS, Clients, Stats
from logbale.top.keyboard import Keyboard
from logbale.top.screen import Look, above_clients, clients_table, whole

PIPE_WIDTH = 160
"""Columns where the output is no terminal and nobody says how wide it is (COLUMNS)."""

LATE = 3.0
"""Seconds beyond the interval after which an answer is late."""

PAGE = 10
"""Clients that a page key moves by."""

ORDER_BY_KEY = {order.key: order for order in ORDERS}


def ask(client: DashboardClient) -> tuple[Stats, Clients]:
    """What the receiver says now. Raises UnavailableError."""
    stats = client.json("stats", Stats)
    if stats.end != "receiver":
        raise UnavailableError(f"{client.name} is the dashboard of a {stats.end or 'stranger'}: expected a receiver's")
    return stats, client.json("clients", Clients)


def print_once(url: str, stats: Stats, clients: Clients) -> None:
    """All of it, with every client, to standard output."""
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH)
    width = console.width
    for part in above_clients(stats, url, width):
        console.print(part)
    console.print(
        clients_table(clients, ORDERS[0], reverse=False, width=width, first=0, rows=len(clients.clients) or 1)
    )


class Watch:
    """One thread asks, so that keys never wait for an answer."""

    def __init__(self, client: DashboardClient, interval: float, answer: tuple[Stats, Clients]) -> None:
        self._client = client
        self._interval = interval
        self._answer = answer
        self._answered = monotonic()
        self._trouble = ""
        self._look = Look()
        self._ended = threading.Event()

    def run(self) -> None:
        """Until q or SIGTERM; Ctrl-C raises KeyboardInterrupt. The terminal is given back as it was."""
        console = Console()
        live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        signal.signal(signal.SIGTERM, _terminated)
        with Keyboard() as keyboard, live:
            signal.signal(signal.SIGTSTP, lambda *_: _pause(live, keyboard))
            threading.Thread(target=self._ask_on, args=(keyboard,), name="logbale-top", daemon=True).start()
            try:
                self._watch(live, keyboard)
            finally:
                self._ended.set()
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def _watch(self, live: Live, keyboard: Keyboard) -> None:
        while True:
            live.update(
                whole(*self._answer, self._look, self._client.name, live.console, trouble=self._late()), refresh=True
            )
            key = keyboard.wait(self._interval)
            if key == "q":
                return
            self._obey(key, len(self._answer[1].clients))

    def _late(self) -> str:
        since = monotonic() - self._answered
        if self._trouble:
            return f"{self._trouble} (these numbers are {duration(since)} old)"
        return f"no answer for {duration(since)}" if since > self._interval + LATE else ""

    def _obey(self, key: str | None, clients: int) -> None:
        look = self._look
        if (order := ORDER_BY_KEY.get(key or "")) is not None:
            self._look = Look(order, reverse=order.key == look.order.key and not look.reverse)
        steps = {"up": -1, "down": 1, "page up": -PAGE, "page down": PAGE, "home": -clients, "end": clients}
        if key in steps:
            self._look = replace(look, first=max(0, min(look.first + steps[key], clients - 1)))

    def _ask_on(self, keyboard: Keyboard) -> None:
        while not self._ended.wait(self._interval):
            try:
                self._answer = ask(self._client)
                self._answered, self._trouble = monotonic(), ""
            except UnavailableError as error:
                self._trouble = str(error)
            keyboard.wake()


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _pause(live: Live, keyboard: Keyboard) -> None:
    """Ctrl-Z: the shell gets its terminal as it was; `fg` brings ours back."""
    live.stop()
    keyboard.give_back()
    os.kill(os.getpid(), signal.SIGSTOP)
    keyboard.take()
    live.start(refresh=True)
