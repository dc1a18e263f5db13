// The charts: which column is which line, and their legends.

import { $, element, text } from "./dom.js";
import {
  brief,
  briefBytes,
  briefSeconds,
  bytes,
  bytesPerSecond,
  clock,
  count,
  entriesPerSecond,
  NONE,
  seconds,
  significant,
} from "./format.js";
import { LevelChanges } from "./level_changes.js";
import { Plot } from "./plot.js";

const PARTS = [2 / 15, 1 / 3, 1]; // of a range: an end that was just started fills the first
const level = (n) => (typeof n === "number" ? (Number.isInteger(n) ? String(n) : n.toFixed(1)) : NONE);
const cpu = (n) => (typeof n === "number" ? `${significant(n)} %` : NONE);

const CHARTS = [
  {
    title: "Entries",
    plots: [{ lines: [{ key: "entries", name: "entries", format: entriesPerSecond, area: true }], label: brief }],
  },
  {
    title: "Throughput",
    plots: [
      {
        lines: [
          { key: "raw_bytes", name: "raw", format: bytesPerSecond, area: true },
          { key: "wire_bytes", name: "wire", format: bytesPerSecond, area: true },
        ],
        label: briefBytes,
      },
    ],
  },
  {
    title: "Ratio by algorithm",
    plots: [
      {
        lines: ["zstd", "gzip", "zlib", "none"].map((name) => ({
          key: `ratio_${name}`,
          name,
          format: significant,
          optional: true,
        })),
        label: brief,
      },
    ],
  },
  {
    title: "Time to durable",
    plots: [
      {
        lines: [
          { key: "p50", name: "p50", format: seconds },
          { key: "p99", name: "p99", format: seconds },
        ],
        label: briefSeconds,
        log: true,
      },
    ],
  },
  {
    title: "Errors and warnings a minute",
    plots: [
      {
        lines: [
          { key: "warnings", name: "warnings", format: significant, area: true },
          { key: "errors", name: "errors", format: significant, area: true },
        ],
        label: brief,
      },
    ],
  },
  {
    title: "Compression level",
    plots: [
      {
        lines: [{ key: "level", name: "level", format: level, stepped: true }],
        label: brief,
        limit: 10,
        hours: false,
        inset: true,
        changes: true,
      },
      {
        lines: [
          { key: "cpu_percent", name: "CPU", format: cpu },
          { key: "backlog_bytes", name: "backlog", format: bytes, scale: "right", area: true },
        ],
        label: (n) => `${count(n)} %`,
        limit: 100,
        right: briefBytes,
      },
    ],
  },
];

class Chart {
  constructor({ title, plots }, view, hoverAll) {
    this.view = view;
    this.lines = plots.flatMap(({ lines }) => lines);
    this.legend = element(
      "p",
      "legend",
      ...this.lines.map(({ key, name }) => element("span", key, element("b"), element("span", "", name))),
    );
    this.time = element("time");
    this.figure = element(
      "figure",
      "card",
      element("figcaption", "", element("h3", "", title), this.time, this.legend),
    );
    this.plots = plots.map((spec) => this.makePlot(spec, hoverAll));
    if (this.changes) this.figure.append(this.changes.list);
    this.figure.append(element("p", "empty", "Nothing measured yet."));
  }

  makePlot(spec, hoverAll) {
    const parent = element("div", `plot${spec.changes ? " level-plot" : ""}`);
    parent.setAttribute("aria-hidden", "true"); // the legend says the same in words
    this.figure.append(parent);
    const changes = spec.changes ? new LevelChanges(this.view) : null;
    if (changes) parent.append(changes.tip);
    this.changes ??= changes;
    const lines = spec.lines.map((line) => ({ ...line, tone: line.key }));
    const hovered = (index, drawn) => {
      hoverAll(index);
      changes?.point(drawn);
    };
    const plot = new Plot(parent, lines, { ...spec, view: this.view, draw: (drawn) => changes?.draw(drawn), hovered });
    return { plot, lines: spec.lines };
  }

  show(history) {
    const { columns } = history;
    this.columns = columns;
    this.changes?.show(history.changes);
    const empty = Array(columns.time.length).fill(null);
    const measured = this.lines.map(({ key }) => columns[key]?.some((v) => v !== null) ?? false);
    // An end that does not measure this has no such column.
    this.figure.hidden = columns.time.length > 0 && !this.lines.some(({ key, optional }) => optional || columns[key]);
    this.figure.classList.toggle("none", !measured.includes(true));
    this.lines.forEach(({ optional }, index) => {
      if (optional) this.legend.children[index].hidden = !measured[index];
    });
    for (const { plot, lines } of this.plots) {
      plot.show(
        columns.time,
        lines.map(({ key }) => columns[key] ?? empty),
      );
    }
    this.say(this.index ?? null);
  }

  // The values at the pointer, or the newest.
  say(index) {
    this.index = index;
    const { columns } = this;
    if (!columns) return;
    const at = index ?? columns.time.length - 1;
    text(this.time, index === null || columns.time[at] === undefined ? "" : clock(new Date(columns.time[at] * 1000)));
    this.lines.forEach(({ key, format }, i) =>
      text(this.legend.children[i].firstChild, format(columns[key]?.[at] ?? null)),
    );
  }
}

export class Charts {
  constructor() {
    this.view = { from: 0, to: 1 };
    const hoverAll = (index) => this.charts?.forEach((chart) => chart.say(index));
    const parent = $("#plots");
    this.charts = CHARTS.map((spec) => new Chart(spec, this.view, hoverAll));
    parent.append(...this.charts.map(({ figure }) => figure));
  }

  // The last `history.kept` seconds up to `now`, or a part of them that has all samples.
  show(history, now) {
    const age = now - (history.columns.time[0] ?? now);
    const span = PARTS.map((part) => part * history.kept).find((seconds) => seconds >= age) ?? history.kept;
    Object.assign(this.view, { from: now - span, to: now });
    this.charts.forEach((chart) => chart.show(history));
  }

  repaint() {
    this.charts.forEach(({ plots }) => plots.forEach(({ plot }) => plot.repaint()));
  }
}
