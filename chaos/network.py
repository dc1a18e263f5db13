"""A connection that is harmed: tests/proxy.py, on a thread with a loop of its own."""

import asyncio
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from proxy import Proxy

from chaos.suite import Run


class Link:
    """A proxy before a receiver's port; see tests/proxy.py for its plans, of which each connection uses up one."""

    def __init__(self, run: Run, receiver_port: int, plans: Sequence[dict[str, Any]] = ()) -> None:
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.proxy = Proxy(receiver_port, plans)
        self._call(self.proxy.__aenter__())
        run.finally_do(self.close)

    @property
    def port(self) -> int:
        """Where a shipper connects to."""
        return self.proxy.port

    def silence(self, silent: bool) -> None:
        """A black hole: what comes goes nowhere, and nobody is told; until it ends, when all of it arrives."""

        async def switch() -> None:
            (self.proxy.passing.clear if silent else self.proxy.passing.set)()

        self._call(switch())

    def close(self) -> None:
        """Resets every connection. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._call(self.proxy.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)
