// The view of the service itself: what it is made of, how its bases are, what a self-check finds.

import { call, forgetKey, hasKey } from "./api.js";
import { button, el, icon, reason, redraw, replace, told, word } from "./dom.js";
import { may, refresh, state } from "./state.js";
import { bytes, known, number } from "./words.js";

const section = document.getElementById("status");
const content = el("div", { class: "content" });

export function startStatus() {
  section.append(content);
}

export async function showStatus() {
  if (!content.children.length) replace(content, word("loading", undefined, "p", { class: "quiet" }));
  try {
    const [ready] = await Promise.all([health(), refresh(true)]);
    draw(ready, may("admin") ? null : undefined);
    if (may("admin")) draw(ready, await call("GET", "api/v1/doctor"));
  } catch (error) {
    if (error.status === 403) draw(await health(), undefined);
    else replace(content, el("div", { class: "card bad", role: "alert" }, icon("warn"), el("div", {},
      word(error.words ?? "failed", undefined, "p"), button("retry", showStatus, { class: "button small" }))));
  }
}

async function health() {
  try {
    await call("GET", "readyz");
    return true;
  } catch (error) {
    if (error.status === 0) throw error;
    return false;
  }
}

// `found` null: not there yet; undefined: not for this key.
function draw(ready, found) {
  const { version, generator, embedder, caller } = state.status;
  const facts = [
    ["version", el("span", {}, `kbqa ${version}`)],
    ["health", el("span", { class: ready ? "good" : "bad" }, word(ready ? "ready" : "notReady"))],
    ["generator", generator.writes ? el("span", {}, generator.name, " ", el("span", { class: "quiet" }, generator.kind)) : word("extractive")],
    ["embedder", el("span", {}, embedder)],
    ["access", access(caller)],
  ];
  redraw(content,
    el("header", { class: "row" }, word("statusTitle", undefined, "h1"), el("span", { class: "space" }),
      el("a", { class: "button small", href: "docs", target: "_blank", rel: "noopener" }, word("api")),
      button("refresh", showStatus, { class: "button small" }, "refresh")),
    el("dl", { class: "facts card" }, facts.map(([key, value]) =>
      el("div", {}, word(key, undefined, "dt"), el("dd", {}, value)))),
    word("bases", undefined, "h2"), bases(), word("findings", undefined, "h2"), findings(found));
}

function access({ name, scope }) {
  const forget = button("forgetKey", () => {
    forgetKey();
    location.reload();
  }, { class: "button small" });
  return el("span", {}, hasKey() ? el("span", {}, name, " ") : word("local"), " · ", word(`scope_${scope}`), " ", hasKey() && forget);
}

function bases() {
  if (!state.bases.length) return word("noBase", { name: state.status.default ?? "default" }, "p", { class: "quiet" });
  const head = ["name", "documents", "failedOnly", "passages", "size"];
  const cell = (value, written = number) => el("td", {}, written(value));
  const counts = (base) => [cell(base.documents), cell(base.failed), cell(base.chunks), cell(base.bytes, bytes)];
  const rows = state.bases.map((base) => el("tr", {},
    el("th", { scope: "row" }, base.name, !base.built && word("notBuilt", undefined, "div", { class: "quiet" })),
    base.error ? el("td", { class: "why", colspan: "4" }, reason(`err_${base.error_type}`, base.error)) : counts(base)));
  return el("div", { class: "scroll card flat" }, el("table", { class: "figures" },
    el("thead", {}, el("tr", {}, head.map((key) => word(key, undefined, "th", { scope: "col" })))), el("tbody", {}, rows)));
}

function findings(found) {
  if (found === undefined) return word("adminOnly", undefined, "p", { class: "quiet" });
  if (found === null) return word("loading", undefined, "p", { class: "quiet" });
  const of = (...levels) => found.findings.filter((finding) => levels.includes(finding.level));
  const folded = (key, some) => some.length > 0 && el("details", {},
    el("summary", {}, word(key, { n: number(some.length) })), el("ul", { class: "findings" }, some.map(finding)));
  const urgent = of("fail", "warn");
  return el("div", { class: "card" },
    urgent.length ? word("findingsSum", { failed: found.failed, warned: found.warned }, "p", {})
      : el("p", { class: "good row" }, icon("check"), word("allWell")),
    urgent.length > 0 && el("ul", { class: "findings" }, urgent.map(finding)),
    folded("fine", of("ok")), folded("notes", of("note")));
}

function finding({ level, subject, detail, remedy, code, values }) {
  const topic = known(`topic_${subject}`) ? subject : code.split("-")[0];
  return el("li", { class: level }, word(`level_${level}`, undefined, "span", { class: "level" }),
    el("div", {}, el("strong", {}, told(`topic_${topic}`, subject, values)), " ", told(`found_${code}`, detail, values),
      remedy && el("div", { class: "remedy" }, "→ ", told(`mend_${code}`, remedy, values))));
}
