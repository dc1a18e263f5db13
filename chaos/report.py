"""The table at the end, and the same as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from chaos.suite import Result

_HEAD = ("fault", "", "times", "stored", "lost", "twice", "disorder", "damaged", "back after (median/max)", "took", "")


def table(results: Sequence[Result]) -> str:
    """One row a fault, then every failure, note and skip in full."""
    rows = [_HEAD, *(_row(result) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = ["  ".join(_cell(i, cell, widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows]
    for result in results:
        if result.skipped:
            lines.append(f"\n{result.number} was skipped, which is an open point: {result.skipped}")
        lines += [f"\n{result.number} FAILED (seed {result.seed}): {failure}" for failure in result.failures]
        lines += [f"{result.number}: {note}" for note in result.notes]
    return "\n".join(lines)


def as_json(results: Sequence[Result], length: str) -> str:
    """Everything, for a machine."""
    return json.dumps({"length": length, "faults": [asdict(r) | {"passed": r.passed} for r in results]}, indent=1)


def _cell(column: int, text: str, width: int) -> str:
    return text.rjust(width) if 2 <= column < len(_HEAD) - 1 else text.ljust(width)


def _row(result: Result) -> tuple[str, ...]:
    back = f"{median(result.recovery):.2f} / {max(result.recovery):.2f} s" if result.recovery else "-"
    counts = (result.times, result.stored, result.lost, result.duplicated, result.out_of_order, result.damaged)
    state = "skipped" if result.skipped else "ok" if result.passed else "FAILED"
    return (result.number, result.title, *(f"{count:,}" for count in counts), back, f"{result.seconds:.0f} s", state)
