"""What became of numbered lines, read from the archive with zstd and json alone, and nothing of logbale.

A line is "STREAM NUMBER PADDING CRC32", numbers rising by one from 0 in each stream, the CRC over what is before it.
"""

import json
import re
import subprocess
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SEGMENT = re.compile(r"(\d+)(-\d{8}T\d{6}Z)?\.ndjson\.zst(\.part)?$")
"""Of a receiver's archive, or without a time, of an archiver's: one series a partition there, by offset."""
_SHOWN = 5
"""Examples of each kind that a verdict keeps."""


def line(stream: str, number: int, padding: str = "") -> str:
    """The line with this number, without a newline. `stream` and `padding` hold no blanks."""
    text = f"{stream} {number} {padding or '-'}"
    return f"{text} {zlib.crc32(text.encode()):08x}"


@dataclass
class Verdict:
    """How many lines went which way, with a few examples of each."""

    stored: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    damaged: int = 0
    """Entries that no generator wrote, and bytes that zstd or json refuse."""
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Everything is there, once, in order, as it was written."""
        return not (self.lost or self.duplicated or self.out_of_order or self.damaged)

    def __str__(self) -> str:
        words = (
            f"{self.stored} stored, {self.lost} lost, {self.duplicated} duplicated, "
            f"{self.out_of_order} out of order, {self.damaged} damaged"
        )
        return f"{words}: {'; '.join(self.examples)}" if self.examples else words

    def _note(self, what: str) -> None:
        if len(self.examples) < _SHOWN:
            self.examples.append(what)


def judge(entries: Iterable[bytes], expected: Mapping[str, int]) -> Verdict:
    """Compares NDJSON entries, in order, with how many lines of each stream were written.

    An entry is out of order where a higher number of its stream came before it, and it is no duplicate.
    """
    verdict = Verdict()
    seen = {stream: bytearray(count) for stream, count in expected.items()}
    highest = dict.fromkeys(expected, -1)
    for raw in entries:
        parsed = _parse(raw)
        if parsed is None or parsed[0] not in seen or parsed[1] >= len(seen[parsed[0]]):
            verdict.damaged += 1
            verdict._note(f"damaged {raw[:200]!r}")
            continue
        stream, number = parsed
        verdict.stored += 1
        if seen[stream][number]:
            verdict.duplicated += 1
            verdict._note(f"duplicated {stream} {number}")
        elif number < highest[stream]:
            verdict.out_of_order += 1
            verdict._note(f"out of order {stream} {number} after {highest[stream]}")
        seen[stream][number] = 1
        highest[stream] = max(highest[stream], number)
    for stream, numbers in seen.items():
        if missing := numbers.count(0):
            verdict.lost += missing
            first, last = numbers.index(0), numbers.rindex(0)
            verdict._note(f"lost {missing} of {stream}, between {first} and {last} of {len(numbers)}")
    return verdict


def _parse(raw: bytes) -> tuple[str, int] | None:
    """Stream and number, where it is a whole line of ours."""
    try:
        text = json.loads(raw)["message"]
        body, crc = text.rsplit(" ", 1)
        if zlib.crc32(body.encode()) != int(crc, 16):
            return None
        stream, number, _ = body.split(" ")
        return stream, int(number)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def segments(archive: Path) -> list[Path]:
    """The archive's segments in serial order; of an archiver's, each partition's are."""
    found = [(int(match[1]), path) for path in archive.rglob("*.zst*") if (match := _SEGMENT.match(path.name))]
    return [path for _, path in sorted(found)]


def read(archive: Path) -> Iterator[bytes]:
    """The entries of all segments; a segment that zstd refuses ends with an entry that is none."""
    for path in segments(archive):
        done = subprocess.run(["zstd", "-dcq", path], capture_output=True, check=False)
        yield from done.stdout.splitlines()
        if done.returncode:
            yield b"%s: %s" % (path.name.encode(), done.stderr.strip())


def verdict(archive: Path, expected: Mapping[str, int]) -> Verdict:
    """judge() of a whole archive at rest."""
    return judge(read(archive), expected)


def count(archive: Path) -> int:
    """Entries in the archive now, as far as they are readable: it may be written meanwhile."""
    total = 0
    for path in segments(archive):
        # A segment may be sealed, that is renamed, between the two steps; the next look finds it.
        done = subprocess.run(["zstd", "-dcq", path], capture_output=True, check=False)
        total += done.stdout.count(b"\n")
    return total
