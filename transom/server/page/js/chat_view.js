// One conversation: what was said, and the answer that is coming.

import { Composer } from "./composer.js";
import * as conversations from "./conversations.js";
import { askInDialog } from "./dialogs.js";
import { announce, h } from "./dom.js";
import { counted } from "./format.js";
import { MessageView } from "./messages.js";
import { modelOf, models } from "./models.js";
import { isChat } from "./prompt.js";
import { Run, runOf, wordsOf } from "./runs.js";
import { editSettings } from "./settings.js";

const NEAR = 80;

/** @typedef {import("./conversations.js").Conversation} Conversation */

export class ChatView {
  /** @param {{ changed: () => void, opened: (id: string) => void }} listener something was kept; one has a name now */
  constructor(listener) {
    this.listener = listener;
    this.conversation = conversations.begin(conversations.defaultSettings());
    /** @type {MessageView[]} */
    this.views = [];
    this.title = h("input", { class: "title-input", aria: { label: "Title of the conversation" }, spellcheck: false });
    this.model = h("select", { id: "model-select", class: "model-select", aria: { label: "Model" } });
    this.log = h("div", { class: "messages" });
    this.scroller = h("div", { class: "chat-scroll", tabIndex: 0, role: "region", aria: { label: "Conversation" } }, this.log);
    this.composer = new Composer({
      send: (text) => this.#send(text),
      stop: () => runOf(this.conversation.id)?.stop(),
      change: (text) => this.#drafted(text),
    });
    this.element = h("section", { class: "view chat-view", aria: { label: "Chat" } }, h("h1", { class: "visually-hidden" }, "Chat"), this.#head(), this.scroller, this.composer.element);
    this.title.addEventListener("change", () => this.#rename());
    this.model.addEventListener("change", () => this.#choose());
    for (const type of ["pagehide", "visibilitychange"]) document.addEventListener(type, () => this.#keepDraft());
  }

  #head() {
    const button = (/** @type {string} */ text, /** @type {() => void} */ click) =>
      h("button", { type: "button", class: "quiet-button", on: { click } }, text);
    this.settingsButton = button("Settings", () => this.#edit());
    this.kept = h("span", { class: "kept-actions" }, button("Export", () => this.#export()), button("Delete", () => this.#delete()));
    return h("header", { class: "chat-head" }, this.title, h("div", { class: "chat-actions" }, this.model, this.settingsButton, this.kept));
  }

  /** The models are known, or known anew. */
  showModels() {
    const options = models().map((model) => h("option", { value: model.id }, model.status === "loaded" ? model.id : `${model.id} (${model.status})`));
    this.model.replaceChildren(...options);
    this.#showSettings();
    this.#drawAll();
  }

  /** @param {Conversation | null} conversation null: a new one, with the settings of the one before */
  open(conversation) {
    this.#keepDraft();
    this.conversation = conversation ?? conversations.begin({ ...this.conversation.settings, system: "" });
    const run = runOf(this.conversation.id);
    if (run) this.conversation = run.conversation;
    this.composer.setError("");
    this.composer.setText(this.conversation.draft);
    this.#showSettings();
    this.#drawAll();
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  focus() {
    this.composer.focus();
  }

  get #chosen() {
    return modelOf(this.conversation.settings.model);
  }

  #showSettings() {
    if (this.#chosen) this.model.value = this.#chosen.id;
    this.title.value = this.conversation.title;
    this.#showState();
  }

  #showState() {
    const isRunning = runOf(this.conversation.id) !== undefined;
    const mayBeEmpty = !isChat(this.#chosen) && this.conversation.messages.length > 0;
    this.composer.show({ isRunning, mayBeEmpty });
    this.kept.hidden = this.conversation.messages.length === 0;
    this.model.disabled = isRunning;
    if (!isRunning) this.#count();
  }

  #drawAll() {
    const isPlain = !isChat(this.#chosen);
    this.views = this.conversation.messages.map((message) => new MessageView(message, isPlain));
    const nothing = this.views.length ? [] : [this.#welcome()];
    this.log.replaceChildren(...nothing, ...this.views.map((view) => view.element));
    const run = runOf(this.conversation.id);
    if (run) this.#follow(run);
  }

  #welcome() {
    const model = this.#chosen;
    const words = isChat(model)
      ? "It knows what is said in this conversation, as far as its context window reaches."
      : "This model has no chat template: it continues the text that you begin.";
    return h("div", { class: "welcome" }, h("p", { class: "welcome-name" }, model?.id ?? "…"), model && h("p", {}, words));
  }

  #count() {
    const draft = this.composer.text.trim() ? [{ role: /** @type {const} */ ("user"), content: this.composer.text }] : [];
    this.composer.meter.count(this.#chosen, this.conversation, [...this.conversation.messages, ...draft]);
  }

  /** @param {string} text */
  #drafted(text) {
    this.conversation.draft = text;
    if (!runOf(this.conversation.id)) this.#count();
  }

  #keepDraft() {
    if (this.conversation.messages.length && !runOf(this.conversation.id)) conversations.keep(this.conversation);
  }

  #keep() {
    if (!conversations.keep(this.conversation)) this.composer.setError("This browser has no room left: the conversation is not kept.");
    this.title.value = this.conversation.title;
    this.listener.changed();
  }

  /** @param {string} text */
  #send(text) {
    const model = this.#chosen;
    if (!model) return;
    const { messages } = this.conversation;
    const isNew = messages.length === 0;
    if (text.trim()) messages.push({ role: "user", content: text });
    messages.push({ role: "assistant", content: "", model: model.id });
    this.conversation.settings.model = model.id;
    this.conversation.draft = "";
    this.composer.setText("");
    this.composer.setError("");
    this.#keep();
    if (isNew) this.listener.opened(this.conversation.id);
    const run = new Run(model, this.conversation, {
      onChange: (changed) => this.#onChange(changed),
      onEnd: (ended, error) => this.#onEnd(ended, error, text),
    });
    run.go();
    this.#drawAll();
    this.#showState();
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** @param {Run} run */
  #follow(run) {
    this.composer.meter.follow(run);
    this.#sayProgress(run);
  }

  /** @param {Run} run */
  #onChange(run) {
    if (run.conversation !== this.conversation) return;
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    this.views.at(-1)?.drawSoon();
    this.#sayProgress(run);
    if (isAtEnd) requestAnimationFrame(() => (this.scroller.scrollTop = this.scroller.scrollHeight));
  }

  /** @param {Run} run */
  #sayProgress(run) {
    const { progress } = run;
    const reading = progress && progress.processed < progress.total;
    const words = reading ? `Reading the prompt: ${progress.processed} of ${counted(progress.total, "token")}` : "Thinking …";
    this.views.at(-1)?.say(run.hasBegun ? "" : words);
  }

  /**
   * @param {Run} run
   * @param {unknown} error
   * @param {string} text what was sent
   */
  #onEnd(run, error, text) {
    const { conversation } = run;
    if (!run.hasBegun && (error || run.wasStopped)) takeBack(conversation, text);
    if (conversation.messages.length) conversations.keep(conversation);
    else conversations.forget(conversation.id);
    this.listener.changed();
    announce(error ? wordsOf(error) : run.wasStopped ? "Answer stopped." : `Answer complete. ${run.message.note ?? ""}`);
    if (conversation !== this.conversation) return;
    this.composer.meter.rest();
    if (!this.composer.text) this.composer.setText(conversation.draft);
    if (error && !run.hasBegun) this.composer.setError(wordsOf(error));
    this.#drawAll();
    this.#showState();
  }

  #rename() {
    this.conversation.title = this.title.value.trim() || this.conversation.title;
    this.title.value = this.conversation.title;
    if (this.conversation.messages.length) this.#keep();
  }

  #choose() {
    this.conversation.settings.model = this.model.value;
    if (this.conversation.messages.length) this.#keep();
    this.#drawAll();
    this.#showState();
  }

  async #edit() {
    const { conversation } = this;
    if (!(await editSettings(conversation.settings, !isChat(this.#chosen)))) return;
    if (conversation.messages.length) conversations.keep(conversation);
    this.#showState();
  }

  #export() {
    const blob = new Blob([conversations.exported(this.conversation)], { type: "text/markdown" });
    const url = URL.createObjectURL(blob);
    h("a", { href: url, download: `${this.conversation.title.replace(/[^\p{L}\p{N} -]/gu, "").trim() || "conversation"}.md` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  async #delete() {
    const words = h("p", {}, `“${this.conversation.title}” is kept in this browser only. It cannot be brought back.`);
    if (!(await askInDialog("Delete this conversation?", [words], { action: "Delete", isDangerous: true }))) return;
    runOf(this.conversation.id)?.stop();
    conversations.forget(this.conversation.id);
    this.conversation = conversations.begin(this.conversation.settings);
    this.listener.changed();
    location.hash = "#/chat";
    this.open(null);
  }
}

/**
 * Nothing was answered: what was sent is there again to be changed.
 *
 * @param {Conversation} conversation
 * @param {string} text
 */
function takeBack(conversation, text) {
  conversation.messages.pop();
  if (text.trim()) {
    conversation.messages.pop();
    conversation.draft = text;
  }
}
