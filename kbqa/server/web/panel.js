// The side panel: a citation in its surroundings, and the page of a PDF that it stands on.

import { blob, call, path, save } from "./api.js";
import { enlarge } from "./dialogs.js";
import { el, iconButton, label, replace, toast, word } from "./dom.js";
import { t } from "./words.js";

const panel = document.getElementById("panel");
const narrow = window.matchMedia("(max-width: 900px)");

let shown = null; // {base, citations, at, opener}
let fetching = null; // AbortController of what is on its way
let picture = null; // the address of the page's image, to be given back

export function openCitation(base, citations, marker, opener) {
  const at = citations.findIndex((citation) => citation.marker === marker);
  shown = { base, citations, at, opener };
  panel.hidden = false;
  document.body.classList.add("panelled");
  cover();
  draw();
  panel.querySelector("button.close").focus({ preventScroll: true });
}

export function closePanel() {
  if (panel.hidden) return;
  fetching?.abort();
  panel.hidden = true;
  document.body.classList.remove("panelled");
  cover();
  forget();
  if (shown?.opener.isConnected) shown.opener.focus({ preventScroll: true });
  shown = null;
}

// On a phone the panel lies over everything else, which is then out of reach.
function cover() {
  const over = narrow.matches && !panel.hidden;
  for (const node of document.querySelectorAll("main, header.bar, .skip")) node.inert = over;
}

narrow.addEventListener("change", cover);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !panel.hidden && !document.querySelector("dialog[open]")) closePanel();
});

function forget() {
  if (picture) URL.revokeObjectURL(picture);
  picture = null;
}

function step(by) {
  shown.at = (shown.at + by + shown.citations.length) % shown.citations.length;
  draw();
}

function draw() {
  fetching?.abort();
  fetching = new AbortController();
  forget();
  const { base, citations, at } = shown;
  const citation = citations[at];
  const text = el("div", { class: "passage loading", tabindex: "0" }, word("loading"));
  label(text, "inText");
  replace(panel, head(base, citation, citations, at), el("div", { class: "inside" }, about(citation), text,
    isPdf(citation) ? page(base, citation) : null));
  surround(base, citation, text, fetching.signal);
}

function head(base, citation, citations, at) {
  const several = citations.length > 1;
  return el("header", {},
    several && iconButton("previous", "previous", () => step(-1)),
    word("passageOf", { n: at + 1, all: citations.length }, "h2"),
    several && iconButton("next", "next", () => step(1)),
    el("span", { class: "space" }),
    iconButton("download", "downloadFile", () => download(base, citation.source)),
    iconButton("close", "close", closePanel, { class: "icon close" }));
}

async function download(base, source) {
  try {
    await save(path`api/v1/kb/${base}/files/${source}`, source.split("/").at(-1));
  } catch (error) {
    toast(error.words ?? "failed", undefined, "bad");
  }
}

function about(citation) {
  return el("div", { class: "about" },
    el("strong", { class: "source" }, citation.source),
    el("div", { class: "where" }, where(citation)));
}

export function where(citation) {
  return [
    citation.page !== null && word("page", { n: citation.page }),
    citation.heading && el("span", {}, citation.heading),
  ].filter(Boolean);
}

async function surround(base, citation, node, signal) {
  const [start, end] = citation.span;
  const place = path`api/v1/kb/${base}/passages/${citation.source}`;
  let told;
  try {
    told = await call("GET", `${place}?start=${start}&end=${end}`, undefined, signal);
  } catch (error) {
    if (error.name !== "AbortError") quoteAlone(node, citation, error);
    return;
  }
  node.classList.remove("loading");
  const quoted = told.parts.filter((part) => part.cited).map((part) => part.text).join("");
  if (squeezed(quoted) !== squeezed(citation.quote)) return quoteAlone(node, citation, null);
  replace(node, told.more_before && el("span", { class: "cut" }, "⋯"), parts(told.parts),
    told.more_after && el("span", { class: "cut" }, "⋯"));
  const above = node.querySelector("mark").getBoundingClientRect().top - node.getBoundingClientRect().top;
  if (above > (2 * node.clientHeight) / 3) node.scrollTop = above - node.clientHeight / 3;
}

const squeezed = (text) => text.replace(/\s+/g, "");

function parts(told) {
  let heading = null;
  const nodes = [];
  while (told.length && !told[0].text.trim()) told = told.slice(1);
  for (const part of told) {
    if (part.heading !== heading && part.text.trim()) {
      heading = part.heading;
      if (heading) nodes.push(el("span", { class: "heading" }, heading));
    }
    nodes.push(part.cited ? el("mark", {}, part.text) : part.text);
  }
  return nodes;
}

// When the document is another one than was cited, or gone: the quote is what there is.
function quoteAlone(node, citation, error) {
  node.classList.remove("loading");
  const why = error && error.status !== 404 ? word(error.words, undefined, "p") : word("changed", undefined, "p");
  replace(node, why, el("mark", {}, citation.quote));
}

const isPdf = (citation) => citation.page !== null && /\.pdf$/i.test(citation.source);

function page(base, citation) {
  const frame = el("button", { type: "button", class: "sheet loading" }, word("pageLoading"));
  const figure = el("figure", {}, word("onPage", { n: citation.page }, "figcaption"), frame);
  drawPage(base, citation, frame, fetching.signal);
  return figure;
}

async function drawPage(base, citation, frame, signal) {
  const [start, end] = citation.span;
  const place = path`api/v1/kb/${base}/pages/${citation.source}`;
  const about = { source: citation.source, n: citation.page };
  try {
    picture = URL.createObjectURL(await blob(`${place}?page=${citation.page}&start=${start}&end=${end}`, signal));
  } catch (error) {
    if (error.name === "AbortError") return;
    frame.replaceWith(el("p", { class: "quiet" }, word("pageFailed"), " ", error.message));
    return;
  }
  frame.classList.remove("loading");
  label(frame, "enlarge");
  replace(frame, el("img", { src: picture, alt: t("pageImage", about) }));
  frame.addEventListener("click", () => enlarge(picture, t("pageImage", about)));
}
