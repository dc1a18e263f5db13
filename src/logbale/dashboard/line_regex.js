// The reader's own regular expression over lines: never in the page's thread, and never for long.

const LIMIT = 1000; // ms that one batch of lines may take
const ADVICE = "a repetition inside a repetition, such as (a+)+, never ends";
const SEARCHED = 2000; // characters of a line that are looked at: an honest but quadratic pattern ends, too

export class LineRegex {
  source = "";
  worker = null; // promised; one question at a time

  constructor(failed) {
    this.failed = failed; // called with why there is no expression any more
  }

  // Takes it, or throws SyntaxError and then has none. "" is none.
  set(source) {
    this.source = "";
    if (source) new RegExp(source);
    this.source = source;
  }

  // The items whose text matches, and those without a text; all of them where there is no expression any more.
  async filter(items, textOf) {
    const texts = items.map(textOf);
    if (!this.source || texts.every((text) => text === undefined)) return items;
    const { source } = this;
    try {
      const matches = await this.ask(
        source,
        texts.map((text) => (text ?? "").slice(0, SEARCHED)),
      );
      return items.filter((_, index) => texts[index] === undefined || matches[index]);
    } catch (error) {
      this.worker = null;
      if (source === this.source) {
        this.source = "";
        this.failed(error.message);
      }
      return items;
    }
  }

  async ask(source, lines) {
    this.worker ??= start();
    const worker = await this.worker;
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => {
        worker.terminate();
        reject(new Error(`it took over ${LIMIT / 1000} s for ${lines.length} lines and is switched off; ${ADVICE}`));
      }, LIMIT);
      worker.onmessage = ({ data: matches }) => {
        clearTimeout(late);
        resolve(matches);
      };
      worker.postMessage({ source, lines });
    });
  }
}

function start() {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("regex_worker.js", import.meta.url));
    worker.onmessage = () => resolve(worker); // the time to start is not the expression's
    worker.onerror = () =>
      reject(new Error("it cannot be tested while the dashboard does not answer; every line is shown"));
  });
}
