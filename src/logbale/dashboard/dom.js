// The document: made once, then filled. Every value becomes text (textContent), never markup.

export const $ = (selector) => document.querySelector(selector);

export function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

export function text(node, value) {
  if (node.textContent !== value) node.textContent = value; // an untouched node keeps the reader's selection
}

export function attribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// As many children as there are rows, each made once and then filled.
export function fill(parent, rows, make, update) {
  while (parent.children.length > rows.length) parent.lastElementChild.remove();
  while (parent.children.length < rows.length) parent.append(make());
  rows.forEach((row, index) => update(parent.children[index], row));
}

export function texts(parent, values) {
  values.forEach((value, index) => text(parent.children[index], value));
}

// Controls, marks that turn the direction of what follows, and what takes no room: shown by number, so that a name
// cannot look like another one. Newline and tab stay: a stack trace is read as it was written.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\p{Cf}\u2028\u2029]/gu;

export function visible(value, limit = 200) {
  const all = String(value);
  const shown = all.slice(0, limit).replace(UNSEEN, (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`);
  return all.length > limit ? `${shown}… (${all.length.toLocaleString("en")} characters)` : shown;
}

// A shipper's reason for its level ends in the level, which stands beside it wherever it is shown.
export const because = (reason) => visible(String(reason).replace(/: (\d+ → \d+|stays at.*)$/, ""), 300);

// A peer's value of whatever type, as text.
export function spoken(value, limit) {
  return visible(typeof value === "object" ? (JSON.stringify(value) ?? "") : value, limit);
}
