// Dark, light, or what the system says: a button that goes round the three.

import { $, text } from "./dom.js";

const KEY = "logbale-theme";
const THEMES = ["system", "light", "dark"];

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // a browser that keeps nothing
  }
}

function keep(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // it holds until the page is left
  }
}

// `changed` is called whenever colours may be others: by the button, or by the system.
export function startTheme(changed) {
  let theme = THEMES.includes(stored()) ? stored() : "system";
  const apply = () => {
    document.documentElement.dataset.theme = theme;
    text($("#theme"), `Theme: ${theme}`);
    changed();
  };
  $("#theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    keep(theme);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  apply();
}
