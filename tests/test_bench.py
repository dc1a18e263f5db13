"""The benchmark: what it measures is what the wire carries, and what it recommends follows from a stated rule."""

import io
import json
import random
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest
from chunks import chunk_of
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from logbale import bench_trial
from logbale.bench import (
    BASELINE,
    SESSION_BASELINE,
    SETTINGS,
    BenchResult,
    cheapest,
    compared,
    measure,
    pareto,
    recommend,
)
from logbale.bench_chart import chart, draw, table
from logbale.bench_corpus import RUN, Corpus, from_files, generated, press
from logbale.bench_trial import Measurement, Trial
from logbale.compression import CompressionHandler, library
from logbale.config import Settings
from logbale.context import ContextCompressor
from logbale.errors import DecompressionError, LogbaleError
from logbale.protocol import Algorithm

PATHS = ["/", "/cart", "/cart/checkout", "/login", "/api/v2/items"]


def corpus(entries: int = 500, *, size: int = 50) -> Corpus:
    chance = random.Random(7)
    texts = [
        f"GET {chance.choice(PATHS)} took {chance.randrange(900)} ms for user-{chance.randrange(10**6)}"
        for _ in range(entries)
    ]
    objects = [{"timestamp": "2026-11-24T08:30:00.000000Z", "service": "shop", "message": text} for text in texts]
    chunk = chunk_of(objects)
    return press("shop.log", [chunk], msgspec.structs.replace(Settings(), batch_size=size))


@pytest.fixture(scope="module", autouse=True)
def _own_seconds() -> Iterator[None]:
    """What a time allows to measure is counted in the processor's: how many rounds there are is not up to others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("logbale.bench.perf_counter", time.thread_time)
        yield


@pytest.fixture(scope="module")
def result() -> BenchResult:
    return measure(corpus(), seconds=0.5, in_session=False)


@pytest.fixture(scope="module")
def session() -> BenchResult:
    return measure(corpus(), seconds=0.5)


def one(algorithm: str, level: int, *, wire: int, cpu: float, raw: int = 100_000_000) -> Measurement:
    speed = raw / 1e6 / cpu if cpu else None
    return Measurement(
        algorithm=algorithm,
        level=level,
        library="",
        ratio=raw / wire,
        wire_bytes=wire,
        saved_bytes=raw - wire,
        compress_mb_per_s=speed,
        decompress_mb_per_s=speed,
        cpu_seconds=cpu,
    )


NONE = one("none", 0, wire=100_000_000, cpu=0)
DEFAULT = one("gzip", 6, wire=12_000_000, cpu=1.0)


def test_every_algorithm_is_measured_at_every_level(result):
    """none, and nine levels of gzip, zlib and zstd; each with its ratio, both speeds and what it saved."""
    assert [(item.algorithm, item.level) for item in result.measurements] == [
        (algorithm.label, level) for algorithm, level in SETTINGS
    ]
    assert len(result.measurements) == 28
    for item in result.measurements[1:]:
        assert item.ratio > 2
        assert item.wire_bytes + item.saved_bytes == result.raw_bytes
        assert item.ratio == pytest.approx(result.raw_bytes / item.wire_bytes)
        assert item.compress_mb_per_s > 0
        assert item.decompress_mb_per_s > 0


def test_the_baseline_carries_the_raw_bytes_and_the_headers(result):
    """`none` costs five bytes a batch and no CPU."""
    none = result.measurements[0]
    assert none.wire_bytes == result.raw_bytes + 5 * result.batches
    assert (none.cpu_seconds, none.compress_mb_per_s) == (0.0, None)


def test_a_batch_that_does_not_come_back_is_an_error(monkeypatch):
    """No figure is worth anything where the round trip is not exact."""
    monkeypatch.setattr(bench_trial, "decompress", lambda algorithm, payload, *, max_raw: b"[]")
    with pytest.raises(DecompressionError, match="batch 0 came back different"):
        measure(corpus(100), seconds=0.1)


def test_a_session_is_measured_as_its_two_ends_have_it(session, result):
    """Each batch goes on from the one before; what it is alone stands beside it, and the default is zstd's."""
    assert session.baseline.name == "zstd 6"
    assert [one.wire_bytes for one in session.alone] == [one.wire_bytes for one in result.measurements]
    for together, alone in zip(session.measurements[1:], session.alone[1:], strict=True):
        assert (together.algorithm, together.level) == (alone.algorithm, alone.level)
        assert together.wire_bytes < alone.wire_bytes
    # As OpenSession would send it: header, prefix, and the bodies of one context.
    context = ContextCompressor(Algorithm.ZSTD, 6, window_log=17)
    assert session.baseline.wire_bytes == sum(21 + len(context.compress(raw)) for raw in corpus().batches)


def test_large_batches_of_a_session_are_measured_alone():
    """From 128 KiB on a zstd batch is compressed once for spool, wire and archive, outside of any context."""
    batches = corpus(6000, size=3000).batches
    for algorithm, alone in ((Algorithm.ZSTD, True), (Algorithm.GZIP, False)):
        trial = Trial(algorithm, 3, bypass_threshold=256, in_session=True)
        trial.run(batches)
        handler = CompressionHandler(algorithm, 3)
        frames = sum(21 + len(handler.compress(raw).payload) for raw in batches)
        assert (trial.result(batches).wire_bytes == frames) is alone


def test_a_batch_that_does_not_decompress_names_the_setting(monkeypatch):
    """The error says which algorithm and level."""

    def refuse(algorithm, payload, *, max_raw):
        raise DecompressionError("corrupt", "no end")

    monkeypatch.setattr(bench_trial, "decompress", refuse)
    with pytest.raises(DecompressionError, match=r"none: a batch did not come back: no end"):
        measure(corpus(100), seconds=0.1)


def test_small_batches_are_measured_as_they_are_sent():
    """Below BYPASS_THRESHOLD a batch goes raw, and the figures say so."""
    found = measure(corpus(20, size=1), seconds=0.1, bypass_threshold=1000, in_session=False)
    assert {item.wire_bytes for item in found.measurements} == {found.raw_bytes + 5 * 20}


def test_the_time_bounds_the_work():
    """Too much for the time is thinned evenly, and the notes say what was measured and that it is rough."""
    found = measure(corpus(20_000), seconds=0.3)
    assert found.batches < 400
    assert found.entries == 50 * found.batches
    assert f"{found.batches} of 400 batches, evenly spaced, were measured: what 0.3 s allow" in found.notes


def test_a_sample_is_runs_of_batches_that_follow_each_other():
    """What a context gains from neighbours stays; runs do not overlap, and reach over all of it."""
    whole = corpus(6400)
    numbers = [whole.batches.index(raw) for raw in whole.sample(whole.raw_bytes / 2).batches]
    assert len(numbers) == 64
    assert numbers == sorted(set(numbers))
    assert numbers == [run * 32 + index for run in range(4) for index in range(RUN)]


def test_a_small_input_is_called_rough(result):
    """Ten batches prove little."""
    assert "only 10 batches: below 100 the figures are rough" in result.notes


def test_progress_rises_to_one():
    """Whoever watches sees it go forward and end."""
    seen = []
    measure(corpus(100), seconds=0.1, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_json_has_everything(result):
    """to_json() reads back as the same result."""
    assert msgspec.json.decode(result.to_json(), type=BenchResult) == result
    assert json.loads(result.to_json())["measurements"][1]["algorithm"] == "gzip"


def test_a_percent_at_three_times_the_cpu_is_not_recommended():
    """The rule that a higher level must earn its CPU."""
    fast = one("zstd", 3, wire=10_000_000, cpu=0.3)
    slow = one("zstd", 9, wire=9_900_000, cpu=0.9)
    assert recommend([NONE, DEFAULT, fast, slow]).level == 3


def test_what_a_cpu_second_is_worth_decides():
    """Dear CPU takes the fast setting, cheap CPU the small one."""
    fast = one("zstd", 2, wire=14_000_000, cpu=0.2)
    small = one("zstd", 7, wire=10_000_000, cpu=1.2)
    choices = [NONE, DEFAULT, fast, small]
    assert cheapest(choices, 1_000_000) is small
    assert cheapest(choices, 10_000_000) is fast
    assert recommend(choices, cpu_worth=10_000_000).level == 2
    assert "at 10 MB of wire for a CPU second" in recommend(choices, cpu_worth=10_000_000).reason


def test_equal_costs_go_to_less_cpu():
    """Within the tie, timing noise does not decide; the CPU does."""
    slow = one("zstd", 5, wire=10_000_000, cpu=0.50)
    fast = one("zstd", 4, wire=10_300_000, cpu=0.40)
    assert slow.cost(2_000_000) < fast.cost(2_000_000)
    assert cheapest([slow, fast], 2_000_000) is fast


def test_what_does_not_compress_goes_raw():
    """Where nothing is saved, none is the recommendation."""
    useless = [one(name, level, wire=100_000_000, cpu=1.0) for name, level in (("gzip", 6), ("zstd", 2))]
    found = recommend([NONE, *useless])
    assert (found.algorithm, found.level) == ("none", 0)
    assert found.reason.endswith("It sends as much as gzip 6, at 0 × the CPU.")


def test_the_recommendation_is_compared_with_the_default_and_has_its_alternatives():
    """The words hold the figures: what is saved, at which CPU, and who should take another setting."""
    best = one("zstd", 2, wire=10_800_000, cpu=0.31)
    small = one("zstd", 7, wire=9_000_000, cpu=3.1)
    found = recommend([NONE, DEFAULT, one("zstd", 1, wire=16_000_000, cpu=0.155), best, small])
    assert found.reason == (
        "zstd 2: the lowest wire bytes + CPU, at 2 MB of wire for a CPU second of either end. "
        "It sends 10 % less than gzip 6, at 0.31 × the CPU."
    )
    assert found.metered == (
        "Where traffic is paid by the byte: zstd 7, which sends 17 % less than zstd 2, at 10 × the CPU."
    )
    smallest = one("zstd", 9, wire=8_990_000, cpu=30.0)
    assert "zstd 9, which sends" in recommend([NONE, DEFAULT, best, small, smallest]).metered
    assert found.fastest == (
        "Where the shipper's CPU is all that is short: zstd 1, which sends 48 % more than zstd 2, at 0.5 × the CPU."
    )


def test_the_default_may_be_the_best():
    """It is then said to be, and not compared with itself."""
    found = recommend([NONE, DEFAULT])
    assert found.reason.endswith("It is the default.")
    assert found.fastest == "Where the shipper's CPU is all that is short: gzip 6, too."


def test_against_what_costs_no_cpu_there_is_no_factor():
    """A setting is compared with `none`, too, without dividing by zero."""
    assert compared(DEFAULT, NONE) == "sends 88 % less than none, for CPU that it takes"


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=30))
def test_the_front_holds_exactly_what_nobody_beats(figures):
    """Each on it is better than all others in ratio or in speed; each off it is not."""
    items = [
        one("zstd", level, wire=wire * 1_000_000, cpu=cpu / 10) for level, (wire, cpu) in enumerate(figures, start=1)
    ]
    front = pareto(items)
    for item in items:
        beaten = any(
            (other.wire_bytes, other.cpu_seconds) != (item.wire_bytes, item.cpu_seconds)
            and other.wire_bytes <= item.wire_bytes
            and other.cpu_seconds <= item.cpu_seconds
            for other in items
        )
        twin_on_it = any((f.wire_bytes, f.cpu_seconds) == (item.wire_bytes, item.cpu_seconds) for f in front)
        assert twin_on_it != beaten


def test_a_corpus_is_pressed_as_the_shipper_would():
    """BATCH_SIZE entries a batch, the last one shorter; each a line of JSON."""
    made = corpus(120, size=50)
    assert made.counts == [50, 50, 20]
    assert [len(entries_in(raw)) for raw in made.batches] == [50, 50, 20]
    assert made.entries == 120


def write(path, lines: int, word: str = "request"):
    path.write_text("".join(f"INFO {word} {number} served\n" for number in range(lines)))
    return path


def entries_in(raw: bytes) -> list[dict]:
    return [json.loads(line) for line in raw.splitlines()]


def entries_of(made: Corpus) -> list[dict]:
    return [entry for raw in made.batches for entry in entries_in(raw)]


def test_a_file_becomes_the_entries_that_a_shipper_would_make(tmp_path):
    """Every line once, in order, with its level, file, host and static fields, and a time of its own."""
    path = write(tmp_path / "web.log", 120)
    made = from_files([path], Settings(), fields={"env": "test"})
    entries = entries_of(made)
    assert [entry["message"] for entry in entries] == path.read_text().splitlines()
    assert {(entry["level"], entry["service"], entry["file"], entry["env"]) for entry in entries} == {
        ("INFO", "web", str(path), "test")
    }
    assert len({entry["timestamp"] for entry in entries}) == 120
    assert made.description == "web.log"


def test_several_files_are_measured_together(tmp_path):
    """They take turns in proportion to their lines, as they do when they are followed, and the corpus is described."""
    one, two = write(tmp_path / "a.log", 200, "a"), write(tmp_path / "b.log", 100, "b")
    made = from_files([one, two], Settings())
    assert made.description == "2 files together: a.log, b.log"
    assert made.entries == 300
    for raw in made.batches:
        words = [entry["message"].split()[1] for entry in entries_in(raw)]
        assert 32 <= words.count("a") <= 35


def test_a_large_file_is_read_in_pieces_spread_over_it(tmp_path):
    """Whole lines from its start to its end, no more than the limit, and the description says so."""
    small, large = write(tmp_path / "small.log", 10, "small"), write(tmp_path / "large.log", 50_000)
    made = from_files([small, large], Settings(), max_bytes=100_000)
    messages = [entry["message"] for entry in entries_of(made)]
    numbers = [int(message.split()[2]) for message in messages if "request" in message]
    assert set(messages) <= set((small.read_text() + large.read_text()).splitlines())
    assert sum(len(message) + 1 for message in messages) <= 100_000
    assert len(messages) - len(numbers) == 10
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    assert {number * 8 // 50_000 for number in numbers} == set(range(8))
    assert made.description.endswith("large.log (0.1 of 1.3 MB; large files in 8 pieces each)")


@pytest.mark.parametrize("content", [b"no newline at the end", b"a\r\nb\rc\r\n", b"caf\xe9\n\n\nx\n"])
def test_odd_lines_are_read_as_the_shipper_reads_them(tmp_path, content):
    """Other ends of line, other encodings and blank lines are no reason to stop."""
    path = tmp_path / "odd.log"
    path.write_bytes(content)
    assert 1 <= from_files([path], Settings()).entries <= 2


def test_what_is_no_text_file_is_refused(tmp_path):
    """Compressed, missing and special files are named, with what was expected."""
    (tmp_path / "old.log.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00")
    with pytest.raises(LogbaleError, match=r"old\.log\.gz: has zero bytes, so it is no text"):
        from_files([tmp_path / "old.log.gz"], Settings())
    with pytest.raises(LogbaleError, match=r"gone\.log: No such file or directory; expected text log files"):
        from_files([tmp_path / "gone.log"], Settings())
    with pytest.raises(LogbaleError, match=r"not a regular file"):
        from_files([tmp_path], Settings())
    (tmp_path / "empty.log").touch()
    with pytest.raises(LogbaleError, match=r"empty\.log: no entries to measure"):
        from_files([tmp_path / "empty.log"], Settings())


def test_generated_entries_need_no_file():
    """The same seed makes the same messages."""
    made, again = (entries_of(generated(Settings(), entries=500, seed=3)) for _ in range(2))
    assert [entry["message"] for entry in made] == [entry["message"] for entry in again]
    assert len(made) == 500


def test_no_entries_is_an_error():
    """There is nothing to measure in an empty file."""
    with pytest.raises(LogbaleError, match=r"empty\.log: no entries to measure"):
        press("empty.log", [], Settings())


def printed(renderable) -> str:
    page = io.StringIO()
    Console(width=140, file=page).print(renderable)
    return page.getvalue()


def test_the_table_shows_every_setting_and_marks_what_matters(result):
    """28 rows, each with its library; the defaults and the recommended one are named."""
    text = printed(table(result))
    assert sum("gzip" in line or "zlib" in line or "zstd" in line for line in text.splitlines()) == 27
    default = next(line for line in text.splitlines() if "gzip 6" in line)
    assert "default" in default
    assert library(Algorithm.GZIP, 6) in default
    assert text.count("recommended") == text.count("default") == 1
    assert "each on its own" in text


def test_the_table_of_a_session_has_each_batch_alone_beside_it(session):
    """So that nobody takes the one for the other."""
    text = printed(table(session))
    assert "as in a session" in text
    row = next(line for line in text.splitlines() if "zstd 6" in line)
    alone = next(one for one in session.alone if one.name == "zstd 6")
    assert "default" in row
    assert row.split("│")[3].strip() == f"{session.baseline.ratio:.2f}"
    assert row.split("│")[4].strip() == f"{alone.ratio:.2f}"


def test_a_file_name_is_not_markup(result):
    """What looks like the terminal's or the chart's own language is shown as it is."""
    odd = msgspec.structs.replace(result, corpus="[red]$x_1$.log")
    assert "[red]$x_1$.log" in printed(table(odd))


@pytest.mark.parametrize(("name", "magic"), [("chart.png", b"\x89PNG"), ("chart.SVG", b"<?xml")])
def test_the_chart_is_what_its_suffix_says(result, tmp_path, name, magic):
    """PNG or SVG."""
    chart(msgspec.structs.replace(result, corpus="$x_{1$.log"), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


@pytest.mark.parametrize("seed", range(3))
def test_no_two_labels_of_the_chart_overlap(result, seed):
    """However the points lie, what is written can be read; the two that matter are always named."""
    from matplotlib.figure import Figure

    chance = random.Random(seed)
    scattered = [
        item
        if not item.level
        else msgspec.structs.replace(
            item, ratio=chance.uniform(5, 6 + seed), compress_mb_per_s=chance.uniform(100, 200 * 4**seed)
        )
        for item in result.measurements
    ]
    boxes = draw(
        msgspec.structs.replace(result, measurements=scattered), Figure(figsize=(10, 6.2), layout="constrained")
    )
    assert len(boxes) >= 10
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])


@pytest.mark.parametrize("key", [("none", 0), BASELINE, SESSION_BASELINE])
def test_the_chart_can_be_drawn_whatever_is_recommended(result, session, tmp_path, key):
    """Also where it is the default, or to compress nothing, which has no point."""
    for found in (result, session):
        other = msgspec.structs.replace(found.recommendation, algorithm=key[0], level=key[1])
        chart(msgspec.structs.replace(found, recommendation=other), tmp_path / "chart.png")


def test_a_chart_of_another_kind_is_refused(result, tmp_path):
    """The error names the two that exist."""
    with pytest.raises(LogbaleError, match=r"chart\.gif: expected a name that ends in \.png or \.svg"):
        chart(result, tmp_path / "chart.gif")


def test_without_matplotlib_the_error_says_what_to_install(result, tmp_path, monkeypatch):
    """The chart is an extra."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LogbaleError, match=r"pip install 'logbale\[chart\]'"):
        chart(result, tmp_path / "chart.png")


def test_a_chart_that_cannot_be_written_says_so(result, tmp_path):
    """The path and the reason, no traceback."""
    with pytest.raises(LogbaleError, match="No such file or directory; the chart was not written"):
        chart(result, tmp_path / "missing" / "chart.png")
