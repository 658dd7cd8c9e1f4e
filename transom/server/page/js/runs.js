// Answers that are being written, each for one conversation. They go on while another one is read.

import { ApiError, stream } from "./api.js";
import { count, rate } from "./format.js";
import { completionOf, isChat } from "./prompt.js";

/** @typedef {import("./conversations.js").Conversation} Conversation @typedef {import("./conversations.js").Message} Message */

/** Ids of the answers that this page asked for. @type {Set<string>} */
export const ownAnswers = new Set();

/** @type {Map<string, Run>} by conversation */
const running = new Map();

const LENGTH_WORDS = /** @type {Record<string, string>} */ ({
  max_tokens: "ended at the maximum of tokens",
  context: "ended because the context window is full",
  budget: "ended because the memory for keys and values is full",
});

/**
 * @param {string} conversationId
 * @returns {Run | undefined}
 */
export function runOf(conversationId) {
  return running.get(conversationId);
}

/** One answer under way. */
export class Run {
  /**
   * @param {any} model
   * @param {Conversation} conversation whose last message is the answer, empty so far
   * @param {{ onChange: (run: Run) => void, onEnd: (run: Run, error: unknown) => void }} listener
   */
  constructor(model, conversation, listener) {
    this.model = model;
    this.conversation = conversation;
    this.message = /** @type {Message} */ (conversation.messages.at(-1));
    this.listener = listener;
    this.controller = new AbortController();
    /** @type {string | null} */
    this.answerId = null;
    /** @type {any} */
    this.usage = null;
    /** @type {{ total: number, processed: number } | null} */
    this.progress = null;
    this.wasStopped = false;
    this.firstAt = 0;
    this.ending = "";
  }

  /** Runs to the end, whatever that is. */
  async go() {
    running.set(this.conversation.id, this);
    let failure = null;
    try {
      const { path, body } = completionOf(this.model, this.conversation, this.conversation.messages.slice(0, -1));
      for await (const chunk of stream(path, { body, signal: this.controller.signal })) this.#take(chunk);
    } catch (error) {
      if (!this.wasStopped) failure = error;
    }
    running.delete(this.conversation.id);
    this.message.note = this.#note();
    if (failure && this.hasBegun) this.message.error = wordsOf(failure);
    this.listener.onEnd(this, failure);
  }

  /** Ends it; what was written stays. */
  stop() {
    this.wasStopped = true;
    this.controller.abort();
  }

  get hasBegun() {
    return this.message.content !== "" || Boolean(this.message.reasoning);
  }

  /** @param {any} chunk */
  #take(chunk) {
    if (!this.answerId && chunk.id) {
      this.answerId = chunk.id;
      ownAnswers.add(chunk.id);
    }
    this.usage = chunk.usage ?? this.usage;
    this.progress = chunk.prompt_progress ?? this.progress;
    const choice = chunk.choices?.[0];
    if (choice) this.#takeChoice(choice);
    this.listener.onChange(this);
  }

  /** @param {any} choice */
  #takeChoice(choice) {
    const text = isChat(this.model) ? choice.delta?.content : choice.text;
    const reasoning = choice.delta?.reasoning_content;
    if ((text || reasoning) && !this.firstAt) this.firstAt = performance.now();
    if (text) this.message.content += text;
    if (reasoning) this.message.reasoning = (this.message.reasoning ?? "") + reasoning;
    if (choice.finish_reason === "length") this.ending = LENGTH_WORDS[choice.length_cause] ?? "ended at a limit";
  }

  #note() {
    const parts = [];
    if (this.usage) {
      const cached = this.usage.prompt_tokens_details?.cached_tokens;
      const forgotten = this.usage.prompt_tokens_details?.evicted_tokens;
      parts.push(`${count(this.usage.prompt_tokens)} tokens in${cached ? `, ${count(cached)} found again` : ""}`);
      parts.push(`${count(this.usage.completion_tokens)} out`);
      const seconds = (performance.now() - this.firstAt) / 1000;
      if (this.firstAt && this.usage.completion_tokens > 1 && seconds > 0) {
        parts.push(`${rate((this.usage.completion_tokens - 1) / seconds)} tokens/s`);
      }
      if (forgotten) parts.push(`${count(forgotten)} forgotten`);
    }
    if (this.wasStopped) parts.push("stopped by you");
    if (this.ending) parts.push(this.ending);
    return parts.join(" · ");
  }
}

/** @param {unknown} error */
export function wordsOf(error) {
  if (!(error instanceof ApiError)) return `Something went wrong in this page: ${error}`;
  if (error.code === "context_length_exceeded") return `Too long for this model's context window; nothing was cut. ${error.message}`;
  return error.retryAfter ? `${error.message} Try again in ${Math.ceil(error.retryAfter)} s.` : error.message;
}
