"""Says the same thing once a while, however often it happens."""

from __future__ import annotations

import logging
import time
from collections import Counter

INTERVAL = 60.0
"""Seconds in which a text is said once; then with how often it came meanwhile."""
MAX_TEXTS = 100


class Saying:
    """Warnings of one logger. For one thread."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, float] = {}
        self._kept_back: Counter[str] = Counter()

    def warning(self, text: str, *, now: float | None = None) -> None:
        """Says it, or counts it where it was said within INTERVAL; `now` is monotonic seconds."""
        now = time.monotonic() if now is None else now
        if now - self._said.get(text, -INTERVAL) < INTERVAL:
            self._kept_back[text] += 1
            return
        if len(self._said) >= MAX_TEXTS:
            self._said.clear()
            self._kept_back.clear()
        again = self._kept_back.pop(text, 0)
        self._said[text] = now
        self._log.warning("%s%s", text, f" ({again} times more in between)" if again else "")
