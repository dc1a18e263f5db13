// The samples that the charts show: columns of one range, from /api/history or, at an end that keeps none, from the
// numbers that came while this page was open.

export class History {
  columns = { time: [] };
  changes = []; // of the compression level: {time, stream, host, from, to, reason}

  constructor(step, kept) {
    this.step = step; // s between two samples
    this.kept = kept; // s
  }

  get last() {
    return this.columns.time.at(-1);
  }

  // An answer of /api/history. A time that is not measured is a gap: nothing is drawn across it.
  add({ now, columns, level_changes: changes = [] }) {
    if (this.last > now + this.step) this.clear(); // the clock there was set back
    for (const name of Object.keys(columns)) {
      this.columns[name] ??= Array(this.columns.time.length).fill(null);
    }
    columns.time.forEach((time, index) => {
      if (this.last !== undefined && time <= this.last) return;
      if (time - this.last > 2.5 * this.step) this.append(this.last + this.step, () => null);
      this.append(time, (name) => columns[name]?.[index] ?? null);
    });
    this.changes = merged(this.changes, changes).filter(({ time }) => time > now - this.kept);
    this.trim(now);
  }

  append(time, value) {
    for (const [name, column] of Object.entries(this.columns)) column.push(name === "time" ? time : value(name));
  }

  trim(now) {
    const old = this.columns.time.findIndex((time) => time > now - this.kept);
    const gone = old === -1 ? this.columns.time.length : old;
    if (gone > 0) for (const column of Object.values(this.columns)) column.splice(0, gone);
  }

  clear() {
    this.columns = { time: [] };
    this.changes = [];
  }
}

function merged(known, more) {
  const key = ({ time, stream, from, to }) => JSON.stringify([time, stream, from, to]);
  const all = new Map([...known, ...more].map((change) => [key(change), change]));
  return [...all.values()].sort((a, b) => a.time - b.time);
}

// One sample from two answers of /api/stats, in the form of /api/history.
export function sampleOf(stats, moved, before) {
  const span = before ? stats.uptime - before.stats.uptime : 0;
  if (!(span > 0.2)) return null;
  const rate = (field) => (moved[field] - before.moved[field]) / span;
  const now = stats.now ?? Date.now() / 1000;
  const wire = rate("wire_bytes");
  return {
    now,
    columns: {
      time: [now],
      entries: [rate("entries")],
      raw_bytes: [rate("raw_bytes")],
      wire_bytes: [wire],
      ...(stats.algorithm ? { [`ratio_${stats.algorithm}`]: [wire > 0 ? rate("raw_bytes") / wire : null] } : {}),
      p50: [stats.latency?.p50 ?? null],
      p99: [stats.latency?.p99 ?? null],
      level: [stats.level ?? null],
      cpu_percent: [stats.cpu_percent ?? null],
      backlog_bytes: [stats.backlog_bytes ?? null],
    },
    level_changes: changesOf(stats, before.stats.level, now),
  };
}

function changesOf({ level, level_reason: reason, host }, from, time) {
  return level === from ? [] : [{ time, stream: "", host, from, to: level, reason }];
}
