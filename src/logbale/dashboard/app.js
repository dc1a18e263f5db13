// The page's behaviour: asks this end for its numbers and shows what it says. It serves either end.

import { Charts } from "./charts.js";
import { Clients } from "./clients.js";
import { $, attribute } from "./dom.js";
import { addsUp, RECEIVER, SHIPPER } from "./ends.js";
import { clock } from "./format.js";
import { History, sampleOf } from "./history.js";
import { showNumbers, showState } from "./numbers.js";
import { Tail } from "./tail.js";
import { startTheme } from "./theme.js";

const INTERVAL = 1000; // ms between questions
const TIMEOUT = 5000; // ms that an answer may take
const PATIENCE = 2; // questions without an answer before this end counts as stopped
const RANGES = { "15m": { step: 1, kept: 15 * 60, every: 1 }, "24h": { step: 60, kept: 24 * 3600, every: 20 } };
const CLIENTS_EVERY = 2; // s

async function ask(path) {
  try {
    const answer = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT) });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

function judge(end, stats) {
  if (stats.state !== "OK") return [stats.state, stats.why];
  const wrong = end.sums(stats).find((sum) => !addsUp(sum));
  if (wrong) return ["DEGRADED", `the entries of the ${wrong.name.toLowerCase()} do not add up`];
  return ["OK", end.quiet(stats)];
}

class Page {
  range = "15m";
  histories = Object.fromEntries(
    Object.entries(RANGES).map(([name, { step, kept }]) => [name, new History(step, kept)]),
  );
  charts = new Charts();
  clients = null;
  tail = null;
  beat = 0;
  silent = 0;
  answered = null; // when the last answer came
  before = null; // the last numbers: {stats, moved}

  constructor() {
    for (const button of $("#ranges").children) {
      button.addEventListener("click", () => this.choose(button.value));
    }
    startTheme(() => this.charts.repaint());
  }

  choose(range) {
    this.range = range;
    for (const button of $("#ranges").children) attribute(button, "aria-pressed", String(button.value === range));
    this.askHistory();
  }

  async run() {
    const stats = await ask("api/stats");
    setTimeout(() => this.run(), INTERVAL);
    this.beat += 1;
    if (!stats) return this.showSilence();
    this.silent = 0;
    this.answered = new Date();
    document.body.classList.remove("stale");
    this.show(stats);
  }

  show(stats) {
    const end = stats.end === "receiver" ? RECEIVER : SHIPPER;
    const moved = end.moved(stats);
    this.offset = (stats.now ?? Date.now() / 1000) - Date.now() / 1000;
    showState(...judge(end, stats));
    showNumbers(end, stats);
    if (stats.end === "receiver") this.showReceiver(stats);
    else this.collect(stats, moved);
    this.before = { stats, moved };
  }

  showReceiver(stats) {
    this.clients ??= new Clients();
    this.tail ??= new Tail();
    this.tail.filter.knows(stats.levels ?? {});
    if (this.beat % CLIENTS_EVERY === 1) ask("api/clients").then((answer) => answer && this.clients.show(answer));
    const { every } = RANGES[this.range];
    if (this.beat % every === 1 % every) this.askHistory();
    else this.showCharts();
  }

  // A shipper keeps no history: the charts have what came since the page was opened.
  collect(stats, moved) {
    const restarted = this.before && stats.uptime < this.before.stats.uptime;
    const sample = restarted ? null : sampleOf(stats, moved, this.before);
    if (sample) this.histories[this.range].add(sample);
    this.showCharts();
  }

  async askHistory() {
    const { range } = this;
    const history = this.histories[range];
    const since = history.last === undefined ? "" : `&since=${history.last}`;
    const answer = await ask(`api/history?range=${range}${since}`);
    if (answer) history.add(answer);
    this.showCharts();
  }

  showCharts() {
    this.charts.show(this.histories[this.range], Date.now() / 1000 + (this.offset ?? 0));
  }

  showSilence() {
    this.silent += 1;
    if (this.silent < PATIENCE) return;
    document.body.classList.add("stale");
    showState(
      "STOPPED",
      this.answered ? `no answer since ${clock(this.answered)}; the numbers are those of then` : "no answer",
    );
    document.title = "STOPPED · logbale";
    this.showCharts();
  }
}

new Page().run();
