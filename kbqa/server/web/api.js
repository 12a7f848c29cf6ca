// The service, as any other client sees it. Every failure is an ApiError that says what happened.

import { el } from "./dom.js";
import { known, t } from "./words.js";

const KEY = "kbqa-key";
const SENDABLE = /^[!-~]+$/; // what a header may hold; a key typed with an input method on may hold more
const root = new URL(".", location.href); // below which the service lies, also behind a proxy

let askForKey = null;
let asking = null; // the prompt that is open, so that many requests wait for the same one

export class ApiError extends Error {
  // `status` 0: no answer came at all.
  constructor(status, type, message, after = 0, rejected = []) {
    super(message);
    Object.assign(this, { status, type, after, rejected });
  }

  get words() {
    if (this.status === 0) return this.type === "Broke" ? "broke" : "offline";
    if (known(`err_${this.type}`)) return `err_${this.type}`;
    return known(`err_${this.status}`) ? `err_${this.status}` : "failed";
  }

  toString() {
    return t(this.words);
  }
}

// `prompt(wrong)` asks the user for a key: a promise of one, or of null.
export function onKeyNeeded(prompt) {
  askForKey = prompt;
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const forgetKey = () => sessionStorage.clear(); // and what was asked with it

async function newKey() {
  asking ??= typedKey().finally(() => { asking = null; });
  const key = await asking;
  if (key !== null) sessionStorage.setItem(KEY, key);
  return key !== null;
}

async function typedKey() {
  let key = await askForKey(hasKey());
  while (key !== null && !SENDABLE.test(key)) key = await askForKey(true);
  return key;
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

// The path of something whose name may hold anything; a source keeps its folders.
export const path = (parts, ...names) =>
  String.raw({ raw: parts }, ...names.map((name) => name.split("/").map(encodeURIComponent).join("/")));

export const address = (where) => new URL(where, root);

export async function call(method, where, body, signal) {
  const response = await send(method, where, body, signal);
  return response.json();
}

export async function blob(where, signal) {
  return (await send("GET", where, undefined, signal)).blob();
}

async function send(method, where, body, signal) {
  const settings = { method, signal, cache: "no-cache" };
  for (;;) {
    settings.headers = headers(body === undefined ? {} : { "Content-Type": "application/json" });
    if (body !== undefined) settings.body = JSON.stringify(body);
    const used = sessionStorage.getItem(KEY);
    const response = await reached(address(where), settings);
    if (response.ok) return response;
    const error = await failure(response);
    if (response.status !== 401) throw error;
    if (sessionStorage.getItem(KEY) === used && !(await newKey())) throw error;
  }
}

async function reached(where, settings) {
  try {
    return await fetch(where, settings);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "Offline", error.message);
  }
}

async function failure(response) {
  const after = Number(response.headers.get("Retry-After") ?? 0);
  const said = (await response.json().catch(() => ({}))).error ?? {};
  const type = said.code ?? said.type ?? "Failed";
  return new ApiError(response.status, known(`err_${type}`) ? type : said.type ?? type, said.message ?? "", after);
}

// Server-Sent Events of an answer: `on(name, data)` for each, `on("waiting", load)` while nothing is said.
export async function stream(where, body, signal, on) {
  const response = await send("POST", where, body, signal);
  const reader = response.body.getReader();
  const decoder = new TextDecoder(); // keeps the first half of a character until the other comes
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      held += decoder.decode(value, { stream: true });
      const blocks = held.split("\n\n");
      held = blocks.pop();
      for (const block of blocks) tellBlock(block, on);
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError(0, "Broke", error.message);
  }
}

function tellBlock(block, on) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith(":")) on("waiting");
    else if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  if (!data.length || data[0] === "[DONE]") return;
  const told = JSON.parse(data.join("\n"));
  if (name === "error" || (name === "message" && told.error)) {
    throw new ApiError(502, told.error.type, told.error.message);
  }
  on(name, told);
}

// A form with files. XMLHttpRequest, because fetch does not tell how much has been sent.
export async function upload(where, form, signal, onProgress) {
  for (;;) {
    const used = sessionStorage.getItem(KEY);
    const [status, answer] = await sent(where, form, signal, onProgress);
    if (status >= 200 && status < 300) return answer;
    const said = answer?.error ?? {};
    const error = new ApiError(status, said.type ?? "Failed", said.message ?? "", 0, said.rejected);
    if (status !== 401) throw error;
    if (sessionStorage.getItem(KEY) === used && !(await newKey())) throw error;
  }
}

function sent(where, form, signal, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(where));
    request.responseType = "json";
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded, event.total));
    request.addEventListener("load", () => resolve([request.status, request.response]));
    request.addEventListener("error", () => reject(new ApiError(0, "Offline", "")));
    request.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

// Shows the file in the browser's own list of downloads; it comes with the key, which a link could not send.
export async function save(where, name) {
  const link = el("a", { href: URL.createObjectURL(await blob(where)), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
