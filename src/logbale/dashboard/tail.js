// The live tail: entries as they come by, in their order. Bounded everywhere, and whatever is not shown is said.

import { $, element, text } from "./dom.js";
import { readEntry, rowOf } from "./entry.js";
import { count } from "./format.js";
import { LineRegex } from "./line_regex.js";
import { TailFilter } from "./tail_filter.js";

const ROWS = 500; // kept on the page; older ones scroll out
const WAITING = 1000; // entries that may wait, while it is paused too; older ones are skipped
const BEAT = 100; // ms between two looks at what waits
const AT_ONCE = 40; // entries a look takes: more of them nobody could read, and drawing them costs
const AT_START = 100; // entries to begin with, of those that came before
const AGAIN = 3000; // ms until a refused stream is asked for again
const GLIDE = 400; // ms that a scroll with a key may glide on, also after the button was pressed
const EDGE = 30; // px from the end that still count as the end

export class Tail {
  source = null;
  retry = null;
  waiting = []; // {entry}, or {skipped: n, lost: why nobody knows how many more}
  paused = false;
  skipped = 0;
  seen = 0;
  busy = false;
  generation = 0; // of the filter: what was asked for under another one is not shown

  constructor() {
    this.box = $("#lines");
    this.regex = new LineRegex((why) => this.filter.sayRegex(why));
    this.filter = new TailFilter({ changed: () => this.begin(), regexChanged: (source) => this.regex.set(source) });
    $("#pause").addEventListener("click", () => this.pause(!this.paused));
    this.box.addEventListener("scroll", () => {
      if (this.paused || this.isAtEnd() || this.box.scrollTop >= this.toldTop) return;
      if (performance.now() - this.resumed < GLIDE) this.follow();
      else this.pause(true);
    });
    // Before the scrolling itself is known, the next entry would take the reader back to the end.
    this.box.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this.leaveEnd(), { passive: true });
    this.box.addEventListener("keydown", ({ key }) => ["ArrowUp", "PageUp", "Home"].includes(key) && this.leaveEnd());
    new ResizeObserver(() => this.follow()).observe(this.box);
    setInterval(() => this.look(), BEAT);
    this.begin();
  }

  // Under another filter everything begins anew.
  begin() {
    this.generation += 1;
    this.waiting = [];
    this.seen = this.skipped = 0;
    this.box.replaceChildren();
    this.pause(false);
    this.open(AT_START);
  }

  // `before`: how many of the entries that came before to begin with; none after a refusal. The browser reconnects by
  // itself and says where it was (Last-Event-ID); only a refusal ends that.
  open(before) {
    clearTimeout(this.retry);
    this.source?.close();
    const query = this.filter.query();
    if (before) query.set("last", before);
    const url = `api/tail?${query}`;
    const source = new EventSource(url);
    this.source = source;
    this.say("connecting");
    let wasRefused = !before;
    source.onopen = () => {
      if (wasRefused) this.take([{ skipped: 0, lost: "the live tail was not to be had" }]);
      wasRefused = false;
      this.say("live");
    };
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return this.say("reconnecting");
      this.say("refused");
      this.retry = setTimeout(() => this.open(0), AGAIN);
      this.explain(url);
    };
    source.addEventListener("entries", ({ data }) =>
      this.take(JSON.parse(data).map((json) => ({ entry: readEntry(json) }))),
    );
    source.addEventListener("skipped", ({ data }) => {
      const { entries, restarted } = JSON.parse(data);
      this.take([{ skipped: entries, lost: restarted && "the receiver was restarted" }]);
    });
  }

  // An EventSource does not tell why it was refused.
  async explain(url) {
    const stop = new AbortController();
    try {
      const answer = await fetch(url, { signal: stop.signal });
      if (!answer.ok) this.say("refused", (await answer.text()).slice(0, 200).trim());
    } catch {
      // it will be asked for again
    } finally {
      stop.abort();
    }
  }

  take(items) {
    this.waiting.push(...items);
    if (this.waiting.length <= WAITING) return;
    // The oldest go. Their place in the order is before everything that is kept.
    const gone = this.waiting.splice(0, this.waiting.length - WAITING + 1);
    const skipped = gone.reduce((sum, item) => sum + (item.entry ? 1 : item.skipped), 0);
    this.waiting.unshift({ skipped, lost: gone.find(({ lost }) => lost)?.lost });
  }

  async look() {
    if (this.paused) return this.sayPaused();
    if (this.busy || this.waiting.length === 0) return;
    this.busy = true;
    const { generation } = this;
    try {
      const items = this.waiting.splice(0, AT_ONCE);
      const found = await this.regex.filter(items, ({ entry }) => entry?.text);
      if (generation !== this.generation) return;
      if (this.paused) this.waiting.unshift(...found);
      else this.show(found);
    } finally {
      this.busy = false;
    }
  }

  show(items) {
    for (const { entry, skipped, lost } of items) {
      if (entry) {
        this.seen += 1;
        this.filter.saw(entry.service);
        this.box.append(rowOf(entry));
      } else this.showSkipped(skipped, lost);
    }
    while (this.box.children.length > ROWS) this.box.firstElementChild.remove();
    this.sayCounts();
    this.follow();
  }

  showSkipped(n, lost) {
    this.skipped += n;
    const last = this.box.lastElementChild;
    const notice = last?.classList.contains("skipped") && !lost ? last : element("div", "skipped");
    notice.dataset.entries = Number(notice.dataset.entries ?? 0) + n;
    const lines = notice.dataset.entries === "1" ? "1 line skipped" : `${count(+notice.dataset.entries)} lines skipped`;
    const words = `${lost}: what came by meanwhile is not shown`;
    text(notice, lost ? (n ? `${words}, ${lines}` : words) : lines);
    if (notice !== last) this.box.append(notice);
  }

  // Following the end, and not

  isAtEnd() {
    return this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < EDGE;
  }

  leaveEnd() {
    if (!this.paused && this.box.scrollHeight > this.box.clientHeight) this.pause(true);
  }

  follow() {
    if (this.paused) return;
    this.box.scrollTop = this.box.scrollHeight;
    this.toldTop = this.box.scrollTop;
  }

  pause(paused) {
    this.paused = paused;
    $("#tail").classList.toggle("paused", paused);
    $("#pause").setAttribute("aria-pressed", String(paused));
    text($("#pause"), paused ? "Resume" : "Pause");
    text($("#tail-paused"), "");
    if (paused) return this.sayPaused();
    this.resumed = performance.now();
    this.follow();
  }

  // What is said of it

  say(state, why = "") {
    const words = {
      connecting: "connecting …",
      live: "live",
      reconnecting: "connection lost, trying again …",
      refused: `not available${why ? `: ${why}` : ""}; trying again every ${AGAIN / 1000} s`,
    };
    $("#tail").dataset.state = state;
    text($("#tail-state"), words[state]);
    this.sayCounts();
  }

  sayCounts() {
    text($("#tail-counts"), `${count(this.seen)} shown${this.skipped ? `, ${count(this.skipped)} skipped` : ""}`);
    $("#tail").classList.toggle("none", this.box.children.length === 0);
  }

  sayPaused() {
    const entries = this.waiting.filter(({ entry }) => entry).length;
    const skipped = this.waiting.reduce((sum, item) => sum + (item.skipped ?? 0), 0);
    const parts = ["paused"];
    if (entries) parts.push(`${count(entries)} new`);
    if (skipped) parts.push(`${count(skipped)} lines skipped`);
    text($("#tail-paused"), parts.join(", "));
  }
}
