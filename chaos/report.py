"""The table at the end, and the same as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from chaos.suite import Result

_HEAD = ("fault", "", "times", "stored", "lost", "twice", "disorder", "damaged", "back after (median/max)", "took", "")


def table(results: Sequence[Result]) -> str:
    """One row a fault, then every failure, note and skip in full."""
    rows = [_HEAD, *(_row(result) for result in results), _total(results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = ["  ".join(_cell(i, cell, widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows]
    for result in results:
        if result.skipped:
            lines.append(f"\n{result.number} was skipped, which is an open point: {result.skipped}")
        lines += [f"\n{result.number} FAILED (seed {result.seed}): {failure}" for failure in result.failures]
        lines += [f"{result.number}: {note}" for note in result.notes]
    looks = sum(result.looks for result in results)
    lines.append(f"the sums of both ends were read off their metrics {looks:,} times, and added up")
    return "\n".join(lines)


def summary(results: Sequence[Result]) -> str:
    """How many passed, in the words of a test runner. What was skipped and failed while it was cleaned up failed."""
    failed = sum(bool(result.failures) for result in results)
    passed = sum(result.passed for result in results)
    return f"{passed} passed, {failed} failed, {len(results) - passed - failed} skipped"


def as_json(results: Sequence[Result], length: str, seed: int) -> str:
    """Everything, for a machine."""
    faults = [asdict(result) | {"passed": result.passed} for result in results]
    return json.dumps({"length": length, "seed": seed, "summary": summary(results), "faults": faults}, indent=1)


def _cell(column: int, text: str, width: int) -> str:
    return text.rjust(width) if 2 <= column < len(_HEAD) - 1 else text.ljust(width)


def _row(result: Result) -> tuple[str, ...]:
    back = f"{median(result.recovery):.2f} / {max(result.recovery):.2f} s" if result.recovery else "-"
    counts = (result.times, result.stored, result.lost, result.duplicated, result.out_of_order, result.damaged)
    state = "FAILED" if result.failures else "skipped" if result.skipped else "ok"
    return (result.number, result.title, *(f"{count:,}" for count in counts), back, f"{result.seconds:.0f} s", state)


def _total(results: Sequence[Result]) -> tuple[str, ...]:
    """The sums; what the controls lost and doubled on purpose is not in them."""
    judged = [result for result in results if not result.number.endswith("-control")]
    names = ("times", "stored", "lost", "duplicated", "out_of_order", "damaged")
    counts = [sum(getattr(result, name) for result in judged) for name in names]
    seconds = sum(result.seconds for result in results)
    return ("total", "but for the controls", *(f"{count:,}" for count in counts), "", f"{seconds:.0f} s", "")
