// What is served, and one page for each model: its window, its memory, what it may forget.

import { json } from "./api.js";
import { h } from "./dom.js";
import { bytes, count } from "./format.js";
import { loadModels, models } from "./models.js";
import { wordsOf } from "./runs.js";
import { ModelWindows } from "./windows/view.js";
import { watch } from "./windows/watch.js";

const STRATEGY_WORDS = [
  ["full", "Every token is seen for as long as the request runs. What does not fit in RAM is on SSD, and still seen."],
  ["sliding_window", "The last window_size tokens are seen, the others are forgotten."],
  ["keep_first", "The first keep_first tokens and the last ones, window_size in all."],
  ["fifo", "As many of the last tokens as the memory holds; the oldest are forgotten first."],
  ["adaptive", "With SSD, what is attended to most is kept in RAM. Without, what is attended to least is forgotten."],
];

export class ModelsView {
  constructor() {
    this.body = h("div", { class: "models-body" });
    this.element = h("section", { class: "view models-view", aria: { label: "Models" } }, this.body);
    this.end = () => {};
  }

  /** @param {string | null} id null: all of them */
  async open(id) {
    this.close();
    this.body.replaceChildren(h("p", { class: "empty" }, "Loading …"));
    try {
      await loadModels();
      if (id === null) this.body.replaceChildren(h("h1", {}, "Models"), h("ul", { class: "model-list" }, ...models().map(entryOf)));
      else await this.#showOne(id);
    } catch (error) {
      this.body.replaceChildren(h("h1", {}, id ?? "Models"), h("p", { class: "message-error", role: "alert" }, wordsOf(error)));
    }
  }

  close() {
    this.end();
    this.end = () => {};
  }

  /** @param {string} id */
  async #showOne(id) {
    const path = `/v1/models/${id.split("/").map(encodeURIComponent).join("/")}`;
    const model = await json(path);
    const cache = await json(`${path}/cache`).catch(() => null);
    const live = new ModelWindows(model.id);
    this.body.replaceChildren(
      h("p", { class: "back" }, h("a", { href: "#/models" }, "All models")),
      h("header", { class: "view-head" }, h("h1", {}, model.id), h("span", { class: "tag" }, model.status)),
      ...(model.reason ? [h("p", { class: "message-error" }, model.reason)] : []),
      section("Context", contextFacts(model)),
      section("Model", modelFacts(model)),
      section("Memory", memoryFacts(model, cache)),
      h("section", { class: "facts-section" }, h("h2", {}, "Now"), live.element),
      h("section", { class: "facts-section" }, h("h2", {}, "Strategies"), strategies(model)),
    );
    live.element.querySelector("header")?.remove();
    this.end = watch((windows) => {
      const seen = windows.models.find((each) => each.id === model.id);
      if (seen) live.show(seen);
    });
  }
}

/** @param {any} model */
function entryOf(model) {
  const window = `${count(model.max_model_len)} tokens`;
  const about = [model.meta.architecture, model.meta.quantization, model.meta.size && bytes(model.meta.size)].filter(Boolean);
  const name = h("a", { href: `#/models/${encodeURIComponent(model.id)}` }, model.id);
  return h("li", {}, h("h2", {}, name, " ", h("span", { class: "tag" }, model.status)), h("p", {}, h("strong", {}, window), ` · ${about.join(" · ")}`));
}

/** @param {any} model @returns {[string, string | null][]} */
function contextFacts(model) {
  const { meta } = model;
  return [
    ["Context window", `${count(meta.n_ctx)} tokens`],
    ["Trained for", meta.n_ctx_train === meta.n_ctx ? null : `${count(meta.n_ctx_train)} tokens`],
    ["Attention window", model.attention_window === null ? "everything" : `the last ${count(model.attention_window)} tokens, in sliding layers`],
    ["Longest request", meta.max_request_tokens === null ? null : `${count(meta.max_request_tokens)} tokens, with these budgets`],
    ["Chat", meta.has_chat_template ? "by its template" : "no template: it continues text"],
  ];
}

/** @param {any} model @returns {[string, string | null][]} */
function modelFacts({ meta, aliases }) {
  return [
    ["Architecture", meta.architecture],
    ["Parameters", meta.n_params === null ? null : count(meta.n_params)],
    ["Layers", `${count(meta.n_layers)}, ${count(meta.n_embd)} wide`],
    ["Vocabulary", `${count(meta.n_vocab)} tokens`],
    ["Weights", [meta.quantization, meta.size === null ? null : bytes(meta.size)].filter(Boolean).join(", ")],
    ["Also called", aliases.join(", ") || null],
  ];
}

/** @param {any} model @param {any} cache @returns {[string, string | null][]} */
function memoryFacts({ meta }, cache) {
  return [
    ["Keys and values", `${bytes(meta.kv_bytes_per_token)} a token, as ${meta.kv_dtype}`],
    ["RAM for them", bytes(meta.kv_cache_ram_bytes)],
    ["SSD for them", meta.max_ssd_bytes ? bytes(meta.max_ssd_bytes) : "none"],
    ["Process at most", meta.max_ram_bytes === null ? null : bytes(meta.max_ram_bytes)],
    ["Requests at once", count(meta.max_num_seqs)],
    ["Guessed tokens", meta.max_draft_tokens ? `up to ${meta.max_draft_tokens} at a time` : "none"],
    ["Read from SSD", cache?.tiers[1] ? bytes(cache.tiers[1].read_bytes) : null],
    ["Written to SSD", cache?.tiers[1] ? bytes(cache.tiers[1].written_bytes) : null],
  ];
}

/** @param {any} model */
function strategies({ meta }) {
  const entries = STRATEGY_WORDS.map(([name, words]) => {
    const isOwn = name === meta.cache_strategy;
    return h("div", {}, h("dt", {}, h("code", {}, name), isOwn && h("span", { class: "tag own" }, "this model's")), h("dd", {}, words));
  });
  return h("dl", { class: "strategies" }, ...entries);
}

/**
 * @param {string} title
 * @param {[string, string | null][]} facts null: not known, or not worth a line
 */
function section(title, facts) {
  const rows = facts.filter(([, value]) => value !== null).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
  return h("section", { class: "facts-section" }, h("h2", {}, title), h("dl", { class: "facts" }, ...rows));
}
