// A block of code with a button that copies it.

import { announce, h } from "../dom.js";

/**
 * @param {string} code
 * @param {string} language as the model called it, "" for none
 */
export function codeBlock(code, language) {
  const copy = h("button", { type: "button", class: "copy-button", on: { click: () => copied(copy, code) } }, "Copy");
  const caption = h("figcaption", {}, h("span", {}, language || "code"), copy);
  const text = h("pre", { tabIndex: 0 }, h("code", {}, code));
  return h("figure", { class: "code" }, caption, text);
}

/**
 * @param {HTMLButtonElement} button
 * @param {string} text
 */
export async function copied(button, text) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  announce(button.textContent);
  setTimeout(() => (button.textContent = before), 1500);
}
