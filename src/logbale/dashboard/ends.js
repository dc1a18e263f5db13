// The two ends in one shape: what moved, what it must add up to, and the tiles and details of each.

import {
  bytes,
  bytesParts,
  count,
  duration,
  entriesParts,
  moment,
  percent,
  ratio,
  seconds,
  secondsParts,
  significant,
} from "./format.js";

const total = (counts) => Object.values(counts ?? {}).reduce((sum, n) => sum + n, 0);
const words = (reason) => reason.replaceAll("_", " ");
const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;

export const addsUp = ({ whole, parts }) =>
  whole[1] === parts.reduce((sum, [, n]) => sum + n, 0) && parts.every(([, n]) => n >= 0);

function moving(s, moved) {
  const saved = moved.raw_bytes - moved.wire_bytes;
  const perSecond = (n) => {
    const [value, unit] = bytesParts(n);
    return [value, `${unit}/s`];
  };
  return [
    ["Entries", ...entriesParts(s.rates.entries), `${count(moved.entries)} in all`],
    ["Raw", ...perSecond(s.rates.raw_bytes), `${bytes(moved.raw_bytes)} in all`],
    ["Wire", ...perSecond(s.rates.wire_bytes), `${bytes(moved.wire_bytes)} in all`],
    ["Ratio", ratio(s.rates.raw_bytes, s.rates.wire_bytes), "", `${ratio(moved.raw_bytes, moved.wire_bytes)} over all`],
    ["Saved", ...bytesParts(saved), `${percent(saved, moved.raw_bytes)} of raw`],
    ["Durable after", ...secondsParts(s.latency?.p50), `p99 ${seconds(s.latency?.p99)}`],
  ];
}

// What every connected shipper says of itself, added up by the receiver.
function reported(shippers) {
  const { dropped } = shippers;
  return {
    name: "Shippers",
    of: `${plural(shippers.reporting, "shipper reports", "shippers report")}`,
    whole: ["read", shippers.read_entries],
    parts: [
      ["delivered", shippers.delivered_entries],
      ["rejected", shippers.rejected_entries],
      [
        "dropped",
        total(dropped),
        Object.entries(dropped)
          .map(([reason, n]) => `${words(reason)} ${count(n)}`)
          .join(", "),
      ],
      ["waiting", shippers.waiting_entries],
    ],
  };
}

// What a relay did with what it stored.
function forwarded(relay) {
  return {
    name: "Relay",
    of: `to ${relay.upstream}`,
    whole: ["taken", relay.taken_entries, "stored here, and left at the start"],
    parts: [
      ["forwarded", relay.forwarded_entries, "durable there"],
      ["rejected", relay.rejected_entries, "there; kept here as dead letters"],
      ["dropped", total(relay.dropped), "damaged here, or never sent by their origin"],
      ["to go", relay.waiting_entries],
    ],
  };
}

export const RECEIVER = {
  moved: (s) => s.received,
  sums: (s) => [
    {
      name: "Receiver",
      of: "since its start",
      whole: ["received", s.received.entries],
      parts: [
        ["stored", s.stored_entries],
        ["again", s.duplicate_entries, "came again after a reconnect: acknowledged, not stored twice"],
        ["rejected", s.rejected_entries],
        ["waiting", s.waiting_entries],
      ],
    },
    ...(s.relay ? [forwarded(s.relay)] : []),
    ...(s.shippers?.reporting ? [reported(s.shippers)] : []),
  ],
  quiet: (s) =>
    s.clients
      ? `${plural(s.clients, "shipper", "shippers")} connected; what arrives is stored`
      : "listening; no shipper is connected",
  tiles: (s) => [
    ...moving(s, s.received),
    ["Clients", count(s.clients), "", plural(s.connections, "connection", "connections")],
    ["Waiting", count(s.waiting_entries), "", bytes(s.in_flight_bytes)],
    ...(s.relay
      ? [["To go", count(s.relay.waiting_entries), "", `oldest ${duration(s.relay.oldest_waiting)}, ${plural(s.relay.sessions, "session", "sessions")}`]]
      : []),
    ...(s.disk
      ? [["Disk free", ...bytesParts(s.disk.free_bytes), `${percent(s.disk.free_bytes, s.disk.total_bytes)} free`]]
      : []),
  ],
  details: (s) => [
    ["Batches", count(s.received.batches)],
    ["Connections", count(s.connections)],
    ["Sessions open", count(s.sessions)],
    ["Context memory", bytes(s.context_bytes)],
    ["Entries skipped", count(s.skipped_entries)],
    ["Batches lost", count(s.lost_batches)],
    ["Frames refused", count(s.bad_frames)],
    ["Last sync", moment(s.last_sync)],
  ],
};

export const SHIPPER = {
  moved: (s) => s.sent,
  sums: (s) => [
    {
      name: "Shipper",
      of: "since its start",
      whole: ["read", s.read_entries],
      parts: [
        ["delivered", s.delivered_entries],
        ...Object.entries(s.dropped).map(([reason, n]) => [words(reason), n]),
        ["waiting", s.waiting_entries],
      ],
    },
  ],
  quiet: () => "connected; what is read is delivered",
  tiles: (s) => [
    ...moving(s, s.sent),
    ["Connected", s.connected ? "yes" : "no", "", plural(s.reconnects, "reconnect", "reconnects")],
    ["Waiting", count(s.waiting_entries), "", plural(s.waiting_batches, "batch", "batches")],
    ["Compression", s.algorithm, s.algorithm === "none" ? "" : String(s.level), s.level_reason],
  ],
  details: (s) => [
    ["Batches", count(s.sent.batches)],
    ["Sent raw by bypass", count(s.bypassed)],
    ["Time spent compressing", seconds(s.compress_seconds)],
    ["Time sends waited", seconds(s.stalled_seconds)],
    ["Backlog", bytes(s.backlog_bytes)],
  ],
};

export const common = (s) => [
  ["Uptime", duration(s.uptime)],
  ["Entries on average", `${significant(s.mean_rates.entries)}/s`],
  ["Raw on average", `${bytes(s.mean_rates.raw_bytes)}/s`],
  ["Wire on average", `${bytes(s.mean_rates.wire_bytes)}/s`],
];
