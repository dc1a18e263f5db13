"""The results of pipeline.py as a chart: for each setting speed, wire bytes, CPU and memory, side by side.

.venv/bin/python benchmarks/pipeline_chart.py RESULTS.json CHART.svg
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine

from logbale.bench_chart import FAINT, INK, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHIPPER, RECEIVER = "#0072B2", "#E69F00"
"""Of Okabe and Ito, which the colour-blind can tell apart; in grey the second is the lighter one."""
BOTH = "#56B4E9"


def chart(found: dict[str, Any], path: Path) -> None:
    """Raises LogbaleError where it cannot be drawn or written."""
    rows = [row for row in found["results"] if row["lines"]]
    write(path, partial(draw, found, rows), size=(12, 1.9 + 0.42 * len(rows)))


def draw(found: dict[str, Any], rows: list[dict[str, Any]], figure: Figure) -> None:
    """Four panels with a row for each setting, the first one on top."""
    several = len({row["lines"] for row in rows}) > 1
    names = [f"{row['lines']}: {row['case']}" if several else row["case"] for row in rows]
    speed, wire, cpu, memory = figure.subplots(1, 4, sharey=True, width_ratios=(1.25, 1, 1.1, 1.1))
    places = range(len(rows))

    rates = [row["entries_per_second"] / 1000 for row in rows]
    speed.barh(places, rates, color=BOTH, height=0.66)
    for place, row in zip(places, rows, strict=True):
        each = [rate / 1000 for rate in row["rounds"]]
        speed.plot(each, [place] * len(each), "|", color=INK, markersize=9, markeredgewidth=1)
    label(speed, [max(row["rounds"]) / 1000 for row in rows], [f"{rate:,.0f}" for rate in rates])
    speed.set_title("thousand entries/s   (|  each round)", loc="left", fontsize=10, color=INK)

    each = [row["wire_bytes"] / row["entries"] for row in rows]
    wire.barh(places, each, color=BOTH, height=0.66)
    label(wire, each, [f"{size:.1f}" for size in each])
    wire.set_title("bytes on the wire an entry", loc="left", fontsize=10, color=INK)

    shipper, receiver = ([row[end] / row["source_bytes"] * 1e9 for row in rows] for end in ("ship_cpu", "receive_cpu"))
    cpu.barh(places, shipper, color=SHIPPER, height=0.66, label="shipper")
    cpu.barh(places, receiver, left=shipper, color=RECEIVER, height=0.66, label="receiver")
    both = [sum(ends) for ends in zip(shipper, receiver, strict=True)]
    label(cpu, both, [f"{total:.1f}" for total in both])
    cpu.set_title("CPU seconds a GB of lines", loc="left", fontsize=10, color=INK)

    for end, shift, colour in (("ship_memory", -0.17, SHIPPER), ("receive_memory", 0.17, RECEIVER)):
        memory.barh([place + shift for place in places], [row[end] for row in rows], color=colour, height=0.33)
    highest = [max(row["ship_memory"], row["receive_memory"]) for row in rows]
    label(memory, highest, [f"{row['ship_memory']:.0f}, {row['receive_memory']:.0f}" for row in rows])
    memory.set_title("peak memory, MiB", loc="left", fontsize=10, color=INK)

    speed.set_yticks(places, names, color=INK)
    speed.invert_yaxis()
    for axes in (speed, wire, cpu, memory):
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(left=False, bottom=False, labelbottom=False)
        axes.set_xlim(0, axes.get_xlim()[1] * 1.3)  # room for the labels
    if several:
        groups = [place for place in places if place and rows[place]["lines"] != rows[place - 1]["lines"]]
        for axes in (speed, wire, cpu, memory):
            for place in groups:
                axes.axhline(place - 0.5, color="#e4e4e4", linewidth=0.8)
    figure.legend(*cpu.get_legend_handles_labels(), loc="lower right", ncols=2, frameon=False, fontsize=9)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    figure.suptitle(headline(rows), x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    first = rows[0]
    made = f"{first['entries']:,.0f} entries, {first['source_bytes'] / 1e6:.0f} MB of lines"
    below = f"{made}; medians of {found['rounds']} rounds in turn\n{machine.sentence(found['machine'])}"
    figure.supxlabel(below, x=0.01, ha="left", fontsize=9, color=FAINT, parse_math=False)


def headline(rows: Sequence[dict[str, Any]]) -> str:
    """What the fastest setting reaches with the first lines."""
    best = max((row for row in rows if row["lines"] == rows[0]["lines"]), key=lambda row: row["entries_per_second"])
    return f"{best['entries_per_second'] / 1000:,.0f},000 entries/s from a file to the durable archive ({best['case']})"


def label(axes: Axes, ends: Sequence[float], texts: Sequence[str]) -> None:
    """A bar's figure, right of its end."""
    for place, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.annotate(text, (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9, color=INK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("chart", type=Path)
    options = parser.parse_args()
    chart(json.loads(options.results.read_text()), options.chart)


if __name__ == "__main__":
    main()
