// What /api/stats says, shown: the state, alarms, tiles, sums and the tables below them.

import { $, attribute, element, fill, text, texts, visible } from "./dom.js";
import { addsUp, common } from "./ends.js";
import { bytes, count, moment, percent, ratio, significant } from "./format.js";

const RECENT = 60; // s that "last minute" means

export function showState(word, why) {
  $("#state").className = word.toLowerCase();
  text($("#word"), word);
  text($("#why"), visible(why, 500));
}

function showAlarms(alarms) {
  fill(
    $("#alarms"),
    alarms,
    () => element("li", "", element("strong"), element("span", "what"), element("span", "todo"), element("small")),
    (row, { severity, text: what, todo, since }) => {
      row.className = severity === "critical" ? "critical" : "warning";
      texts(row, [
        severity === "critical" ? "critical" : "warning",
        visible(what, 500),
        visible(todo, 500),
        `since ${moment(since)}`,
      ]);
    },
  );
}

function showTiles(tiles) {
  fill(
    $("#tiles"),
    tiles,
    () => element("div", "card tile", element("h2"), element("p", "", element("b"), element("span")), element("small")),
    (tile, [label, value, unit, below]) => {
      text(tile.children[0], label);
      texts(tile.children[1], [visible(value, 40), unit]);
      text(tile.children[2], visible(below, 80));
    },
  );
}

function term([sign, name, n, why]) {
  const made = element(
    "span",
    "term",
    element("i", "", sign),
    element("b", "", count(n)),
    element("span", "", visible(name, 40)),
  );
  if (why) made.title = visible(why);
  return made;
}

function showSums(sums) {
  fill(
    $("#sums"),
    sums,
    () =>
      element("div", "sum", element("h3"), element("small", "of"), element("p", "equation"), element("p", "verdict")),
    (row, sum) => {
      const right = addsUp(sum);
      const missing = sum.whole[1] - sum.parts.reduce((all, [, n]) => all + n, 0);
      row.classList.toggle("wrong", !right);
      text(row.children[0], sum.name);
      text(row.children[1], sum.of);
      const terms = [["", ...sum.whole], ...sum.parts.map((part, index) => [index ? "+" : "=", ...part])];
      const key = JSON.stringify(terms);
      if (row.children[2].dataset.key !== key) {
        row.children[2].dataset.key = key;
        row.children[2].replaceChildren(...terms.map(term));
      }
      text(
        row.children[3],
        right ? "✓ adds up" : `✗ ${count(Math.abs(missing))} ${missing > 0 ? "unaccounted for" : "too many"}`,
      );
    },
  );
}

const cells = (n) => () => element("tr", "", ...Array.from({ length: n }, () => element("td")));

function showAlgorithms(byAlgorithm) {
  const all = Object.entries(byAlgorithm ?? {}).sort(([, a], [, b]) => b.raw_bytes - a.raw_bytes);
  $("#algorithms").hidden = !byAlgorithm;
  fill($("#algorithms tbody"), all, cells(6), (row, [name, t]) =>
    texts(row, [
      name,
      count(t.batches),
      count(t.entries),
      bytes(t.raw_bytes),
      bytes(t.wire_bytes),
      ratio(t.raw_bytes, t.wire_bytes),
    ]),
  );
  $("#algorithms").classList.toggle("none", all.length === 0);
}

function showLevels(levels) {
  const all = Object.entries(levels ?? {}).sort(([, a], [, b]) => b - a);
  const sum = all.reduce((whole, [, n]) => whole + n, 0);
  $("#levels").hidden = !levels;
  fill($("#levels tbody"), all.slice(0, 12), cells(3), (row, [name, n]) =>
    texts(row, [name === "" ? "no level" : visible(name, 40), count(n), percent(n, sum)]),
  );
  $("#levels").classList.toggle("none", all.length === 0);
}

let remembered = []; // of the last minute: [uptime, errors]

function showErrors({ uptime, errors }) {
  if (remembered.length && uptime < remembered.at(-1)[0]) remembered = []; // this end was restarted
  remembered.push([uptime, new Map(Object.entries(errors))]);
  while (remembered[0][0] < uptime - RECENT) remembered.shift();
  const before = remembered[0][1];
  const rows = Object.entries(errors)
    .filter(([, n]) => n > 0)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, n]) => [reason.replaceAll("_", " "), n - (before.get(reason) ?? 0), n]);
  $("#errors").classList.toggle("none", rows.length === 0);
  fill($("#errors tbody"), rows, cells(3), (row, [reason, recent, n]) => {
    texts(row, [visible(reason, 60), count(recent), count(n)]);
    row.classList.toggle("rising", recent > 0);
  });
}

function showPairs(parent, pairs) {
  fill(
    parent,
    pairs,
    () => element("div", "", element("dt"), element("dd")),
    (row, pair) => texts(row, pair),
  );
}

export function showNumbers(end, stats) {
  showAlarms(stats.alarms ?? []);
  showTiles(end.tiles(stats));
  showSums(end.sums(stats));
  showAlgorithms(stats.by_algorithm);
  showLevels(stats.levels);
  showErrors(stats);
  showPairs($("#details dl"), [...common(stats), ...end.details(stats)]);
  showPairs($("#info"), [["logbale", stats.version], ...Object.entries(stats.info).map(([k, v]) => [k, visible(v)])]);
  text($("#identity"), visible(`${stats.end} on ${stats.host}`));
  document.title = `${$("#word").textContent} · ${significant(stats.rates.entries)}/s · logbale`;
  attribute(document.body, "data-end", stats.end);
}
