// Before the first paint: what was chosen last time, so that nothing flashes. The rest is in settings.js.
(() => {
  const page = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  try {
    const theme = localStorage.getItem("kbqa-theme");
    if (theme === "light" || theme === "dark") page.dataset.theme = theme;
    const chosen = localStorage.getItem("kbqa-language") || navigator.language || "";
    page.lang = chosen.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
  } catch {
    // A browser that keeps nothing: the system's theme, the language of the markup.
  }
  const paint = () => page.classList.toggle("dark", page.dataset.theme ? page.dataset.theme === "dark" : dark.matches);
  paint();
  dark.addEventListener("change", paint);
  new MutationObserver(paint).observe(page, { attributeFilter: ["data-theme"] });
})();
