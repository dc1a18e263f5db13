"""A receiver's numbers on one screen, as something that rich can print. No I/O.

Every name and text in them is a stranger's: what a terminal would obey is escaped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from logbale.terminal import count, duration, escape, rate, ratio, size
from logbale.top.answers import ORDERS, Alarm, Client, Clients, Disk, Order, Stats, ordered

SLIM = 80
"""Columns below which not all of a client's numbers fit, nor the sums in rows."""
NARROW = 100
"""Columns below which the clients' table has only what matters most."""

WIDE = 140
"""Columns from which on it has everything."""

LEVEL_STYLES = {"CRITICAL": "bold red", "ERROR": "red", "WARNING": "yellow", "INFO": "green", "DEBUG": "dim"}
_BADGES = {"OK": "bold black on green", "DEGRADED": "bold black on yellow", "": "bold white on red"}
_ALARMS = {"warning": "yellow", "critical": "bold red"}


def plain(text: str) -> str:
    """A stranger's text in a table: harmless, and without tabs, which would break it."""
    return escape(text).replace("\t", " ")


def head(stats: Stats, url: str, *, trouble: str = "") -> Table:
    """Who this is, and how it is; `trouble` is why these numbers are old."""
    state = Text(f" {plain(stats.state) or '?'} ", style=_BADGES.get(stats.state, _BADGES[""]))
    if trouble:
        state = Text(" NO ANSWER ", style=_BADGES[""])
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    who = Text.assemble((plain(stats.host), "bold"), f"  {plain(stats.end)} {plain(stats.version)}")
    who.append(f"  up {short(stats.uptime)}  {url}", style="dim")
    table.add_row(who, state)
    return table


def numbers(stats: Stats, columns: int) -> Table:
    """The figures, in as many columns as are asked for."""
    cells = [
        ("entries/s", rate(stats.rates.entries).removesuffix("/s")),
        ("raw", f"{size(stats.rates.raw_bytes)}/s"),
        ("wire", f"{size(stats.rates.wire_bytes)}/s"),
        ("ratio", ratio(stats.ratio)),
        ("received raw", size(stats.received.raw_bytes)),
        ("saved", size(max(0, stats.received.raw_bytes - stats.received.wire_bytes))),
        ("durable p50", _seconds(stats.latency.p50)),
        ("durable p99", _seconds(stats.latency.p99)),
        ("synced", "–" if stats.last_sync is None else f"{short(stats.now - stats.last_sync)} ago"),
        ("clients", f"{stats.clients:,}"),
        ("in flight", size(stats.in_flight_bytes)),
        ("disk free", _free(stats.disk)),
    ]
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False, expand=True)
    for _ in range(columns):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", style="bold", no_wrap=True, ratio=1)
    for start in range(0, len(cells), columns):
        table.add_row(*[text for cell in cells[start : start + columns] for text in cell])
    return table


def _seconds(value: float | None) -> str:
    return "–" if value is None else duration(value)


def short(seconds: float) -> str:
    """How long, in one unit: 12 ms, 3.2 s, 42 s, 5 min, 3 h, 2 d."""
    if seconds < 9.95:
        return duration(max(0.0, seconds))
    for unit, length, limit in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} d"


def _free(disk: Disk | None) -> str:
    if disk is None or not disk.total_bytes:
        return "–"
    return f"{size(disk.free_bytes)} {disk.free_bytes / disk.total_bytes:.0%}"


_PARTS = ("in", "durable", "rejected", "duplicate", "dropped", "waiting")


def sums(stats: Stats, width: int) -> Table:
    """Where every entry is; one that does not add up is red. A narrow screen has the sums side by side."""
    found = []
    if (all_of_them := stats.shippers) is not None and all_of_them.reporting:
        found.append(
            _sum(
                count(all_of_them.reporting, "shipper", "shippers"),
                all_of_them.read_entries,
                all_of_them.delivered_entries,
                all_of_them.rejected_entries,
                None,
                sum(all_of_them.dropped.values()),
                all_of_them.waiting_entries,
            )
        )
    found.append(
        _sum(
            "receiver",
            stats.received.entries,
            stats.stored_entries,
            stats.rejected_entries,
            stats.duplicate_entries,
            None,
            stats.waiting_entries,
        )
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1 if width < NARROW else 2, 0, 0), header_style="dim")
    if width < SLIM:
        table.add_column("")
        for name, _, style in found:
            table.add_column(name, justify="right", no_wrap=True, style=style, header_style=style)
        for number, part in enumerate(_PARTS):
            table.add_row(Text(part, style="dim"), *(cells[number] for _, cells, _ in found))
        return table
    for part in ("", *_PARTS):
        table.add_column(part, justify="right" if part else "left", no_wrap=True)
    for name, cells, style in found:
        table.add_row(name, *cells, style=style)
    return table


def _sum(name: str, total: int, *parts: int | None) -> tuple[str, list[str], str]:
    """Its name, its numbers, and their style."""
    adds_up = total == sum(part or 0 for part in parts)
    cells = ["–" if part is None else f"{part:,}" for part in (total, *parts)]
    return (name, cells, "") if adds_up else (f"≠ {name}", cells, "bold red")


def levels(stats: Stats, width: int) -> Text:
    """How many entries of each level came; a level and its number stay in one line."""
    known = [name for name in LEVEL_STYLES if name in stats.levels]
    others = sorted(name for name in stats.levels if name not in LEVEL_STYLES)
    text = Text("levels", style="dim")
    column = len("levels")
    for name in [*known, *others]:
        called, number = plain(name) or "none", f"{stats.levels[name]:,}"
        needed = cell_len(f"  {called} {number}")
        if column + needed > width:
            text.append("\n      ")
            column = len("levels")
        text.append(f"  {called} ", style=LEVEL_STYLES.get(name, "dim"))
        text.append(number, style="not dim")
        column += needed
    return text


def alarms(stats: Stats) -> list[Text]:
    """What is wrong, and what to do about it."""
    why = [Alarm("critical", stats.why)] if stats.state not in ("OK", "") and stats.why else []
    # The alarm `storage` says the same, with a few words before it.
    found = [*[one for one in why if not any(one.text in alarm.text for alarm in stats.alarms)], *stats.alarms]
    return [
        Text(
            f"▲ {plain(alarm.text)}" + (f" → {plain(alarm.todo)}" if alarm.todo else ""),
            style=_ALARMS.get(alarm.severity, "yellow"),
        )
        for alarm in found
    ]


# The clients


class Column(NamedTuple):
    """One column of the clients' table."""

    title: str
    key: str
    """Of the order that sorts by it."""
    width: int
    """Of the screen from which on it is shown."""
    cell: Callable[[Client, float], str]
    """What a client has there; the float is the receiver's time."""
    justify: JustifyMethod = "right"


COLUMNS = (
    Column("client", "n", 0, lambda client, now: plain(client.label), "left"),
    Column("address", "", WIDE, lambda client, now: plain(client.address), "left"),
    Column("identity", "", WIDE, lambda client, now: plain(client.identity) or "–", "left"),
    Column("entries/s", "e", 0, lambda client, now: rate(client.entries_per_second).removesuffix("/s")),
    Column("raw", "", NARROW, lambda client, now: size(client.raw_bytes)),
    Column("wire", "w", 0, lambda client, now: size(client.wire_bytes)),
    Column("ratio", "r", 0, lambda client, now: ratio(client.ratio)),
    Column("level", "", SLIM, lambda client, now: _setting(client), "left"),
    Column("lag", "l", 0, lambda client, now: _lag(client)),
    Column("spool", "s", 0, lambda client, now: "–" if client.spool_bytes is None else size(client.spool_bytes)),
    Column("again", "", NARROW, lambda client, now: f"{client.reconnects:,}"),
    Column("choice", "", WIDE, lambda client, now: f"{client.choice:,}" if client.choice else "–"),
    Column("drops", "d", SLIM, lambda client, now: f"{sum(client.dropped.values()):,}"),
    Column("seen", "t", 0, lambda client, now: _ago(now - client.last_seen)),
)


def _setting(client: Client) -> str:
    return plain(client.algorithm) + (f" {client.level}" if client.level is not None else "")


def _lag(client: Client) -> str:
    if client.lag_seconds is None:
        return "–"
    return short(client.lag_seconds) if client.lag_seconds else "0"


def _ago(seconds: float) -> str:
    return "now" if seconds < 2 else short(seconds)


def clients_table(clients: Clients, order: Order, *, reverse: bool, width: int, first: int, rows: int) -> Table:
    """So many rows of the clients, from the first one that is asked for."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=True, header_style="dim")
    columns = [column for column in COLUMNS if column.width <= width]
    for column in columns:
        is_sorted_by = column.key == order.key
        arrow = ("▼" if order.descends != reverse else "▲") if is_sorted_by else ""
        table.add_column(
            f"{column.title}{arrow}",
            justify=column.justify,
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if column.title == "client" else None,
            max_width=24 if column.justify == "left" and column.title != "client" else None,
            header_style="bold" if is_sorted_by else None,
        )
    for client in ordered(clients.clients, order, reverse=reverse)[first : first + rows]:
        cells = [column.cell(client, clients.now) for column in columns]
        table.add_row(*map(Text, cells), style="" if client.connected else "dim")
    return table


# All of it


class Look(msgspec.Struct, frozen=True):
    """How somebody wants to see it."""

    order: Order = ORDERS[0]
    reverse: bool = False
    first: int = 0
    """The first client that is shown."""


def whole(stats: Stats, clients: Clients, look: Look, url: str, console: Console, *, trouble: str = "") -> Group:
    """The screen, as high and as wide as the console; `trouble` is why the numbers are old."""
    width, height = console.size
    above = above_clients(stats, url, width, trouble=trouble)
    used = len(console.render_lines(Group(*above), console.options.update(height=None), pad=False))
    rows = max(0, height - used - 3)  # its header, the note below it, the keys
    first = max(0, min(look.first, len(clients.clients) - rows))
    table = clients_table(clients, look.order, reverse=look.reverse, width=width, first=first, rows=rows)
    filler = [Text() for _ in range(rows - min(rows, len(clients.clients)))]
    return Group(*above, table, *filler, _rest(clients, first, rows), keys(look.order, width))


def above_clients(stats: Stats, url: str, width: int, *, trouble: str = "") -> list[RenderableType]:
    """Everything but the clients."""
    parts: list[RenderableType] = [head(stats, url, trouble=trouble)]
    if trouble:
        parts.append(Text(f"▲ {plain(trouble)}", style="bold red"))
    parts += [*alarms(stats), Text(), numbers(stats, max(2, min(6, width // 26))), Text(), sums(stats, width)]
    if stats.levels:
        parts += [Text(), levels(stats, width)]
    return [*parts, Text()]


def _rest(clients: Clients, first: int, rows: int) -> Text:
    """What of the clients is not on the screen."""
    shown, total = min(rows, len(clients.clients)), len(clients.clients) + clients.left_out
    if not total:
        return Text("no client has come yet", style="dim")
    if shown == total:
        return Text()
    return Text(f"{first + 1:,} to {first + shown:,} of {count(total, 'client', 'clients')}", style="dim")


def keys(order: Order, width: int) -> Text:
    """The keys, the present order among them."""
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("sort", style="dim")
    for each in ORDERS:
        before, letter, after = each.name.partition(each.key)
        style = "reverse" if each.key == order.key else ""
        line.append(" ")
        line.append_text(Text.assemble((before, style), (letter, f"{style} bold underline"), (after, style)))
    line.append(" · ↑↓ scroll · " if width >= NARROW else " · ", style="dim")
    line.append_text(Text.assemble(("q", "bold underline"), "uit"))
    return line
