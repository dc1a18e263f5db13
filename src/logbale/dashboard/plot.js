// One drawing of lines over time, by uPlot: the names, values and reasons beside it are the document's own text.

import { $ } from "./dom.js";
import { clock, hoursMinutes } from "./format.js";

const { uPlot } = window; // vendor/uPlot.iife.min.js
const AXIS_WIDTH = 58; // px, whatever the labels are: nothing moves when they change
const AXIS_HEIGHT = 22; // px
const INTERVALS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 180, 240, 360].map((minutes) => minutes * 60); // s
const STEPS = [1, 1.5, 2, 3, 4, 5, 6, 8, 10];

// A colour of the style sheet, as the theme of this moment has it.
export function tone(name) {
  const probe = $("#probe");
  probe.className = name;
  return getComputedStyle(probe).color;
}

const faint = (colour) => colour.replace("rgb(", "rgba(").replace(")", ", 0.13)");

// A limit that stays while the values move below it.
function roundLimit(max) {
  if (!(max > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(max));
  return unit * STEPS.find((step) => step * unit >= max * 1.02 || step === 10);
}

// None where it would stand under the other axis.
function timeLabel(time, { from, to }) {
  if (time - from < (to - from) / 20) return "";
  const date = new Date(time * 1000);
  return date.getSeconds() ? clock(date) : hoursMinutes(date);
}

// On a logarithmic axis: lines at powers of ten only.
function powers(plot, axis, low, high) {
  const first = Math.round(Math.log10(low));
  return Array.from({ length: Math.round(Math.log10(high)) - first + 1 }, (_, n) => 10 ** (first + n));
}

function decades(min, max) {
  if (!(min > 0)) return [0.001, 0.1];
  const low = Math.floor(Math.log10(min));
  return [10 ** low, 10 ** Math.max(low + 1, Math.ceil(Math.log10(max)))];
}

// Between two gaps a single sample has no line: it gets a point.
function alone(values) {
  return values.flatMap((v, i) =>
    v !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null ? [i] : [],
  );
}

function series({ tone: name, area, stepped, scale = "y" }) {
  return {
    scale,
    stroke: () => tone(name),
    fill: area ? () => faint(tone(name)) : undefined,
    width: 1.5,
    paths: stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
    points: { show: () => false, size: 4, filter: (plot, index) => alone(plot.data[index]), fill: () => tone(name) },
  };
}

function axis(scale, side, label, splits) {
  return {
    scale,
    side,
    size: AXIS_WIDTH,
    stroke: () => tone("axis"),
    font: "11px system-ui, sans-serif",
    gap: 4,
    space: 32,
    grid: { show: side === 3, stroke: () => tone("grid"), width: 1 },
    ticks: { show: false },
    splits,
    filter: (plot, found) => found,
    values: (plot, found) => found.map((v) => (v === null ? "" : label(v))),
  };
}

// `view` is {from, to} in Unix seconds and may change between two calls of show(). `lines`: {tone, area, stepped,
// scale}. `limit` is the least top of the axis, `label` and `right` make the texts of the left axis and of the right one.
export class Plot {
  constructor(parent, lines, { view, label, right, inset, limit, log, hours = true, draw, hovered }) {
    const options = {
      width: parent.clientWidth || 300,
      height: parent.clientHeight || 150,
      legend: { show: false },
      padding: [8, right ? 0 : inset ? AXIS_WIDTH : 8, hours ? 0 : 8, 0],
      cursor: {
        sync: { key: "time", scales: ["x", null] },
        drag: { x: false, y: false },
        y: false,
        points: { size: 7 },
      },
      scales: {
        x: { range: () => [view.from, view.to] },
        y: {
          distr: log ? 3 : 1,
          range: (plot, min, max) => (log ? decades(min, max) : [0, max <= limit ? limit : roundLimit(max)]),
        },
        right: { range: (plot, min, max) => [0, Math.max(1000, roundLimit(max))] },
      },
      axes: [
        {
          show: hours,
          size: AXIS_HEIGHT,
          stroke: () => tone("axis"),
          font: "11px system-ui, sans-serif",
          gap: 2,
          space: 70,
          incrs: INTERVALS,
          grid: { show: false },
          ticks: { show: false },
          values: (plot, splits) => splits.map((time) => timeLabel(time, view)),
        },
        axis("y", 3, label, log ? powers : undefined),
        ...(right ? [axis("right", 1, right)] : []),
      ],
      series: [{}, ...lines.map(series)],
      hooks: { draw: draw ? [draw] : [], setCursor: [(plot) => hovered(plot.cursor.idx ?? null, plot)] },
    };
    this.plot = new uPlot(options, [[], ...lines.map(() => [])], parent);
    new ResizeObserver(() => this.plot.setSize({ width: parent.clientWidth, height: parent.clientHeight })).observe(
      parent,
    );
  }

  show(time, columns) {
    this.plot.setData([time, ...columns]);
  }

  repaint() {
    this.plot.redraw(false, true);
  }
}
