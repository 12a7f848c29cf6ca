// Files on their way in: dropped or chosen, sent in parts of a sensible size, followed until they answer questions.

import { call, path, upload } from "./api.js";
import { button, el, icon, iconButton, reason, replace, say, toast, word } from "./dom.js";
import { follow } from "./jobs.js";
import { may, onChange, state } from "./state.js";
import { bytes } from "./words.js";

const PART_FILES = 50; // sent at once: few enough to see progress, enough to take them in together
const PART_BYTES = 64 * 2 ** 20;
const OVER = ["added", "updated", "unchanged", "failed", "skipped", "cancelled", "rejected"];
const LOST = ["failed", "skipped", "cancelled", "rejected"];

const rows = []; // {file, name, node, status, ...}
const list = el("ul", { class: "uploads" });
const sum = el("span", { class: "quiet" });
const halt = button("stopUpload", stop, { class: "button small" });
const away = iconButton("close", "dismiss", dismiss);
const box = el("div", { class: "card", hidden: true },
  el("div", { class: "row sum" }, word("uploads", undefined, "strong"), sum, el("span", { class: "space" }), halt, away), list);
const replacing = el("input", { type: "checkbox", id: "replace" });

let line = Promise.resolve(); // one part is sent behind the other, whenever it was dropped
let stopping = null; // AbortController of what is being sent
const ours = new Set(); // jobs that run for it
let callbacks = null;
let shown = null; // the base that is looked at

// `base()` is a promise of where files go, `changed()` is called when some have gone in.
export function startUploads(given) {
  callbacks = given;
  const zone = dropZone();
  onChange(() => {
    zone.hidden = !may("write");
    const limit = zone.querySelector("[data-say=dropLead]");
    say(limit, "dropLead", { mb: state.status.uploads.file_mb });
    if (state.base !== shown && rows.every((row) => OVER.includes(row.status))) dismiss();
    shown = state.base;
  });
  return el("div", { class: "incoming" }, zone, box);
}

function dropZone() {
  const files = chooser({ multiple: true });
  const folder = chooser({ webkitdirectory: true });
  const zone = el("div", { class: "drop" }, icon("documents"),
    el("div", {}, word("dropTitle", undefined, "strong"), word("dropLead", { mb: "" }, "p", { class: "quiet" })),
    el("div", { class: "row" },
      button("chooseFiles", () => files.click(), { class: "button primary" }, "plus"),
      button("chooseFolder", () => folder.click(), { class: "button folder" }, "folder")),
    el("label", { class: "check" }, replacing, word("replaceSame")), files, folder);
  listen(zone);
  return zone;
}

function chooser(settings) {
  const input = el("input", { type: "file", hidden: true, ...settings });
  input.addEventListener("change", () => {
    take([...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name })));
    input.value = "";
  });
  return input;
}

// Anywhere in the view, because a small target is hard to hit.
function listen(zone) {
  const view = document.getElementById("documents");
  const holdsFiles = (event) => [...event.dataTransfer.types].includes("Files") && may("write");
  view.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    zone.classList.add("over");
  });
  view.addEventListener("dragleave", (event) => {
    if (!view.contains(event.relatedTarget)) zone.classList.remove("over");
  });
  view.addEventListener("drop", async (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    zone.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const plain = [...event.dataTransfer.files].map((file) => ({ file, name: file.name }));
    take(entries.length ? (await Promise.all(entries.map(walk))).flat() : plain);
  });
}

// All files of what was dropped, with the folders that they lie in; with the `error` where one cannot be read.
async function walk(entry) {
  const name = entry.fullPath.replace(/^\//, "");
  try {
    if (entry.isFile) return [{ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), name }];
    return (await Promise.all((await entriesOf(entry)).map(walk))).flat();
  } catch (error) {
    return [{ file: null, name, error }];
  }
}

async function entriesOf(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) { // a browser tells a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    found.push(...some);
  }
}

function take(files) {
  const visible = files.filter(({ name }) => !name.split("/").some((part) => part.startsWith(".")));
  if (!visible.length) {
    toast("nothingDropped");
    return;
  }
  const fresh = visible.map(newRow);
  rows.push(...fresh);
  list.prepend(...fresh.map((row) => row.node));
  box.hidden = false;
  tellSum();
  const waiting = fresh.filter((row) => row.status === "waiting");
  for (const part of parts(waiting)) line = line.then(() => sendPart(part));
}

function newRow({ file, name, error }) {
  const row = { file, name, node: el("li", {}), bar: el("progress", { max: 100, value: 0 }) };
  row.said = el("span", { class: "state" });
  row.node.append(el("span", { class: "file" }, name), el("span", { class: "quiet size" }, file && bytes(file.size)), row.said, row.bar);
  const { suffixes, file_mb: mb } = state.status.uploads;
  const suffix = /\.[^./]*$/.exec(name)?.[0].toLowerCase() ?? "";
  if (error) set(row, "rejected", reason("why_unreadable", error.message));
  else if (!suffixes.includes(suffix)) set(row, "rejected", word("unreadKind", { suffix: suffix || "?" }));
  else if (file.size > mb * 2 ** 20) set(row, "rejected", word("tooLarge", { mb }));
  else set(row, "waiting");
  return row;
}

function set(row, status, why = [], values = undefined) {
  row.status = status;
  row.node.className = status;
  replace(row.said, word(`state_${status}`, values), [why].flat().length > 0 && el("span", { class: "why" }, why));
  row.bar.hidden = OVER.includes(status);
  if (status === "reading") row.bar.removeAttribute("value");
}

function* parts(waiting) {
  let part = [];
  let size = 0;
  const most = Math.min(PART_FILES, state.status.uploads.files);
  for (const row of waiting) {
    if (part.length && (part.length >= most || size + row.file.size > PART_BYTES)) {
      yield part;
      part = [];
      size = 0;
    }
    part.push(row);
    size += row.file.size;
  }
  if (part.length) yield part;
}

async function sendPart(part) {
  await Promise.all(part.map(look));
  const going = part.filter((row) => row.status === "waiting"); // unless it was stopped meanwhile
  if (!going.length) return;
  stopping = new AbortController();
  const form = new FormData();
  for (const row of going) form.append("files", row.file, row.name);
  const progress = (sent, total) => going.forEach((row) => {
    const percent = Math.round((100 * sent) / total);
    set(row, "sending", [], { n: percent });
    row.bar.value = percent;
  });
  try {
    const base = await callbacks.base();
    const where = `${path`api/v1/kb/${base}/documents`}?replace=${replacing.checked}`;
    const told = await upload(where, form, stopping.signal, progress);
    placed(going, told);
  } catch (error) {
    if (error.rejected?.length) refuse(going, error.rejected);
    else if (error.name === "AbortError") going.forEach((row) => set(row, "cancelled"));
    else going.forEach((row) => set(row, "rejected", reason(error.words, error.message)));
  }
  stopping = null;
  tellSum();
}

// One that cannot be read (any more) would break off the upload of all.
async function look(row) {
  try {
    await row.file.slice(0, 1).arrayBuffer();
  } catch (error) {
    set(row, "rejected", reason("why_unreadable", error.message));
  }
}

function refuse(going, rejected) {
  for (const { name, error, error_kind: kind } of rejected) {
    const row = going.find((one) => one.name === name && one.status !== "rejected");
    if (row) set(row, "rejected", reason(`why_${kind}`, kind === "exists" ? "" : error));
  }
}

function placed(going, told) {
  refuse(going, told.rejected);
  const held = new Map();
  for (const { name, source } of told.accepted) {
    const row = going.find((one) => one.name === name && one.status !== "rejected");
    if (row) {
      set(row, "queued");
      held.set(source, row);
    }
  }
  watch(told.job.id, held);
}

async function watch(id, held) {
  ours.add(id);
  try {
    const job = await follow(id, (told) => {
      for (const file of told.files) {
        const row = held.get(file.source);
        if (row && file.status !== row.status) set(row, file.status, reason(`why_${file.error_kind}`, file.error));
      }
      tellSum();
    }, Math.max(1, held.size));
    if (job.state === "failed") lose(held, `err_${job.error?.type}`, job.error?.message);
  } catch (error) {
    lose(held, error.words, error.message);
  }
  ours.delete(id);
  tellSum();
  callbacks.changed();
}

function lose(held, key, said) {
  for (const row of held.values()) if (!OVER.includes(row.status)) set(row, "failed", reason(key, said));
}

function tellSum() {
  const done = rows.filter((row) => OVER.includes(row.status)).length;
  const lost = rows.filter((row) => LOST.includes(row.status)).length;
  replace(sum, word("uploadsSum", { done, total: rows.length }), lost > 0 && word("uploadsFailed", { n: lost }));
  halt.hidden = done === rows.length;
  away.hidden = !halt.hidden;
}

function stop() {
  for (const row of rows) if (row.status === "waiting") set(row, "cancelled");
  stopping?.abort();
  for (const id of ours) call("DELETE", `api/v1/jobs/${id}`).catch(() => {}); // it may have ended by itself
  tellSum();
}

function dismiss() {
  rows.length = 0;
  list.replaceChildren();
  box.hidden = true;
}
