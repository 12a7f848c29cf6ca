// Questions to the user, each a promise of the answer.

import { button, el, hint, iconButton, label, word } from "./dom.js";

// Opens `content` as a dialog; `close(value)` ends it, Escape ends it with null.
export function open(title, build, kind = "") {
  return new Promise((resolve) => {
    const heading = word(title, undefined, "h2", { id: "dialog-title" });
    const dialog = el("dialog", { class: `dialog ${kind}`, "aria-labelledby": "dialog-title" });
    const close = (value) => {
      dialog.close();
      dialog.remove();
      resolve(value);
    };
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      close(null);
    });
    dialog.append(heading, ...build(close));
    document.body.append(dialog);
    dialog.showModal();
  });
}

// `check` is a checkbox and `about` what it is about; the answer is null, or {checked}.
export function confirm(title, why, values, { yes, check = null, about = null, kind = "danger" }) {
  return open(title, (close) => {
    const box = check && el("input", { type: "checkbox" });
    const go = button(yes, () => close({ checked: Boolean(box?.checked) }), { class: `button ${kind}` });
    const stay = button("cancel", () => close(null), { class: "button", autofocus: true });
    return [
      word(why, values, "p"),
      check && el("label", { class: "check" }, box, word(check, values)),
      about && word(about, values, "p", { class: "about quiet" }),
      el("div", { class: "row end" }, stay, go),
    ].filter(Boolean);
  });
}

// One line of text: the answer is null, or what was typed.
export function prompt(title, { why = null, name, placeholder = null, go, type = "text" }) {
  return open(title, (close) => {
    const input = label(el("input", { type, autofocus: true, autocomplete: "off", spellcheck: "false" }), name);
    if (placeholder) hint(input, placeholder);
    const form = el("form", {}, input, el("div", { class: "row end" },
      button("cancel", () => close(null)),
      el("button", { type: "submit", class: "button primary" }, word(go))));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (input.value.trim()) close(input.value.trim());
    });
    return [why && word(why, undefined, "p"), form].filter(Boolean);
  });
}

export function enlarge(address, about) {
  open("passage", (close) => [
    iconButton("close", "close", () => close(null), { class: "icon corner" }),
    el("div", { class: "whole" }, el("img", { src: address, alt: about })),
  ], "wide");
}
