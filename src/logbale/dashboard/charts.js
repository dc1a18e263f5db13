// The charts: a line for each key of a sample (history.js), as plain SVG.

import { $, element, text, texts } from "./dom.js";
import { megabytes, significant } from "./format.js";
import { KEPT } from "./history.js";

const CHARTS = [
  { title: "Entries/s", lines: [{ key: "entries", name: "entries/s", format: significant }] },
  {
    title: "MB/s",
    lines: [
      { key: "raw", name: "raw", format: megabytes },
      { key: "wire", name: "wire", format: megabytes },
    ],
  },
];

const SVG = "http://www.w3.org/2000/svg";

function makeChart({ title, lines }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true"); // the legend says the same in words
  lines.forEach(({ key }) => {
    for (const part of ["area", "line"]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", `${part} ${key}`);
      svg.append(path);
    }
  });
  const legend = element("p", "legend", ...lines.map(({ key }) => element("span", key, element("b"), element("span"))));
  return element(
    "figure",
    "card",
    element("figcaption", "", element("h2", "", title), legend),
    svg,
    element("p", "axis", element("small"), element("small"), element("small", "", "now")),
  );
}

function showChart(figure, { lines }, samples) {
  const now = samples.at(-1).at;
  const span = [120, 300, KEPT].find((seconds) => now - samples[0].at <= seconds) ?? KEPT;
  const shown = samples.filter((sample) => sample.entries !== null);
  const peak = Math.max(0, ...shown.flatMap((sample) => lines.map(({ key }) => sample[key])));
  const svg = figure.querySelector("svg");
  svg.setAttribute("viewBox", `0 0 ${span} 100`);
  lines.forEach(({ key, name, format }, index) => {
    const points = shown.map((sample) => [span - (now - sample.at), 100 - (96 * sample[key]) / (peak || 1)]);
    const line = points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
    const [area, stroke] = svg.querySelectorAll(`.${key}`);
    stroke.setAttribute("d", line && `M${line}`);
    area.setAttribute("d", line && `M${points[0][0]} 100L${line}L${points.at(-1)[0]} 100Z`);
    const current = shown.length ? format(shown.at(-1)[key]) : "–";
    texts(figure.querySelectorAll(".legend > span")[index], [current, name]);
  });
  texts(figure.querySelector(".axis"), [`${span / 60} min ago`, `peak ${lines[0].format(peak)}`]);
}

export function showCharts(history) {
  const parent = $("#charts");
  if (!parent.children.length) parent.append(...CHARTS.map(makeChart));
  CHARTS.forEach((chart, index) => showChart(parent.children[index], chart, history.samples));
}
