// One request and its window.

import { h } from "../dom.js";
import { count, percent, rate } from "../format.js";
import { Strip, attention } from "./strip.js";

const KIND_WORDS = /** @type {Record<string, string>} */ ({
  full_attention: "full attention",
  sliding_attention: "sliding attention",
});

/** Stays the same element for as long as the request is shown. */
export class RequestCard {
  /**
   * @param {string} requestId
   * @param {boolean} isOwn this page asked
   */
  constructor(requestId, isOwn) {
    /** @type {Strip[]} */
    this.strips = [];
    this.state = h("span", { class: "tag" });
    this.numbers = h("dl", { class: "numbers" });
    this.layers = h("div", { class: "layers" });
    const name = h("h3", {}, "Request ", h("code", {}, shortened(requestId)));
    const head = h("header", {}, name, isOwn && h("span", { class: "tag own" }, "this page"), this.state);
    const label = { label: `Request ${shortened(requestId)}` };
    this.element = h("article", { class: "request", aria: label, data: { request: requestId } }, head, this.numbers, this.layers);
  }

  /**
   * @param {any} request as the server tells it
   * @param {any} model
   * @param {boolean} isOver
   */
  show(request, model, isOver) {
    this.element.dataset.state = isOver ? "ended" : request.state;
    this.element.dataset.steps = String(model.steps);
    this.state.textContent = isOver ? "ended" : request.state === "waiting" ? "waiting" : phase(request);
    this.element.classList.toggle("ended", isOver);
    this.numbers.replaceChildren(...numbersOf(request, model, isOver));
    while (this.strips.length < request.layers.length) this.#addStrip(request.layers[this.strips.length], request);
    request.layers.forEach((/** @type {any} */ layer, /** @type {number} */ index) => {
      this.strips[index].show(layer, model.context_window, request.tokens);
      this.strips[index].words.textContent = `${kindWords(layer)} · ${attention(layer, request.tokens)}`;
    });
  }

  /** In the colours of the moment. */
  draw() {
    for (const strip of this.strips) strip.draw();
  }

  /**
   * @param {any} layer
   * @param {any} request
   */
  #addStrip(layer, request) {
    const strip = Object.assign(new Strip(), { words: h("p", { class: "strip-words" }) });
    strip.element.dataset.kind = layer.kind;
    strip.element.prepend(strip.words);
    this.strips.push(strip);
    this.layers.append(strip.element);
  }
}

/** @param {any} request */
function phase(request) {
  return request.prompt_tokens !== null && request.tokens < request.prompt_tokens ? "reading the prompt" : "answering";
}

/** @param {any} layer */
function kindWords(layer) {
  return `${layer.num_layers} ${layer.num_layers === 1 ? "layer" : "layers"} of ${KIND_WORDS[layer.kind] ?? layer.kind}`;
}

/** @param {string} requestId */
function shortened(requestId) {
  return requestId.replace(/^[a-z]+-/, "").slice(0, 8);
}

/**
 * @param {any} request
 * @param {any} model
 * @param {boolean} isOver
 */
function numbersOf(request, model, isOver) {
  const window = `${count(request.tokens)} of ${count(model.context_window)}`;
  const share = percent(request.tokens / model.context_window);
  if (request.state === "waiting") return number("Prompt", request.prompt_tokens === null ? "–" : count(request.prompt_tokens));
  return [
    ...number("Window", window, share),
    ...number("In RAM", count(request.hot_tokens)),
    ...number("On SSD", count(request.cold_tokens)),
    ...number("Forgotten", count(request.evicted_tokens)),
    ...number("Found again", count(request.cached_tokens)),
    ...number("Tokens/s", isOver ? "–" : rate(request.tokens_per_second)),
    ...number("Strategy", request.strategy),
  ];
}

/**
 * @param {string} name
 * @param {string} value
 * @param {string} [more]
 */
function number(name, value, more) {
  return [h("div", {}, h("dt", {}, name), h("dd", {}, value, more && h("span", { class: "more" }, ` ${more}`)))];
}
