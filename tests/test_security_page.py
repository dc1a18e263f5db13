"""docs/security.md against the code: its tests exist, its settings have these defaults."""

import re
from pathlib import Path

import pytest

from logbale.config import SETTINGS

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "security.md").read_text()
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "s": 1}


def rows(heading):
    """The cells of the table below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"`(test_\w+\.py::\w+)`", PAGE))))
def test_a_test_that_is_named_exists(reference):
    """In that file, by that name."""
    file, name = reference.split("::")
    assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE)


def test_every_row_names_a_test():
    """A limit or a hole without one is not on the page: what has no test yet is not promised."""
    for row in rows("Limits") + rows("Holes of others, as tests"):
        assert any("`test_" in cell for cell in row[1:]), row


def test_a_limits_default_is_its_settings():
    """As the page has it: 8 MiB, 100,000, or among other things that hold as well."""
    settings = [(row[1], row[2].strip("`")) for row in rows("Limits") if row[2]]
    assert len(settings) >= 20
    for default, variable in settings:
        numbers = re.findall(r"(\d[\d,]*)(?: (KiB|MiB|s)\b)?", default)
        values = [int(number.replace(",", "")) * UNITS.get(unit, 1) for number, unit in numbers]
        assert SETTINGS[variable.lower()].default in values, variable
