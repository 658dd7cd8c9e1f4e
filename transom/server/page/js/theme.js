// Light, dark, or as the system has it. Owns the choice, which this browser keeps.

const NAME = "transom.theme";

/** @type {Set<() => void>} */
const listeners = new Set();

/**
 * Applies the kept choice and follows the control.
 *
 * @param {HTMLSelectElement} select
 */
export function connectTheme(select) {
  select.value = localStorage.getItem(NAME) ?? "auto";
  apply(select.value);
  select.addEventListener("change", () => {
    localStorage.setItem(NAME, select.value);
    apply(select.value);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
}

/** @param {() => void} listener called when colours change: what is drawn by hand must be drawn again */
export function onThemeChange(listener) {
  listeners.add(listener);
}

/** @param {string} theme */
function apply(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  tell();
}

function tell() {
  for (const listener of listeners) listener();
}
