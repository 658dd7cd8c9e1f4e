// Puts the page together: which place is open, by the part of the address behind #.

import { onKeyWanted } from "./api.js";
import { ChatView } from "./chat_view.js";
import * as conversations from "./conversations.js";
import { announce, byId } from "./dom.js";
import { askForKey } from "./key.js";
import { loadModels } from "./models.js";
import { ModelsView } from "./models_view.js";
import { wordsOf } from "./runs.js";
import { Sidebar } from "./sidebar.js";
import { connectTheme } from "./theme.js";
import { WindowsView } from "./windows/view.js";

const main = byId("main");
const sidebar = new Sidebar({ begin });
const chat = new ChatView({ changed: showSidebar, opened: nameAddress });
const windows = new WindowsView();
const modelsView = new ModelsView();
const views = { chat, windows, models: modelsView };

/** @returns {{ place: "chat" | "windows" | "models", id: string | null }} */
function address() {
  const [, place, ...rest] = location.hash.split("/");
  const id = rest.length ? decodeURIComponent(rest.join("/")) : null;
  return place === "windows" || place === "models" ? { place, id } : { place: "chat", id };
}

function show() {
  const { place, id } = address();
  windows.close();
  modelsView.close();
  for (const [name, view] of Object.entries(views)) view.element.hidden = name !== place;
  if (place === "windows") windows.open();
  else if (place === "models") modelsView.open(id);
  else chat.open(id === null ? null : conversations.find(id));
  const title = { chat: "Transom", windows: "Windows · Transom", models: `${id ?? "Models"} · Transom` };
  document.title = title[place];
  showSidebar();
}

function showSidebar() {
  const { place, id } = address();
  sidebar.show(place, place === "chat" ? id : null);
}

/** @param {string} id a new conversation has something in it */
function nameAddress(id) {
  history.replaceState(null, "", `#/chat/${id}`);
  showSidebar();
}

function begin() {
  if (location.hash === "#/chat") show();
  else location.hash = "#/chat";
  chat.focus();
}

async function learnModels() {
  try {
    await loadModels();
    chat.showModels();
    chat.composer.setError("");
  } catch (error) {
    chat.composer.setError(wordsOf(error));
    announce(wordsOf(error));
  }
}

connectTheme(byId("theme"));
onKeyWanted(askForKey);
main.append(...Object.values(views).map((view) => view.element));
window.addEventListener("hashchange", () => {
  show();
  main.focus({ preventScroll: true });
});
byId("key-button").addEventListener("click", async () => {
  if (await askForKey()) learnModels();
});
show();
learnModels();
