// What of a conversation is sent, in which words. Pure. Nothing is ever left out: what is too long is the server's to refuse.

/** How far a model without chat template goes on when nobody says how far. */
export const CONTINUED_TOKENS = 256;

/** @typedef {import("./conversations.js").Conversation} Conversation @typedef {import("./conversations.js").Message} Message */

/**
 * Whether a model chats, or continues text: then a conversation is one text, written by turns.
 *
 * @param {any} model an entry of /v1/models
 */
export function isChat(model) {
  return Boolean(model?.meta?.has_chat_template);
}

/**
 * Route and body of the answer to these messages.
 *
 * @param {any} model
 * @param {Conversation} conversation
 * @param {Message[]} messages
 */
export function completionOf(model, conversation, messages) {
  const { temperature, maxTokens, seed } = conversation.settings;
  const body = {
    model: model.id,
    ...promptOf(model, conversation, messages),
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
    ...(temperature === null ? {} : { temperature }),
    ...maxTokensOf(model, maxTokens),
    ...(seed === null ? {} : { seed }),
    ...cacheOf(conversation.settings),
  };
  return { path: isChat(model) ? "/v1/chat/completions" : "/v1/completions", body };
}

/**
 * Text has no end of its own: without a number it goes on for a paragraph or two.
 *
 * @param {any} model
 * @param {number | null} given
 */
function maxTokensOf(model, given) {
  const maxTokens = given ?? (isChat(model) ? null : CONTINUED_TOKENS);
  return maxTokens === null ? {} : { max_tokens: maxTokens };
}

/**
 * Route and body of the question how many tokens these messages are.
 *
 * @param {any} model
 * @param {Conversation} conversation
 * @param {Message[]} messages
 */
export function tokenCountOf(model, conversation, messages) {
  const path = isChat(model) ? "/v1/chat/completions/input_tokens" : "/tokenize";
  return { path, body: { model: model.id, ...promptOf(model, conversation, messages) } };
}

/**
 * @param {any} model
 * @param {Conversation} conversation
 * @param {Message[]} messages
 */
function promptOf(model, conversation, messages) {
  const system = conversation.settings.system;
  if (!isChat(model)) return { prompt: (system ? `${system}\n\n` : "") + textOf(messages) };
  const told = messages.map(({ role, content }) => ({ role, content }));
  return { messages: system ? [{ role: "system", content: system }, ...told] : told };
}

/**
 * One text. What the model writes goes on where the text before it ends; what a person adds is a paragraph of its own,
 * unless one of the two has white space there.
 *
 * @param {Message[]} messages
 */
export function textOf(messages) {
  return messages.reduce((text, { role, content }) => {
    const isApart = role === "user" && text !== "" && !/\s$/.test(text) && !/^\s/.test(content);
    return text + (isApart ? "\n\n" : "") + content;
  }, "");
}

/** @param {import("./conversations.js").Settings} settings */
function cacheOf({ strategy, windowSize, keepFirst }) {
  if (!strategy) return {};
  const sizes = {
    ...(windowSize === null ? {} : { window_size: windowSize }),
    ...(keepFirst === null ? {} : { keep_first: keepFirst }),
  };
  return { cache: { strategy, ...sizes } };
}
