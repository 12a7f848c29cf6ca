// The view that answers from the documents: each sentence as it is checked, its sources, what one thinks of it.

import { ApiError, call, path, stream } from "./api.js";
import { button, el, hint, icon, iconButton, label, replace, tell, toast, word } from "./dom.js";
import { closePanel, openCitation, where } from "./panel.js";
import { parsed } from "./settings.js";
import { choose, current, may, onChange, state } from "./state.js";
import { Talk, copyButton } from "./talk.js";
import { show, signed } from "./text.js";
import { number, t } from "./words.js";

const KEPT = "kbqa-turns"; // in the tab alone, so that a page loaded anew still shows what was asked
const MOST = 30; // turns

let talk = null;
let chooser = null;

export function startAsk() {
  chooser = label(el("select", { class: "base" }), "base");
  chooser.addEventListener("change", () => choose(chooser.value));
  talk = new Talk(document.getElementById("ask"), {
    name: "question",
    first: "questionHint",
    ask: answer,
    again: "newTalk",
    tools: [el("span", { class: "select" }, icon("documents"), chooser, icon("below"))],
  });
  talk.fresh.addEventListener("click", () => {
    closePanel();
    remember();
  });
  onChange(showBases);
}

export function showAsk() {
  if (!matchMedia("(pointer: coarse)").matches) talk.input.focus();
}

function showBases() {
  replace(chooser, state.bases.map((base) => el("option", { value: base.name }, base.name)));
  chooser.value = state.base ?? "";
  const base = current();
  const ready = Boolean(base?.documents) || state.bases.some((other) => other.documents);
  talk.under.hidden = !ready;
  replace(talk.empty, ready ? greeting(base) : nothingYet());
}

function greeting(base) {
  const hints = ["askHint1", "askHint2", "askHint3"];
  if (!base.documents) return [word("askTitle", undefined, "h1"), word("askNone", { base: base.name }, "p", { class: "lead" })];
  return [
    word("askTitle", undefined, "h1"),
    word("askLead", { base: base.name, n: number(base.documents) }, "p", { class: "lead" }),
    el("ul", { class: "hints" }, hints.map((key) => word(key, undefined, "li"))),
  ];
}

function nothingYet() {
  const go = may("write") && el("a", { href: "#documents", class: "button primary" }, icon("plus"), word("emptyGo"));
  return [
    el("div", { class: "emblem" }, icon("documents")),
    word("emptyTitle", undefined, "h1"),
    word(go ? "emptyLead" : "emptyReader", undefined, "p", { class: "lead" }),
    go,
  ];
}

// --- an answer -------------------------------------------------------------------------------------------------------

async function answer(turn, signal) {
  Object.assign(turn, { base: state.base, sentences: [], citations: [], done: null, broken: false });
  turn.slow = state.status.generator.writes ? "thinking" : "searching";
  const body = { question: turn.question, history: talk.history(turn), stream: true };
  try {
    await stream(path`api/v1/kb/${turn.base}/ask`, body, signal, (name, data) => hear(turn, name, data));
    if (!turn.done) throw new ApiError(0, "Broke", "");
  } finally {
    if (turn.text) draw(turn);
    if (turn.done) finish(turn);
    remember();
  }
  if (turn.refused) tell("refusedTitle");
  else tell("answered", { n: turn.citations.length });
}

function remember() {
  const whole = talk.turns.filter((turn) => turn.done).slice(-MOST);
  const told = whole.map(({ question, base, sentences, citations, done }) => ({ question, base, sentences, citations, done }));
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(told));
  } catch {
    // More than a browser keeps: it is there until the page is closed.
  }
}

// Once it is known who answers, and so how answers are shown.
export function recall() {
  for (const { question, ...told } of parsed(sessionStorage.getItem(KEPT), [])) {
    const turn = talk.add(question);
    Object.assign(turn, told, { text: told.done.answer, refused: !told.done.grounded });
    draw(turn);
    finish(turn);
    turn.end();
  }
  talk.thread.scrollTop = talk.thread.scrollHeight;
}

function hear(turn, name, data) {
  if (name === "waiting") turn.load = data;
  if (name === "token") turn.text = (turn.text + data.text).trimStart();
  if (name === "citation") turn.citations.push(data);
  if (name === "sentence") turn.sentences.push(data);
  if (name === "done") {
    turn.done = data;
    turn.text = data.answer;
    turn.refused = !data.grounded;
  }
  turn.changed(() => draw(turn));
}

function draw(turn) {
  if (turn.refused) return;
  const told = turn.sentences.at(-1)?.span[1] ?? 0;
  const whole = [...turn.text].length;
  const open = turn.done || told >= whole ? [] : [{ verdict: "unchecked", span: [told, whole], markers: [] }];
  const sentences = [...turn.sentences, ...open];
  show(turn.body, signed(turn.text, sentences), {
    rich: state.status.generator.writes,
    kind: (index) => (sentences[index].verdict === "supported" ? "" : `verdict ${sentences[index].verdict}`),
    at: (index) => behind(turn, sentences[index]),
  });
}

function behind(turn, { verdict, markers }) {
  const nodes = markers.map((marker) => cite(turn, marker));
  if (verdict === "not" || verdict === "partly") nodes.push(word(`verdict_${verdict}`, undefined, "span", { class: `flag ${verdict}` }));
  return nodes;
}

function cite(turn, marker) {
  const citation = turn.citations.find((one) => one.marker === marker);
  const node = el("button", { type: "button", class: "cite" }, String(marker));
  node.addEventListener("click", () => openCitation(turn.base, turn.citations, marker, node));
  return label(node, "citation", { n: marker, source: citation?.source ?? "" });
}

function finish(turn) {
  const { grounded, seconds } = turn.done;
  if (!grounded) replace(turn.body, refusal(turn));
  const doubts = turn.sentences.filter((sentence) => sentence.verdict !== "supported").length;
  replace(turn.foot,
    grounded && doubts > 0 && el("p", { class: "note" }, icon("warn"), word("doubted", { n: doubts })),
    grounded && turn.citations.length > 0 && sources(turn),
    el("div", { class: "row actions" }, copyButton(() => asText(turn)), thumbs(turn), el("span", { class: "space" }),
      seconds >= 1 && word("seconds", { n: seconds.toFixed(1) }, "span", { class: "quiet" })));
}

function refusal(turn) {
  return el("div", { class: "card refusal" }, icon("ask"), el("div", {},
    word("refusedTitle", undefined, "strong"),
    el("p", { class: "said" }, turn.text),
    word("refusedLead", { base: turn.base }, "p", { class: "quiet" })));
}

function sources(turn) {
  const list = turn.citations.map((citation) => {
    const node = el("button", { type: "button", class: "source" },
      el("span", { class: "number" }, String(citation.marker)),
      el("span", { class: "what" }, el("strong", {}, citation.source), el("span", { class: "where" }, where(citation))));
    node.addEventListener("click", () => openCitation(turn.base, turn.citations, citation.marker, node));
    return el("li", {}, node);
  });
  return el("div", { class: "sources" }, word("sources", undefined, "h3"), el("ol", {}, list));
}

// For the clipboard: markers behind the sentences, and below what they stand for.
function asText(turn) {
  const points = [...turn.text];
  let text = "";
  let told = 0;
  for (const { span, markers } of turn.done.grounded ? turn.sentences : []) {
    text += points.slice(told, span[1]).join("") + markers.map((marker) => `[${marker}]`).join("");
    told = span[1];
  }
  text += points.slice(told).join("");
  if (!turn.citations.length) return text;
  const list = turn.citations.map(({ marker, source, page, heading }) => {
    const place = [source, page === null ? "" : t("page", { n: page }), heading];
    return `[${marker}] ${place.filter(Boolean).join(" · ")}`;
  });
  return `${text}\n\n${t("sources")}\n${list.join("\n")}`;
}

// --- what it was worth -----------------------------------------------------------------------------------------------

function thumbs(turn) {
  const give = (rating) => rate(turn, rating, buttons);
  const buttons = {
    up: iconButton("up", "good", () => give("up"), { "aria-pressed": "false" }),
    down: iconButton("down", "bad", () => give("down"), { "aria-pressed": "false" }),
  };
  return [buttons.up, buttons.down];
}

async function rate(turn, rating, buttons) {
  if (!(await feedback(turn, { rating }))) return;
  for (const [name, node] of Object.entries(buttons)) node.setAttribute("aria-pressed", String(name === rating));
  turn.foot.querySelector(".comment")?.remove();
  if (rating === "up") {
    toast("thanks");
    return;
  }
  const form = comment(turn);
  turn.foot.append(form);
  form.scrollIntoView({ block: "nearest" });
}

function comment(turn) {
  const input = label(hint(el("input", { type: "text", maxlength: "2000" }), "whatWrong"), "whatWrong");
  const form = el("form", { class: "comment row" }, input, button("sendComment", null, { type: "submit" }));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!input.value.trim() || (await feedback(turn, { rating: "down", comment: input.value.trim() }))) {
      form.remove();
      toast("thanks");
    }
  });
  return form;
}

async function feedback(turn, said) {
  const given = { question: turn.question, answer: turn.text, citations: turn.citations, ...said };
  if (turn.feedback) given.id = turn.feedback;
  try {
    turn.feedback = (await call("POST", path`api/v1/kb/${turn.base}/feedback`, given)).id;
    return true;
  } catch (error) {
    toast(error.words ?? "failed", undefined, "bad");
    return false;
  }
}
