// All that is known of one client, label to text. Its report is a peer's: any field may hold anything.

import { because, spoken, visible } from "./dom.js";
import { ago, bytes, count, entriesPerSecond, moment, NONE, seconds, significant } from "./format.js";

const UNKNOWN = 40; // fields of a report that this page does not know and shows

const counts = (all) =>
  Object.entries(all ?? {})
    .map(([reason, n]) => `${visible(reason, 60)} ${count(n)}`)
    .join(", ") || "none";

// What a report says: the label, and how its value is read. null: another line of the detail says it.
const REPORTED = new Map(
  Object.entries({
    read: ["Read", count],
    delivered: ["Delivered", count],
    rejected: ["Rejected", count],
    waiting_entries: ["Entries waiting", count],
    waiting_batches: ["Batches waiting", count],
    oldest_waiting: ["Oldest waits for", seconds],
    cpu_percent: ["CPU", (n) => (n === null ? NONE : `${significant(n)} %`)],
    backlog_bytes: ["Backlog", bytes],
    latency: ["Read → durable", (latency) => `p50 ${seconds(latency?.p50)}, p99 ${seconds(latency?.p99)}`],
    ended: ["Says it has ended", (ended) => (ended ? "yes" : "no")],
    algorithm: null,
    level: null,
    level_reason: null,
    dropped: null,
    spool_bytes: null,
    reconnects: null,
    choice: ["Receiver", (n) => (n ? `its choice ${count(n)}` : "the only one")],
    failovers: ["Failovers", count],
    entries_per_second: null,
    changes: null,
  }),
);

export function detailOf(client, now) {
  return [
    ["State", stateOf(client)],
    ["Reported", client.reported_at ? ago(now - client.reported_at) : "nothing yet"],
    ["Name", visible(client.name || NONE)],
    ["Stream", client.stream ? visible(client.stream) : "none: it speaks the base protocol"],
    ["Agent", visible(client.agent || NONE)],
    ["Address", visible(client.address ?? NONE)],
    ["TLS identity", visible(client.identity || NONE)],
    ["Entries", `${count(client.entries)} in all, ${entriesPerSecond(client.entries_per_second)} now`],
    ["Raw → wire", `${bytes(client.raw_bytes)} → ${bytes(client.wire_bytes)}, ratio ${significant(client.ratio)}`],
    ...reportOf(client.report ?? {}),
    ["Spool", bytes(client.spool_bytes)],
    ["Reconnects", count(client.reconnects)],
    ["Dropped", counts(client.dropped)],
    ["Compression", compressionOf(client)],
    ...changesOf(client.report),
  ];
}

function stateOf({ connected, connected_since: since, last_seen: seen }) {
  return connected ? `connected since ${moment(since)}` : `not connected, last seen ${moment(seen)}`;
}

function compressionOf({ algorithm, level, level_reason: reason }) {
  const setting = `${visible(algorithm || NONE)} ${spoken(level ?? "", 8)}`.trim();
  return reason ? `${setting}: ${because(reason)}` : setting;
}

function reportOf(report) {
  const fields = Object.entries(report);
  const known = [...REPORTED].filter(([name, how]) => how && Object.hasOwn(report, name));
  const unknown = fields.filter(([name]) => !REPORTED.has(name)).slice(0, UNKNOWN);
  return [
    ...known.map(([name, [label, show]]) => [label, show(report[name])]),
    ...unknown.map(([name, value]) => [visible(name.replaceAll("_", " "), 40), spoken(value, 300)]),
  ];
}

function changesOf(report) {
  if (!Array.isArray(report?.changes) || report.changes.length === 0) return [];
  const line = (change) =>
    Array.isArray(change)
      ? `${moment(change[0])} ${spoken(change[1], 8)} → ${spoken(change[2], 8)}: ${because(change[3])}`
      : spoken(change, 200);
  return [["Changes of level", report.changes.slice(-10).reverse().map(line).join("\n")]];
}
