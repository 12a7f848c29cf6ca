// The view that talks to the model alone, as ChatGLM's web_demo did.

import { ApiError, stream } from "./api.js";
import { el, icon, replace, word } from "./dom.js";
import { keep, kept, parsed } from "./settings.js";
import { onChange, state } from "./state.js";
import { Talk, copyButton } from "./talk.js";
import { show, signed } from "./text.js";
import { number } from "./words.js";

const STORED = "kbqa-sampling";
const SLIDERS = [
  { name: "temperature", key: "temperature", from: 0, to: 1.5, step: 0.05, usual: 0.95 },
  { name: "top_p", key: "topP", from: 0.05, to: 1, step: 0.05, usual: 0.7 },
  { name: "max_tokens", key: "length", from: 64, to: 8192, step: 64, usual: 2048 },
];
const EXAMPLE = "generator:\n  kind: chatglm\n  model: models/chatglm3-6b";

let talk = null;
let sampling = null;
const section = document.getElementById("model");
const missing = el("div", { class: "thread", hidden: true });

export function startModel() {
  sampling = { ...usual(), ...parsed(kept(STORED), {}) };
  talk = new Talk(section, {
    name: "modelHint",
    first: "modelHint",
    ask: answer,
    again: "clear",
    above: settings(),
  });
  section.append(missing);
  replace(talk.empty, word("modelTitle", undefined, "h1"), word("modelLead", undefined, "p", { class: "lead" }));
  onChange(showModel);
}

const usual = () => Object.fromEntries(SLIDERS.map((slider) => [slider.name, slider.usual]));

function showModel() {
  const writes = state.status.generator.writes;
  for (const node of section.children) node.hidden = writes === (node === missing);
  replace(missing, !writes && el("div", { class: "welcome" },
    el("div", { class: "emblem" }, icon("model")),
    word("noModelTitle", undefined, "h1"),
    word("noModelLead", undefined, "p", { class: "lead" }),
    el("pre", { class: "config" }, el("code", {}, EXAMPLE))));
  section.querySelector(".sampling .name").textContent = writes ? state.status.generator.name : "";
}

// --- the sliders -----------------------------------------------------------------------------------------------------

function settings() {
  const rows = SLIDERS.map(slide);
  const back = el("button", { type: "button", class: "link" }, word("defaults"));
  back.addEventListener("click", () => rows.forEach((row, at) => row.set(SLIDERS[at].usual)));
  return el("details", { class: "sampling", open: innerWidth > 900 },
    el("summary", {}, word("settings"), el("span", { class: "name" })),
    el("div", { class: "sliders" }, rows.map((row) => row.node), back));
}

function slide({ name, key, from, to, step }) {
  const value = el("output", {});
  const input = el("input", { type: "range", min: from, max: to, step, id: `slider-${name}` });
  const set = (wanted) => {
    input.value = wanted;
    sampling[name] = Number(input.value);
    value.textContent = input.value;
    keep(STORED, JSON.stringify(sampling));
  };
  set(sampling[name]);
  input.addEventListener("input", () => set(input.value));
  const node = el("div", { class: "slider" },
    el("label", { for: input.id }, word(key), value), input, word(`${key}Hint`, undefined, "span", { class: "quiet" }));
  return { node, set };
}

// --- an answer -------------------------------------------------------------------------------------------------------

async function answer(turn, signal) {
  turn.finish = null;
  turn.tokens = 0;
  turn.wait("thinking", { n: 0 });
  const before = talk.history(turn).flatMap(([question, said]) => [
    { role: "user", content: question },
    { role: "assistant", content: said },
  ]);
  const messages = [...before, { role: "user", content: turn.question }];
  const body = { model: "chatglm", messages, stream: true, stream_options: { include_usage: true }, ...sampling };
  try {
    await stream("v1/chat/completions", body, signal, (name, data) => hear(turn, name, data));
    if (!turn.finish) throw new ApiError(0, "Broke", "");
  } finally {
    draw(turn);
    finish(turn);
  }
}

function hear(turn, name, data) {
  if (name === "waiting") turn.load = data;
  if (name !== "message") return;
  turn.tokens = data.usage?.completion_tokens ?? turn.tokens;
  const choice = data.choices?.[0];
  turn.finish = choice?.finish_reason ?? turn.finish;
  if (!choice?.delta?.content) return;
  turn.text = (turn.text + choice.delta.content).trimStart();
  turn.changed(() => draw(turn));
}

function draw(turn) {
  if (turn.text) show(turn.body, signed(turn.text, []), { rich: true });
}

function finish(turn) {
  if (!turn.text && !turn.finish) return;
  replace(turn.foot, turn.finish === "length" && el("p", { class: "note" }, icon("warn"), word("cutOff")),
    el("div", { class: "row actions" }, copyButton(() => turn.text), el("span", { class: "space" }),
      turn.tokens > 0 && word("tokens", { n: number(turn.tokens) }, "span", { class: "quiet" })));
}
