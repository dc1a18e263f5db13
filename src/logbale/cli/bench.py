"""logbale bench: which algorithm and level suit these logs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from logbale.cli.options import Command, config_option, load_settings, named_setting_options
from logbale.cli.output import complain, write
from logbale.errors import LogbaleError

if TYPE_CHECKING:
    from logbale.bench import BenchResult

PIPE_COLUMNS = 120
"""Width of the table where standard output is no terminal."""

EXAMPLES = """
logbale bench                                            on generated entries
logbale bench /var/log/syslog /var/log/app/*.log         on your own logs, all together
logbale bench app.log --batch-size 500 --chart bench.svg
logbale bench app.log --json | jq .recommendation
"""


@click.command(
    cls=Command,
    short_help="Measure every algorithm and level on your logs",
    examples=EXAMPLES,
    params=[
        click.Argument(["files"], nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path)),
        click.Option(["--json", "as_json"], is_flag=True, help="Print everything measured as one JSON object"),
        click.Option(["--chart"], metavar="FILE", type=click.Path(path_type=Path), help="Draw a chart: .png or .svg"),
        click.Option(
            ["--seconds"], metavar="SECONDS", type=click.FloatRange(0.5, 3600), help="How long, about; default 20"
        ),
        click.Option(["--quick"], is_flag=True, help="The same as --seconds 4"),
        *named_setting_options("batch_size", "batch_max_bytes", "bypass_threshold", "log_rate", "session_mode"),
        config_option(),
    ],
)
def bench(
    files: tuple[Path, ...],
    as_json: bool,
    chart: Path | None,
    seconds: float | None,
    quick: bool,
    config: Path | None,
    **given: Any,
) -> int:
    """Measures every algorithm at every level on batches of your log lines: ratio, speed both ways, bytes saved.

    In a session each batch goes on from the one before (and what it is alone stands beside it); with --session-mode off
    it stands alone. Without FILEs it takes generated entries. Ends with a recommendation and its reason.
    """
    from logbale import bench as engine
    from logbale import bench_chart
    from logbale.bench_corpus import from_files, generated

    if quick and seconds is not None:
        raise click.UsageError("--quick is a number of --seconds: give one of them.")
    if files and given["log_rate"] is not None:
        raise click.UsageError("--rate is for generated entries: leave out --rate, or the FILEs.")
    if chart is not None:
        _check_chart(chart, bench_chart.SUFFIXES)
    settings = load_settings(given, config).settings
    corpus = from_files(files, settings) if files else generated(settings)
    with _progress() as progress:
        result = engine.measure(
            corpus,
            seconds=seconds or (engine.QUICK_SECONDS if quick else engine.DEFAULT_SECONDS),
            bypass_threshold=settings.bypass_threshold,
            in_session=settings.session_mode == "on" and settings.compression_context == "stream",
            progress=progress,
        )
    if as_json:
        write(result.to_json() + b"\n")
    else:
        _print(result)
    if chart is not None:
        bench_chart.chart(result, chart)
        complain(f"the chart is in {chart}")
    return 0


def _check_chart(path: Path, suffixes: tuple[str, ...]) -> None:
    """Before the measurement, not after it."""
    if path.suffix.lower() not in suffixes:
        raise click.BadParameter(f"{path}: expected a name that ends in {' or '.join(suffixes)}", param_hint="--chart")
    if not path.parent.is_dir():
        raise click.BadParameter(f"{path}: there is no directory {path.parent}", param_hint="--chart")
    if find_spec("matplotlib") is None:
        raise LogbaleError(f"--chart needs matplotlib: {sys.executable} -m pip install 'logbale[chart]'")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """A bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("measuring"),
        BarColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=False,  # a thread that draws would be measured too
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction, refresh=True)


def _print(result: BenchResult) -> None:
    from rich.console import Console

    from logbale.bench_chart import table

    best = result.recommendation
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False, markup=False)
    with console.capture() as text:  # written our way: rich ends the program where nobody reads
        console.print(table(result))
        for note in result.notes:
            console.print(f"Note: {note}.")
        console.print(f"\nRecommended: COMPRESSION_ALGORITHM={best.algorithm} COMPRESSION_LEVEL={best.level}")
        for line in (best.reason, best.metered, best.fastest):
            console.print(line)
    write(text.get().encode(sys.stdout.encoding, "backslashreplace"))
