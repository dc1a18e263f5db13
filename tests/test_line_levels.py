"""Levels of lines: what is remembered of other lines changes how long a search takes, never what it finds."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.line_levels import BEGINNINGS, ENOUGH_LINES, LEVELS, MAX_KNOWN, SAMPLE_LINES, LineLevels, Search

WORDS = {word.encode(): level for word, level in LEVELS.items()}
SEARCH = Search(WORDS)


def alone(line):
    """The level of a line that has nothing before it."""
    return LineLevels(SEARCH).of([line])[0]


words = st.sampled_from(
    [
        b"ERROR",
        b"ERRORS",
        b"[warn]",
        b"INFO:app:started",
        b"INFO",
        b"7",
        b"12",
        b"x" * 30,
        b"a",
        b"combo",
        b"level=debug",
    ]
)
gaps = st.sampled_from([b" ", b"  ", b"\t"])
lines = st.lists(st.tuples(words, gaps), max_size=12).map(lambda pieces: b"".join(map(b"".join, pieces)))


@given(st.lists(st.lists(lines, max_size=6), max_size=6))
def test_a_line_has_the_level_that_it_would_have_alone(chunks):
    """Whatever came before it, in the same chunk or an earlier one."""
    levels = LineLevels(SEARCH)
    assert [levels.of(chunk) for chunk in chunks] == [list(map(alone, chunk)) for chunk in chunks]


@pytest.mark.parametrize("alike", [0.0, 0.3, 0.6, 0.99])
def test_a_line_of_a_long_chunk_has_the_level_that_it_would_have_alone(alike):
    """However many of its lines begin alike, and however it is judged by that what shall be compared of the next."""
    chance = random.Random(1)
    starts = [b"Nov 26 07:00:11 INFO job", b"ALERT:app:x", b"a b c d e f", b"12 34 \t notice: x", b"x " * 50]
    ends = [b" ERROR", b" x", b"", b" [warn] x y z"]

    def line():
        if chance.random() < alike:
            return chance.choice(starts) + chance.choice(ends)
        return bytes(chance.choices(b"abcdefgh ", k=chance.randrange(1, 50))) + chance.choice(ends)

    levels = LineLevels(SEARCH)
    for size in [10, *[SAMPLE_LINES * 3] * 5, 10, SAMPLE_LINES, ENOUGH_LINES]:
        chunk = [line() for _ in range(size)]
        assert levels.of(chunk) == list(map(alone, chunk))


@pytest.mark.parametrize("near", range(-8, 9))
@pytest.mark.parametrize("longer_ones_failed", [False, True])
def test_a_word_that_goes_on_behind_what_is_compared_is_another_word(near, longer_ones_failed):
    """ERROR at the end of what is compared, and ERRORS, or a last word and one before others."""
    length = BEGINNINGS[longer_ones_failed] + near
    start = b"x" * (length - len(b" ERROR"))
    beginnings = [start + b" ERROR", start + b" ERRORS", start + b" ERROR more", start + b" ERRORS more"]
    six = b"1 2 3 4 5 " + start[10:]
    beginnings += [six + b" ERROR", six + b" ERROR more", six + b" ERRORS"]
    levels = LineLevels(SEARCH)
    if longer_ones_failed:
        levels.of([bytes(random.Random(n).choices(b"abcdefgh", k=50)) for n in range(ENOUGH_LINES)])
    assert levels.of(beginnings) == ["ERROR", "", "ERROR", "", "ERROR", "", ""]
    assert levels.of(beginnings[::-1]) == ["", "", "ERROR", "", "ERROR", "", "ERROR"]


def test_lines_that_differ_in_digits_are_searched_once():
    """Times, numbers and addresses make no new beginning."""
    searched = []

    class Words(dict):
        def __contains__(self, word):
            searched.append(word)
            return super().__contains__(word)

    levels = LineLevels(Search(Words(WORDS)))
    first, second = (b"2026-11-26 07:%02d:11,%03d INFO [worker-%d] job done" % (n, n, n % 10) for n in (12, 37))
    assert levels.of([first]) == ["INFO"]
    searched.clear()
    assert levels.of([second]) == ["INFO"]
    assert not searched


def test_what_is_remembered_has_a_bound():
    """Lines that never begin alike take no more memory than MAX_KNOWN of them, and keep their levels."""
    levels = LineLevels(SEARCH)
    letters = bytes.maketrans(b"0123456789", b"abcdefghij")
    size = ENOUGH_LINES // 2  # chunks too small to judge by
    for start in range(0, 4 * MAX_KNOWN, size):
        chunk = [b"%d" % number for number in range(start, start + size)]
        assert set(levels.of([word.translate(letters) + b" INFO" for word in chunk])) == {"INFO"}
        assert all(len(known.levels) <= MAX_KNOWN for known in levels._known)
