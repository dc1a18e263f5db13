// The page's behaviour: asks /api/stats once a second and shows what it says, for either end.

import { showCharts } from "./charts.js";
import { $, element, fill, text, texts } from "./dom.js";
import { bytes, count, duration, megabytes, percent, ratio, significant } from "./format.js";
import { History } from "./history.js";

const INTERVAL = 1000; // ms between questions
const TIMEOUT = 5000; // ms that an answer may take

// the two ends in one shape: what moved, what it must add up to, and the tiles of their own

const RECEIVER = {
  moved: (s) => s.received,
  sum: (s) => ({
    whole: ["received", s.received.entries],
    parts: [["stored", s.stored_entries], ["again", s.duplicate_entries], ["rejected", s.rejected_entries], ["waiting", s.waiting_entries]],
  }),
  idle: (s) => (s.clients ? "everything that arrives is stored" : "no shipper is connected"),
  failing: (s, before) => [
    [s.bad_frames - before.bad_frames, "frames refused in the last minute"],
    [s.rejected_entries - before.rejected_entries, "entries rejected in the last minute"],
  ],
  tiles: (s) => [
    ["Clients", count(s.clients), "", `${count(s.connections)} connections`],
    ["Waiting", count(s.waiting_entries), "", `entries, ${bytes(s.in_flight_bytes)}`],
  ],
  details: (s) => [
    ["Batches", count(s.received.batches)],
    ["Connections", count(s.connections)],
    ["Frames refused", count(s.bad_frames)],
  ],
};

const SHIPPER = {
  moved: (s) => s.sent,
  sum: (s) => ({
    whole: ["read", s.read_entries],
    parts: [["delivered", s.delivered_entries], ["dropped", Object.values(s.dropped).reduce((sum, count) => sum + count, 0)], ["waiting", s.waiting_entries]],
  }),
  idle: () => "everything that is read is sent",
  failing: (s) => [[s.connected ? 0 : s.waiting_entries, "entries wait for a receiver"]],
  tiles: (s) => [
    ["Connected", s.connected ? "yes" : "no", "", `${count(s.reconnects)} reconnects`],
    ["Waiting", count(s.waiting_entries), "", `entries, ${count(s.waiting_batches)} batches`],
    ["Compression", s.algorithm, "", s.algorithm === "none" ? "off" : `level ${s.level}, ${s.level_reason}`],
  ],
  details: (s) => [
    ["Batches", count(s.sent.batches)],
    ["Sent raw by bypass", count(s.bypassed)],
    ["Time spent compressing", `${significant(s.compress_seconds)} s`],
  ],
};

function showState(word, why) {
  $("#state").className = word.toLowerCase();
  text($("#word"), word);
  text($("#why"), why);
}

function addsUp({ whole, parts }) {
  return whole[1] === parts.reduce((sum, [, n]) => sum + n, 0) && parts.every(([, n]) => n >= 0);
}

function judge(end, stats, history) {
  if (stats.state !== "OK") return [stats.state, stats.why];
  if (!addsUp(end.sum(stats))) return ["DEGRADED", "the entries do not add up, see below"];
  const failing = end.failing(stats, history.recent()).find(([n]) => n > 0);
  return failing ? ["DEGRADED", `${count(failing[0])} ${failing[1]}`] : ["OK", end.idle(stats)];
}

function showTiles(end, stats) {
  const { rates } = stats;
  const moved = end.moved(stats);
  const saved = moved.raw_bytes - moved.wire_bytes;
  const tiles = [
    ["Entries", significant(rates.entries), "/s", `${count(moved.entries)} in all`],
    ["Raw", megabytes(rates.raw_bytes), "MB/s", `${bytes(moved.raw_bytes)} in all`],
    ["Wire", megabytes(rates.wire_bytes), "MB/s", `${bytes(moved.wire_bytes)} in all`],
    ["Ratio", ratio(rates.raw_bytes, rates.wire_bytes), "", `${ratio(moved.raw_bytes, moved.wire_bytes)} over all`],
    ["Saved", ...bytes(saved).split(" "), `${percent(saved, moved.raw_bytes)} of raw`],
    ...end.tiles(stats),
  ];
  fill(
    $("#tiles"),
    tiles,
    () => element("div", "card tile", element("h2"), element("p", "", element("b"), element("span")), element("small")),
    (tile, [label, value, unit, below]) => {
      text(tile.children[0], label);
      texts(tile.children[1], [value, unit]);
      text(tile.children[2], below);
    },
  );
}

function showSum(end, stats) {
  const sum = end.sum(stats);
  const { whole, parts } = sum;
  $("#sum").className = `card ${addsUp(sum) ? "right" : "wrong"}`;
  const terms = [["", ...whole], ...parts.map(([name, n], index) => [index ? "+" : "=", name, n])];
  fill(
    $("#equation"),
    terms,
    () => element("span", "term", element("i"), element("b"), element("span")),
    (term, [sign, name, n]) => texts(term, [sign, count(n), name]),
  );
}

function showAlgorithms(stats) {
  const all = Object.entries(stats.by_algorithm ?? {}).sort(([, a], [, b]) => b.raw_bytes - a.raw_bytes);
  $("#algorithms").hidden = !stats.by_algorithm;
  const raw = all.reduce((sum, [, totals]) => sum + totals.raw_bytes, 0);
  fill(
    $("#algorithms tbody"),
    all,
    () => {
      const row = element("tr", "", ...Array.from({ length: 7 }, () => element("td")));
      row.lastElementChild.append(element("span", "bar", element("span")));
      return row;
    },
    (row, [name, t]) => {
      texts(row, [
        name,
        count(t.batches),
        count(t.entries),
        bytes(t.raw_bytes),
        bytes(t.wire_bytes),
        ratio(t.raw_bytes, t.wire_bytes),
      ]);
      row.lastElementChild.title = percent(t.raw_bytes, raw);
      row.querySelector(".bar > span").style.width = `${raw ? (100 * t.raw_bytes) / raw : 0}%`;
    },
  );
}

function showErrors(stats, history) {
  const before = history.recent().errors;
  const rows = Object.entries(stats.errors)
    .filter(([, n]) => n > 0)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, n]) => [reason.replaceAll("_", " "), n - (before[reason] ?? 0), n]);
  $("#errors").classList.toggle("none", rows.length === 0);
  fill(
    $("#errors tbody"),
    rows,
    () => element("tr", "", element("td"), element("td"), element("td")),
    (row, [reason, recent, n]) => {
      texts(row, [reason, count(recent), count(n)]);
      row.classList.toggle("rising", recent > 0);
    },
  );
}

function showPairs(parent, pairs) {
  fill(
    parent,
    pairs,
    () => element("div", "", element("dt"), element("dd")),
    (row, pair) => texts(row, pair),
  );
}

function showDetails(end, stats) {
  const { mean_rates: mean } = stats;
  showPairs($("#details dl"), [
    ["Uptime", duration(stats.uptime)],
    ["Entries/s on average", significant(mean.entries)],
    ["Raw on average", `${megabytes(mean.raw_bytes)} MB/s`],
    ["Wire on average", `${megabytes(mean.wire_bytes)} MB/s`],
    ...end.details(stats),
  ]);
}

// once a second

const history = new History();
let answered = null; // when the last answer came

function show(stats) {
  const end = stats.end === "receiver" ? RECEIVER : SHIPPER;
  history.add(stats, end.moved(stats));
  const [word, why] = judge(end, stats, history);
  showState(word, why);
  document.title = `${word} · ${significant(stats.rates.entries)}/s · logbale`;
  text($("#identity"), `${stats.end} on ${stats.host}`);
  showTiles(end, stats);
  showCharts(history);
  showSum(end, stats);
  showAlgorithms(stats);
  showErrors(stats, history);
  showDetails(end, stats);
  showPairs($("#info"), [["logbale", stats.version], ...Object.entries(stats.info)]);
}

function showSilence() {
  showState("STOPPED", answered ? `no answer for ${duration((Date.now() - answered) / 1000)}` : "no answer");
  document.title = "STOPPED · logbale";
}

async function question() {
  try {
    const answer = await fetch("api/stats", { signal: AbortSignal.timeout(TIMEOUT) });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

async function ask() {
  const stats = await question();
  setTimeout(ask, INTERVAL);
  document.body.classList.toggle("stale", !stats);
  if (!stats) return showSilence();
  answered = Date.now();
  show(stats);
}

ask();
