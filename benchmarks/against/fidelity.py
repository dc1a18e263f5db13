"""What became of the lines: those sent against those stored, as multisets and in their order."""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fidelity:
    """Lines by what happened to them; all 0 is as it should be."""

    lost: int = 0
    duplicated: int = 0
    damaged: int = 0
    """Stored, and never sent like this: cut, joined or changed. What it was made of is lost, too."""
    out_of_order: int = 0
    """Stored after one that was sent later."""


def compare(sent: Iterable[bytes], stored: Iterable[bytes]) -> Fidelity:
    """A line that was sent several times may be stored as often."""
    places: dict[bytes, list[int]] = defaultdict(list)
    for number, line in enumerate(sent):
        places[line].append(number)
    for numbers in places.values():
        numbers.reverse()  # the earliest is taken first, from the end
    duplicated = damaged = out_of_order = 0
    latest = -1
    for line in stored:
        left = places.get(line)
        if left is None:
            damaged += 1
        elif not left:
            duplicated += 1
        else:
            number = left.pop()
            out_of_order += number < latest
            latest = max(latest, number)
    return Fidelity(sum(map(len, places.values())), duplicated, damaged, out_of_order)


def compare_files(source: Path, destination: Path) -> Fidelity:
    """Both hold one line after the other. Takes several times a file's size in memory where they differ."""
    if not destination.exists():
        destination.touch()
    if filecmp.cmp(source, destination, shallow=False):
        return Fidelity()
    with source.open("rb") as sent, destination.open("rb") as stored:
        return compare(sent, stored)
