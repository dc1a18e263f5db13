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

// As many children as there are rows, each made once and then filled.
export function fill(parent, rows, make, update) {
  while (parent.children.length > rows.length) parent.lastElementChild.remove();
  while (parent.children.length < rows.length) parent.append(make());
  rows.forEach((row, index) => update(parent.children[index], row));
}

export function texts(parent, values) {
  values.forEach((value, index) => text(parent.children[index], value));
}
