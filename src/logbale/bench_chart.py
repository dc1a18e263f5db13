"""A benchmark's result for people: a table for the terminal, and a chart of ratio against speed (extra `chart`)."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from logbale.bench import BenchResult, compared, find, pareto
from logbale.bench_trial import Measurement
from logbale.errors import LogbaleError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

SUFFIXES = (".png", ".svg")

_STYLES: dict[
    str, dict[str, Any]
] = {  # colours of Okabe and Ito, which the colour-blind can tell apart; shape and dash say the same in grey
    "gzip": {"color": "#0072B2", "marker": "o", "linestyle": "-", "zorder": 3},
    "zlib": {"color": "#56B4E9", "marker": "s", "linestyle": "--", "zorder": 2},
    "zstd": {"color": "#D55E00", "marker": "D", "linestyle": "-", "zorder": 3},
}
INK = "#222222"
FAINT = "#6b6b6b"
_LEADER = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 7}
_DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))


def table(result: BenchResult) -> Table:
    """All measurements, the recommended one marked, those on the Pareto front starred."""
    best = (result.recommendation.algorithm, result.recommendation.level)
    front = pareto(result.measurements)
    shown = Table(
        title=Text(result.corpus),
        caption=Text(
            f"{result.entries:,} entries in {result.batches:,} batches of {result.batch_size}, "
            f"{result.raw_bytes / 1e6:,.1f} MB raw, {_way(result)}; median of {result.rounds} rounds; "
            "MB are raw megabytes a CPU second of one core. * no other setting is both smaller and faster"
        ),
        title_justify="left",
        caption_justify="left",
    )
    shown.add_column("setting")
    shown.add_column("by")
    ratios = ["ratio", "alone"] if result.alone else ["ratio"]
    for heading in (*ratios, "wire kB", "saved kB", "saved", "compress MB/s", "decompress MB/s"):
        shown.add_column(heading, justify="right")
    shown.add_column("")
    previous = result.measurements[0].algorithm
    alone = {(one.algorithm, one.level): f"{one.ratio:.2f}" for one in result.alone}
    for one in result.measurements:
        if one.algorithm != previous:
            shown.add_section()
            previous = one.algorithm
        key = (one.algorithm, one.level)
        remarks = ["*"] * (one in front) + ["recommended"] * (key == best) + ["default"] * (one is result.baseline)
        shown.add_row(
            one.name,
            one.library,
            f"{one.ratio:.2f}",
            *([alone[key]] if alone else []),
            f"{one.wire_bytes / 1e3:,.1f}",
            f"{one.saved_bytes / 1e3:z,.1f}",
            f"{100 * one.saved_bytes / result.raw_bytes:z.1f} %",
            _speed(one.compress_mb_per_s),
            _speed(one.decompress_mb_per_s),
            " ".join(remarks).rstrip(),
            style="bold" if key == best else None,
        )
    return shown


def _way(result: BenchResult) -> str:
    if result.in_session:
        return "each going on from the one before, as in a session (alone: the ratio of each on its own)"
    return "each on its own"


def _speed(mb_per_s: float | None) -> str:
    if mb_per_s is None:
        return "–"
    return f"{mb_per_s:,.0f}" if mb_per_s >= 10 else f"{mb_per_s:.1f}"


def chart(result: BenchResult, path: Path) -> None:
    """Draws ratio against compression speed into a PNG or SVG file. Raises LogbaleError as write() does."""
    write(path, lambda figure: draw(result, figure), size=(10, 6.2))


def write(path: Path, draw: Callable[[Figure], object], *, size: tuple[float, float]) -> None:
    """What `draw` draws on a figure of `size` inches, as a PNG or SVG file.

    Raises LogbaleError for another suffix, where matplotlib is missing, or where the file cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise LogbaleError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise LogbaleError(f"the chart needs matplotlib: {sys.executable} -m pip install 'logbale[chart]'") from None
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    draw(figure)
    try:
        figure.savefig(path)
    except OSError as error:
        raise LogbaleError(f"{path}: {error.strerror}; the chart was not written") from error


def draw(result: BenchResult, figure: Figure) -> list[Bbox]:
    """The chart, on a figure of its own (no global state). Returns where its labels are, in pixels: none overlaps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    FigureCanvasAgg(figure)  # measures the labels, whatever the file is written with
    best = find(result.measurements, (result.recommendation.algorithm, result.recommendation.level))
    default = result.baseline
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("compression speed: raw MB a CPU second of one core (logarithmic)  → faster", color=INK)
    axes.set_ylabel("ratio: raw bytes for each byte on the wire  → smaller", color=INK)
    axes.grid(True, color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08, y=0.14)
    curves = {name: [one for one in result.measurements if one.algorithm == name] for name in _STYLES}
    for name, curve in curves.items():
        axes.plot(*zip(*map(_place, curve), strict=True), label=name, markersize=5.5, linewidth=1.5, **_STYLES[name])
    for one, width in ((default, 1.0), (best, 2.0)):
        if one.level:
            axes.plot(*_place(one), "o", markersize=14, fillstyle="none", markeredgecolor=INK, markeredgewidth=width)
    figure.suptitle(_headline(best, default), x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    axes.set_title(_subtitle(result), loc="left", fontsize=9, color=FAINT, parse_math=False)
    legend = axes.legend(frameon=False)
    figure.draw_without_rendering()  # settles the layout: from here on pixels mean something
    labels = _Labels(axes, curves.values(), [legend.get_window_extent()])
    if best.level:
        labels.put(f"recommended: {best.name}", best, distances=(14, 24, 36), line=True, color=INK, weight="bold")
    if best is not default:
        labels.put(f"default: {default.name}", default, distances=(14, 24, 36, 50), line=True, color=INK)
    for one in result.measurements:
        if one.level == 0 or one is best or one is default:
            continue
        # zlib is gzip with 12 bytes less around it: where their points all but coincide, gzip's level names both.
        if one.algorithm != "zlib" or not labels.near(one, find(result.measurements, ("gzip", one.level))):
            labels.put(str(one.level), one, distances=(3, 6, 10), color=_STYLES[one.algorithm]["color"])
    return labels.placed


def _place(one: Measurement) -> tuple[float, float]:
    return one.compress_mb_per_s or 0.0, one.ratio


def _headline(best: Measurement, default: Measurement) -> str:
    if best is default:
        return f"{default.name}, the default, is the one to take"
    return f"{best.name} {compared(best, default)}"


def _subtitle(result: BenchResult) -> str:
    corpus = result.corpus if len(result.corpus) <= 90 else f"{result.corpus[:89]}…"
    way = "in a session" if result.in_session else "each batch on its own"
    return f"{corpus}; {result.entries:,} entries, {result.batch_size} a batch, {way}"


class _Labels:
    """Puts each label beside its point, where neither a point nor another label is, and no line if that can be had."""

    def __init__(self, axes: Axes, curves: Iterable[list[Measurement]], taken: list[Bbox]) -> None:
        self.placed: list[Bbox] = []
        self._axes = axes
        self._pixels = axes.figure.dpi / 72
        self._taken = list(taken)
        self._lines: list[Bbox] = []
        self._points: list[tuple[float, float]] = []
        for curve in curves:
            places = axes.transData.transform([_place(one) for one in curve])
            self._points += [(x, y) for x, y in places]
            self._taken += [self._around(x, y, 5) for x, y in places]
            for start, end in pairwise(places):
                self._lines += self._along(start, end)

    def _along(self, start: Sequence[float], end: Sequence[float]) -> list[Bbox]:
        parts = [step / 40 for step in range(41)]
        (x0, y0), (x1, y1) = start, end
        return [self._around(x0 + (x1 - x0) * part, y0 + (y1 - y0) * part, 1) for part in parts]

    def _around(self, x: float, y: float, points: float) -> Bbox:
        from matplotlib.transforms import Bbox

        reach = points * self._pixels
        return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)

    def put(self, text: str, one: Measurement, *, distances: Sequence[int], line: bool = False, **style: Any) -> None:
        """Tries eight directions at each of the distances (in points).

        What finds no place stays without: a level's neighbours on the line say which it is.
        """
        label = self._axes.annotate(
            text, _place(one), xytext=(0, 0), textcoords="offset points", ha="center", va="center", fontsize=9, **style
        )
        label.set_in_layout(False)
        size = label.get_window_extent()
        for avoided in (self._taken + self._lines, self._taken):
            for gap, (right, up) in product(distances, _DIRECTIONS):
                near = right * (4 + gap), up * (4 + gap)
                shift = near[0] + right * size.width / 2 / self._pixels, near[1] + up * size.height / 2 / self._pixels
                box = size.translated(shift[0] * self._pixels, shift[1] * self._pixels)
                free = self._inside(box) and not any(box.overlaps(other) for other in avoided)
                if free and (line or self._nearest(box, one)):
                    label.set_position(shift)
                    self._taken.append(box.padded(2 * self._pixels))
                    self.placed.append(box)
                    if line:
                        x, y = self._axes.transData.transform(_place(one))
                        self._lines += self._along((x, y), (x + near[0] * self._pixels, y + near[1] * self._pixels))
                        self._axes.annotate(
                            "", _place(one), xytext=near, textcoords="offset points", arrowprops=_LEADER
                        )
                    return
        label.remove()

    def _nearest(self, box: Bbox, one: Measurement) -> bool:
        """Whether a label there is taken for its own point's."""
        middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
        own = math.dist(middle, self._axes.transData.transform(_place(one)))
        return all(math.dist(middle, point) >= own * 0.999 for point in self._points)

    def near(self, one: Measurement, other: Measurement) -> bool:
        """Whether two points are so close that one label serves both."""
        (x0, y0), (x1, y1) = self._axes.transData.transform([_place(one), _place(other)])
        return math.dist((x0, y0), (x1, y1)) < 14 * self._pixels

    def _inside(self, box: Bbox) -> bool:
        area = self._axes.get_window_extent()
        return bool(area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1)
