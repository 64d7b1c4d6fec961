// Before the first paint: no flash of the wrong colours. Not a module, for those wait.
(() => {
  let theme = "auto";
  try {
    theme = localStorage.getItem("midm.theme") ?? "auto";
  } catch {
    // Storage can be forbidden; then the system decides.
  }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = theme === "auto" ? (dark ? "dark" : "light") : theme;
})();
