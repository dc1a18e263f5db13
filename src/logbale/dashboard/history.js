// What was seen since the page was opened, or since this end was restarted.

export const KEPT = 15 * 60; // s that the charts can show
const RECENT = 60; // s that "the last minute" means

export class History {
  samples = [];

  add(stats, moved) {
    const last = this.samples.at(-1);
    if (last && stats.uptime < last.stats.uptime) this.samples = [];
    const before = this.samples.at(-1);
    if (before && stats.uptime - before.at < 0.2) return;
    const rate = (field) => (before ? (moved[field] - before.moved[field]) / (stats.uptime - before.at) : null);
    this.samples.push({
      at: stats.uptime,
      stats,
      moved,
      entries: rate("entries"),
      raw: rate("raw_bytes"),
      wire: rate("wire_bytes"),
    });
    while (this.samples[0].at < stats.uptime - KEPT) this.samples.shift();
  }

  // The oldest sample of the last minute.
  recent() {
    const now = this.samples.at(-1).at;
    return this.samples.find((sample) => sample.at >= now - RECENT).stats;
  }
}
