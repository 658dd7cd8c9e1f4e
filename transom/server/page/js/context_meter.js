// How much of the context window the conversation takes: counted by the server while it is written, and while it is
// answered, where its blocks are.

import { json } from "./api.js";
import { h } from "./dom.js";
import { count, percent } from "./format.js";
import { tokenCountOf } from "./prompt.js";
import { watch } from "./windows/watch.js";

const PAUSE = 350;
const PARTS = ["cold", "hot", "plain"];

/** Beside the input. */
export class ContextMeter {
  constructor() {
    this.parts = Object.fromEntries(PARTS.map((name) => [name, h("span", { class: `meter-part ${name}` })]));
    this.bar = h("div", { class: "meter-bar", role: "meter", aria: { label: "Context window in use", valuemin: "0" } }, ...Object.values(this.parts));
    this.words = h("span", { class: "meter-words" });
    this.element = h("div", { class: "context-meter" }, this.bar, this.words);
    this.timer = 0;
    this.counting = new AbortController();
    this.endWatching = () => {};
  }

  /**
   * Counts when nothing has changed for a moment.
   *
   * @param {any} model
   * @param {import("./conversations.js").Conversation} conversation
   * @param {import("./conversations.js").Message[]} messages with what is being written
   */
  count(model, conversation, messages) {
    clearTimeout(this.timer);
    this.counting.abort();
    if (!model) return;
    if (!messages.length) {
      this.#show(model, { plain: 0 });
      return;
    }
    this.timer = setTimeout(() => this.#ask(model, conversation, messages), PAUSE);
  }

  /**
   * Follows a running answer.
   *
   * @param {import("./runs.js").Run} run
   */
  follow(run) {
    clearTimeout(this.timer);
    this.counting.abort();
    this.rest();
    this.words.textContent = "";
    this.endWatching = watch((windows) => {
      const model = windows.models.find((each) => each.id === run.model.id);
      const request = model?.requests.find((/** @type {any} */ each) => each.answer_id === run.answerId);
      if (request?.state === "running") {
        this.#show(run.model, { cold: request.cold_tokens, hot: request.hot_tokens, forgotten: request.evicted_tokens });
      }
    });
  }

  /** Follows nothing any more. */
  rest() {
    this.endWatching();
    this.endWatching = () => {};
  }

  /**
   * @param {any} model
   * @param {import("./conversations.js").Conversation} conversation
   * @param {import("./conversations.js").Message[]} messages
   */
  async #ask(model, conversation, messages) {
    this.counting = new AbortController();
    const { signal } = this.counting;
    const { path, body } = tokenCountOf(model, conversation, messages);
    try {
      const answer = await json(path, { body, signal, mayAsk: false });
      if (!signal.aborted) this.#show(model, { plain: answer.input_tokens ?? answer.count });
    } catch {
      if (!signal.aborted) this.words.textContent = "";
    }
  }

  /**
   * @param {any} model
   * @param {{ plain?: number, hot?: number, cold?: number, forgotten?: number }} tokens
   */
  #show(model, { plain = 0, hot = 0, cold = 0, forgotten = 0 }) {
    const window = model.max_model_len;
    const used = plain + hot + cold + forgotten;
    const parts = /** @type {Record<string, number>} */ ({ plain: plain + forgotten, hot, cold });
    for (const name of PARTS) this.parts[name].style.width = `${Math.min(100, (100 * parts[name]) / window)}%`;
    const total = `${count(used)} of ${count(window)} tokens`;
    const where = cold ? `${count(hot)} in RAM, ${count(cold)} on SSD` : percent(used / window);
    const isOver = used > window;
    this.words.textContent = isOver ? `${total}: ${count(used - window)} too many` : `${total} · ${where}`;
    this.element.classList.toggle("over", isOver);
    this.element.dataset.tokens = String(used);
    this.bar.setAttribute("aria-valuemax", String(window));
    this.bar.setAttribute("aria-valuenow", String(Math.min(used, window)));
    this.bar.setAttribute("aria-valuetext", this.words.textContent);
  }
}
