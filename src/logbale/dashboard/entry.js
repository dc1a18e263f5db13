// One entry as a row of the live tail. Its JSON is a peer's: any field may be missing, or be anything.

import { element, visible } from "./dom.js";
import { clock, NONE } from "./format.js";

const SHOWN = 2000; // characters of a message; the archive has the rest
const FIELDS = 20;
const FIELD = 200; // characters

const NAMES = new Map(
  Object.entries({
    WARN: "WARNING",
    ERR: "ERROR",
    FATAL: "CRITICAL",
    CRIT: "CRITICAL",
    ALERT: "CRITICAL",
    EMERG: "CRITICAL",
    EMERGENCY: "CRITICAL",
    PANIC: "CRITICAL",
    NOTICE: "INFO",
    INFORMATION: "INFO",
    TRACE: "DEBUG",
  }),
);
const TONES = new Map(Object.entries({ CRITICAL: "bad", ERROR: "bad", WARNING: "doubtful", DEBUG: "faint" }));

function fieldsOf(json) {
  try {
    const fields = JSON.parse(json);
    if (fields !== null && typeof fields === "object" && !Array.isArray(fields)) return new Map(Object.entries(fields));
  } catch {
    // shown as it came
  }
  return new Map([["message", json]]);
}

const named = (value) =>
  value === undefined || value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);

// {time, level, service, message, more, text}: text is what a regular expression sees.
export function readEntry(json) {
  const fields = fieldsOf(json);
  const [timestamp, level, service, message] = ["timestamp", "level", "service", "message"].map((name) =>
    named(fields.get(name)),
  );
  const more = [...fields]
    .filter(([name]) => !["timestamp", "level", "service", "message"].includes(name))
    .map(([name, value]) => `${name}=${named(value)}`);
  return { timestamp, level, service, message, more, text: [message, ...more].join(" ") };
}

const canonical = (level) => NAMES.get(level.toUpperCase()) ?? level.toUpperCase();

function timeOf(timestamp) {
  if (!timestamp) return NONE;
  const date = new Date(timestamp);
  if (Number.isNaN(date.getTime())) return visible(timestamp, 30);
  return `${clock(date)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

export function rowOf({ timestamp, level, service, message, more }) {
  const name = canonical(level);
  const shown = more.slice(0, FIELDS).map((field) => visible(field, FIELD));
  if (more.length > FIELDS) shown.push(`… ${more.length - FIELDS} more fields`);
  const time = element("time", "", timeOf(timestamp));
  time.title = visible(timestamp, 60);
  const origin = element("span", "service", visible(service, 40));
  origin.title = visible(service, 200);
  return element(
    "div",
    `line ${TONES.get(name) ?? ""}`.trim(),
    time,
    element("b", "", visible(name || NONE, 10)),
    origin,
    element(
      "span",
      "body",
      element("span", "message", visible(message, SHOWN)),
      " ",
      element("span", "more", shown.join("  ")),
    ),
  );
}
