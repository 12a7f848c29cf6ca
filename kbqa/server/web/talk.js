// What asking a base and talking to the model have in common: the turns, the box to write in, one answer at a time.

import { ApiError } from "./api.js";
import { button, el, hint, icon, iconButton, label, replace, say, tell, toast, word } from "./dom.js";

const ROOM = 40; // pixels of a screen that an answer does not fill
const SLOW = 1500; // milliseconds without a word after which the waiting is told

export class Talk {
  // `ask(turn, signal)` answers a turn and resolves when it has; `tools` stand in the box, `above` over the turns, and
  // `again` are the words of the button that begins anew.
  constructor(section, { name, first, ask, again, tools = [], above = null }) {
    this.ask = ask;
    this.first = first;
    this.turns = [];
    this.running = null;
    this.empty = el("div", { class: "welcome" });
    this.list = el("div", { class: "turns" });
    this.thread = el("div", { class: "thread", tabindex: "-1" }, this.empty, this.list);
    this.input = el("textarea", { rows: "1", enterkeyhint: "send", autocomplete: "off" });
    hint(label(this.input, name), first);
    this.go = el("button", { type: "submit", class: "go" });
    this.fresh = button(again, () => this.clear(), { class: "chip", hidden: true }, "plus");
    this.form = el("form", { class: "composer" }, this.input, el("div", { class: "row" }, tools, this.fresh,
      el("span", { class: "space" }), this.go));
    this.under = el("div", { class: "under", hidden: true }, this.form); // until it is known what can be asked
    section.append(...[above, this.thread, this.under].filter(Boolean));
    this.listen();
    this.showGo();
  }

  listen() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.stop();
      else this.submit(this.input.value);
    });
    this.input.addEventListener("input", () => this.fit());
    this.input.addEventListener("keydown", (event) => {
      // Enter that ends a word of an input method sends nothing; Safari tells of it by 229 alone.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      if (!this.running) this.submit(this.input.value);
    });
  }

  fit() {
    this.input.style.height = "auto";
    this.input.style.height = `${Math.min(this.input.scrollHeight, 200)}px`;
    this.showGo();
  }

  showGo() {
    const stops = this.running !== null;
    this.go.classList.toggle("stop", stops);
    this.go.disabled = !stops && !this.input.value.trim();
    replace(label(this.go, stops ? "stop" : "send"), icon(stops ? "stop" : "send"));
  }

  stop() {
    this.running?.abort();
  }

  clear() {
    this.stop();
    this.turns = [];
    this.list.replaceChildren();
    this.empty.hidden = false;
    this.fresh.hidden = true;
    hint(this.input, this.first);
    this.input.focus();
  }

  async submit(text) {
    const question = text.trim();
    if (!question || this.running) return;
    this.input.value = "";
    await this.run(this.add(question));
  }

  add(question) {
    const turn = new Turn(question, this);
    this.turns.push(turn);
    this.list.append(turn.node);
    this.empty.hidden = true;
    this.fresh.hidden = false;
    hint(this.input, "followHint");
    return turn;
  }

  async run(turn) {
    const running = new AbortController();
    this.running = running;
    this.fit();
    turn.begin();
    this.toTop(turn);
    try {
      await this.ask(turn, running.signal);
    } catch (error) {
      if (error.name === "AbortError") turn.stopped();
      else if (error instanceof ApiError) turn.failed(error);
      else {
        turn.failed(new ApiError(0, "Broke", error.message));
        console.error(error);
      }
    } finally {
      turn.end();
      this.running = null;
      this.showGo();
    }
  }

  // Earlier questions to the same base and their answers, as the service takes them, without those that led nowhere.
  history(before) {
    const told = (turn) => turn.text && !turn.refused && turn.base === before.base;
    return this.turns.slice(0, this.turns.indexOf(before)).filter(told)
      .slice(-20).map((turn) => [turn.question, turn.text]);
  }

  // The question goes to the top and has a screen for its answer: nothing moves while that is written and read.
  toTop(turn) {
    for (const { node } of this.turns) node.style.minHeight = "";
    turn.node.style.minHeight = `${this.thread.clientHeight - ROOM}px`;
    const above = turn.node.getBoundingClientRect().top - this.thread.getBoundingClientRect().top;
    this.thread.scrollTop += above - (turn === this.turns[0] ? ROOM : 0);
  }
}

export class Turn {
  constructor(question, talk) {
    this.question = question;
    this.talk = talk;
    this.text = "";
    this.asked = word("you", undefined, "h2", { class: "unseen" });
    this.body = el("div", { class: "text" });
    this.state = el("div", { class: "waiting" });
    this.foot = el("div", { class: "foot" });
    this.node = el("article", { class: "turn" },
      el("div", { class: "question" }, this.asked, el("p", {}, question)),
      el("div", { class: "answer" }, word("answer", undefined, "h2", { class: "unseen" }),
        this.body, this.state, this.foot));
  }

  begin() {
    this.text = "";
    this.refused = false;
    this.pending = false;
    this.load = null; // for how many the model works, and how many wait, where the service knows
    this.began = performance.now();
    replace(this.body);
    replace(this.foot);
    this.state.hidden = false;
    this.node.classList.add("running");
    this.wait("searching");
    this.clock = setInterval(() => this.tick(), 1000);
  }

  wait(key, values) {
    replace(this.state, el("span", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i")),
      say(el("span"), key, values));
  }

  tick() {
    const spent = performance.now() - this.began;
    if (spent < SLOW || this.text) return;
    const { running = 0, waiting = 0 } = this.load ?? {};
    const key = running + waiting > 1 ? "queued" : this.slow ?? "thinking";
    this.wait(key, { running, waiting, n: Math.round(spent / 1000) });
  }

  // Draws at most once a frame, however fast the words come.
  changed(draw) {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      if (!this.pending) return;
      this.pending = false;
      if (this.text) this.state.hidden = true;
      draw();
    });
  }

  end() {
    this.pending = false;
    clearInterval(this.clock);
    this.state.hidden = true;
    this.node.classList.remove("running");
  }

  stopped() {
    this.foot.prepend(word("stopped", undefined, "p", { class: "quiet" }));
    tell("stopped");
  }

  failed(error) {
    this.broken = true;
    const card = el("div", { class: "card bad", role: "alert" }, icon("warn"), el("div", {},
      word(error.words, undefined, "p"),
      error.message && el("p", { class: "quiet" }, error.message),
      button("retry", () => this.talk.running || this.talk.run(this), { class: "button small" }, "refresh")));
    this.foot.prepend(card);
  }
}

// Browsers have a clipboard only for pages that came over TLS or from this machine; for others there is the old way.
async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = el("textarea", { class: "unseen", value: text });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("not allowed");
}

export function copyButton(text) {
  const node = iconButton("copy", "copy", async () => {
    try {
      await copy(text());
    } catch {
      return toast("copyFailed", undefined, "bad");
    }
    replace(label(node, "copied"), icon("check"));
    setTimeout(() => replace(label(node, "copy"), icon("copy")), 2000);
  });
  return node;
}
