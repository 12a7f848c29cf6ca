// The view of bases and their documents: what is there, what could not be read and why, what comes and goes.

import { call, path, save } from "./api.js";
import { confirm, prompt } from "./dialogs.js";
import { button, el, hint, icon, iconButton, label, reason, redraw, replace, toast, word } from "./dom.js";
import { follow } from "./jobs.js";
import { choose, current, may, onChange, refresh, state } from "./state.js";
import { startUploads } from "./uploads.js";
import { bytes, isChinese, known, moment, number, t } from "./words.js";

const PAGE = 50;
const section = document.getElementById("documents");
const nodes = {
  bases: el("nav", { class: "bases" }),
  head: el("header", { class: "basehead" }),
  jobs: el("div", { class: "jobs" }),
  tools: el("div", { class: "row filter" }),
  list: el("div", { class: "list" }),
};

let shown = { base: null, contains: "", failed: false, documents: [], total: 0 };
let loading = null;

export function startDocuments() {
  label(nodes.bases, "bases");
  const uploads = startUploads({ base: uploadBase, changed: reload });
  section.append(nodes.bases, el("div", { class: "content" }, nodes.head, uploads, nodes.jobs, nodes.tools, nodes.list));
  drawTools();
  onChange(() => {
    drawBases();
    drawHead();
    nodes.tools.hidden = !listed(current());
    if (!section.hidden && shown.base !== state.base) show();
  });
}

const listed = (base) => Boolean(base?.built && !base.error);

export function showDocuments() {
  show();
  refresh().catch(failed);
}

function show() {
  shown = { ...shown, base: state.base, documents: [], total: 0 };
  replace(nodes.jobs);
  load();
  running();
}

async function reload() {
  await refresh().catch(failed);
  await load();
}

const failed = (error) => error.name === "AbortError" || toast(error.words ?? "failed", undefined, "bad");

// --- bases -----------------------------------------------------------------------------------------------------------

function drawBases() {
  const items = state.bases.map((base) => {
    const node = el("button", { type: "button", class: "basename" }, el("strong", {}, base.name), count(base));
    if (base.name === state.base) node.setAttribute("aria-current", "true");
    node.addEventListener("click", () => choose(base.name));
    return node;
  });
  redraw(nodes.bases, word("bases", undefined, "h2"), items,
    may("admin") && button("newBase", create, { class: "button quiet" }, "plus"));
}

function count(base) {
  if (base.error) return word("failed", undefined, "span", { class: "quiet bad" });
  if (!base.built) return word("notBuilt", undefined, "span", { class: "quiet" });
  return el("span", { class: "quiet" }, word("count", { n: number(base.documents) }),
    base.failed > 0 && word("failedCount", { n: number(base.failed) }, "span", { class: "badge" }));
}

function drawHead() {
  const base = current();
  if (!base) {
    replace(nodes.head, word("documents", undefined, "h1"),
      word("noBase", { name: state.status.default ?? "default" }, "p", { class: "quiet" }));
    return;
  }
  const stats = { documents: number(base.documents ?? 0), chunks: number(base.chunks ?? 0), size: bytes(base.bytes ?? 0) };
  redraw(nodes.head,
    el("div", { class: "row" }, el("h1", {}, base.name), el("span", { class: "space" }),
      may("write") && button("ingest", ingest, { class: "button small" }, "folder"),
      may("admin") && base.built && button("rebuild", rebuild, { class: "button small" }, "refresh"),
      may("admin") && button("deleteBase", removeBase, { class: "button small danger-quiet" }, "trash")),
    base.error ? el("p", { class: "bad" }, reason(`err_${base.error_type}`, base.error))
      : base.built ? word("baseStats", stats, "p", { class: "quiet" })
        : word("notBuiltLead", { name: base.name }, "p", { class: "quiet" }));
}

async function create() {
  const name = await prompt("newBase", { name: "baseName", placeholder: "baseNameHint", go: "create" });
  if (name !== null) await make(name).catch((error) => toastOf(error, { 422: "badName" }));
}

async function make(name) {
  const made = await call("POST", "api/v1/kb", { name });
  toast("created", { name: made.name });
  state.base = made.name;
  await refresh();
}

// Where uploads go: the base that is shown, or the first one there ever is.
async function uploadBase() {
  if (!state.base) await make(state.status.default ?? "default");
  return state.base;
}

async function rebuild() {
  const name = state.base;
  if (await confirm("rebuild", "rebuildWhy", { name }, { yes: "rebuild", kind: "primary" })) begin(path`api/v1/kb/${name}/rebuild`);
}

async function ingest() {
  const name = state.base;
  if (await confirm("ingest", "ingestWhy", { name }, { yes: "ingest", kind: "primary" })) begin(path`api/v1/kb/${name}/ingest`);
}

async function begin(where) {
  try {
    watch(await call("POST", where));
  } catch (error) {
    toastOf(error);
  }
}

async function removeBase() {
  const { name, documents, built, error } = current();
  const choices = built ? { yes: "deleteBase", check: "alsoFiles", about: "filesStay" } : { yes: "deleteBase" };
  const why = error ? "deleteBrokenWhy" : built ? "deleteBaseWhy" : "deleteFilesWhy";
  const sure = await confirm("deleteBase", why, { name, n: number(documents ?? 0) }, choices);
  if (!sure) return;
  try {
    await call("DELETE", `${path`api/v1/kb/${name}`}?files=${sure.checked || !built}`);
    await refresh();
    toast(state.bases.some((base) => base.name === name) ? "deletedKept" : "deleted", { name });
  } catch (error) {
    toastOf(error, { 409: "stuck" });
  }
  await reload();
}

// What the service says is more to the point than what we could; `others` are better words for some statuses.
function toastOf(error, others = {}) {
  if (error.name === "AbortError") return;
  if (error.message && error.status !== 401 && error.status) {
    const note = el("div", { class: "toast bad", role: "alert" }, reason(others[error.status] ?? error.words, error.message));
    document.getElementById("toasts").append(note);
    setTimeout(() => note.remove(), 10_000);
  } else failed(error);
}

// --- jobs ------------------------------------------------------------------------------------------------------------

async function running() {
  const base = state.base;
  if (!base) return;
  try {
    const told = await call("GET", `api/v1/jobs?limit=5&kb=${encodeURIComponent(base)}`);
    const open = told.jobs.filter((job) => job.state === "queued" || job.state === "running");
    if (base === shown.base) open.forEach(watch);
  } catch (error) {
    failed(error);
  }
}

function watch(job) {
  if (job.base !== state.base || [...nodes.jobs.children].some((node) => node.dataset.job === job.id)) return;
  const { card, show: draw } = jobCard(job);
  nodes.jobs.append(card);
  draw(job);
  follow(job.id, draw).then((told) => {
    if (told.state === "failed") drawFailure(card, told);
    else card.remove();
    if (told.state === "done") toast("jobDone", { counts: sumOf(told.progress.counts) });
    if (told.state === "cancelled") toast("jobCancelled");
    return reload();
  }).catch((error) => {
    card.remove();
    failed(error);
  });
}

function sumOf(counts) {
  const some = (...statuses) => statuses.filter((status) => counts[status])
    .map((status) => t(`count_${status}`, { n: number(counts[status]) }));
  const changed = some("added", "updated", "removed");
  return [...(changed.length ? changed : [t("count_none")]), ...some("failed")].join(isChinese() ? "，" : ", ");
}

// The card stays the same from look to look, so that its button can be pressed.
function jobCard({ id, kind }) {
  const stop = () => call("DELETE", `api/v1/jobs/${id}`).catch(toastOf);
  const [count, line, bar] = [el("span", { class: "quiet" }), el("p", { class: "quiet one" }), el("progress", {})];
  const card = el("div", { class: "card job", "data-job": id },
    el("div", { class: "row" }, word(`job_${kind}`, undefined, "strong"), count, el("span", { class: "space" }),
      may(kind === "rebuild" ? "admin" : "write") && button("cancelJob", stop, { class: "button small" })), bar, line);
  const show = ({ state: now, note, progress: { done, total, current: at } }) => {
    replace(count, now === "queued" && word("jobQueued"), now === "queued" && " ",
      total > 0 && word("jobProgress", { done: number(done), total: number(total) }));
    if (total > 0) Object.assign(bar, { max: total, value: done });
    else bar.removeAttribute("value");
    replace(line, note ? word("jobWaits", undefined, "span", { title: note }) : at);
  };
  return { card, show };
}

// It stays until somebody has seen it.
function drawFailure(card, { error }) {
  card.classList.add("bad");
  card.setAttribute("role", "alert");
  replace(card, icon("warn"), el("div", { class: "reasons" }, word("jobFailed", undefined, "strong"),
    reason(`err_${error?.type}`, error?.message ?? "")), iconButton("close", "dismiss", () => card.remove()));
}

// --- documents -------------------------------------------------------------------------------------------------------

function drawTools() {
  const search = label(hint(el("input", { type: "search" }), "filter"), "filter");
  let waiting = null;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      shown.contains = search.value.trim();
      load();
    }, 200);
  });
  const choices = [false, true].map((failedOnly) => {
    const node = word(failedOnly ? "failedOnly" : "all", undefined, "button", { type: "button" });
    node.setAttribute("aria-pressed", String(failedOnly === shown.failed));
    node.addEventListener("click", () => {
      shown.failed = failedOnly;
      choices.forEach((choice) => choice.setAttribute("aria-pressed", String(choice === node)));
      load();
    });
    return node;
  });
  replace(nodes.tools, search, el("div", { class: "choices", role: "group" }, choices));
}

async function load(more = false) {
  loading?.abort();
  loading = new AbortController();
  const base = current();
  if (!listed(base)) {
    replace(nodes.list);
    return;
  }
  const asked = new URLSearchParams({ limit: PAGE, offset: more ? shown.documents.length : 0, contains: shown.contains });
  if (shown.failed) asked.set("status", "failed");
  try {
    const told = await call("GET", `${path`api/v1/kb/${base.name}/documents`}?${asked}`, undefined, loading.signal);
    shown.documents = more ? [...shown.documents, ...told.documents] : told.documents;
    shown.total = told.total;
  } catch (error) {
    failed(error);
    return;
  }
  drawDocuments(base.name);
}

function drawDocuments(base) {
  const left = shown.total - shown.documents.length;
  if (!shown.documents.length) {
    redraw(nodes.list, word(shown.contains || shown.failed ? "noMatch" : "noDocuments", undefined, "p", { class: "none" }));
    return;
  }
  const head = ["name", "size", "updated", "actions"].map((key) => word(key, undefined, "th", { scope: "col" }));
  redraw(nodes.list,
    el("table", { class: "documents" }, el("thead", {}, el("tr", {}, head)),
      el("tbody", {}, shown.documents.map((document) => row(base, document)))),
    left > 0 && button("more", () => load(true), { class: "button" }));
  const more = nodes.list.querySelector(":scope > .button span");
  if (more) more.replaceWith(word("more", { n: number(left) }));
}

function row(base, document) {
  const { source, status } = document;
  const name = source.split("/").at(-1);
  const folders = source.slice(0, source.length - name.length);
  return el("tr", { class: status },
    el("th", { scope: "row" }, el("div", { class: "docname" }, suffix(name),
      el("div", {}, el("div", { class: "source" }, folders && el("span", { class: "quiet" }, folders), name), state_of(document)))),
    el("td", { class: "size" }, bytes(document.bytes)),
    el("td", { class: "when" }, el("time", { datetime: document.updated_at }, moment(document.updated_at))),
    el("td", { class: "do" },
      document.origin !== "api" && label(iconButton("download", "download", () => fetchFile(base, source)), "download", { name: source }),
      may("write") && label(iconButton("trash", "deleteDocument", () => removeDocument(base, source)), "deleteDocument", { name: source })));
}

function suffix(name) {
  const kind = name.includes(".") ? name.split(".").at(-1).slice(0, 5) : "";
  return el("span", { class: "suffix", "aria-hidden": "true" }, kind);
}

function state_of({ status, error, error_kind: kind, chunks, pages, warnings }) {
  if (status === "failed") {
    const why = known(`why_${kind}`) && word(`why_${kind}`);
    return el("div", { class: "reason" }, icon("warn"), el("span", {}, word(why ? "becauseOf" : "state_failed"), why),
      el("span", { class: "quiet said" }, error));
  }
  const facts = [pages !== null && word("pages", { n: number(pages) }), word("chunks", { n: number(chunks) })];
  const missing = warnings.length > 0 && el("details", { class: "warnings" },
    el("summary", {}, word("warnings", { n: warnings.length })), el("ul", {}, warnings.map((one) => el("li", {}, one))));
  return el("div", { class: "facts quiet" }, facts.filter(Boolean), missing);
}

async function fetchFile(base, source) {
  try {
    await save(path`api/v1/kb/${base}/files/${source}`, source.split("/").at(-1));
  } catch (error) {
    toastOf(error);
  }
}

async function removeDocument(base, source) {
  if (!(await confirm("deleteDocumentTitle", "deleteDocumentWhy", { name: source }, { yes: "delete" }))) return;
  try {
    const told = await call("DELETE", path`api/v1/kb/${base}/documents/${source}`);
    toast(told.removed ? "removed" : "removing", { name: source });
    if (told.job) watch(told.job);
  } catch (error) {
    toastOf(error, { 409: "stuck" });
  }
  await reload();
}
