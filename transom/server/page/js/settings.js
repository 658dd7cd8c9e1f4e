// What a conversation asks its model for, beside the text.

import { askInDialog, field } from "./dialogs.js";
import { h } from "./dom.js";
import { CONTINUED_TOKENS } from "./prompt.js";

/** @typedef {import("./conversations.js").Settings} Settings */

const STRATEGIES = [
  ["", "The model's own"],
  ["full", "full: nothing is forgotten"],
  ["sliding_window", "sliding_window: the last tokens"],
  ["keep_first", "keep_first: the first and the last tokens"],
  ["fifo", "fifo: what fits, the oldest goes first"],
  ["adaptive", "adaptive: what is attended to most"],
];

/**
 * Asks, and changes `settings` when they are agreed to.
 *
 * @param {Settings} settings
 * @param {boolean} continues the model continues text
 * @returns {Promise<boolean>} whether something may have changed
 */
export async function editSettings(settings, continues) {
  const temperature = number(settings.temperature, { min: 0, max: 2, step: "any", placeholder: "The model's own" });
  const maxTokens = number(settings.maxTokens, { min: 1, step: 1, placeholder: continues ? String(CONTINUED_TOKENS) : "What is left of the window" });
  const seed = number(settings.seed, { step: 1, placeholder: "Another one each time" });
  const system = h("textarea", { rows: 4, value: settings.system });
  const strategy = h("select", {}, ...STRATEGIES.map(([value, words]) => h("option", { value }, words)));
  strategy.value = settings.strategy;
  const windowSize = number(settings.windowSize, { min: 1, step: 1, placeholder: "–" });
  const keepFirst = number(settings.keepFirst, { min: 0, step: 1, placeholder: "–" });
  const sizes = h("div", { class: "field-row" }, field("Window size", windowSize), field("Keep first", keepFirst));
  const showSizes = () => {
    windowSize.disabled = !["sliding_window", "keep_first", "fifo"].includes(strategy.value);
    keepFirst.disabled = strategy.value !== "keep_first";
  };
  strategy.addEventListener("change", showSizes);
  showSizes();
  const content = [
    field("System prompt", system, "Said to the model before everything else."),
    h("div", { class: "field-row" }, field("Temperature", temperature), field("Max tokens", maxTokens), field("Seed", seed)),
    field("Cache strategy", strategy, "What the attention of an answer may forget. Sizes are in tokens."),
    sizes,
  ];
  if (!(await askInDialog("Settings of this conversation", content, { action: "Save" }))) return false;
  Object.assign(settings, {
    temperature: valueOf(temperature),
    maxTokens: valueOf(maxTokens),
    seed: valueOf(seed),
    system: system.value,
    strategy: strategy.value,
    windowSize: windowSize.disabled ? null : valueOf(windowSize),
    keepFirst: keepFirst.disabled ? null : valueOf(keepFirst),
  });
  return true;
}

/**
 * @param {number | null} value
 * @param {Record<string, unknown>} properties
 */
function number(value, properties) {
  return h("input", { type: "number", inputMode: "decimal", value: value === null ? "" : String(value), ...properties });
}

/** @param {HTMLInputElement} input */
function valueOf(input) {
  return input.value.trim() === "" ? null : Number(input.value);
}
