// One message as it is read: who says it, what, and what is to be known about it. Draws; decides nothing.

import { h } from "./dom.js";
import { copied } from "./markdown/code.js";
import { markdown } from "./markdown/blocks.js";

/** @typedef {import("./conversations.js").Message} Message */

/** The element of a message that may still be growing. */
export class MessageView {
  /**
   * @param {Message} message
   * @param {boolean} isPlain the model continues text: what it writes is shown as it is
   */
  constructor(message, isPlain) {
    this.message = message;
    this.isPlain = isPlain || message.role === "user";
    this.body = h("div", { class: this.isPlain ? "message-body plain" : "message-body prose" });
    this.thought = h("div", { class: "thought-text" });
    this.thoughts = h("details", { class: "thought", hidden: true }, h("summary", {}, "Reasoning"), this.thought);
    this.progress = h("p", { class: "progress", hidden: true });
    this.note = h("footer", { class: "message-note" });
    this.copy = h("button", { type: "button", class: "quiet-button", on: { click: () => this.#copy() } }, "Copy");
    this.error = h("p", { class: "message-error", role: "alert", hidden: true });
    const who = message.role === "user" ? "You" : (message.model ?? "Model");
    const head = h("header", { class: "message-head" }, h("h2", { class: "who" }, who), this.copy);
    const content = [head, this.thoughts, this.progress, this.body, this.error, this.note];
    const kind = `message ${message.role}${isPlain ? " continued" : ""}`;
    this.element = h("article", { class: kind, aria: { label: who } }, ...content);
    this.pending = 0;
    this.draw();
  }

  /** Soon, and once however often it is asked for: text comes faster than a screen shows it. */
  drawSoon() {
    this.pending ||= requestAnimationFrame(() => this.draw());
  }

  /** The message as it is now. */
  draw() {
    cancelAnimationFrame(this.pending);
    this.pending = 0;
    const { content, reasoning, note, error } = this.message;
    if (this.isPlain) this.body.textContent = content.trimStart();
    else this.body.replaceChildren(markdown(content));
    this.body.hidden = content === "";
    this.thoughts.hidden = !reasoning;
    this.thought.textContent = reasoning ?? "";
    this.note.textContent = note ?? "";
    this.note.hidden = !note;
    this.error.hidden = !error;
    this.error.textContent = error ?? "";
    this.copy.hidden = content === "";
  }

  /** @param {string} text what it waits for; "" when it waits no more */
  say(text) {
    this.progress.hidden = text === "";
    this.progress.textContent = text;
  }

  #copy() {
    copied(this.copy, this.message.content);
  }
}
