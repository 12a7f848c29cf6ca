// Nodes of the page. Text is only ever put in as text: nothing here, or anywhere, makes HTML of a string.

import { known, mark, t } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

// 24 by 24, drawn with lines.
const ICONS = {
  ask: "M4 5h16v11h-8l-4.5 3.5V16H4z",
  model: "M7 7h10v10H7zM10 3.5V7M14 3.5V7M10 17v3.5M14 17v3.5M3.5 10H7M3.5 14H7M17 10h3.5M17 14h3.5",
  documents: "M3.5 6h6l2 2.5h9V19h-17z",
  status: "M3 12h4l2.5-6 4.5 12 2.5-6H21",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4" +
    "M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4",
  moon: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  system: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM12 4v16M12 8h5M12 12h7.5M12 16h5",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7.5 7.5h9v9h-9z",
  copy: "M9 9h10v10H9zM15 9V5H5v10h4",
  check: "M5 12.5l4.5 4.5L19 7.5",
  up: "M7 11v8H4v-8zM7 11l4-7c1.5 0 2.5 1 2.5 2.5V10h5l1 1.2-1.3 7.8H7",
  down: "M17 13V5h3v8zM17 13l-4 7c-1.5 0-2.5-1-2.5-2.5V14h-5l-1-1.2L5.8 5H17",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7M10.5 10.5v6M13.5 10.5v6",
  download: "M12 4v11M7 10.5l5 5 5-5M5 19.5h14",
  plus: "M12 5v14M5 12h14",
  close: "M6.5 6.5l11 11M17.5 6.5l-11 11",
  refresh: "M19 7v4.5h-4.5M5 17v-4.5h4.5M18.5 11.5A7 7 0 0 0 6 8.5M5.5 12.5A7 7 0 0 0 18 15.5",
  file: "M6 3.5h8l4 4v13H6zM14 3.5v4h4",
  warn: "M12 4.5l8.5 15h-17zM12 10v4.5M12 17v.3",
  key: "M8 11a4 4 0 1 0 0 8 4 4 0 0 0 0-8M11 12.5l8.5-8.5M16 7.5l3 3M13.5 10l2 2",
  below: "M6 9.5l6 6 6-6",
  previous: "M14.5 6l-6 6 6 6",
  next: "M9.5 6l6 6-6 6",
  folder: "M3.5 6h6l2 2.5h9V19h-17zM12 11v5M9.5 13.5h5",
};

// el("a", { href: "#x", class: "b", onclick: f }, "text", node, ...): attributes, and handlers for what begins with "on".
export function el(tag, settings = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "hidden") node[name] = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  for (const [key, value] of [["viewBox", "0 0 24 24"], ["aria-hidden", "true"], ["class", "drawing"]]) {
    drawing.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  drawing.append(path);
  return drawing;
}

// Words of the page, which change with its language.
export function word(key, values, tag = "span", settings = {}) {
  return say(el(tag, settings), key, values);
}

export function say(node, key, values) {
  mark(node, "say", key, values);
  node.textContent = t(key, values);
  return node;
}

// What the service says, in words of the page where it has some.
export function told(key, said, values = {}) {
  return known(key) ? word(key, { ...values, said }, "span", { title: said }) : el("span", {}, said);
}

// A failure in words of the page, if `key` is known, and in those of the service below, which say more.
export function reason(key, said) {
  const words = known(key) && word(key);
  return [words, said && el("span", { class: words ? "quiet said" : "said" }, said)].filter(Boolean);
}

// What a screen reader says of a node, and a pointer that rests on it sees.
export function label(node, key, values) {
  mark(node, "label", key, values);
  node.setAttribute("aria-label", t(key, values));
  if (node.matches("button, a")) node.title = t(key, values);
  return node;
}

export function hint(node, key, values) {
  mark(node, "hint", key, values);
  node.placeholder = t(key, values);
  return node;
}

// A button with a picture alone, or with words behind it.
export function iconButton(name, key, onclick, settings = {}) {
  return label(el("button", { type: "button", class: "icon", onclick, ...settings }, icon(name)), key);
}

export function button(key, onclick, settings = {}, picture = null) {
  return el("button", { type: "button", class: "button", onclick, ...settings }, picture && icon(picture), word(key));
}

// A short notice that goes by itself.
export function toast(key, values, kind = "") {
  const note = word(key, values, "div", { class: `toast ${kind}` });
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), 5000);
}

// For screen readers alone: an answer that is whole, a list that is there.
export function tell(key, values) {
  document.getElementById("told").textContent = t(key, values);
}

export function replace(node, ...children) {
  node.replaceChildren(...children.flat().filter(Boolean));
  return node;
}

// The same for what may have the focus: who uses the keyboard goes on where he was, on what took that place.
export function redraw(node, ...children) {
  const places = () => [...node.querySelectorAll("a, button, input, summary")];
  const at = places().indexOf(document.activeElement);
  replace(node, ...children);
  if (at >= 0) (places()[at] ?? places().at(-1))?.focus({ preventScroll: true });
  return node;
}
