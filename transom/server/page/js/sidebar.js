// The list of conversations, and on narrow screens the drawer that it lies in.

import * as conversations from "./conversations.js";
import { byId, h } from "./dom.js";

export class Sidebar {
  /** @param {{ begin: () => void }} listener */
  constructor(listener) {
    this.sidebar = byId("sidebar");
    this.button = byId("menu-button");
    this.list = byId("conversations");
    this.button.addEventListener("click", () => this.#open(!this.isOpen));
    byId("new-button").addEventListener("click", () => {
      listener.begin();
      this.#open(false);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.isOpen) this.#open(false);
    });
    byId("main").addEventListener("click", () => this.#open(false));
    this.sidebar.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      if (/** @type {Element} */ (event.target).closest("a")) this.#open(false);
    });
  }

  get isOpen() {
    return document.body.classList.contains("sidebar-open");
  }

  /**
   * @param {string} place which of the places is open
   * @param {string | null} conversationId which of the conversations
   */
  show(place, conversationId) {
    for (const link of document.querySelectorAll("#places a")) {
      if (/** @type {HTMLElement} */ (link).dataset.place === place) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const items = conversations.all().map(({ id, title }) => {
      const current = id === conversationId ? { current: "page" } : {};
      return h("li", {}, h("a", { href: `#/chat/${id}`, aria: current }, title));
    });
    this.list.replaceChildren(...items);
    byId("conversations-heading").hidden = items.length === 0;
  }

  /** @param {boolean} isOpen */
  #open(isOpen) {
    if (isOpen === this.isOpen) return;
    document.body.classList.toggle("sidebar-open", isOpen);
    this.button.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) byId("new-button").focus();
    else if (this.sidebar.contains(document.activeElement)) this.button.focus();
  }
}
