// The page: its views by the address (#ask, #documents, ...), the key if one is needed, then whatever the user does.

import { onKeyNeeded } from "./api.js";
import { recall, showAsk, startAsk } from "./ask.js";
import { prompt } from "./dialogs.js";
import { showDocuments, startDocuments } from "./documents.js";
import { button, el, icon, replace, word } from "./dom.js";
import { startModel } from "./model.js";
import { closePanel } from "./panel.js";
import { startSettings } from "./settings.js";
import { refresh, state } from "./state.js";
import { showStatus, startStatus } from "./status.js";
import { onLanguage, t } from "./words.js";

const VIEWS = { ask: showAsk, model: () => {}, documents: showDocuments, status: showStatus };
const main = document.getElementById("main");

let troubled = false; // a card says why, and takes the place of the views

const chosen = () => (Object.hasOwn(VIEWS, location.hash.slice(1)) ? location.hash.slice(1) : "ask");

function show() {
  const view = chosen();
  if (view !== "ask") closePanel();
  for (const section of main.querySelectorAll(".view")) section.hidden = troubled || section.id !== view;
  for (const tab of document.querySelectorAll("[data-view]")) {
    if (tab.dataset.view === view) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  title();
  if (state.status) VIEWS[view]();
}

function title() {
  document.title = `${t(chosen())} · kbqa`;
}

function askForKey(wrong) {
  return prompt("keyTitle", { why: wrong ? "keyWrong" : "keyLead", name: "keyLabel", go: "keyOpen", type: "password" });
}

async function begin() {
  main.querySelector(".trouble")?.remove();
  troubled = false;
  try {
    await refresh();
  } catch (error) {
    trouble(error);
    return;
  }
  recall();
  show();
}

function trouble(error) {
  const again = button(error.status === 401 ? "keyOffer" : "retry", begin, { class: "button primary" });
  const card = el("div", { class: "welcome" }, el("div", { class: "emblem" }, icon(error.status === 401 ? "key" : "warn")),
    word(error.words ?? "failed", undefined, "h1"),
    error.status === 401 ? word("keyLead", undefined, "p", { class: "lead" }) : el("p", { class: "quiet" }, error.message), again);
  const box = el("div", { class: "trouble" }, card);
  troubled = true;
  show();
  main.append(box);
}

for (const node of document.querySelectorAll("[data-icon]")) replace(node, icon(node.dataset.icon));
startSettings();
onKeyNeeded(askForKey);
startAsk();
startModel();
startDocuments();
startStatus();
onLanguage(title);
window.addEventListener("hashchange", show);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the view
  main.focus();
});
show();
begin();
