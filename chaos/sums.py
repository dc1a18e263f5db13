"""The sums: what an end has read or received is delivered, stored, dropped, refused or waiting, at every moment.

Read off /metrics of whatever runs, several times a second, for as long as a fault lasts.
"""

import re
import threading
from collections.abc import Callable, Iterable

from chaos.processes import End, fetch

INTERVAL = 0.2
_LINE = re.compile(r"^logbale_(\w+?)(?:_total)?(?:\{[^}]*\})? ([\d.e+-]+)$", re.M)


def imbalance(text: str) -> str | None:
    """What does not add up in an end's metrics; None where all does, or where there is nothing to add up."""
    found: dict[str, float] = {}
    for name, value in _LINE.findall(text):
        found[name] = found.get(name, 0.0) + float(value)
    if "shipper_read_entries" in found:
        parts = ["shipper_delivered_entries", "shipper_dropped_entries", "shipper_waiting_entries"]
        whole = "shipper_read_entries"
    elif "receiver_stored_entries" in found:
        parts = [f"receiver_{part}_entries" for part in ("stored", "duplicate", "rejected", "waiting")]
        whole = "receiver_received_entries"
    else:
        return None
    total, summed = found.get(whole, 0.0), sum(found.get(part, 0.0) for part in parts)
    negative = [part for part in parts if found.get(part, 0.0) < 0]
    if total == summed and not negative:
        return None
    return f"{whole} {total:,.0f}, but {', '.join(f'{part} {found.get(part, 0.0):,.0f}' for part in parts)}"


class Watch:
    """Looks at the sums of the ends that run, on a thread of its own, until it is closed."""

    def __init__(self, ends: Callable[[], Iterable[End]], fail: Callable[[str], None]) -> None:
        self.looks = 0
        """Times that an end's sums were read, and held."""
        self._ends = ends
        self._fail = fail
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL):
            for end in self._ends():
                if end.process is not None and not end.process.ended:
                    text = fetch(end.metrics_port, "/metrics")[1]
                    if (wrong := imbalance(text)) is not None:
                        self._fail(f"{end.directory.name}: the sum does not hold: {wrong}")
                        return
                    self.looks += "logbale_" in text

    def close(self) -> None:
        """Looks no more."""
        self._closed.set()
        self._thread.join(5)
