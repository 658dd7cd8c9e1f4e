// Questions that must be answered before anything else: native dialogs, which keep the focus and give it back.

import { h } from "./dom.js";

/**
 * Shows a dialog and waits for its end.
 *
 * @param {string} title
 * @param {Node[]} content
 * @param {{ action: string, isDangerous?: boolean }} options the word on the button that means yes
 * @returns {Promise<boolean>} whether it was answered with yes
 */
export function askInDialog(title, content, { action, isDangerous = false }) {
  return new Promise((resolve) => {
    const yes = h("button", { type: "submit", class: isDangerous ? "button danger" : "button primary" }, action);
    const no = h("button", { type: "button", class: "button", on: { click: () => dialog.close() } }, "Cancel");
    const heading = h("h2", { id: "dialog-title" }, title);
    const form = h("form", { class: "dialog-form" }, heading, ...content, h("div", { class: "dialog-buttons" }, no, yes));
    const dialog = h("dialog", { class: "dialog", aria: { labelledby: "dialog-title" } }, form);
    let answer = false;
    form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      answer = true;
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * A labelled control, with a line below it that explains it.
 *
 * @param {string} label
 * @param {HTMLElement} control
 * @param {string} [hint]
 */
export function field(label, control, hint) {
  control.id ||= `field-${label.toLowerCase().replace(/\W+/g, "-")}`;
  const help = hint ? h("span", { class: "hint", id: `${control.id}-hint` }, hint) : null;
  if (help) control.setAttribute("aria-describedby", help.id);
  return h("div", { class: "field" }, h("label", { htmlFor: control.id }, label), control, help);
}
