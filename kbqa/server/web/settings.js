// Language and appearance: by the browser until something is chosen, then as chosen.

import { icon, label, say } from "./dom.js";
import { isChinese, setLanguage, translate } from "./words.js";

const THEMES = ["system", "light", "dark"];
const PICTURES = { system: "system", light: "sun", dark: "moon" };

export function keep(name, value) {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // A browser that keeps nothing: it holds until the page is closed.
  }
}

export function kept(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

// What was kept as JSON; `otherwise` where nothing was, or somebody else's.
export function parsed(text, otherwise) {
  try {
    return JSON.parse(text) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function startSettings() {
  const language = document.getElementById("language");
  const theme = document.getElementById("theme");
  const named = () => say(language, "languageName");
  language.addEventListener("click", () => {
    setLanguage(!isChinese());
    keep("kbqa-language", isChinese() ? "zh" : "en");
  });
  theme.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length];
    keep("kbqa-theme", next === "system" ? null : next);
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    showTheme(theme);
  });
  translate();
  named();
  showTheme(theme);
}

const chosenTheme = () => document.documentElement.dataset.theme ?? "system";

function showTheme(theme) {
  label(theme, `theme_${chosenTheme()}`).replaceChildren(icon(PICTURES[chosenTheme()]));
}
