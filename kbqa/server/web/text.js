// Text of answers as nodes. What a model writes may be Markdown; what is quoted stays as it is. Nothing of it acts:
// pictures stay text, and a link shows where it leads and tells the other side nothing of this page.
//
// Where sentences begin and end is told inside the text by code points that no text has (Unicode noncharacters):
// so a sentence may lie across paragraphs, bold words and cells of tables.

import { el } from "./dom.js";

const BEGIN = "\uFDD0";
const END = "\uFDD1";
const ZERO = 0xfdd2; // the digits of a sentence's number follow
const NONE = /[\uFDD0-\uFDEF]/g;
const SIGN = /([\uFDD0\uFDD1])([\uFDD2-\uFDDB]+)/g;
const SIGNS = "(?:[\\uFDD0\\uFDD1][\\uFDD2-\\uFDDB]+)*";
const OWN_MARKS = /(?:[ \t]*[[【［]\d+[\]】］])+$/; // which a model puts behind its sentences; ours are buttons
const ROW = new RegExp(`^${SIGNS}\\|`);
const RULE = new RegExp(`^${SIGNS}\\|?[\\s:|-]*-[\\s:|-]*$`);
const HEADING = new RegExp(`^(${SIGNS})(#{1,6})\\s+(.*)$`);
const ITEM = new RegExp(`^(\\s*)(${SIGNS})(?:[-*+•]|(\\d{1,3})[.)、])\\s+(.*)$`);
const FENCE = new RegExp(`^${SIGNS}\\s*(\`\`\`+|~~~+)`);

const INLINE = new RegExp(
  [
    "([\\uFDD0\\uFDD1])([\\uFDD2-\\uFDDB]+)",
    "(`+)(.+?)\\3",
    "\\*\\*(?=\\S)(.+?\\S)\\*\\*",
    `(!${SIGNS})?` + "\\[([^\\]\\n]+)\\]\\((https?:\\/\\/[^\\s)]+)\\)",
    "(https?:\\/\\/[\\w\\-.~:/?#@!$&'*+,;=%]+[\\w\\-~/#=%])",
  ].join("|"),
  "gs",
);

const sign = (kind, index) =>
  kind + [...String(index)].map((digit) => String.fromCharCode(ZERO + Number(digit))).join("");
const indexOf = (digits) => Number([...digits].map((digit) => digit.charCodeAt(0) - ZERO).join(""));

// `text` with signs around its sentences ({span: [start, end]} in code points, in order).
export function signed(text, sentences) {
  const points = Array.from(text.replace(NONE, "\uFFFD"));
  const parts = [];
  let told = 0;
  sentences.forEach((sentence, index) => {
    const [start, end] = sentence.span;
    let said = points.slice(start, end).join("").replace(OWN_MARKS, "");
    const row = said.startsWith("|") && said.endsWith("|") ? "|" : ""; // behind it would be a further cell
    if (row) said = said.slice(0, -1);
    parts.push(points.slice(told, start).join(""), sign(BEGIN, index), said, sign(END, index), row);
    told = end;
  });
  parts.push(points.slice(told).join(""));
  return parts.join("");
}

// Shows `text` in `node`, and leaves alone what has not changed since the last time. `at(index)` makes what stands
// behind a sentence, `kind(index)` is its class; `rich`: Markdown.
export function show(node, text, { rich, at = () => [], kind = () => "" }) {
  const drawn = [...node.children];
  let open = null;
  let place = 0;
  for (const block of rich ? blocks(text) : paragraphs(text)) {
    const key = `${open}|${kindsIn(block.raw, open, kind)}|${block.raw}`;
    if (drawn[place]?.drawnFrom !== key) {
      const made = drawBlock(block, new Writer(open, rich, at, kind));
      made.drawnFrom = key;
      if (drawn[place]) drawn[place].replaceWith(made);
      else node.append(made);
    }
    open = openAfter(block.raw, open);
    place += 1;
  }
  for (const rest of drawn.slice(place)) rest.remove();
}

// A sentence that has been checked meanwhile is drawn anew.
function kindsIn(raw, open, kind) {
  const within = [...raw.matchAll(SIGN)].map(([, , digits]) => indexOf(digits));
  return [...(open === null ? [] : [open]), ...within].map(kind).join(",");
}

function openAfter(raw, open) {
  for (const [, kind, digits] of raw.matchAll(SIGN)) open = kind === BEGIN ? indexOf(digits) : null;
  return open;
}

// --- paragraphs, lists, tables ---------------------------------------------------------------------------------------

function paragraphs(text) {
  return text.split(/\n{2,}/).filter((raw) => raw.trim()).map((raw) => ({ kind: "p", raw }));
}

function blocks(text) {
  const lines = text.split("\n");
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [kind, end] = blockAt(lines, at);
    found.push({ kind, raw: lines.slice(at, end).join("\n") });
    at = end;
  }
  return found;
}

function blockAt(lines, at) {
  const fence = FENCE.exec(lines[at]);
  if (fence) {
    const close = lines.findIndex((line, index) => index > at && line.trim().startsWith(fence[1]));
    return ["code", close < 0 ? lines.length : close + 1];
  }
  if (HEADING.test(lines[at])) return ["heading", at + 1];
  if (ROW.test(lines[at]) && RULE.test(lines[at + 1] ?? "")) return ["table", runOf(lines, at, ROW)];
  if (ITEM.test(lines[at])) return ["list", runOf(lines, at, ITEM)];
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !starts(lines, end)) end += 1;
  return ["p", end];
}

const starts = (lines, at) =>
  FENCE.test(lines[at]) || HEADING.test(lines[at]) || ITEM.test(lines[at]) ||
  (ROW.test(lines[at]) && RULE.test(lines[at + 1] ?? ""));

function runOf(lines, at, kind) {
  let end = at + 1;
  while (end < lines.length && kind.test(lines[end])) end += 1;
  return end;
}

function drawBlock({ kind, raw }, writer) {
  switch (kind) {
    case "code":
      return el("pre", {}, el("code", {}, plain(raw.split("\n").slice(1).join("\n").replace(/\n?(```+|~~~+)\s*$/, ""))));
    case "heading": {
      const [, signs, , said] = HEADING.exec(raw);
      return el("p", { class: "heading" }, writer.inline(signs + said));
    }
    case "table":
      return el("div", { class: "scroll" }, el("table", {}, raw.split("\n").map((row, at) => drawRow(row, at, writer))));
    case "list":
      return el("ul", { class: "list" }, raw.split("\n").map((line) => drawItem(line, writer)));
    default:
      return el("p", {}, writer.inline(raw));
  }
}

function drawRow(row, at, writer) {
  if (at === 1) {
    writer.inline(row); // for the signs in it
    return null;
  }
  const cells = row.replace(new RegExp(`^(${SIGNS})\\|`), "$1").replace(/\|\s*$/, "").split("|");
  return el("tr", {}, cells.map((cell) => el(at ? "td" : "th", {}, writer.inline(cell.trim()))));
}

function drawItem(line, writer) {
  const [, indent, signs, digits, said] = ITEM.exec(line);
  const lead = el("span", { class: "lead" }, digits ? `${digits}.` : "•");
  const depth = Math.min(3, Math.floor(indent.replaceAll("\t", "  ").length / 2));
  return el("li", { class: `depth${depth}` }, lead, el("span", {}, writer.inline(signs + said)));
}

const plain = (text) => text.replace(SIGN, "");

// --- words within them -----------------------------------------------------------------------------------------------

class Writer {
  constructor(open, rich, at, kind) {
    Object.assign(this, { open, rich, at, kind });
  }

  inline(text) {
    const nodes = [];
    let told = 0;
    for (const found of text.matchAll(this.rich ? INLINE : SIGN)) {
      nodes.push(...this.words(text.slice(told, found.index)), ...this.special(found));
      told = found.index + found[0].length;
    }
    return [...nodes, ...this.words(text.slice(told))];
  }

  special([whole, kind, digits, , code, bold, picture, name, target, bare]) {
    if (kind) return this.sentence(kind, indexOf(digits));
    if (code !== undefined) return [el("code", {}, plain(code))];
    if (bold !== undefined) return [el("strong", {}, this.inline(bold))];
    if (picture) return [...this.inline(picture), ...this.words(whole.slice(picture.length))];
    if (target !== undefined) return [link(target, plain(name)), ` (${plain(target)})`];
    return bare === undefined ? [whole] : [link(bare, bare)];
  }

  sentence(kind, index) {
    this.open = kind === BEGIN ? index : null;
    return kind === END ? this.at(index) : [];
  }

  words(text) {
    if (!text) return [];
    const kind = this.open === null ? "" : this.kind(this.open);
    return [kind ? el("span", { class: kind }, text) : text];
  }
}

function link(target, name) {
  return el("a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow", class: "out" }, name);
}
