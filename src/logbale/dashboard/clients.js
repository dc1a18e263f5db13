// The table of clients: sorted, filtered, and a row opens its detail. Names come from peers: text, made visible.

import { detailOf } from "./client_detail.js";
import { $, attribute, element, fill, text, visible } from "./dom.js";
import { ago, bytes, count, NONE, seconds, significant } from "./format.js";

const PAGE = 100; // rows that are shown, and added at a time

const total = (counts) => Object.values(counts ?? {}).reduce((sum, n) => sum + (Number(n) || 0), 0);
const dash = (value, show) => (value === null || value === undefined || value === "" ? NONE : show(value));

// `value` is what is sorted by, `show` what is read; `less` columns are left to the detail where there is no room.
const COLUMNS = [
  {
    name: "Client",
    value: (c) => [c.host || c.address, c.name].filter(Boolean).join(" "),
    show: (c) => visible(c.host || c.address || NONE, 60),
    text: true,
  },
  {
    name: "Stream",
    value: (c) => c.stream,
    show: (c) => (c.stream ? visible(c.stream, 40) : "base protocol"),
    text: true,
    less: 3,
  },
  { name: "Address", value: (c) => c.address, show: (c) => visible(c.address, 60), text: true, less: 3 },
  {
    name: "TLS identity",
    value: (c) => c.identity,
    show: (c) => dash(c.identity, (v) => visible(v, 60)),
    text: true,
    less: 3,
  },
  { name: "Entries/s", value: (c) => c.entries_per_second, show: (c) => significant(c.entries_per_second) },
  {
    name: "Raw → wire",
    value: (c) => c.raw_bytes,
    show: (c) => `${bytes(c.raw_bytes)} → ${bytes(c.wire_bytes)}`,
    less: 2,
  },
  { name: "Ratio", value: (c) => c.ratio, show: (c) => dash(c.ratio, significant), less: 1 },
  {
    name: "Codec",
    value: (c) => `${c.algorithm} ${c.level ?? ""}`,
    show: (c) => `${dash(c.algorithm, visible)} ${c.level ?? ""}`.trim(),
    less: 2,
  },
  { name: "Lag", value: (c) => c.lag_seconds, show: lag },
  { name: "Spool", value: (c) => c.spool_bytes, show: (c) => bytes(c.spool_bytes), less: 2 },
  { name: "Last seen", value: (c, now) => now - c.last_seen, show: (c, now) => ago(now - c.last_seen), less: 0 },
  { name: "Reconnects", value: (c) => c.reconnects, show: (c) => count(c.reconnects), less: 2 },
  { name: "Drops", value: (c) => total(c.dropped), show: (c) => count(total(c.dropped)), less: 1 },
];

function lag({ lag_batches: batches, lag_seconds: span }) {
  if (typeof batches !== "number" && typeof span !== "number") return NONE;
  if (!batches && !span) return "none";
  const parts = [];
  if (typeof batches === "number") parts.push(`${count(batches)} ${batches === 1 ? "batch" : "batches"}`);
  if (typeof span === "number" && span > 0) parts.push(seconds(span));
  return parts.join(", ");
}

// What tells the shippers of one host apart that give no name: a stream is `host:` and 32 hexadecimal digits.
const streamTag = (stream) => /:([0-9a-f]{6})[0-9a-f]{26}$/.exec(stream)?.[1] ?? "";

function compare(a, b) {
  const [noA, noB] = [a, b].map((v) => v === null || v === undefined || v === "");
  if (noA || noB) return noA - noB; // what is not known comes last, in either direction
  return typeof a === "number" && typeof b === "number"
    ? a - b
    : String(a).localeCompare(String(b), "en", { numeric: true });
}

export class Clients {
  all = [];
  now = 0;
  leftOut = 0;
  sort = { column: 0, descending: false };
  filter = "";
  shown = PAGE;
  open = new Set(); // ids
  rows = new Map(); // id to its two table rows
  order = []; // ids as they are on the page

  constructor() {
    $("#clients thead tr").append(...COLUMNS.map((column, index) => this.header(column, index)));
    $("#client-filter").addEventListener("input", (event) => {
      this.filter = event.target.value.trim().toLowerCase();
      this.arrange();
    });
    $("#more-clients").addEventListener("click", () => {
      this.shown += PAGE;
      this.arrange();
    });
    this.arrange();
  }

  header({ name, text: isText, less }, index) {
    const button = element("button", "", name);
    button.type = "button";
    button.addEventListener("click", () => {
      const again = this.sort.column === index;
      this.sort = { column: index, descending: again ? !this.sort.descending : !isText };
      this.arrange();
    });
    const cell = element("th", `${isText ? "text" : ""} ${less === undefined ? "" : `less-${less}`}`.trim(), button);
    cell.scope = "col";
    return cell;
  }

  show({ now, clients, left_out: leftOut }) {
    this.now = now;
    this.all = clients;
    this.leftOut = leftOut ?? 0;
    // Under a pointer or the keyboard's focus no row goes elsewhere: it would be another one that is opened.
    const held = $("#clients tbody").matches(":hover, :focus-within");
    this.arrange({ held });
  }

  matches(client) {
    return (
      !this.filter ||
      COLUMNS.some(
        (column) =>
          column.text &&
          String(column.value(client) ?? "")
            .toLowerCase()
            .includes(this.filter),
      ) ||
      [client.agent, client.algorithm].some((value) =>
        String(value ?? "")
          .toLowerCase()
          .includes(this.filter),
      )
    );
  }

  arrange({ held = false } = {}) {
    const { column, descending } = this.sort;
    const value = (client) => COLUMNS[column].value(client, this.now);
    const unknown = (v) => v === null || v === undefined || v === "";
    const found = this.all
      .filter((client) => this.matches(client))
      .sort((a, b) => {
        const [va, vb] = [value(a), value(b)];
        if (a.connected !== b.connected) return b.connected - a.connected; // who is here comes first
        return (unknown(va) || unknown(vb) || !descending ? compare(va, vb) : compare(vb, va)) || compare(a.id, b.id);
      });
    if (held) {
      const before = new Map(this.order.map((id, index) => [id, index]));
      const place = ({ id }) => before.get(id) ?? this.order.length;
      found.sort((a, b) => place(a) - place(b));
    }
    const shown = found.slice(0, this.shown);
    this.order = shown.map(({ id }) => id);
    this.place(shown);
    this.say(found.length, shown.length);
    $("#clients thead tr").childNodes.forEach((cell, index) =>
      attribute(cell, "aria-sort", index === column ? (descending ? "descending" : "ascending") : "none"),
    );
  }

  place(shown) {
    const body = $("#clients tbody");
    const ids = new Set(this.order);
    for (const [id, [row, detail]] of this.rows) {
      if (ids.has(id)) continue;
      row.remove();
      detail.remove();
      this.rows.delete(id);
    }
    let next = body.firstElementChild;
    for (const client of shown) {
      const pair = this.rows.get(client.id) ?? this.make(client.id);
      for (const row of pair) {
        if (row === next) next = next.nextElementSibling;
        else body.insertBefore(row, next);
      }
      this.update(pair, client);
    }
  }

  make(id) {
    const button = element("button", "opener", element("span", "name"), element("small"));
    button.type = "button";
    const row = element("tr", "client", element("th", "text", button));
    row.firstElementChild.scope = "row";
    row.append(
      ...COLUMNS.slice(1).map(({ text: isText, less }) =>
        element("td", `${isText ? "text" : ""} ${less === undefined ? "" : `less-${less}`}`.trim()),
      ),
    );
    const detail = element("tr", "detail", element("td", "", element("dl")));
    detail.firstElementChild.colSpan = COLUMNS.length;
    row.addEventListener("click", (event) => {
      if (event.detail && String(getSelection())) return; // a drag over the row copies, it does not open
      this.open.has(id) ? this.open.delete(id) : this.open.add(id);
      this.update(
        [row, detail],
        this.all.find((client) => client.id === id),
      );
    });
    this.rows.set(id, [row, detail]);
    return [row, detail];
  }

  update([row, detail], client) {
    if (!client) return;
    const isOpen = this.open.has(client.id);
    row.classList.toggle("gone", !client.connected);
    COLUMNS.forEach((column, index) => {
      const cell = row.children[index];
      const shown = column.show(client, this.now);
      text(index === 0 ? cell.querySelector(".name") : cell, shown);
      if (column.text) attribute(cell, "title", visible(column.value(client) ?? "", 500));
    });
    text(row.querySelector("small"), visible(client.name || streamTag(client.stream), 64));
    attribute(row.querySelector("button"), "aria-expanded", String(isOpen));
    detail.hidden = !isOpen;
    if (isOpen)
      fill(detail.querySelector("dl"), detailOf(client, this.now), pair, (made, [name, value]) => {
        text(made.children[0], name);
        text(made.children[1], value);
      });
  }

  say(found, shown) {
    const { length } = this.all;
    const parts = [];
    if (this.filter) parts.push(`${count(found)} of ${count(length)} match`);
    else if (length) parts.push(`${count(length)} in all`);
    if (this.leftOut) parts.push(`${count(this.leftOut)} more are not listed`);
    text($("#clients-said"), parts.join(", "));
    $("#clients").classList.toggle("none", length === 0);
    const more = $("#more-clients");
    more.hidden = shown >= found;
    text(more, `Show ${count(Math.min(PAGE, found - shown))} more of ${count(found - shown)}`);
  }
}

const pair = () => element("div", "", element("dt"), element("dd"));
