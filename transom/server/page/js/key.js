// The question for an API key. It stays in this tab, and goes to this server alone.

import { apiKey, setApiKey } from "./api.js";
import { askInDialog, field } from "./dialogs.js";
import { h } from "./dom.js";

/** @type {Promise<boolean> | null} */
let asking = null;

/**
 * Asks once, however many wait for the answer.
 *
 * @returns {Promise<boolean>} whether there is a key to try
 */
export function askForKey() {
  asking ??= question().finally(() => {
    asking = null;
  });
  return asking;
}

async function question() {
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: false, value: apiKey() });
  const intro = apiKey()
    ? "The server takes another key than the one this tab has, or none was given yet."
    : "This server answers to those who have a key. It is kept until this tab is closed.";
  const title = "API key";
  const given = await askInDialog(title, [h("p", {}, intro), field("Key", input)], { action: "Use this key" });
  if (!given) return false;
  setApiKey(input.value.trim());
  return input.value.trim() !== "";
}
