// The conversations, kept in this browser and nowhere else: one entry of localStorage each.

const PREFIX = "transom.conversation.";
const UNNAMED = "New conversation";

/**
 * @typedef {{ model: string | null, temperature: number | null, maxTokens: number | null, seed: number | null,
 *   system: string, strategy: string, windowSize: number | null, keepFirst: number | null }} Settings null: the
 *   model's own
 * @typedef {{ role: "user" | "assistant", content: string, reasoning?: string, model?: string, note?: string,
 *   error?: string }} Message `note`: what is told below it
 * @typedef {{ id: string, title: string, changed: number, settings: Settings, messages: Message[], draft: string }}
 *   Conversation
 */

/** @returns {Settings} */
export function defaultSettings() {
  return {
    model: null,
    temperature: null,
    maxTokens: null,
    seed: null,
    system: "",
    strategy: "",
    windowSize: null,
    keepFirst: null,
  };
}

/**
 * A new one, which is kept as soon as something is said in it.
 *
 * @param {Settings} settings to begin with; copied
 * @returns {Conversation}
 */
export function begin(settings) {
  const id = crypto.getRandomValues(new Uint32Array(4)).reduce((text, part) => text + part.toString(36), "");
  return { id, title: UNNAMED, changed: Date.now(), settings: { ...settings }, messages: [], draft: "" };
}

/** @returns {Conversation[]} the last changed first; what cannot be read is left out */
export function all() {
  const found = [];
  for (let index = 0; index < localStorage.length; index += 1) {
    const name = localStorage.key(index);
    const conversation = name?.startsWith(PREFIX) ? read(name) : null;
    if (conversation) found.push(conversation);
  }
  return found.sort((one, other) => other.changed - one.changed);
}

/**
 * @param {string} id
 * @returns {Conversation | null}
 */
export function find(id) {
  return read(PREFIX + id);
}

/**
 * Keeps it as it is now.
 *
 * @param {Conversation} conversation
 * @returns {boolean} false: the browser has no room for it
 */
export function keep(conversation) {
  conversation.changed = Date.now();
  if (conversation.title === UNNAMED && conversation.messages.length) {
    conversation.title = titleOf(conversation.messages[0].content);
  }
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

/** @param {string} id */
export function forget(id) {
  localStorage.removeItem(PREFIX + id);
}

/**
 * As Markdown, for a file.
 *
 * @param {Conversation} conversation
 */
export function exported(conversation) {
  const parts = conversation.messages.map(
    (message) => `**${message.role === "user" ? "You" : (message.model ?? "Model")}**\n\n${message.content}\n`,
  );
  return `# ${conversation.title}\n\n${parts.join("\n")}`;
}

/** @param {string} text */
function titleOf(text) {
  const words = text.trim().replace(/\s+/g, " ");
  return words.length > 48 ? `${words.slice(0, 47)}…` : words || UNNAMED;
}

/** @param {string} name */
function read(name) {
  try {
    const found = JSON.parse(localStorage.getItem(name) ?? "null");
    if (!found || !Array.isArray(found.messages)) return null;
    return { draft: "", ...found, settings: { ...defaultSettings(), ...found.settings } };
  } catch {
    return null;
  }
}
