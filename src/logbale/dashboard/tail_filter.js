// What the live tail is to show: a substring, levels and services, which the receiver looks for; and a regular
// expression, which this browser does.

import { $, attribute, element, text, visible } from "./dom.js";

const LEVELS = ["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"];
const NONE = "-"; // how the receiver calls "no level" and "no service"
const CHIPS = 12; // of each kind
const PAUSE = 300; // ms without a key before a text counts

class Chips {
  chosen = new Set();
  known = new Set();

  constructor(parent, changed) {
    this.parent = parent;
    this.changed = changed;
  }

  // A name that a comma would split cannot be asked for.
  add(name) {
    if (this.known.has(name) || this.known.size >= CHIPS || name.includes(",") || name.length > 100) return;
    this.known.add(name);
    const chip = element("button", "chip", name === NONE ? "none" : visible(name, 24));
    chip.type = "button";
    chip.title = visible(name, 100);
    attribute(chip, "aria-pressed", "false");
    chip.addEventListener("click", () => {
      this.chosen.has(name) ? this.chosen.delete(name) : this.chosen.add(name);
      attribute(chip, "aria-pressed", String(this.chosen.has(name)));
      this.changed();
    });
    this.parent.append(chip);
  }
}

export class TailFilter {
  constructor({ changed, regexChanged }) {
    this.levels = new Chips($("#level-chips"), changed);
    this.services = new Chips($("#service-chips"), changed);
    LEVELS.forEach((name) => this.levels.add(name));
    settled($("#tail-text"), changed);
    settled($("#tail-regex"), (source) => {
      try {
        regexChanged(source);
        this.sayRegex("");
      } catch (error) {
        this.sayRegex(`no regular expression (${error.message.split(": ").at(-1)}): every line is shown`);
      }
    });
    $("#tail-filter").addEventListener("submit", (event) => event.preventDefault());
  }

  query() {
    const query = new URLSearchParams();
    const { value } = $("#tail-text");
    if (value) query.set("q", value);
    if (this.levels.chosen.size) query.set("level", [...this.levels.chosen].join(","));
    if (this.services.chosen.size) query.set("service", [...this.services.chosen].join(","));
    return query;
  }

  // Levels that occurred since the receiver's start.
  knows(levels) {
    Object.keys(levels).forEach((name) => this.levels.add(name || NONE));
  }

  saw(service) {
    this.services.add(service || NONE);
    $("#service-chips").hidden = false;
  }

  sayRegex(why) {
    attribute($("#tail-regex"), "aria-invalid", String(why !== ""));
    text($("#regex-said"), why && visible(why, 300));
  }
}

// Calls back when the text of an input is another one and the keys rest.
function settled(input, changed) {
  let timer = null;
  let last = input.value;
  const settle = () => {
    clearTimeout(timer);
    if (input.value === last) return;
    last = input.value;
    changed(last);
  };
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(settle, PAUSE);
  });
  input.addEventListener("change", settle);
}
