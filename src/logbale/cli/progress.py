"""How far a shipper's finite work has come, on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from logbale.cli.running import background, face, has_terminal, redraw
from logbale.metrics import ShipperSnapshot

Progress = Callable[[ShipperSnapshot], tuple[float, float | None] | None]
"""How much is done and how much there is in all, None where the end is not known; None alone where there is no end."""


@contextlib.asynccontextmanager
async def progress_of(
    snapshot: Callable[[], ShipperSnapshot], progress: Progress, terminal: contextlib.ExitStack
) -> AsyncIterator[None]:
    """While the body runs: how far finite work is on a terminal, and otherwise as face() has it."""
    if progress(snapshot()) is None or not has_terminal():
        async with face(snapshot, terminal):
            yield
        return
    from logbale.status import ShipProgress

    def draw() -> None:
        now = snapshot()
        shown.update(now, *(progress(now) or (0, None)))

    with terminal:
        shown = terminal.enter_context(ShipProgress())
        async with background(redraw(draw)):
            yield
