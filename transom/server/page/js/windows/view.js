// The place of the windows: every model with its tiers and rates, and below it the window of each of its requests.

import { h } from "../dom.js";
import { rate } from "../format.js";
import { ownAnswers } from "../runs.js";
import { onThemeChange } from "../theme.js";
import { Sparkline, reuseWords, tierGauge } from "./gauges.js";
import { Legend } from "./legend.js";
import { RequestCard } from "./request_card.js";
import { onConnection, watch } from "./watch.js";

const MAX_ENDED = 2;
const CONNECTION_WORDS = { live: "Live", waiting: "Reconnecting", off: "Paused" };

/** One model with its requests. */
export class ModelWindows {
  /** @param {string} id */
  constructor(id) {
    this.status = h("span", { class: "tag" });
    this.sparkline = new Sparkline();
    this.speed = h("strong", {}, "–");
    this.read = h("span", { class: "more" });
    this.speedBox = h("div", { class: "speed" }, h("span", { class: "gauge-name" }, "Tokens/s"), this.speed, this.read, this.sparkline.canvas);
    this.gauges = h("div", { class: "gauges" });
    this.reuse = h("p", { class: "reuse-words" });
    this.requests = h("div", { class: "requests" });
    this.empty = h("p", { class: "empty" }, "Nothing is running.");
    const name = h("h2", {}, h("a", { href: `#/models/${encodeURIComponent(id)}` }, id));
    const tiers = h("div", { class: "tiers" }, this.speedBox, this.gauges);
    this.element = h(
      "section",
      { class: "model-windows", aria: { label: id }, data: { model: id } },
      ...[h("header", {}, name, this.status), tiers, this.reuse, this.requests, this.empty],
    );
    /** @type {Map<string, { card: RequestCard, request: any, isOver: boolean }>} */
    this.cards = new Map();
  }

  /** @param {any} model as the server tells it */
  show(model) {
    this.status.textContent = model.status;
    this.element.dataset.steps = String(model.steps);
    const speed = model.tokens_per_second;
    this.speedBox.hidden = speed === null;
    if (speed !== null) this.#showSpeed(speed);
    this.gauges.replaceChildren(...(model.cache?.tiers ?? []).map(tierGauge));
    this.reuse.textContent = model.cache ? reuseWords(model.cache.reuse) : "";
    this.#showRequests(model);
  }

  /** In the colours of the moment. */
  draw() {
    for (const { card } of this.cards.values()) card.draw();
  }

  /** @param {any} speed */
  #showSpeed(speed) {
    this.speed.textContent = rate(speed.generated);
    this.read.textContent = speed.computed > speed.generated ? `${rate(speed.computed)} with prompts` : "";
    this.sparkline.add(speed.computed ?? 0);
  }

  /** @param {any} model */
  #showRequests(model) {
    const present = new Set(model.requests.map((/** @type {any} */ request) => request.request_id));
    for (const [id, entry] of this.cards) if (!present.has(id)) this.#end(id, entry, model);
    for (const request of model.requests) this.#showRequest(request, model);
    this.empty.hidden = this.cards.size > 0;
  }

  /**
   * @param {any} request
   * @param {any} model
   */
  #showRequest(request, model) {
    let entry = this.cards.get(request.request_id);
    if (!entry) {
      entry = { card: new RequestCard(request.request_id, ownAnswers.has(request.answer_id)), request, isOver: false };
      this.cards.set(request.request_id, entry);
      this.requests.prepend(entry.card.element);
    }
    entry.request = request;
    entry.isOver = false;
    entry.card.show(request, model, false);
  }

  /**
   * The last ones stay for a look: most requests are over too soon.
   *
   * @param {string} id
   * @param {{ card: RequestCard, request: any, isOver: boolean }} entry
   * @param {any} model
   */
  #end(id, entry, model) {
    if (!entry.isOver) entry.card.show(entry.request, model, true);
    entry.isOver = true;
    const ended = [...this.cards].filter(([, each]) => each.isOver);
    for (const [old, each] of ended.slice(0, -MAX_ENDED)) {
      each.card.element.remove();
      this.cards.delete(old);
    }
  }
}

/** All models, while it is looked at. */
export class WindowsView {
  constructor() {
    this.legend = new Legend();
    this.connection = h("span", { class: "connection", role: "status" }, "Connecting");
    this.models = h("div", { class: "models-windows" });
    this.element = h(
      "section",
      { class: "view windows-view", aria: { label: "Windows" } },
      h("header", { class: "view-head" }, h("h1", {}, "Windows"), this.connection),
      h("p", { class: "intro" }, "Each request's context window, block by block of 64 tokens, and where it is now."),
      this.legend.element,
      this.models,
    );
    /** @type {Map<string, ModelWindows>} */
    this.shown = new Map();
    this.end = () => {};
    onConnection((connection) => {
      this.connection.textContent = CONNECTION_WORDS[connection];
      this.connection.dataset.state = connection;
    });
    onThemeChange(() => this.#draw());
  }

  open() {
    this.end = watch((windows) => this.#show(windows));
    requestAnimationFrame(() => this.#draw());
  }

  close() {
    this.end();
  }

  /** @param {import("./watch.js").Windows} windows */
  #show(windows) {
    for (const model of windows.models) {
      let shown = this.shown.get(model.id);
      if (!shown) {
        shown = new ModelWindows(model.id);
        this.shown.set(model.id, shown);
        this.models.append(shown.element);
      }
      shown.show(model);
    }
  }

  #draw() {
    this.legend.draw();
    for (const shown of this.shown.values()) shown.draw();
  }
}
