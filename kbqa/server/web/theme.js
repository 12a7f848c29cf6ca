// Before the first paint: what was chosen last time, so that nothing flashes. The rest is in settings.js.
(() => {
  const page = document.documentElement;
  try {
    const theme = localStorage.getItem("kbqa-theme");
    if (theme === "light" || theme === "dark") page.dataset.theme = theme;
    const chosen = localStorage.getItem("kbqa-language") || navigator.language || "";
    page.lang = chosen.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
  } catch {
    // A browser that keeps nothing: the system's theme, the language of the markup.
  }
})();
