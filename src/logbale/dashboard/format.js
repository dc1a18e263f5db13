// Numbers as people read them.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (n) => grouped.format(n);

export function significant(n) {
  if (n >= 100 || n === 0) return grouped.format(n);
  return n.toFixed(n >= 10 ? 1 : 2);
}

export const megabytes = (n) => significant(n / 1e6);

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (Math.abs(n) >= 999.5 && unit < units.length - 1) [n, unit] = [n / 1000, unit + 1];
  return `${unit ? significant(n) : count(n)} ${units[unit]}`;
}

export function duration(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const ratio = (raw, wire) => (wire ? significant(raw / wire) : "–");
export const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");
