// Numbers as people read them. What is no number (an older end, a peer that lies) is a dash.

export const NONE = "–";

const known = (n) => typeof n === "number" && Number.isFinite(n);
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

const grouped3 = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (n) => (known(n) ? grouped.format(n) : NONE);

// Three digits that mean something: more of them only flicker.
export function significant(n) {
  if (!known(n)) return NONE;
  if (n === 0) return "0";
  if (Math.abs(n) >= 99.95) return grouped.format(Number(n.toPrecision(3)));
  return n.toFixed(Math.abs(n) >= 9.995 ? 1 : 2);
}

// The same beside an axis: 10 where a value would be 10.0.
export const brief = (n) => (known(n) ? grouped3.format(n) : NONE);

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

function scaled(n) {
  let unit = 0;
  while (Math.abs(n) >= 999.5 && unit < UNITS.length - 1) [n, unit] = [n / 1000, unit + 1];
  return [n, UNITS[unit]];
}

// Value and unit apart, for where they are shown in two sizes.
export function bytesParts(n) {
  if (!known(n)) return [NONE, ""];
  const [value, unit] = scaled(n);
  return [unit === "B" ? count(value) : significant(value), unit];
}

export const bytes = (n) => bytesParts(n).join(" ").trim();
export const briefBytes = (n) =>
  known(n)
    ? scaled(n)
        .map((part) => (known(part) ? brief(part) : part))
        .join(" ")
    : NONE;
export const bytesPerSecond = (n) => (known(n) ? `${bytes(n)}/s` : NONE);
export const entriesParts = (n) => (n >= 999_500 ? [significant(n / 1e6), "M/s"] : [significant(n), "/s"]);
export const entriesPerSecond = (n) => (known(n) ? entriesParts(n).join(n >= 999_500 ? " " : "") : NONE);

// A span that is watched for how short it is: ms and s.
export function secondsParts(s) {
  if (!known(s)) return [NONE, ""];
  return s < 0.9995 ? [significant(s * 1000), "ms"] : [significant(s), "s"];
}

export const seconds = (s) => secondsParts(s).join(" ").trim();

export const briefSeconds = (s) => (known(s) ? (s < 1 ? `${brief(s * 1000)} ms` : `${brief(s)} s`) : NONE);

// A span that is lived through.
export function duration(span) {
  if (!known(span)) return NONE;
  const s = Math.max(0, Math.floor(span));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const ago = (span) => (known(span) ? (span < 2 ? "now" : `${duration(span)} ago`) : NONE);

export const ratio = (raw, wire) => (wire ? significant(raw / wire) : NONE);
export const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : NONE);

const two = (n) => String(n).padStart(2, "0");
export const hoursMinutes = (date) => `${two(date.getHours())}:${two(date.getMinutes())}`;
export const clock = (date) => `${hoursMinutes(date)}:${two(date.getSeconds())}`;

// A Unix time as this browser's clock shows it; the day too where it is another one.
export function moment(unix) {
  if (!known(unix)) return NONE;
  const date = new Date(unix * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday
    ? clock(date)
    : `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(date)}`;
}
