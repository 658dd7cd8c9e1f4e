// Where one writes: the text, what it takes of the window, and the button that sends it or stops the answer.

import { ContextMeter } from "./context_meter.js";
import { h, icon } from "./dom.js";

const SEND = "M10 16V4M5 9l5-5 5 5";
const STOP = "M6 6h8v8H6z";

/** @typedef {{ send: (text: string) => void, stop: () => void, change: (text: string) => void }} ComposerListener */

export class Composer {
  /** @param {ComposerListener} listener */
  constructor(listener) {
    this.listener = listener;
    this.isRunning = false;
    this.mayBeEmpty = false;
    this.meter = new ContextMeter();
    const keys = { keydown: (/** @type {KeyboardEvent} */ event) => this.#key(event), input: () => this.#changed() };
    this.input = h("textarea", { id: "composer-input", rows: 1, aria: { describedby: "composer-hint" }, on: keys });
    this.label = h("label", { htmlFor: "composer-input", class: "visually-hidden" }, "Message");
    this.hint = h("span", { id: "composer-hint", class: "composer-hint" }, "Enter sends, Shift+Enter: new line");
    this.error = h("p", { class: "composer-error", role: "alert" });
    this.button = h("button", { type: "submit", class: "send-button" });
    const row = h("div", { class: "composer-row" }, this.input, this.button);
    const foot = h("div", { class: "composer-foot" }, this.meter.element, this.hint);
    this.element = h("form", { class: "composer", aria: { label: "Write" } }, this.label, this.error, row, foot);
    this.element.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#act();
    });
    this.show({ isRunning: false, mayBeEmpty: false });
  }

  get text() {
    return this.input.value;
  }

  /** @param {string} text */
  setText(text) {
    this.input.value = text;
    this.#grow();
    this.#enable();
  }

  /** @param {string} text "" for none */
  setError(text) {
    this.error.textContent = text;
  }

  /** @param {{ isRunning: boolean, mayBeEmpty: boolean }} state `mayBeEmpty`: the model can go on by itself */
  show({ isRunning, mayBeEmpty }) {
    this.isRunning = isRunning;
    this.mayBeEmpty = mayBeEmpty;
    this.button.replaceChildren(icon(isRunning ? STOP : SEND));
    this.button.classList.toggle("stop", isRunning);
    this.input.placeholder = mayBeEmpty ? "Add to the text, or send nothing and let it go on" : "Write a message";
    this.#enable();
  }

  focus() {
    this.input.focus();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!this.isRunning) this.#act();
    } else if (event.key === "Escape" && this.isRunning) {
      this.listener.stop();
    }
  }

  #act() {
    if (this.isRunning) this.listener.stop();
    else if (this.#canSend()) this.listener.send(this.text);
  }

  #canSend() {
    return this.text.trim() !== "" || this.mayBeEmpty;
  }

  #changed() {
    this.setError("");
    this.#grow();
    this.#enable();
    this.listener.change(this.text);
  }

  #enable() {
    this.button.disabled = !this.isRunning && !this.#canSend();
    const label = this.isRunning ? "Stop" : this.mayBeEmpty && !this.text.trim() ? "Continue" : "Send";
    this.button.setAttribute("aria-label", label);
    this.button.title = label;
  }

  #grow() {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight}px`;
  }
}
